"""Answers leave by the interface that the question came in by: set up once, mended, and taken away when not wanted.

That NodePorts and host ports work by it is what tests/system/modes shows.
"""

import pytest

from services.eni_manager.core.wiring.symmetric import Marking
from tests.system.dataplane.world import NODE_IP, Memory, World, plug, problems_of, running, until

pytestmark = pytest.mark.system


def rules(world: World) -> set[str]:
    return {" ".join(line.split()) for line in world.node.ip("rule").splitlines() if line.startswith("600:")}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(getattr(record, "fields", "")) for record in caplog.records if record.levelname == "WARNING"]


FOREIGN = "600: from all fwmark 0x20/0x20 lookup 77"
OURS = {
    "600: from all fwmark 0x10/0x10 lookup 100 proto 84",
    "600: from all fwmark 0x4000/0x4000 lookup 100 proto 84",
}


async def test_it_comes_is_mended_and_goes(world: World, memory: Memory) -> None:
    world.node.ip(*"rule add fwmark 0x20/0x20 priority 600 lookup 77".split())
    world.node.nft("add", "table", "ip", "somebodys")
    before = world.node.nft("list", "ruleset")

    async with running(memory, symmetric=True) as dataplane:
        await until(lambda: "terway_symmetric" in world.node.nft("list", "tables"))
        assert rules(world) == {FOREIGN, *OURS}
        route = world.node.ip("route", "show", "table", "100").split()
        assert route == "default via 10.0.0.1 dev eth0 proto 84 onlink".split()
        marks = world.node.nft("list", "table", "ip", "terway_symmetric")
        assert 'iifname "eth0" ct mark set ct mark | 0x00000010' in marks
        assert 'oifname "eth0" meta mark & 0x00004000 == 0x00004000 ct mark set ct mark | 0x00000010' in marks

        world.node.ip(*"rule del priority 600 fwmark 0x10/0x10".split())
        world.node.ip(*"route flush table 100".split())
        world.node.nft("delete", "table", "ip", "terway_symmetric")
        dataplane.repair()
        await until(lambda: "terway_symmetric" in world.node.nft("list", "tables"))
        assert rules(world) == {FOREIGN, *OURS}
        assert world.node.ip("route", "show", "table", "100").split() == route
        assert world.node.nft("list", "table", "ip", "terway_symmetric") == marks

        box = world.sandbox()
        await plug(dataplane, box)
        assert await problems_of(dataplane, box) == []
    async with running(memory):
        await until(lambda: world.node.nft("list", "ruleset") == before)
        assert rules(world) == {FOREIGN}
        assert world.node.ip("route", "show", "table", "all", "default").count("eth0") == 1


async def test_by_other_marks_what_was_before_goes(world: World, memory: Memory) -> None:
    marking = Marking("eth0", mark=0x20000, mask=0x60000, table=77, priority=700, comment="ours")
    before = world.node.nft("list", "ruleset")
    async with running(memory, symmetric=True):
        await until(lambda: "terway_symmetric" in world.node.nft("list", "tables"))
        assert rules(world) == OURS
    async with running(memory, symmetric=True, marking=marking):
        await until(lambda: not rules(world))
        await until(lambda: 'comment "ours"' in world.node.nft("list", "ruleset"))
        shown = world.node.ip("rule")
        assert "700:\tfrom all fwmark 0x20000/0x60000 lookup 77 proto 84" in shown
        assert "700:\tfrom all fwmark 0x4000/0x4000 lookup 77 proto 84" in shown
        assert world.node.ip("route", "show", "table", "77").split() == (
            "default via 10.0.0.1 dev eth0 proto 84 onlink".split()
        )
        assert world.node.ip("route", "show", "table", "all", "default").count("eth0") == 2
    async with running(memory, marking=marking):
        await until(lambda: world.node.nft("list", "ruleset") == before)
        assert "700:" not in world.node.ip("rule")


async def test_marks_beside_the_mask_stay(world: World, memory: Memory) -> None:
    """A question to the node's own address by eth0 is answered by eth0, whatever others have marked it with."""
    box = world.sandbox()
    marking = Marking(mark=0x20000, mask=0x60000)
    world.node.nft("add table ip somebodys")
    for hook, priority, rule in (
        ("prerouting", -300, "udp sport 80 meta mark set 0x40001"),
        ("prerouting", -100, f"udp dport 30080 dnat to {box.ipv4}:80"),
        ("forward", 0, 'oifname "eth0" meta mark 0x20001 counter'),
    ):
        name, kind = f"chain{priority + 300}", "nat" if priority == -100 else "filter"
        chain = f"{{ type {kind} hook {hook} priority {priority}; }}"
        world.node.nft(f"add chain ip somebodys {name} {chain}; add rule ip somebodys {name} {rule}")
    async with running(memory, symmetric=True, marking=marking) as dataplane:
        await plug(dataplane, box)
        await until(lambda: "terway_symmetric" in world.node.nft("list", "tables"))
        with world.vpc.socket("10.0.0.1") as asking, box.socket(box.ipv4, 80) as answering:
            asking.sendto(b"who", (NODE_IP, 30080))
            question, client = answering.recvfrom(64)
            answering.sendto(question, client)
            assert asking.recvfrom(64) == (b"who", (NODE_IP, 30080))
        assert "packets 1" in world.node.nft("list", "table", "ip", "somebodys")


async def test_an_interface_that_has_no_default_route_is_told(
    world: World, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(memory, symmetric=True, marking=Marking("eth9")):
        await until(lambda: any("no IPv4 default route by 'eth9'" in said for said in warnings(caplog)))
    assert rules(world) == set()


async def test_a_node_without_a_default_route_does_without(world: World, memory: Memory) -> None:
    world.node.ip("route", "del", "default")
    async with running(memory, symmetric=True) as dataplane:
        box = world.sandbox()
        await plug(dataplane, box)
        assert rules(world) == set()
