"""Pods with addresses of the node's own range, which the VPC's route table sends to the node (terway.md §5.6)."""

from collections.abc import AsyncIterator, Iterator

import pytest

from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Limit, Plug
from shared.contracts.ipam import Bandwidth
from tests.system.dataplane.test_limits import (  # noqa: F401 the same tests, in this module's world
    test_a_full_queue_delays_by_less_than_30_ms,
    test_a_limit_is_met,
    test_a_limited_pod_does_not_slow_its_neighbour,
)
from tests.system.dataplane.vpc_route import ELSEWHERE, VpcRoute, running
from tests.system.dataplane.world import (
    FAR,
    NODE_IP,
    Memory,
    inhabited,
    plug,
    problems_of,
    standing,
    talks,
    unplug,
    until,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def world() -> Iterator[VpcRoute]:
    with standing(VpcRoute) as made:
        yield made


@pytest.fixture
async def dataplane(world: VpcRoute, memory: Memory) -> AsyncIterator[Dataplane]:
    async with running(world, memory) as made:
        yield made


async def test_a_pod_is_wired_exactly_as_terway_does(world: VpcRoute, dataplane: Dataplane) -> None:
    box = world.sandbox()
    plugged = await dataplane.plug(Plug(lease=box.lease, netns=box.path))
    link = box.lease.host_link
    route = world.node.ip("-4", "route", "show", box.ipv4).split()
    assert route == f"{box.ipv4} dev {link} proto 84 scope link".split()
    assert world.node.rules_about(box.ipv4) == 0
    (pod,) = box.seen("-4", "addr", "show", "eth0")
    assert [(a["local"], a["prefixlen"]) for a in pod["addr_info"]] == [(box.ipv4, 32)]
    assert box.ip("-4", "route").split() == "default via 169.254.1.1 dev eth0 proto 84 onlink".split()
    assert box.ip("-4", "neigh").split() == f"169.254.1.1 dev eth0 lladdr {plugged.host_mac} PERMANENT".split()
    assert await problems_of(dataplane, box) == []


async def test_pods_reach_pods_and_nodes_by_their_own_addresses(world: VpcRoute, dataplane: Dataplane) -> None:
    one, two = world.sandbox(), world.sandbox()
    await plug(dataplane, one)
    await plug(dataplane, two)
    assert talks(one, one.ipv4, two, two.ipv4)
    assert talks(one, one.ipv4, world.vpc, ELSEWHERE)
    assert talks(world.vpc, ELSEWHERE, two, two.ipv4)
    assert talks(world.node, NODE_IP, two, two.ipv4)
    assert talks(world.vpc, FAR, one, one.ipv4)


async def test_what_leaves_for_elsewhere_bears_the_nodes_address(world: VpcRoute, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    assert talks(box, box.ipv4, world.vpc, ELSEWHERE)  # so that no ARP question holds the next one up
    with box.socket(box.ipv4) as asking, world.vpc.socket(FAR, 7000) as answering:
        asking.sendto(b"ping", (FAR, 7000))
        question, sender = answering.recvfrom(64)
        assert (question, sender[0]) == (b"ping", NODE_IP)
        answering.sendto(b"pong", sender)
        assert asking.recvfrom(64)[0] == b"pong"


async def test_limits_are_set_and_changed(world: VpcRoute, dataplane: Dataplane) -> None:
    box = world.sandbox(bandwidth=Bandwidth(ingress=125_000, egress=250_000))
    await plug(dataplane, box)
    link = box.lease.host_link
    assert "rate 1Mbit" in world.node.qdisc(link) and "rate 2Mbit" in box.qdisc("eth0")
    with inhabited(box):
        await dataplane.limit(Limit(box.lease.key, Bandwidth(egress=375_000)))
    assert "tbf" not in world.node.qdisc(link) and "rate 3Mbit" in box.qdisc("eth0")


async def test_damage_is_found_and_mended(world: VpcRoute, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    whole, rules = world.node.state(), world.node.nft("list", "ruleset")
    world.node.ip("route", "del", box.ipv4)
    world.node.nft("flush", "ruleset")
    missing = f"node: route {box.ipv4}/32 dev {box.lease.host_link} scope link is missing"
    assert await problems_of(dataplane, box) == [missing]
    dataplane.repair()
    await until(lambda: (world.node.state(), world.node.nft("list", "ruleset")) == (whole, rules))
    assert await problems_of(dataplane, box) == []
    assert talks(box, box.ipv4, world.vpc, ELSEWHERE)


async def test_unplug_leaves_nothing(world: VpcRoute, dataplane: Dataplane, memory: Memory) -> None:
    box = world.sandbox()
    before = (world.node.state(), box.state())
    await plug(dataplane, box)
    await unplug(dataplane, box)
    await until(lambda: (world.node.state(), box.state()) == before)
    assert memory.kept == {}
