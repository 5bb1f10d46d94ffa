"""The same for IPv6, and for prefixes of both families."""

import asyncio
import os
import socket

import pytest

from compose.lab.fabric import kernel
from compose.lab.fabric.script import GATEWAY_MAC
from compose.lab.waiting import until
from shared.model import Cidr, Ip
from tests.lab.fabric.nodes import (
    ETH1,
    NODE1,
    NODE1_6,
    NODE2,
    NODE2_6,
    NODE3_6,
    OUTSIDE6,
    POD1_6,
    POD2_6,
    A,
    B,
    Nodes,
)
from tests.lab.fabric.test_packets import send_frame

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

PREFIX, IN_PREFIX, BESIDE_PREFIX = Cidr("192.168.8.16/28"), Ip("192.168.8.31"), Ip("192.168.8.32")
PREFIX6 = Cidr("2408:4005:3cd:1000:8000::/80")
IN_PREFIX6, BESIDE_PREFIX6 = Ip("2408:4005:3cd:1000:8000:ffff:0:1"), Ip("2408:4005:3cd:1000:8001::")


async def test_within_and_across_vswitches_and_to_the_outside(nodes: Nodes) -> None:
    for target in (NODE2_6, NODE3_6, A.gateway6, B.gateway6, OUTSIDE6):
        assert await nodes.ping("node1", target), target
        assert await nodes.ping("node1", target, POD1_6), target
    assert await nodes.ping("node2", NODE1_6)
    assert await nodes.ping("node2", POD1_6)
    assert await nodes.ping("out", NODE1_6), "the outside knows the way back"
    assert (await nodes.sent(ETH1, POD1_6), await nodes.received(ETH1, POD1_6)) == (6, 6)
    assert await nodes.refused(ETH1) == await nodes.refused("eni-node1") == 0


async def test_an_address_works_from_its_assignment_to_its_unassignment(nodes: Nodes) -> None:
    assert await nodes.silent("node2", POD2_6)
    assert await nodes.silent("node1", NODE2_6, POD2_6)
    await nodes.fabric.assign(ETH1, (POD2_6,))
    assert await nodes.ping("node2", POD2_6)
    assert await nodes.ping("node1", NODE2_6, POD2_6)
    await nodes.fabric.unassign(ETH1, (POD2_6,))
    assert await nodes.silent("node2", POD2_6)
    assert await nodes.silent("node1", NODE2_6, POD2_6)
    assert await nodes.ping("node2", POD1_6), "the others are not disturbed"


async def test_a_node_that_believes_its_mates_to_be_on_the_link_reaches_them(nodes: Nodes) -> None:
    """And finds no duplicate of its own address, which the router would be the only one to claim."""
    fresh = Ip("2408:4005:3cd:1000::55")
    await nodes.fabric.assign("eni-node3", (fresh,))
    await nodes.ip("node3", f"address add {fresh}/64 dev eth0")

    async def still_looking() -> str:
        shown = (await nodes.run("node3", "ip", "-6", "address", "show", "dev", "eth0")).stdout
        assert "dadfailed" not in shown
        return "looking for duplicates" if "tentative" in shown else ""

    await until(still_looking, what="the node's own address", within_s=10)
    for target in (NODE1_6, A.gateway6, NODE2_6):
        assert await nodes.ping("node3", target, fresh)
    neighbours = (await nodes.run("node3", "ip", "neighbour", "show", NODE1_6)).stdout
    assert f"lladdr {GATEWAY_MAC}" in neighbours


async def test_a_source_that_is_not_the_enis_is_dropped_and_counted(nodes: Nodes) -> None:
    """Nobody's; another ENI's on the same node; and one's own from another device."""
    foreign = Ip("2408:4005:3cd:1000::99")
    await nodes.add_pods("node1", foreign, table="main")
    await nodes.run("node1", "ip", "-6", "rule", "del", "from", POD1_6)  # now it leaves by eth0
    assert await nodes.ping("node1", NODE2_6)
    before = await nodes.echoes("node2")
    for source in (foreign, POD1_6):
        assert await nodes.silent("node1", NODE2_6, source)
        assert (await nodes.fabric.counters("eni-node1")).refused[source].packets == 1
    assert await nodes.echoes("node2") == before


async def test_a_hardware_address_that_is_not_the_enis_is_dropped(nodes: Nodes) -> None:
    gateway = f"neighbour replace {A.gateway6} lladdr {GATEWAY_MAC} dev eth0 nud permanent"
    await nodes.ip("node3", "link set eth0 address 00:16:3e:99:99:99", gateway)
    before = await nodes.echoes("node2")
    assert await nodes.silent("node3", NODE2_6)
    assert (await nodes.fabric.counters("eni-node3")).refused[NODE3_6].packets == 1
    assert await nodes.echoes("node2") == before


async def test_an_unassigned_destination_is_not_delivered_though_a_node_has_it(nodes: Nodes) -> None:
    squatted = Ip("2408:4005:3cd:1001::77")
    await nodes.ip("node2", f"address add {squatted}/128 dev eth0 nodad")
    before = await nodes.echoes("node2")
    assert await nodes.silent("node1", squatted)
    assert await nodes.silent("out", squatted)
    assert await nodes.echoes("node2") == before
    assert await nodes.ping("node1", NODE2_6) and await nodes.echoes("node2") == before + 1


async def test_nobody_can_speak_for_others_by_neighbour_discovery(nodes: Nodes) -> None:
    """node1 advertises node3's address, and the gateway's, to the gateway and to node3."""
    assert await nodes.ping("node3", A.gateway6)
    mac = bytes.fromhex("00163e000000")
    for victim, claimed, told in (
        (bytes.fromhex("00163e000002"), A.gateway6, NODE3_6),
        (bytes.fromhex(GATEWAY_MAC.replace(":", "")), NODE3_6, A.gateway6),
    ):
        frame = victim + mac + bytes.fromhex("86dd") + advertisement(claimed, told, mac)
        await asyncio.to_thread(kernel.inside, nodes.netns("node1"), lambda frame=frame: send_frame("eth0", frame))
    assert await nodes.ping("node3", NODE2_6)
    neighbours = (await nodes.run("node3", "ip", "neighbour", "show", A.gateway6)).stdout
    assert f"lladdr {GATEWAY_MAC}" in neighbours
    assert (await nodes.fabric.delivered())[NODE3_6] == "eni-node3"


def advertisement(claimed: Ip, told: Ip, mac: bytes) -> bytes:
    """An IPv6 packet: "the neighbour `claimed` is at this MAC", overriding what was known."""
    source, target = (socket.inet_pton(socket.AF_INET6, address) for address in (claimed, told))
    body = bytes.fromhex("8800000060000000") + source + bytes.fromhex("0201") + mac
    pseudo = source + target + len(body).to_bytes(4, "big") + (58).to_bytes(4, "big")
    words = memoryview(pseudo + body)
    total = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + (~total & 0xFFFF).to_bytes(2, "big") + body[4:]
    return bytes.fromhex("60000000") + len(body).to_bytes(2, "big") + bytes([58, 255]) + source + target + body


@pytest.mark.parametrize(
    ("prefix", "inside", "beside", "target"),
    [(PREFIX, IN_PREFIX, BESIDE_PREFIX, NODE2), (PREFIX6, IN_PREFIX6, BESIDE_PREFIX6, NODE2_6)],
)
async def test_a_prefix_is_all_of_its_addresses_and_no_more(
    nodes: Nodes, prefix: Cidr, inside: Ip, beside: Ip, target: Ip
) -> None:
    await nodes.add_pods("node1", inside, beside)
    for assigned in (False, True, False):
        change, passes = (nodes.fabric.assign, nodes.ping) if assigned else (nodes.fabric.unassign, nodes.silent)
        await change(ETH1, (prefix,))
        assert await passes("node2", inside)
        assert await passes("node1", target, inside)
        assert ((await nodes.fabric.delivered()).get(prefix) == ETH1) is assigned
        assert await nodes.silent("node2", beside)
        assert await nodes.silent("node1", target, beside)
        if assigned:
            counters = await nodes.fabric.counters(ETH1)
            assert (counters.sent[prefix].packets, counters.received[prefix].packets) == (2, 2)


async def test_nothing_passes_after_a_detach(nodes: Nodes) -> None:
    await nodes.fabric.assign(ETH1, (PREFIX6,))
    await nodes.add_pods("node1", IN_PREFIX6)
    assert await nodes.ping("node2", IN_PREFIX6) and await nodes.ping("node2", POD1_6)
    before = await nodes.echoes("node1")
    await nodes.fabric.unplug(ETH1)
    for address in (IN_PREFIX6, POD1_6):
        assert await nodes.silent("node2", address)
        assert await nodes.silent("node1", NODE2_6, address)
    assert await nodes.echoes("node1") == before
    assert ETH1 not in (await nodes.fabric.delivered()).values()
    assert await nodes.ping("node2", NODE1_6) and await nodes.ping("node2", NODE1), "the others are not disturbed"
