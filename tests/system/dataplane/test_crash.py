"""Killed at any point of plug or unplug, the next attempt converges, and so does giving up."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from services.eni_manager.adapters.journal import Journal
from services.eni_manager.core.wiring.values import Node
from services.eni_manager.dataplane import Dataplane
from shared import crashpoint
from shared.contracts.eni import Plug, Unplug
from tests.system.dataplane.world import FAR, NODE_IP, Sandbox, World, plug, problems_of, running, talks, unplug, until

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[3]
POINTS = sorted(crashpoint.names(ROOT / "services/eni_manager"))
PLUG_POINTS = [name for name in POINTS if name.startswith("eni.plug.")]
UNPLUG_POINTS = [name for name in POINTS if name.startswith("eni.unplug.")]


def dies_at(point: str, action: str, box: Sandbox, journal: Path) -> None:
    """Run `action` in a process of its own, in this thread's namespace, and see it die where it should."""
    request = Plug(box.lease, box.path) if action == "plug" else Unplug(box.lease.key, box.lease, box.path)
    done = subprocess.run(
        [sys.executable, __file__, action, str(journal)],
        input=msgspec.json.encode(request),
        env=os.environ | {"CRASH_AT": point, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == crashpoint.STATUS, done.stderr.decode()


async def act(action: str, journal: Path, request: bytes) -> None:
    """What the process does that dies."""
    async with await Journal.open(journal) as store, Dataplane(Node(NODE_IP), store) as dataplane:
        if action == "plug":
            await dataplane.plug(msgspec.json.decode(request, type=Plug))
        else:
            await dataplane.unplug(msgspec.json.decode(request, type=Unplug))


def test_the_points_are_found_in_the_source() -> None:
    assert {"eni.plug.after_journal", "eni.plug.after_links"} <= set(PLUG_POINTS)
    assert {"eni.unplug.before_withdraw", "eni.unplug.before_journal"} <= set(UNPLUG_POINTS)


@pytest.mark.parametrize("give_up", [False, True], ids=["retry", "give-up"])
@pytest.mark.parametrize("point", PLUG_POINTS)
async def test_killed_during_plug(point: str, give_up: bool, world: World, tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    box = world.sandbox()
    async with await Journal.open(journal) as store, running(store):
        before = (world.node.state().of_pods, box.state())
    dies_at(point, "plug", box, journal)
    async with await Journal.open(journal) as store, running(store) as dataplane:
        if not give_up:
            await plug(dataplane, box)
            assert await problems_of(dataplane, box) == []
            assert talks(box, box.ipv4, world.vpc, FAR)
            assert len(world.node.links()) == len(before[0].links) + 1
            assert world.node.rules_about(box.ipv4) == 1
        await dataplane.unplug(Unplug(box.lease.key, netns=box.path))
        await until(lambda: (world.node.state().of_pods, box.state()) == before)
        assert await store.attachments() == []


@pytest.mark.parametrize("point", UNPLUG_POINTS)
async def test_killed_during_unplug(point: str, world: World, tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    box = world.sandbox()
    async with await Journal.open(journal) as store, running(store) as dataplane:
        before = (world.node.state().of_pods, box.state())
        await plug(dataplane, box)
    dies_at(point, "unplug", box, journal)
    async with await Journal.open(journal) as store, running(store) as dataplane:
        await unplug(dataplane, box)
        await until(lambda: (world.node.state().of_pods, box.state()) == before)
        assert await store.attachments() == []


if __name__ == "__main__":
    asyncio.run(act(sys.argv[1], Path(sys.argv[2]), sys.stdin.buffer.read()))
