"""Killed at any point of plugging or unplugging an ENI of a pod's own: it is never lost, whatever follows."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.eni_manager.adapters.journal import Journal
from services.eni_manager.core.wiring.values import Node
from services.eni_manager.dataplane import Dataplane
from shared import crashpoint
from shared.contracts.eni import Plug, Unplug
from shared.contracts.ipam import Bandwidth
from shared.model import Mode
from tests.system.dataplane.exclusive import SERVICES, Exclusive, running
from tests.system.dataplane.world import (
    FAR,
    NODE_IP,
    SUBNET,
    Sandbox,
    inhabited,
    plug,
    problems_of,
    standing,
    talks,
    unplug,
    until,
)

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[3]
POINTS = sorted(crashpoint.names(ROOT / "services/eni_manager"))
ENTERING = ["eni.nic.before_enter", "eni.nic.after_enter", "eni.nic.after_classifier"]
HOMEWARD = ["eni.nic.before_home", "eni.nic.after_home"]
PLUG_POINTS = [name for name in POINTS if name.startswith("eni.plug.")]
UNPLUG_POINTS = [name for name in POINTS if name.startswith("eni.unplug.")] + HOMEWARD


@pytest.fixture
def world() -> Iterator[Exclusive]:
    with standing(Exclusive) as made:
        yield made


def dies_at(point: str, action: str, box: Sandbox, journal: Path) -> None:
    """Run `action` in a process of its own, in this thread's namespace, and see it die where it should."""
    request = Plug(box.lease, box.path) if action == "plug" else Unplug(box.lease.key, box.lease, box.path)
    done = subprocess.run(
        [sys.executable, __file__, action, str(journal)],
        input=msgspec.json.encode(request),
        env=os.environ | {"CRASH_AT": point, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == crashpoint.STATUS, done.stderr.decode()


async def act(action: str, journal: Path, request: bytes) -> None:
    """What the process does that dies."""
    node = Node(NODE_IP, mode=Mode.EXCLUSIVE_ENI, host_stack=(SERVICES,), own_address=True)
    async with await Journal.open(journal) as store, Dataplane(node, store) as dataplane:
        if action == "plug":
            await dataplane.plug(msgspec.json.decode(request, type=Plug))
        else:
            await dataplane.unplug(msgspec.json.decode(request, type=Unplug))


def test_no_point_of_this_mode_is_left_out() -> None:
    assert {name for name in POINTS if name.startswith("eni.nic.")} == {*ENTERING, *HOMEWARD}


FOLLOWS = ("retry", "del", "gone", "restart")
"""The same call again; DEL; DEL of a namespace that has ended; a start that is told of nothing, and DEL much later."""


@pytest.mark.parametrize(
    ("point", "follows"),
    [(point, follows) for point in ENTERING for follows in FOLLOWS]
    + [(point, follows) for n, point in enumerate(PLUG_POINTS) for follows in (FOLLOWS[n % 2], FOLLOWS[2 + n % 2])],
)
async def test_killed_during_plug(point: str, follows: str, world: Exclusive, tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    box = world.sandbox(bandwidth=Bandwidth(ingress=10_000_000))
    before = box.state()
    dies_at(point, "plug", box, journal)
    async with await Journal.open(journal) as store, running(store) as dataplane:
        with inhabited(box):
            if follows == "retry":
                await plug(dataplane, box)
                assert await problems_of(dataplane, box) == []
                assert talks(box, box.ipv4, world.vpc, FAR)
            if follows == "restart":  # it is with its sandbox, which bears our mark, or at home
                name = (await dataplane.ensure_eni(box.lease.eni_mac, SUBNET)).name
                assert (name == "eth0") == (not world.at_home(box))
            if follows != "gone":
                await dataplane.unplug(Unplug(box.lease.key, netns=box.path))
                await until(lambda: box.state() == before)
        if follows == "gone":
            box.close()
            there = f"eni-{box.lease.eni_mac[-2:]}"
            # What the kernel does for hardware that had gone in already; tests/lab/fabric has the lab's way.
            await until(lambda: bool(world.at_home(box)) or there not in world.vpc.links())
            if not world.at_home(box):
                world.come_home(box)
            await dataplane.unplug(Unplug(box.lease.key, box.lease))
        assert len(world.at_home(box)) == 1
        await until(lambda: not world.node.ip("route", "show", box.ipv4))
        assert await store.attachments() == []


@pytest.mark.parametrize("point", UNPLUG_POINTS)
async def test_killed_during_unplug(point: str, world: Exclusive, tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    box = world.sandbox(bandwidth=Bandwidth(ingress=10_000_000))
    before = box.state()
    async with await Journal.open(journal) as store, running(store) as dataplane:
        await plug(dataplane, box)
    with inhabited(box):
        dies_at(point, "unplug", box, journal)
        async with await Journal.open(journal) as store, running(store) as dataplane:
            await unplug(dataplane, box)
            assert len(world.at_home(box)) == 1
            await until(lambda: box.state() == before)
            assert await store.attachments() == []
            await plug(dataplane, box)
            assert talks(box, box.ipv4, world.vpc, FAR)


if __name__ == "__main__":
    asyncio.run(act(sys.argv[1], Path(sys.argv[2]), sys.stdin.buffer.read()))
