"""Two nodes in mode shared-ipvlan and a piece of VPC between them: world.World, with further ENIs and a second node.

    pods ── slaves ─ eth1 ─┐                                           ┌─ eth1 ─ slaves ── pod
    pod ─── slave ── eth2 ─┤ node   ── vpc, a router that answers ──   │ node2
                     eth0 ─┘          for every pod's address          └─ eth0

All ENIs are in one vSwitch, so pods ask for each other's MACs; as in a real VPC the fabric answers with its own.
"""

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from threading import Thread

from msgspec.structs import replace

from services.eni_manager.adapters import netns
from services.eni_manager.adapters.ipvlan_plumbing import IpvlanPlumbing
from services.eni_manager.core.wiring.values import Node
from services.eni_manager.dataplane import AttachmentStore, Dataplane
from shared.contracts.ipam import Bandwidth
from shared.model import Cidr, EniId, Ip, Mac, Mode
from tests.system.dataplane import world as dataplane_world
from tests.system.dataplane.world import (
    ENI_MAC,
    FAR,
    FAR6,
    NODE_IP,
    NODE_IP6,
    SUBNET,
    SUBNET6,
    Sandbox,
    Space,
    World,
)

SERVICES = (Cidr("172.21.0.0/20"), Cidr("169.254.20.10/32"), Cidr("2001:db8:5::/112"))
VIP, VIP6 = "172.21.0.10", "2001:db8:5::10"
DNS = "169.254.20.10"
"""Served by the node itself, as NodeLocal DNS is."""
NODE2_IP, NODE2_IP6 = Ip("10.0.0.6"), Ip("2001:db8::6")
ENIS = {"eth1": ENI_MAC, "eth2": Mac("02:16:3e:00:00:02"), "far": Mac("02:16:3e:00:00:03")}
"""By the name that tests have for them; `far` is node2's eth1."""
_PORTS = {"eth1": "eni0", "eth2": "eni2", "far": "eni3"}


class Site(World):
    """Sandboxes are placed on an ENI. Set up in few commands, since each costs a tenth of a second in the guest."""

    def build(self) -> None:
        self.node2 = self._space(Space(self.node.fd))
        vpc = f"netns /proc/{os.getpid()}/fd/{self.vpc.fd}"
        for space, own, own6, cables in (
            (self.node, NODE_IP, NODE_IP6, (("eth0", "02:16:3e:00:00:00", "pri0"), *_cables("eth1", "eth2"))),
            (self.node2, NODE2_IP, NODE2_IP6, (("eth0", "02:16:3e:00:01:00", "pri2"), ("eth1", ENIS["far"], "eni3"))),
        ):
            space.sysctl("net/ipv6/conf/default/accept_dad", "0")
            ip(
                space,
                "link set lo up",
                *(f"link add {here} address {mac} type veth peer name {there} {vpc}" for here, mac, there in cables),
                "link set eth0 up",
                f"addr add {own}/24 dev eth0",
                f"addr add {own6}/64 dev eth0 nodad",
                "route add default via 10.0.0.1",
                "route add default via 2001:db8::1 dev eth0 onlink",
            )
        for path in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding", "ipv6/conf/all/proxy_ndp"):
            self.vpc.sysctl(f"net/{path}", "1")
        for name in ("proxy_arp", "proxy_arp_pvlan"):
            self.vpc.sysctl(f"net/ipv4/conf/all/{name}", "1")
        ip(self.vpc, "link set lo up", f"addr add {FAR}/32 dev lo", f"addr add {FAR6}/128 dev lo nodad")
        for port in ("pri0", "pri2", *_PORTS.values()):
            self._port(port)
        nodes = (("pri0", NODE_IP), ("pri0", NODE_IP6), ("pri2", NODE2_IP), ("pri2", NODE2_IP6))
        ip(self.vpc, *(f"route add {address} dev {port}" for port, address in nodes))

    def _port(self, port: str) -> None:
        for version in ("ipv4", "ipv6"):
            self.vpc.sysctl(f"net/{version}/neigh/{port}/proxy_delay", "0")
        self.vpc.sysctl(f"net/ipv6/conf/{port}/accept_dad", "0")
        pair = (
            ("10.0.0.1/32", "2001:db8::1/128")
            if port.startswith("pri")
            else (f"{SUBNET.gateway}/32", f"{SUBNET6.gateway}/128")
        )
        ip(self.vpc, f"link set {port} up", f"addr add {pair[0]} dev {port}", f"addr add {pair[1]} dev {port} nodad")

    def replug(self, name: str) -> None:
        """The first ENI goes and comes back under another name."""
        [(here, mac, there)] = _cables("eth1")
        ip(
            self.node,
            f"link del {here}",
            f"link add {name} address {mac} type veth peer name {there} netns /proc/{os.getpid()}/fd/{self.vpc.fd}",
        )
        self._port(there)

    def assign(self, address: str) -> None:
        """The base class asks before the ENI is known; `deliver` does it."""

    def deliver(self, box: Sandbox) -> None:
        """The VPC's half of assigning private addresses: frames for them go to the ENI."""
        port = next(_PORTS[name] for name, mac in ENIS.items() if mac == box.lease.eni_mac)
        commands = []
        for address in box.lease.addresses:
            commands += [
                f"route replace {address} dev {port}",
                f"neigh replace {address} lladdr {box.lease.eni_mac} dev {port} nud permanent",
            ]
            if ":" in address:
                others = {*_PORTS.values(), "pri0", "pri2"} - {port}
                commands += [f"neigh replace proxy {address} dev {other}" for other in sorted(others)]
        ip(self.vpc, *commands)

    def sandbox(
        self, name: str = "", *, ipv6: bool = False, bandwidth: Bandwidth | None = None, eni: str = "eth1"
    ) -> Sandbox:
        box = super().sandbox(name, ipv6=ipv6, bandwidth=bandwidth)
        box.lease = replace(box.lease, mode=Mode.SHARED_IPVLAN, eni_mac=ENIS[eni], eni_id=EniId(f"eni-{eni}"))
        self.deliver(box)
        return box


def _cables(*names: str) -> list[tuple[str, str, str]]:
    return [(name, ENIS[name], _PORTS[name]) for name in names]


def ip(space: Space, *commands: str) -> None:
    """Several commands of iproute2 by one process."""
    with space.inside():
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, f"{commands}: {done.stderr}"


@contextmanager
def site() -> Iterator[Site]:
    """Built, with this thread in the node's namespace."""
    home = netns.own_netns()
    with ExitStack() as opened:
        opened.callback(os.close, home)
        opened.callback(netns.enter, home)
        made = Site(opened, home)
        made.build()
        netns.enter(made.node.fd)
        yield made


def node_of(own: Ip = NODE_IP, own6: Ip = NODE_IP6, ranges: tuple[Cidr, ...] = SERVICES) -> Node:
    return Node(own, own6, mode=Mode.SHARED_IPVLAN, host_stack=ranges)


@asynccontextmanager
async def running(
    store: AttachmentStore, *, ranges: tuple[Cidr, ...] = SERVICES, by_bpf: bool | None = None
) -> AsyncIterator[Dataplane]:
    """A dataplane of the node, with its loops and ENIs."""
    plumbing = partial(IpvlanPlumbing, by_bpf=by_bpf)
    made = Dataplane(node_of(ranges=ranges), store, linger_s=0.01, repair_s=3600.0, symmetric=True, plumbing=plumbing)
    async with dataplane_world.serving(made) as dataplane:
        for mac in (ENIS["eth1"], ENIS["eth2"]):
            await dataplane.ensure_eni(mac, SUBNET, SUBNET6)
        yield dataplane


@asynccontextmanager
async def running_on_node2(site: Site, store: AttachmentStore) -> AsyncIterator[Dataplane]:
    """The same of the second node. Its threads are born in that one's namespace."""
    made = Dataplane(node_of(NODE2_IP, NODE2_IP6), store, linger_s=0.01, repair_s=3600.0)
    with site.node2.inside():
        await made.__aenter__()
    try:
        await made.ensure_eni(ENIS["far"], SUBNET, SUBNET6)
        yield made
    finally:
        await made.__aexit__(None, None, None)


# ---- questions


@contextmanager
def echo(space: Space, port: int = 7000) -> Iterator[None]:
    """Every datagram to the port, at any address inside, is answered with where it came from."""
    with space.inside():
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        udp.bind(("::", port))
    thread = Thread(target=_answer, args=(udp,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        _wake(space, port)
        thread.join()
        udp.close()


def _answer(udp: socket.socket) -> None:
    while True:
        data, ancillary, _, client = udp.recvmsg(2048, 64)
        if data == b"end":
            return
        # Answered from the address that was asked, by whichever link leads there.
        asked_at = [(level, kind, content[:16] + bytes(4)) for level, kind, content in ancillary]
        udp.sendmsg([client[0].removeprefix("::ffff:").encode()], asked_at, 0, client)


def _wake(space: Space, port: int) -> None:
    with space.inside():
        waker = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with waker:
        waker.sendto(b"end", ("::1", port))


def asked(source: Space, to: str, port: int = 7000, *, within: int = 20, size: int = 4) -> str:
    """From which address the answering end saw the question come; empty: no answer."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with source.inside():
        udp = socket.socket(family, socket.SOCK_DGRAM)
    with udp:
        if family == socket.AF_INET:
            udp.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: never in pieces
        udp.settimeout(0.3)
        udp.connect((to, port))
        for _ in range(within):
            try:
                udp.send(bytes(size))
                return udp.recv(2048).decode()
            except (TimeoutError, ConnectionRefusedError):
                continue
    return ""


def service(node: Space, backend: str, vip: str = VIP) -> None:
    """vip:80 leads to the backend's 7000, by kube-proxy's kind of rules."""
    family = "ip6" if ":" in vip else "ip"
    to = f"[{backend}]:7000" if ":" in backend else f"{backend}:7000"
    rules = f"""table {family} kube
        delete table {family} kube
        table {family} kube {{
            chain services {{
                {family} daddr {vip} udp dport 80 dnat to {to}
                fib daddr type local udp dport 30080 dnat to {to}
            }}
            chain prerouting {{ type nat hook prerouting priority dstnat; jump services
            }}
            chain output {{ type nat hook output priority -100; jump services
            }}
        }}
    """
    nft(node, rules)


def nft(space: Space, rules: str) -> None:
    """A transaction."""
    with space.inside():
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
