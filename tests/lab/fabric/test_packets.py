"""The fabric judged by packets alone: what may pass passes, by the ENI that it should; nothing else does."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from compose.lab.fabric import kernel, names
from compose.lab.fabric.capture import Captures
from compose.lab.fabric.script import GATEWAY_MAC
from compose.lab.fabric.vpc import VpcFabric, remove_leftovers
from shared.errors import Invalid, NotFound
from shared.model import Ip, Mac
from tests.lab.fabric.nodes import (
    ETH1,
    NODE1,
    NODE2,
    NODE3,
    OUTSIDE,
    POD1,
    POD2,
    SERVICE,
    A,
    B,
    Nodes,
    new_lab,
    plan,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

# ---- what passes


async def test_within_and_across_vswitches_to_services_and_to_the_outside(nodes: Nodes) -> None:
    for target in (NODE2, NODE3, A.gateway, B.gateway, SERVICE, OUTSIDE):
        assert await nodes.ping("node1", target), target
    assert await nodes.ping("node2", NODE1)
    assert await nodes.ping("out", NODE1), "the outside knows the way back"


async def test_a_pod_leaves_by_the_eni_that_owns_its_address(nodes: Nodes) -> None:
    for target in (NODE2, NODE3, OUTSIDE):
        assert await nodes.ping("node1", target, POD1)
        assert await nodes.ping("node1", target)
    assert (await nodes.sent(ETH1, POD1), await nodes.received(ETH1, POD1)) == (3, 3)
    assert (await nodes.sent("eni-node1", NODE1), await nodes.received("eni-node1", NODE1)) == (3, 3)
    assert await nodes.ping("node2", POD1)
    assert await nodes.received(ETH1, POD1) == 4
    assert await nodes.refused(ETH1) == await nodes.refused("eni-node1") == 0


async def test_a_capture_shows_the_frames_of_one_eni(nodes: Nodes, tmp_path: Path) -> None:
    captures = Captures(nodes.fabric, tmp_path)
    capture = await captures.start(ETH1, "icmp")
    assert captures.running() == [capture]
    assert await nodes.ping("node1", NODE2, POD1)
    assert await nodes.ping("node1", NODE2)
    request, reply = await captures.stop(capture.id)
    assert f"00:16:3e:00:00:10 > {GATEWAY_MAC}" in request and f"{POD1} > {NODE2}: ICMP echo request" in request
    assert f"{GATEWAY_MAC} > 00:16:3e:00:00:10" in reply and "ICMP echo reply" in reply
    with pytest.raises(NotFound):
        await captures.stop(capture.id)
    with pytest.raises(Invalid, match=r"syntax error|can't parse"):
        await captures.start(ETH1, "no such filter")
    with pytest.raises(NotFound):
        await captures.start("eni-none", "")


async def test_an_address_works_from_its_assignment_to_its_unassignment(nodes: Nodes) -> None:
    assert await nodes.silent("node2", POD2)
    assert await nodes.silent("node1", NODE2, POD2)
    await nodes.fabric.assign(ETH1, (POD2,))
    assert await nodes.ping("node2", POD2)
    assert await nodes.ping("node1", NODE2, POD2)
    await nodes.fabric.unassign(ETH1, (POD2,))
    assert await nodes.silent("node2", POD2)
    assert await nodes.silent("node1", NODE2, POD2)
    assert await nodes.ping("node2", POD1), "the others are not disturbed"


async def test_repeating_is_free(nodes: Nodes) -> None:
    for _ in range(2):
        await nodes.fabric.assign(ETH1, (POD2,))
    assert await nodes.ping("node2", POD2)
    for _ in range(2):
        await nodes.fabric.unassign(ETH1, (POD2,))
    for _ in range(2):
        await nodes.fabric.unplug(ETH1)
        await nodes.fabric.remove_node("node3")
    with pytest.raises(NotFound):
        await nodes.fabric.assign(ETH1, (POD2,))


# ---- what does not pass


async def test_a_source_that_nobody_owns_is_dropped_and_counted(nodes: Nodes) -> None:
    foreign = Ip("192.168.0.99")
    await nodes.ip("node1", f"address add {foreign}/32 dev lo")
    before = await nodes.echoes("node2")
    assert await nodes.silent("node1", NODE2, foreign)
    assert (await nodes.fabric.counters("eni-node1")).refused[foreign].packets == 1
    assert await nodes.echoes("node2") == before


async def test_a_source_of_another_eni_is_dropped_even_on_the_same_node(nodes: Nodes) -> None:
    await nodes.ip("node1", f"rule del from {POD1} lookup 1001")  # now it would leave by eth0
    before = await nodes.echoes("node2")
    assert await nodes.silent("node1", NODE2, POD1)
    assert (await nodes.fabric.counters("eni-node1")).refused[POD1].packets == 1
    assert await nodes.echoes("node2") == before


async def test_a_hardware_address_that_is_not_the_enis_is_dropped(nodes: Nodes) -> None:
    assert await nodes.ping("node3", NODE1)
    before = await nodes.echoes("node2")
    gateway = f"neighbour replace {A.gateway} lladdr {GATEWAY_MAC} dev eth0"  # or ARP would fail first
    await nodes.ip("node3", "link set eth0 address 00:16:3e:99:99:99", gateway)
    assert await nodes.silent("node3", NODE2)
    assert await nodes.silent("node3", OUTSIDE)
    assert (await nodes.fabric.counters("eni-node3")).refused[NODE3].packets == 2
    assert await nodes.echoes("node2") == before
    await nodes.ip("node3", "link set eth0 address 00:16:3e:00:00:02", f"route replace default via {A.gateway}")
    assert await nodes.ping("node3", NODE1)


async def test_an_unassigned_destination_is_not_delivered_though_a_node_has_it(nodes: Nodes) -> None:
    squatted = Ip("192.168.16.77")
    await nodes.ip("node2", f"address add {squatted}/20 dev eth0")
    before = await nodes.echoes("node2")
    assert await nodes.silent("node1", squatted)
    assert await nodes.silent("node3", squatted)
    assert await nodes.echoes("node2") == before
    assert await nodes.ping("node1", NODE2) and await nodes.echoes("node2") == before + 1


async def test_nobody_can_speak_for_others_by_arp(nodes: Nodes) -> None:
    """node1 tells node3 that it were the gateway, and the gateway that it were node3."""
    assert await nodes.ping("node3", A.gateway)
    mac = bytes.fromhex("00163e000000")
    for victim, claimed, told in (
        (bytes.fromhex("00163e000002"), A.gateway, NODE3),
        (bytes.fromhex(GATEWAY_MAC.replace(":", "")), NODE3, A.gateway),
    ):
        reply = (
            victim + mac + bytes.fromhex("0806" "0001" "0800" "06" "04" "0002")
            + mac + socket.inet_aton(claimed) + victim + socket.inet_aton(told)
        )  # fmt: skip
        await asyncio.to_thread(kernel.inside, nodes.netns("node1"), lambda reply=reply: send_frame("eth0", reply))
    assert await nodes.ping("node3", NODE2)
    neighbours = (await nodes.run("node3", "ip", "neighbour", "show", A.gateway)).stdout
    assert f"lladdr {GATEWAY_MAC}" in neighbours
    assert (await nodes.fabric.delivered())[NODE3] == "eni-node3"


def send_frame(device: str, frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0))
        raw.send(frame)


async def test_nothing_passes_after_a_detach(nodes: Nodes) -> None:
    assert await nodes.ping("node2", POD1)
    before = await nodes.echoes("node2")
    await nodes.fabric.unplug(ETH1)
    assert [link.name for link in await nodes.fabric.links("node1")] == ["lo", "eth0"]
    assert await nodes.silent("node2", POD1)
    assert await nodes.silent("node1", NODE2, POD1)
    assert await nodes.echoes("node2") == before
    assert POD1 not in await nodes.fabric.delivered()


async def test_a_device_that_died_with_a_namespace_can_still_be_detached(nodes: Nodes) -> None:
    await nodes.ip("node1", "link delete eth1")
    await nodes.fabric.unplug(ETH1)
    assert POD1 not in await nodes.fabric.delivered()


# ---- coming and going


async def test_a_plugged_device_appears_down_with_its_mac_and_the_first_free_name(nodes: Nodes) -> None:
    await nodes.ip("node1", "link set eth1 down", "link set eth1 name moved")
    await nodes.fabric.plug(
        "eni-third", mac=Mac("00:16:3e:00:00:33"), vswitch=A.name, node="node1", addresses=(POD2,), primary=False
    )
    third = next(link for link in await nodes.fabric.links("node1") if link.mac == "00:16:3e:00:00:33")
    assert (third.name, third.up, third.addresses) == ("eth1", False, [])


async def test_a_node_goes_with_everything_in_it(nodes: Nodes) -> None:
    await nodes.fabric.remove_node("node1")
    assert nodes.netns("node1") not in names.existing(nodes.fabric.lab)
    assert await nodes.silent("node2", POD1)
    ports = {link.name for link in await nodes.fabric.vpc_links()}
    assert ports.isdisjoint({"eni-node1", ETH1})
    with pytest.raises(NotFound):
        await nodes.fabric.links("node1")


async def test_labs_of_other_names_are_not_disturbed_by_equal_addresses(nodes: Nodes) -> None:
    async with VpcFabric(plan(new_lab())) as other:
        twin = Nodes(other)
        await twin.build()
        assert await twin.ping("node1", NODE2) and await nodes.ping("node1", NODE2)
        await other.unplug("eni-node2")
        assert await twin.silent("node1", NODE2) and await nodes.ping("node1", NODE2)
    assert await nodes.ping("node1", NODE2)


async def test_a_fabric_that_nobody_closed_is_cleared_by_the_next_of_its_name() -> None:
    lab = new_lab()
    for part in ("vpc", "out", "node9"):
        kernel.add(names.namespace(lab, part))
    async with VpcFabric(plan(lab)) as fabric:
        assert names.existing(lab) == [fabric.outside, fabric.vpc]
    assert remove_leftovers(lab) == []


@pytest.mark.parametrize("name", ["a-b", "", "A", "1a", "x" * 21, "a/b"])
def test_lab_names_that_could_be_mistaken(name: str) -> None:
    with pytest.raises(Invalid):
        VpcFabric(plan(name))


@pytest.mark.parametrize("name", ["vpc", "out", "", "-a", "a/b", "A"])
def test_node_names_that_could_be_mistaken(name: str) -> None:
    with pytest.raises(Invalid):
        names.check_node(name)
