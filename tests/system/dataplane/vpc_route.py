"""A node whose pods have addresses of its own range: as world.World, with the route table in the VPC's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from services.eni_manager.core.wiring.vpc_route import Nat
from services.eni_manager.dataplane import AttachmentStore, Dataplane
from shared.contracts.ipam import Bandwidth
from shared.model import Cidr, EniId, Ip, Mac, Mode, Subnet
from tests.system.dataplane import world
from tests.system.dataplane.world import NODE_IP, Sandbox, World, until

CLUSTER, OURS = Cidr("10.244.0.0/16"), Cidr("10.244.1.0/24")
ELSEWHERE = Ip("10.244.2.7")
"""A pod of another node: on lo of the VPC's namespace."""


class VpcRoute(World):
    """Sandboxes are on no ENI."""

    def build(self) -> None:
        super().build()
        self.vpc.ip("route", "add", OURS, "via", NODE_IP)
        self.vpc.ip("addr", "add", f"{ELSEWHERE}/32", "dev", "lo")

    def sandbox(self, name: str = "", *, ipv6: bool = False, bandwidth: Bandwidth | None = None) -> Sandbox:
        """IPv4 only."""
        assert not ipv6
        box = super().sandbox(name, bandwidth=bandwidth)
        box.lease = replace(
            box.lease,
            mode=Mode.VPC_ROUTE,
            eni_id=EniId(""),
            eni_mac=Mac(""),
            ipv4=Ip(f"10.244.1.{box.ipv4.rpartition('.')[2]}"),
            subnet4=Subnet(OURS, Ip("10.244.1.1")),
        )
        return box


@asynccontextmanager
async def running(made: World, store: AttachmentStore) -> AsyncIterator[Dataplane]:
    """A dataplane of such a node, with its loops."""
    nat = Nat(sources=frozenset({OURS}), inside=frozenset({CLUSTER}))
    async with world.running(store, nat=nat) as dataplane:
        made.node.ip("link", "set", "eth1", "down")  # this mode needs no ENI
        await until(lambda: "terway_brb_masq" in made.node.nft("list", "tables"))
        yield dataplane
