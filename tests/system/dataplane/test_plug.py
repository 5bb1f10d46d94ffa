"""A pod is plugged and talks as terway.md §5.2 says; whatever was there before or happens meanwhile, plug converges."""

import asyncio
import os

import pytest
from msgspec.structs import replace

from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Plug, Unplug
from shared.contracts.ipam import Bandwidth
from shared.errors import Conflict, Invalid, NotFound
from shared.model import AttachmentKey
from tests.system.dataplane.world import (
    ENI_MAC,
    FAR,
    FAR6,
    NODE_IP,
    SUBNET,
    Memory,
    World,
    announced,
    plug,
    problems_of,
    running,
    talks,
    unplug,
    until,
)

pytestmark = pytest.mark.system


async def test_a_pod_is_wired_exactly_as_terway_does(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox("nginx-0")
    plugged = await dataplane.plug(Plug(lease=box.lease, netns=box.path))

    name, own = "calic048fd9a750", "192.168.32.11"
    (eni,) = world.node.seen("-4", "addr", "show", "eth1")
    table = str(1000 + int(eni["ifindex"]))
    assert [(a["local"], a["prefixlen"]) for a in eni["addr_info"]] == [("10.0.0.5", 32)]
    assert world.node.ip("-4", "route", "show", "table", table).split() == (
        "default via 192.168.63.253 dev eth1 proto 84 onlink".split()
    )
    for where in ("main", "512"):
        shown = world.node.ip("-4", "route", "show", own, "table", where).split()
        assert shown == f"{own} dev {name} proto 84 scope link".split()
    rules = [line.split() for line in world.node.ip("-4", "rule").splitlines()]
    assert "512: from all lookup 512 proto 84".split() in rules
    assert f"2048: from {own} lookup {table} proto 84".split() in rules
    for link in ("all", "default", "eth1", name):
        assert world.node.sysctl(f"net/ipv4/conf/{link}/forwarding") == "1"
        assert world.node.sysctl(f"net/ipv4/conf/{link}/rp_filter") == "0"

    (host,) = world.node.seen("link", "show", name)
    assert (host["address"], host["mtu"]) == (plugged.host_mac, 1500)
    assert host["ifalias"] == "terway terway/sandbox1/eth0"
    (pod,) = box.seen("addr", "show", "eth0")
    assert (pod["address"], pod["mtu"], pod["operstate"]) == (plugged.mac, 1500, "UP")
    assert [(a["local"], a["prefixlen"]) for a in pod["addr_info"] if a["scope"] == "global"] == [(own, 32)]
    assert box.ip("-4", "route").split() == "default via 169.254.1.1 dev eth0 proto 84 onlink".split()
    assert box.ip("-4", "neigh").split() == f"169.254.1.1 dev eth0 lladdr {plugged.host_mac} PERMANENT".split()


async def test_packets_reach_pods_on_the_node_the_node_itself_and_the_vpc(world: World, dataplane: Dataplane) -> None:
    one, two = world.sandbox(), world.sandbox()
    await plug(dataplane, one)
    await plug(dataplane, two)
    world.vpc.ip("link", "set", "pri0", "down")  # so nothing gets through by the node's primary interface
    assert talks(one, one.ipv4, world.vpc, FAR)
    assert talks(world.vpc, FAR, two, two.ipv4)
    assert talks(one, one.ipv4, two, two.ipv4)
    assert talks(world.node, NODE_IP, two, two.ipv4)
    assert talks(two, two.ipv4, world.node, NODE_IP)
    world.vpc.ip("link", "set", "eni0", "down")
    assert not talks(one, one.ipv4, world.vpc, FAR, within_s=0.2)
    assert talks(one, one.ipv4, two, two.ipv4), "what stays on the node must not leave by the ENI"


@pytest.mark.alone
async def test_the_very_first_packet_to_a_new_pod_arrives(world: World, dataplane: Dataplane) -> None:
    """Lost, its ARP question would be asked again only after a second."""
    with world.node.socket(NODE_IP) as asking:
        for _ in range(20):
            box = world.sandbox()
            await plug(dataplane, box)
            with box.socket(box.ipv4, 7001) as inside:
                inside.settimeout(0.5)
                asking.sendto(b"hello", (box.ipv4, 7001))
                assert inside.recv(16) == b"hello"


async def test_a_dual_stack_pod_speaks_both(world: World, dataplane: Dataplane) -> None:
    one, two = world.sandbox(ipv6=True), world.sandbox(ipv6=True)
    await plug(dataplane, one)
    await plug(dataplane, two)
    assert talks(one, one.ipv4, two, two.ipv4)
    assert talks(one, one.ipv6, two, two.ipv6)
    assert talks(one, one.ipv6, world.vpc, FAR6)


async def test_mtu_and_limits_are_set_and_checked(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox(bandwidth=Bandwidth(ingress=1_048_576, egress=125_000_000))
    await plug(dataplane, box, mtu=1400)
    assert world.node.seen("link", "show", box.lease.host_link)[0]["mtu"] == 1400
    assert box.seen("link", "show", "eth0")[0]["mtu"] == 1400
    host, pod = world.node.qdisc(box.lease.host_link), box.qdisc("eth0")
    assert "tbf 1: root" in host and "rate 8388Kbit burst 4194b" in host
    assert "rate 1Gbit burst 500000b" in pod
    assert await problems_of(dataplane, box, mtu=1400) == []
    box.tc("qdisc", "del", "dev", "eth0", "root")
    assert await problems_of(dataplane, box, mtu=1400) == [
        "sandbox: qdisc tbf dev eth0 rate 125000000 B/s limit 3250000 B is missing"
    ]
    await plug(dataplane, box, mtu=1400)
    assert box.qdisc("eth0") == pod


async def test_a_repeated_plug_changes_nothing(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    whole = (world.node.state(), box.state())
    with announced(world.node) as on_node, announced(box) as in_pod:
        await plug(dataplane, box)
    assert (on_node, in_pod) == ([], [])
    assert (world.node.state(), box.state()) == whole


async def test_a_repeated_plug_mends_both_sides(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    whole = (world.node.state(), box.state())
    world.node.ip("rule", "del", "priority", "2048")
    world.node.ip("rule", "add", "priority", "2048", "from", box.ipv4, "lookup", "4242")
    world.node.ip("link", "set", box.lease.host_link, "down")
    box.ip("neigh", "del", "169.254.1.1", "dev", "eth0")
    box.ip("addr", "add", "192.0.2.1/32", "dev", "eth0")
    await plug(dataplane, box)
    assert (world.node.state(), box.state()) == whole
    assert talks(box, box.ipv4, world.vpc, FAR)


async def test_an_interface_of_somebody_else_in_the_sandbox_is_a_conflict(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    box.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other0")
    before = (world.node.state(), box.state())
    with pytest.raises(Conflict, match="interface eth0 already exists in the sandbox"):
        await plug(dataplane, box)
    await unplug(dataplane, box)
    assert (world.node.state(), box.state()) == before


async def test_a_host_link_of_somebody_else_is_left_alone(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    world.node.ip("link", "add", box.lease.host_link, "type", "veth", "peer", "name", "other0")
    before = world.node.state()
    with pytest.raises(Conflict, match=f"host link {box.lease.host_link} exists and belongs to somebody else"):
        await plug(dataplane, box)
    await unplug(dataplane, box)
    assert world.node.state() == before


async def test_plug_says_what_is_missing(world: World, dataplane: Dataplane) -> None:
    gone = world.sandbox()
    path = gone.path
    gone.close()
    with pytest.raises(NotFound, match=path):
        await dataplane.plug(Plug(lease=gone.lease, netns=path))
    with pytest.raises(Invalid, match="not one"):
        await dataplane.plug(Plug(lease=gone.lease, netns="/proc/self/status"))
    box = world.sandbox()
    world.node.ip("link", "del", "eth1")
    with pytest.raises(NotFound, match=ENI_MAC) as raised:
        await plug(dataplane, box)
    assert raised.value.retry_after is not None


async def test_an_eni_that_comes_back_is_found_under_its_new_index(world: World, dataplane: Dataplane) -> None:
    one, two = world.sandbox(), world.sandbox()
    await plug(dataplane, one)
    world.node.ip("link", "del", "eth1")
    world.plug_in_eni("eth7")
    await plug(dataplane, two)
    assert talks(two, two.ipv4, world.vpc, FAR)
    await plug(dataplane, one)
    assert talks(one, one.ipv4, world.vpc, FAR)


async def test_dhcp_leftovers_leave_the_eni(world: World, dataplane: Dataplane) -> None:
    world.node.ip("addr", "add", "192.168.32.2/19", "dev", "eth1")
    await dataplane.ensure_eni(ENI_MAC, SUBNET)
    (eni,) = world.node.seen("-4", "addr", "show", "eth1")
    assert [a["local"] for a in eni["addr_info"]] == [NODE_IP]


async def test_rules_that_an_older_wiring_left_do_not_mislead(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    world.node.ip("rule", "add", "priority", "2048", "from", box.ipv4, "iif", "lo", "lookup", "77")
    world.node.ip("rule", "add", "priority", "2048", "from", box.ipv4, "lookup", "4242")
    world.node.ip("rule", "add", "priority", "512", "to", box.ipv4, "lookup", "4242")
    await plug(dataplane, box)
    assert world.node.rules_about(box.ipv4) == 1
    assert talks(box, box.ipv4, world.vpc, FAR)


async def test_a_live_address_is_not_wired_twice_and_a_dead_one_is_taken_over(
    world: World, dataplane: Dataplane, memory: Memory
) -> None:
    old, new = world.sandbox(), world.sandbox()
    await plug(dataplane, old)
    new.lease = replace(new.lease, ipv4=old.ipv4)
    with pytest.raises(Conflict, match=f"{old.ipv4} is wired for default/pod-1"):
        await plug(dataplane, new)
    assert talks(old, old.ipv4, world.vpc, FAR)
    old.close()
    await until(lambda: old.lease.host_link not in world.node.links())
    await plug(dataplane, new)
    assert talks(new, new.ipv4, world.vpc, FAR)
    assert set(memory.kept) == {new.lease.key}
    # The old sandbox's DEL comes late and must not touch what is the new one's by now (§13 R1).
    await dataplane.unplug(Unplug(key=old.lease.key, lease=old.lease))
    assert talks(new, new.ipv4, world.vpc, FAR)


async def test_two_sandboxes_of_one_pod_do_not_disturb_each_other(world: World, dataplane: Dataplane) -> None:
    old, new = world.sandbox("web-0"), world.sandbox("web-0")
    new.lease = replace(new.lease, host_link=new.lease.host_link[:-1] + "x")
    await plug(dataplane, old)
    await plug(dataplane, new)
    await unplug(dataplane, old)
    assert talks(new, new.ipv4, world.vpc, FAR)


async def test_a_host_links_name_is_free_as_soon_as_its_pod_is_unplugged(world: World, memory: Memory) -> None:
    async with running(memory, linger_s=3600.0) as dataplane:
        old, new = world.sandbox("web-0"), world.sandbox("web-0")
        await plug(dataplane, old)
        await unplug(dataplane, old)
        await plug(dataplane, new)
        assert talks(new, new.ipv4, world.vpc, FAR)
        # The same sandbox again, while what was unplugged still lies in it.
        old.lease = replace(old.lease, key=AttachmentKey("terway", "again", "eth0"), host_link="caliagain")
        await plug(dataplane, old)
        assert talks(old, old.ipv4, new, new.ipv4)


async def test_fifty_at_once(world: World, dataplane: Dataplane, memory: Memory) -> None:
    before = world.node.state()
    boxes = [world.sandbox() for _ in range(50)]
    descriptors = len(os.listdir("/proc/self/fd"))
    await asyncio.gather(*(plug(dataplane, box) for box in boxes))
    assert all(talks(box, box.ipv4, world.node, NODE_IP) for box in boxes)
    assert talks(boxes[0], boxes[0].ipv4, boxes[-1], boxes[-1].ipv4)
    assert len(memory.kept) == 50
    await asyncio.gather(*(unplug(dataplane, box) for box in boxes))
    assert world.node.state().rest == before.rest, "rules and routes go at once, links may go later"
    await until(lambda: world.node.state() == before)
    assert memory.kept == {}
    assert len(os.listdir("/proc/self/fd")) == descriptors
