"""The VPC's route table, judged by packets: what it sends to an ENI arrives there and may come from there."""

import os

import pytest

from compose.lab.cloud.core.model import SecurityGroup
from shared.model import Cidr, Ip, Mac
from tests.lab.fabric.nodes import NODE1, NODE2, NODE2_6, OUTSIDE, A, Nodes

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

PODS, POD = Cidr("10.244.1.0/24"), Ip("10.244.1.5")
PODS6, POD6 = Cidr("fd00:244:1::/64"), Ip("fd00:244:1::5")
ALL_PODS = Cidr("10.244.0.0/16")


@pytest.mark.parametrize(("pods", "pod", "peer"), [(PODS, POD, NODE2), (PODS6, POD6, NODE2_6)])
async def test_an_entry_delivers_and_lets_send_while_it_is_there(nodes: Nodes, pods: Cidr, pod: Ip, peer: Ip) -> None:
    await nodes.add_pods("node1", pod, table="main")
    assert await nodes.ping("node1", peer)
    for eni in (None, "eni-node1", "eni-node1", None):
        await nodes.fabric.route(pods, eni)
        passes = nodes.silent if eni is None else nodes.ping
        assert await passes("node2", pod)
        assert await passes("node1", peer, pod)
        assert (await nodes.fabric.delivered()).get(pods) == eni
    assert (await nodes.fabric.counters("eni-node1")).refused[pod].packets == 2
    assert await nodes.ping("node2", NODE1), "the ENI's own address is not disturbed"


async def test_the_longest_prefix_wins_and_each_eni_sends_from_its_own(nodes: Nodes) -> None:
    await nodes.add_pods("node1", POD, table="main")
    await nodes.add_pods("node2", POD, "10.244.2.5", table="main")
    await nodes.fabric.route(ALL_PODS, "eni-node2")
    await nodes.fabric.route(PODS, "eni-node1")
    before = await nodes.echoes("node1"), await nodes.echoes("node2")
    assert await nodes.ping("node3", POD) and await nodes.ping("node3", "10.244.2.5")
    assert (await nodes.echoes("node1"), await nodes.echoes("node2")) == (before[0] + 1, before[1] + 1)
    assert await nodes.silent("node1", OUTSIDE, "10.244.2.5")
    await nodes.fabric.route(PODS, None)
    assert await nodes.ping("node3", POD) and await nodes.echoes("node2") == before[1] + 2, "the wider one is left"


async def test_entries_of_one_eni_may_lie_in_each_other(nodes: Nodes) -> None:
    await nodes.add_pods("node1", POD, "10.244.9.9", table="main")
    await nodes.fabric.route(PODS, "eni-node1")
    await nodes.fabric.route(ALL_PODS, "eni-node1")
    for pod in (POD, "10.244.9.9"):
        assert await nodes.ping("node2", pod) and await nodes.ping("node1", NODE2, pod)
    await nodes.fabric.route(ALL_PODS, None)
    assert await nodes.ping("node2", POD) and await nodes.ping("node1", NODE2, POD)
    assert await nodes.silent("node2", "10.244.9.9") and await nodes.silent("node1", NODE2, "10.244.9.9")
    await nodes.fabric.route(ALL_PODS, "eni-node1")
    await nodes.fabric.route(PODS, None)
    assert await nodes.ping("node2", POD) and await nodes.ping("node1", NODE2, "10.244.9.9")


async def test_everything_else_can_go_to_one_eni_but_not_what_the_vpc_has_unassigned(nodes: Nodes) -> None:
    """A NAT instance, and an entry for one host."""
    elsewhere, everything, host = Ip("198.51.100.7"), Cidr("0.0.0.0/0"), Cidr("198.51.100.7/32")
    await nodes.add_pods("node1", elsewhere, "192.168.9.9", table="main")
    for destination in (everything, host):
        await nodes.fabric.route(destination, "eni-node1")
        assert await nodes.ping("node2", elsewhere)
        assert destination in await nodes.fabric.delivered()
        assert await nodes.silent("node2", "192.168.9.9")
        await nodes.fabric.route(destination, None)
        assert await nodes.silent("node2", elsewhere)


async def test_an_entry_moves_at_once(nodes: Nodes) -> None:
    for node in ("node1", "node2"):
        await nodes.add_pods(node, POD, table="main")
    await nodes.fabric.route(PODS, "eni-node1")
    await nodes.fabric.route(PODS, "eni-node2")
    before = await nodes.echoes("node1")
    assert await nodes.ping("node3", POD)
    assert await nodes.echoes("node1") == before
    assert await nodes.silent("node1", OUTSIDE, POD)


async def test_an_entry_outlives_the_attachment_of_its_eni(nodes: Nodes) -> None:
    await nodes.fabric.route(PODS, "eni-late")
    assert await nodes.silent("node2", POD)
    for _ in range(2):
        await nodes.fabric.plug(
            "eni-late",
            mac=Mac("00:16:3e:00:00:44"),
            vswitch=A.name,
            node="node3",
            addresses=(Ip("192.168.0.44"),),
            primary=False,
        )
        await nodes.ip("node3", "link set eth1 up", f"address replace {POD}/32 dev eth1")
        assert await nodes.silent("node2", POD), "its answers leave by the other interface, which may not"
        await nodes.ip("node3", f"route add {NODE2} via {A.gateway} dev eth1 onlink")
        assert await nodes.ping("node2", POD)
        await nodes.fabric.unplug("eni-late")
        assert await nodes.silent("node2", POD)


async def test_who_is_only_routed_to_a_member_is_in_no_group(nodes: Nodes) -> None:
    await nodes.add_pods("node2", POD, table="main")
    await nodes.fabric.route(PODS, "eni-node2")
    await nodes.fabric.define_group(SecurityGroup("sg-a"))
    for eni in ("eni-node1", "eni-node2"):
        await nodes.fabric.guard(eni, ("sg-a",))
    assert await nodes.ping("node2", NODE1)
    assert await nodes.silent("node2", NODE1, POD)
