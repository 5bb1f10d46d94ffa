"""A node, an ENI and a piece of VPC, each a network namespace of its own; sockets inside stand for processes there.

    pod ── cali… ─┐ node
    pod ── cali… ─┤ eth1 (the ENI) ────── eni0 192.168.63.253/19 ┐ vpc   203.0.113.10 on lo: somebody far away
                  └ eth0 10.0.0.5/24 ──── pri0 10.0.0.1/24       ┘

The test's own thread lives in the node's namespace, as services do; nothing here has a name outside this process,
so nothing is left behind when it ends.
"""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from ctypes import CDLL
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from services.eni_manager.adapters import netns
from services.eni_manager.core.wiring.symmetric import TERWAYS, Marking
from services.eni_manager.core.wiring.values import Node
from services.eni_manager.core.wiring.vpc_route import Nat
from services.eni_manager.dataplane import AttachmentStore, Dataplane
from shared.contracts.eni import Check, Plug, Unplug
from shared.contracts.ipam import Bandwidth, Lease
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, PodKey, Subnet, host_link_name
from shared.netlink import messages as frames

ENI_MAC = Mac("02:16:3e:00:00:01")
SUBNET = Subnet(Cidr("192.168.32.0/19"), Ip("192.168.63.253"))
SUBNET6 = Subnet(Cidr("2001:db8:1::/64"), Ip("2001:db8:1::fd"))
NODE_IP = Ip("10.0.0.5")
NODE_IP6 = Ip("2001:db8::5")
FAR = Ip("203.0.113.10")
FAR6 = Ip("2001:db8:ffff::10")
PATIENCE_S = 20.0
"""For what comes as soon as this machine gets round to it; nothing is asked to be as slow as that."""
_CLONE_NEWNET = 0x40000000
_libc = CDLL(None, use_errno=True)


class Space:
    """A network namespace that lives as long as this object, and whatever was made in it."""

    def __init__(self, home_fd: int) -> None:
        """`home_fd`: where the calling thread is, and stays."""
        assert _libc.unshare(_CLONE_NEWNET) == 0
        self.fd = netns.own_netns()
        netns.enter(home_fd)

    @property
    def path(self) -> str:
        """As the gateway passes it: a descriptor of a process that holds it open."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def inside(self) -> Iterator[None]:
        here = netns.own_netns()
        try:
            with netns.inside(self.fd, here):
                yield
        finally:
            os.close(here)

    def ip(self, *arguments: str) -> str:
        """iproute2 inside: the judge that shares no code with us."""
        with self.inside():
            return _run("ip", *arguments)

    def seen(self, *arguments: str) -> list[dict[str, Any]]:
        """What iproute2 lists, as JSON."""
        return msgspec.json.decode(self.ip("-j", *arguments) or "[]", type=list[dict[str, Any]])

    def tc(self, *arguments: str) -> str:
        """iproute2's tc inside."""
        with self.inside():
            return _run("tc", *arguments)

    def qdisc(self, link: str) -> str:
        """The root qdisc of a link, as tc shows it."""
        return self.tc("qdisc", "show", "dev", link, "root").strip()

    def sysctl(self, path: str, value: str | None = None) -> str:
        """A setting inside; `value` sets it."""
        with self.inside():
            setting = Path("/proc/sys") / path
            if value is not None:
                setting.write_text(value)
            return setting.read_text().strip()

    def nft(self, *arguments: str) -> str:
        """nft inside."""
        with self.inside():
            return _run("nft", *arguments)

    def links(self) -> list[str]:
        """The names of the links inside."""
        return [str(link["ifname"]) for link in self.seen("link")]

    def rules_about(self, address: str) -> int:
        """How many rules name an address."""
        return sum(address in line for line in self.ip("rule").splitlines())

    def state(self) -> "State":
        """Everything inside that lasts: what the kernel makes by itself for IPv6 link-local comes and goes."""
        links = [
            f"{link['ifname']} {link['mtu']} {link['address']} {'UP' in link['flags']} {link.get('ifalias')}"
            for link in self.seen("link")
        ]
        rest = [self.ip("-4", "-o", "addr"), self.ip("-4", "route", "show", "table", "all")]
        rest += [self.ip("-4", "rule"), self.ip("-6", "rule"), self.ip("neigh", "show", "nud", "permanent")]
        return State(sorted(links), sorted(line for text in rest for line in text.splitlines()))

    def socket(self, bind: str, port: int = 0) -> socket.socket:
        """A UDP socket of this namespace."""
        with self.inside():
            udp = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_DGRAM)
        udp.settimeout(PATIENCE_S)
        udp.bind((bind, port))
        return udp


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class State(NamedTuple):
    """What a namespace holds, in words."""

    links: list[str]
    rest: list[str]

    @property
    def of_pods(self) -> "State":
        """Without the rule that a node has once for all of its pods, which stays."""
        return self._replace(rest=[line for line in self.rest if "from all lookup 512" not in line])


AnySpace = TypeVar("AnySpace", bound=Space)


class Sandbox(Space):
    """A pod's namespace, with the lease that it is to be wired by."""

    lease: Lease

    @property
    def ipv4(self) -> Ip:
        assert self.lease.ipv4 is not None
        return self.lease.ipv4

    @property
    def ipv6(self) -> Ip:
        assert self.lease.ipv6 is not None
        return self.lease.ipv6


@contextmanager
def inhabited(space: Space) -> Iterator[None]:
    """A process lives inside meanwhile, as a pod's first container does."""
    with space.inside():
        process = subprocess.Popen(["sleep", "600"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Memory:
    """Attachments kept in memory: what the journal does, without its file."""

    def __init__(self) -> None:
        self.kept: dict[AttachmentKey, Kept] = {}

    async def put_attachment(self, lease: Lease, *, netns: str, mtu: int | None = None) -> None:
        self.kept[lease.key] = Kept(lease, netns, mtu)

    async def drop_attachment(self, key: AttachmentKey) -> object:
        return self.kept.pop(key, None)

    async def attachments(self) -> Sequence["Kept"]:
        return list(self.kept.values())


class Kept(msgspec.Struct, frozen=True):
    lease: Lease
    netns: str
    mtu: int | None


class World:
    """The node and what is around it."""

    def __init__(self, opened: ExitStack, home_fd: int) -> None:
        self._opened = opened
        self.node = self._space(Space(home_fd))
        self.vpc = self._space(Space(home_fd))
        self._count = 0
        self._assigned: list[str] = []

    def _space(self, space: AnySpace) -> AnySpace:
        self.keep(space)
        return space

    def keep(self, *spaces: Space) -> None:
        """Let these end with the world."""
        for space in spaces:
            self._opened.callback(space.close)

    def build(self) -> None:
        """Set up everything around the pods."""
        self.node.ip("link", "set", "lo", "up")
        self.vpc.ip("link", "set", "lo", "up")
        self._cable("eth0", "02:16:3e:00:00:00", "pri0")
        self.node.ip("link", "set", "eth0", "up")
        self.node.ip("addr", "add", f"{NODE_IP}/24", "dev", "eth0")
        self.node.ip("addr", "add", f"{NODE_IP6}/64", "dev", "eth0", "nodad")
        self.node.ip("route", "add", "default", "via", "10.0.0.1")
        self.vpc.ip("addr", "add", "10.0.0.1/24", "dev", "pri0")
        self.vpc.ip("addr", "add", f"{FAR}/32", "dev", "lo")
        self.vpc.ip("addr", "add", f"{FAR6}/128", "dev", "lo", "nodad")
        self.plug_in_eni("eth1")

    def plug_in_eni(self, name: str) -> None:
        """What AttachNetworkInterface does to the node."""
        self._cable(name, ENI_MAC, "eni0")
        self.vpc.ip("addr", "add", "192.168.63.253/19", "dev", "eni0")
        self.vpc.ip("addr", "add", f"{SUBNET6.gateway}/64", "dev", "eni0", "nodad")
        for address in tuple(self._assigned):
            self.assign(address)

    def _cable(self, here: str, mac: str, there: str) -> None:
        other_end = ("netns", f"/proc/{os.getpid()}/fd/{self.vpc.fd}")
        self.node.ip("link", "add", here, "address", mac, "type", "veth", "peer", "name", there, *other_end)
        # A real uplink has been through duplicate address detection long before the first pod comes.
        self.node.sysctl(f"net/ipv6/conf/{here}/accept_dad", "0")
        self.vpc.sysctl(f"net/ipv6/conf/{there}/accept_dad", "0")
        self.vpc.ip("link", "set", there, "up")

    def assign(self, address: str) -> None:
        """The VPC's half of assigning a private address: frames for it go to the ENI."""
        self._assigned.append(address)
        self.vpc.ip("neigh", "replace", address, "lladdr", ENI_MAC, "dev", "eni0", "nud", "permanent")

    def sandbox(self, name: str = "", *, ipv6: bool = False, bandwidth: Bandwidth | None = None) -> Sandbox:
        """A new namespace with a lease of an address that the VPC delivers to the ENI."""
        self._count += 1
        number = self._count
        box = Sandbox(self.node.fd)
        self._space(box)
        box.ip("link", "set", "lo", "up")
        pod = PodKey("default", name or f"pod-{number}")
        box.lease = Lease(
            key=AttachmentKey("terway", f"sandbox{number}", "eth0"),
            pod=pod,
            pod_uid=f"uid-{number}",
            mode=Mode.SHARED_VETH,
            host_link=host_link_name(pod, "eth0"),
            eni_id=EniId("eni-1"),
            eni_mac=ENI_MAC,
            ipv4=Ip(f"192.168.32.{number + 10}"),
            subnet4=SUBNET,
            ipv6=Ip(f"2001:db8:1::{number + 10:x}") if ipv6 else None,
            subnet6=SUBNET6 if ipv6 else None,
            bandwidth=bandwidth or Bandwidth(),
        )
        for address in box.lease.addresses:
            self.assign(address)
        return box


AnyWorld = TypeVar("AnyWorld", bound=World)


@contextmanager
def standing(kind: type[AnyWorld]) -> Iterator[AnyWorld]:
    """The node and what is around it, with the calling thread inside the node meanwhile, as services are."""
    home = netns.own_netns()
    with ExitStack() as opened:
        opened.callback(os.close, home)
        opened.callback(netns.enter, home)
        made = kind(opened, home)
        made.build()
        netns.enter(made.node.fd)
        yield made


@asynccontextmanager
async def running(
    store: AttachmentStore,
    *,
    linger_s: float = 0.01,
    symmetric: bool = False,
    marking: Marking = TERWAYS,
    nat: Nat | None = None,
) -> AsyncIterator[Dataplane]:
    """A dataplane of the node, with its loops; leaving it stops both as a service would."""
    node = Node(NODE_IP, NODE_IP6)
    made = Dataplane(node, store, linger_s=linger_s, repair_s=3600.0, symmetric=symmetric, marking=marking, nat=nat)
    async with serving(made) as dataplane:
        await dataplane.ensure_eni(ENI_MAC, SUBNET)
        yield dataplane


@asynccontextmanager
async def serving(made: Dataplane) -> AsyncIterator[Dataplane]:
    """A dataplane and its loops, as in a service."""
    async with made as dataplane:
        loops = asyncio.create_task(dataplane.run())
        try:
            yield dataplane
        finally:
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)


async def plug(dataplane: Dataplane, box: Sandbox, *, mtu: int | None = None) -> None:
    await dataplane.plug(Plug(lease=box.lease, netns=box.path, mtu=mtu))


async def unplug(dataplane: Dataplane, box: Sandbox) -> None:
    await dataplane.unplug(Unplug(key=box.lease.key, lease=box.lease, netns=box.path))


async def problems_of(dataplane: Dataplane, box: Sandbox, *, mtu: int | None = None) -> list[str]:
    return (await dataplane.check(Check(lease=box.lease, netns=box.path, mtu=mtu))).problems


@contextmanager
def announced(space: Space) -> Iterator[list[int]]:
    """The types of the messages by which the kernel announces changes meanwhile: tc, IPv4, IPv6 routes and rules."""
    groups = 0x8 | 0x10 | 0x40 | 0x80 | 0x400 | 0x40000
    found: list[int] = []
    with space.inside():
        listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with listener:
        listener.bind((0, groups))
        listener.setblocking(False)
        yield found
        with suppress(BlockingIOError):
            while True:
                found.extend(frame.type for frame in frames(listener.recv(1 << 16)))


def talks(source: Space, source_ip: str, target: Space, target_ip: str, *, within_s: float = PATIENCE_S) -> bool:
    """Does a datagram get there, from the address it should have, and its answer back? Asked again as clients do."""
    with source.socket(source_ip) as asking, target.socket(target_ip, 7000) as answering:
        asking.settimeout(0.1)
        answering.settimeout(0.1)
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            with suppress(TimeoutError):
                asking.sendto(b"ping", (target_ip, 7000))
                question, sender = answering.recvfrom(64)
                assert sender[0] == source_ip
                answering.sendto(b"pong " + question, sender)
                return asking.recvfrom(64)[0] == b"pong ping"
    return False


async def until(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """Wait for a condition that comes true by others' work."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 the kernel offers no event for it
            await asyncio.sleep(0.01)
