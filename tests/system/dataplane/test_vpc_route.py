"""Pods with addresses of the node's own range, which the VPC's route table sends to the node (terway.md §5.6)."""

import os
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Limit, Plug
from shared.contracts.ipam import Bandwidth
from shared.model import Cidr, EniId, Ip, Mac, Mode, Subnet
from tests.system.dataplane.test_limits import DIRECTIONS, MBIT, TOLERANCE, pushed
from tests.system.dataplane.world import (
    FAR,
    NODE_IP,
    Memory,
    Sandbox,
    World,
    inhabited,
    plug,
    problems_of,
    running,
    talks,
    unplug,
    until,
)

pytestmark = pytest.mark.system

RATES = [MBIT * number for number in ((1, 10, 100, 1000) if os.environ.get("TERWAY_LIMITS") == "all" else (100,))]
"""The qdiscs are those of every veth, so one rate is enough for each run; TERWAY_LIMITS=all: all of them."""

CLUSTER, OURS = Cidr("10.244.0.0/16"), Cidr("10.244.1.0/24")
ELSEWHERE = Ip("10.244.2.7")
"""A pod of another node: on lo of the VPC's namespace."""


@pytest.fixture
async def routed(world: World, memory: Memory) -> AsyncIterator[Dataplane]:
    world.vpc.ip("route", "add", OURS, "via", NODE_IP)
    world.vpc.ip("addr", "add", f"{ELSEWHERE}/32", "dev", "lo")
    async with running(memory, pod_cidr=CLUSTER) as dataplane:
        world.node.ip("link", "set", "eth1", "down")  # this mode needs no ENI
        await until(lambda: "terway_brb_masq" in world.node.nft("list", "tables"))
        yield dataplane


def sandbox(world: World, *, bandwidth: Bandwidth | None = None) -> Sandbox:
    box = world.sandbox(bandwidth=bandwidth)
    ipv4 = Ip(f"10.244.1.{box.ipv4.rpartition('.')[2]}")
    box.lease = replace(
        box.lease,
        mode=Mode.VPC_ROUTE,
        eni_id=EniId(""),
        eni_mac=Mac(""),
        ipv4=ipv4,
        subnet4=Subnet(OURS, Ip("10.244.1.1")),
    )
    return box


async def test_a_pod_is_wired_exactly_as_terway_does(world: World, routed: Dataplane) -> None:
    box = sandbox(world)
    plugged = await routed.plug(Plug(lease=box.lease, netns=box.path))
    link = box.lease.host_link
    route = world.node.ip("-4", "route", "show", box.ipv4).split()
    assert route == f"{box.ipv4} dev {link} proto 84 scope link".split()
    assert world.node.rules_about(box.ipv4) == 0
    (pod,) = box.seen("-4", "addr", "show", "eth0")
    assert [(a["local"], a["prefixlen"]) for a in pod["addr_info"]] == [(box.ipv4, 32)]
    assert box.ip("-4", "route").split() == "default via 169.254.1.1 dev eth0 proto 84 onlink".split()
    assert box.ip("-4", "neigh").split() == f"169.254.1.1 dev eth0 lladdr {plugged.host_mac} PERMANENT".split()
    assert await problems_of(routed, box) == []


async def test_pods_reach_pods_and_nodes_by_their_own_addresses(world: World, routed: Dataplane) -> None:
    one, two = sandbox(world), sandbox(world)
    await plug(routed, one)
    await plug(routed, two)
    assert talks(one, one.ipv4, two, two.ipv4)
    assert talks(one, one.ipv4, world.vpc, ELSEWHERE)
    assert talks(world.vpc, ELSEWHERE, two, two.ipv4)
    assert talks(world.node, NODE_IP, two, two.ipv4)
    assert talks(world.vpc, FAR, one, one.ipv4)


async def test_what_leaves_for_elsewhere_bears_the_nodes_address(world: World, routed: Dataplane) -> None:
    box = sandbox(world)
    await plug(routed, box)
    assert talks(box, box.ipv4, world.vpc, ELSEWHERE)  # so that no ARP question holds the next one up
    with box.socket(box.ipv4) as asking, world.vpc.socket(FAR, 7000) as answering:
        asking.sendto(b"ping", (FAR, 7000))
        question, sender = answering.recvfrom(64)
        assert (question, sender[0]) == (b"ping", NODE_IP)
        answering.sendto(b"pong", sender)
        assert asking.recvfrom(64)[0] == b"pong"


async def test_limits_are_set_and_changed(world: World, routed: Dataplane) -> None:
    box = sandbox(world, bandwidth=Bandwidth(ingress=125_000, egress=250_000))
    await plug(routed, box)
    link = box.lease.host_link
    assert "rate 1Mbit" in world.node.qdisc(link) and "rate 2Mbit" in box.qdisc("eth0")
    with inhabited(box):
        await routed.limit(Limit(box.lease.key, Bandwidth(egress=375_000)))
    assert "tbf" not in world.node.qdisc(link) and "rate 3Mbit" in box.qdisc("eth0")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{rate // MBIT}Mbit")
async def test_a_limit_is_met(rate: int, direction: str, world: World, routed: Dataplane) -> None:
    box = sandbox(world, bandwidth=Bandwidth(**{direction: rate}))
    await plug(routed, box)
    found = pushed(box, world, direction, rate)
    assert 1 - TOLERANCE <= found.rate / rate <= 1 + TOLERANCE, found


async def test_damage_is_found_and_mended(world: World, routed: Dataplane) -> None:
    box = sandbox(world)
    await plug(routed, box)
    whole, rules = world.node.state(), world.node.nft("list", "ruleset")
    world.node.ip("route", "del", box.ipv4)
    world.node.nft("flush", "ruleset")
    missing = f"node: route {box.ipv4}/32 dev {box.lease.host_link} scope link is missing"
    assert await problems_of(routed, box) == [missing]
    routed.repair()
    await until(lambda: (world.node.state(), world.node.nft("list", "ruleset")) == (whole, rules))
    assert await problems_of(routed, box) == []
    assert talks(box, box.ipv4, world.vpc, ELSEWHERE)


async def test_unplug_leaves_nothing(world: World, routed: Dataplane, memory: Memory) -> None:
    box = sandbox(world)
    before = (world.node.state(), box.state())
    await plug(routed, box)
    await unplug(routed, box)
    await until(lambda: (world.node.state(), box.state()) == before)
    assert memory.kept == {}
