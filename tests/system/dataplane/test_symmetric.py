"""Answers leave by the interface that the question came in by: set up once, mended, and taken away when not wanted.

That NodePorts and host ports work by it is what tests/system/modes shows.
"""

import pytest

from tests.system.dataplane.world import Memory, World, plug, problems_of, running, until

pytestmark = pytest.mark.system


def rules(world: World) -> set[str]:
    return {" ".join(line.split()) for line in world.node.ip("rule").splitlines() if line.startswith("600:")}


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


async def test_a_node_without_a_default_route_does_without(world: World, memory: Memory) -> None:
    world.node.ip("route", "del", "default")
    async with running(memory, symmetric=True) as dataplane:
        box = world.sandbox()
        await plug(dataplane, box)
        assert rules(world) == set()
