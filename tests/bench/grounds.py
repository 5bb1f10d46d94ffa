"""What benches compare on: a world per mode with its dataplane, and the paths to be measured in it.

A path has up to three forms: as the mode wires it; bare, one cable (or ENI) between two namespaces and nothing else;
and by hand, as many hops as ours with the kernel's plain forwarding, which follows connections as on every node that
runs kube-proxy. What ours loses to bare and by hand loses too is the price of a node in between, not of ours.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from services.eni_manager.dataplane import Dataplane
from shared.model import Mode
from tests.system.dataplane import exclusive, vpc_route
from tests.system.dataplane.world import FAR, SUBNET, Memory, Sandbox, Space, World, plug, running, standing

SAME_NODE, BARE_NIC = 0.95, 0.98
"""The goals: ours divided by bare."""


class Way(NamedTuple):
    """From one namespace to an address in another."""

    source: Space
    target: Space
    address: str


@dataclass(frozen=True)
class Contest:
    """One path in its forms. `goal` None: as good as it gets."""

    name: str
    ours: Way
    bare: Way
    by_hand: Way | None = None
    goal: float | None = None


@dataclass(frozen=True)
class Ground:
    """A world, its dataplane, and what is to be compared."""

    world: World
    dataplane: Dataplane
    contests: tuple[Contest, ...]


@asynccontextmanager
async def shared_veth() -> AsyncIterator[Ground]:
    """Dual-stack pods, answers following questions: what a node runs unless somebody says otherwise."""
    with standing(World) as world:
        world.node.ip("route", "add", "default", "via", "2001:db8::1", "dev", "eth0")
        async with running(Memory(), symmetric=True) as dataplane:
            one, two = world.sandbox(ipv6=True), world.sandbox(ipv6=True)
            await plug(dataplane, one)
            await plug(dataplane, two)
            bare4, bare6 = bare_pair(world)
            hand4, hand6 = by_hand(world)
            yield Ground(
                world,
                dataplane,
                (
                    Contest("one node", Way(one, two, two.ipv4), bare4, hand4, SAME_NODE),
                    Contest("one node, IPv6", Way(one, two, two.ipv6), bare6, hand6, SAME_NODE),
                    Contest("pod to the VPC, by the ENI", Way(one, world.vpc, FAR), bare4, hand4),
                ),
            )


@asynccontextmanager
async def routed_by_vpc() -> AsyncIterator[Ground]:
    """Pods with the node's own range, outbound NAT."""
    with standing(vpc_route.VpcRoute) as world:
        async with vpc_route.running(world, Memory()) as dataplane:
            one, two = world.sandbox(), world.sandbox()
            await plug(dataplane, one)
            await plug(dataplane, two)
            bare, _ = bare_pair(world)
            hand, _ = by_hand(world)
            elsewhere = Way(one, world.vpc, vpc_route.ELSEWHERE)
            yield Ground(
                world,
                dataplane,
                (
                    Contest("one node", Way(one, two, two.ipv4), bare, hand, SAME_NODE),
                    Contest("pod to another node's", elsewhere, bare, hand),
                ),
            )


@asynccontextmanager
async def exclusive_eni() -> AsyncIterator[Ground]:
    """A pod with an ENI to itself, beside a namespace into which somebody has moved one by hand."""
    with standing(exclusive.Exclusive) as world:
        async with exclusive.running(Memory()) as dataplane:
            pod, bare = world.sandbox(), world.sandbox()
            await plug(dataplane, pod)
            bare_nic(world, bare)
            contest = Contest("by the ENI", Way(pod, world.vpc, FAR), Way(bare, world.vpc, FAR), goal=BARE_NIC)
            yield Ground(world, dataplane, (contest,))


GROUNDS: Mapping[Mode, Callable[[], AbstractAsyncContextManager[Ground]]] = {
    Mode.SHARED_VETH: shared_veth,
    Mode.VPC_ROUTE: routed_by_vpc,
    Mode.EXCLUSIVE_ENI: exclusive_eni,
}
"""The modes that run on a kernel without IPvlan."""


def bare_pair(world: World) -> tuple[Way, Way]:
    """Two namespaces and a cable, nothing else; IPv4 and IPv6."""
    left, right = Space(world.node.fd), Space(world.node.fd)
    world.keep(left, right)
    left.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", right.path)
    for space, link, number in ((left, "v0", 1), (right, "v1", 2)):
        space.ip("addr", "add", f"10.9.0.{number}/24", "dev", link)
        space.ip("addr", "add", f"fd00:9::{number}/64", "dev", link, "nodad")
        space.ip("link", "set", link, "up")
    return Way(left, right, "10.9.0.2"), Way(left, right, "fd00:9::2")


def by_hand(world: World) -> tuple[Way, Way]:
    """Two namespaces on cables to a third one, which forwards and follows connections; IPv4 and IPv6."""
    middle = Space(world.node.fd)
    ends = Space(world.node.fd), Space(world.node.fd)
    world.keep(middle, *ends)
    middle.sysctl("net/ipv4/ip_forward", "1")
    middle.sysctl("net/ipv6/conf/all/forwarding", "1")
    for number, end in enumerate(ends, 1):
        middle.ip("link", "add", f"h{number}", "type", "veth", "peer", "name", "eth0", "netns", end.path)
        for space, link, last in ((middle, f"h{number}", 1), (end, "eth0", 2)):
            space.ip("addr", "add", f"10.8.{number}.{last}/24", "dev", link)
            space.ip("addr", "add", f"fd00:8:{number}::{last}/64", "dev", link, "nodad")
            space.ip("link", "set", link, "up")
        end.ip("route", "add", "default", "via", f"10.8.{number}.1")
        end.ip("route", "add", "default", "via", f"fd00:8:{number}::1", "dev", "eth0")
    middle.nft("add table inet kube; add chain inet kube forward { type filter hook forward priority 0; }")
    middle.nft("add rule inet kube forward ct state invalid drop")  # as kube-proxy has it
    return Way(*ends, "10.8.2.2"), Way(*ends, "fd00:8:2::2")


def bare_nic(world: exclusive.Exclusive, box: Sandbox) -> None:
    """An ENI moved, addressed, routed, and nothing else."""
    [name] = world.at_home(box)
    world.node.ip("link", "set", name, "netns", box.path, "name", "eth0")
    box.ip("link", "set", "eth0", "up")
    box.ip("addr", "add", f"{box.ipv4}/32", "dev", "eth0")
    box.ip("route", "add", "default", "via", SUBNET.gateway, "dev", "eth0", "onlink")
