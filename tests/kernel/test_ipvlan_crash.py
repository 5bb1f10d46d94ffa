"""Killed at any point of mode shared-ipvlan, the next attempt converges, and so does giving up.

What dies is a fork of this process: starting another interpreter would take five seconds in the guest.
"""

import asyncio
import importlib
import os
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.eni_manager.adapters.journal import Journal
from services.eni_manager.dataplane import Dataplane
from shared import crashpoint
from shared.contracts.eni import Plug, Unplug
from tests.kernel.needs import needs
from tests.kernel.site import ENIS, Site, asked, echo, node_of, site
from tests.system.dataplane.world import FAR, SUBNET, SUBNET6, Sandbox, inhabited, problems_of, until

pytestmark = [pytest.mark.system, needs(links=("ipvlan",))]

ROOT = Path(__file__).parents[2]
ALSO = ("eni.plug.before_journal", "eni.plug.after_journal", "eni.unplug.before_withdraw", "eni.unplug.before_journal")
"""Points of every mode that this one comes to, too."""
FOUND = crashpoint.names(ROOT / "services/eni_manager")
POINTS = sorted(name for name in FOUND if name.startswith("eni.ipvlan.") or name in ALSO)
WITHDRAWING = {name for name in POINTS if name.endswith(("withdraw", "delete")) or name.startswith("eni.unplug.")}


@pytest.fixture
def world() -> Iterator[Site]:
    with site() as made:
        yield made


def lives(life: Coroutine[Any, Any, None]) -> None:
    """To its end, in a thread: asyncio.run would take the event loop of asynchronous tests from this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, life).result()


def dies_at(point: str, life: Coroutine[Any, Any, None]) -> None:
    """Live this life in a process of its own, and see it die where it should."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ["CRASH_AT"] = point
            importlib.reload(crashpoint)  # as at the start of a process
            asyncio.run(life)
            status = 0
        finally:
            os._exit(status)
    life.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == crashpoint.STATUS, point


async def plugging(journal: Path, box: Sandbox) -> None:
    async with await Journal.open(journal) as store, Dataplane(node_of(), store) as dataplane:
        await dataplane.ensure_eni(ENIS["eth1"], SUBNET, SUBNET6)
        await dataplane.plug(Plug(box.lease, box.path))


async def unplugging(journal: Path, box: Sandbox) -> None:
    async with await Journal.open(journal) as store, Dataplane(node_of(), store) as dataplane:
        await dataplane.unplug(Unplug(box.lease.key, box.lease, box.path))


async def whole(journal: Path, box: Sandbox, world: Site) -> None:
    """Another attempt works, as the runtime would make it."""
    async with await Journal.open(journal) as store, Dataplane(node_of(), store) as dataplane:
        await dataplane.ensure_eni(ENIS["eth1"], SUBNET, SUBNET6)
        await dataplane.plug(Plug(box.lease, box.path))
        assert await problems_of(dataplane, box) == []
        with echo(world.vpc):
            assert asked(box, FAR) == box.ipv4


async def gone(journal: Path, box: Sandbox, world: Site, before: object) -> None:
    """Giving up leaves nothing, once what is due has been done."""
    async with await Journal.open(journal) as store, Dataplane(node_of(), store) as dataplane:
        await dataplane.ensure_eni(ENIS["eth1"], SUBNET, SUBNET6)
        await dataplane.unplug(Unplug(box.lease.key, box.lease, box.path))
        loops = asyncio.create_task(dataplane.run())
        try:
            await until(lambda: world.node.state() == before, within_s=30)
            assert await store.attachments() == []
        finally:
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)


def test_points_are_found_in_the_source() -> None:
    assert {"eni.ipvlan.after_slave", "eni.ipvlan.after_withdraw", "eni.ipvlan.after_companion"} <= set(POINTS)
    assert set(ALSO) <= set(POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_a_death_loses_nothing(point: str, world: Site, tmp_path: Path) -> None:
    box, journal = world.sandbox(), tmp_path / "journal.db"
    empty = box.state()
    with inhabited(box):
        if point in WITHDRAWING:
            lives(plugging(journal, box))
        dies_at(point, (unplugging if point in WITHDRAWING else plugging)(journal, box))
        lives(whole(journal, box, world))
        # And the same death again, after which the runtime gives up. What an ENI has once, stays.
        lives(unplugging(journal, box))
        before = world.node.state()
        if point in WITHDRAWING:
            lives(plugging(journal, box))
            dies_at(point, unplugging(journal, box))
        elif not point.endswith("companion"):  # that is made once
            dies_at(point, plugging(journal, box))
        lives(gone(journal, box, world, before))
        assert [line for line in box.state().links if "cali" not in line] == empty.links
