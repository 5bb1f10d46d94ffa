"""A node whose ENIs are pods' to have, one each: as world.World, with as many cables as there are sandboxes.

    pod ── eth0 ──────────────────────── eni1 192.168.63.253 ┐ vpc
     └── veth1 ── cali… ── node ── eth0 ── pri0              ┘

The ENIs are veths, which end with their namespace. Hardware comes home instead; `come_home` is what the kernel would
do for it, by the same words: the device is in the node's namespace, down, under another name.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from services.eni_manager.core.wiring.values import Node
from services.eni_manager.dataplane import AttachmentStore, Dataplane
from shared.contracts.ipam import Bandwidth
from shared.model import Cidr, EniId, Mac, Mode
from tests.system.dataplane import world
from tests.system.dataplane.world import NODE_IP, NODE_IP6, SUBNET, SUBNET6, Sandbox, World

SERVICES = Cidr("172.21.0.0/20")
SERVICES6 = Cidr("2001:db8:5::/112")


class Exclusive(World):
    """Sandboxes come with an ENI each, which is in the node's namespace at first."""

    def sandbox(self, name: str = "", *, ipv6: bool = False, bandwidth: Bandwidth | None = None) -> Sandbox:
        box = super().sandbox(name, ipv6=ipv6, bandwidth=bandwidth)
        number = self._count
        mac = Mac(f"02:16:3e:00:01:{number:02x}")
        box.lease = msgspec.structs.replace(
            box.lease, mode=Mode.EXCLUSIVE_ENI, eni_mac=mac, eni_id=EniId(f"eni-own-{number}")
        )
        self.plug_in(box, f"ens{number}")
        return box

    def plug_in(self, box: Sandbox, name: str) -> None:
        """What AttachNetworkInterface does."""
        there = f"eni-{box.lease.eni_mac[-2:]}"
        self._cable(name, box.lease.eni_mac, there)
        for gateway in (f"{SUBNET.gateway}/32", f"{SUBNET6.gateway}/128"):
            self.vpc.ip("addr", "add", gateway, "dev", there, *(["nodad"] if ":" in gateway else []))
        for address in box.lease.addresses:
            self.vpc.ip("route", "replace", address, "dev", there)
            self.vpc.ip("neigh", "replace", address, "lladdr", box.lease.eni_mac, "dev", there, "nud", "permanent")

    def come_home(self, box: Sandbox) -> None:
        """What the kernel does with hardware whose namespace has ended."""
        self.plug_in(box, f"dev{self._count + 100}")

    def at_home(self, box: Sandbox) -> list[str]:
        """What the ENI is called in the node's namespace; empty: it is not there."""
        return [link["ifname"] for link in self.node.seen("link") if link["address"] == box.lease.eni_mac]


@asynccontextmanager
async def running(store: AttachmentStore, *, ipv6: bool = False) -> AsyncIterator[Dataplane]:
    """A dataplane of such a node, with its loops."""
    node = Node(NODE_IP, NODE_IP6 if ipv6 else None, mode=Mode.EXCLUSIVE_ENI, host_stack=(SERVICES, SERVICES6))
    async with world.serving(Dataplane(node, store, linger_s=0.01, repair_s=3600.0)) as dataplane:
        yield dataplane
