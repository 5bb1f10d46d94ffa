"""`kill -9` at each step of an ENI's life: after a restart everything ends as if nothing had happened.

In dual stack, which takes all the steps that IPv4 alone takes, and its own.
"""

import asyncio
import os
import sqlite3
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.config import NodeConfig
from shared.contracts.eni import DEMAND, GIVE_BACK, WATCH, Demand, GiveBack, Watch
from shared.crashpoint import STATUS, names
from shared.errors import SuiteError
from shared.rpc.client import Client

SOURCE = Path(__file__).parents[2] / "services" / "eni_manager"
POINTS = sorted(name for name, file in names(SOURCE).items() if file.name in ("steps.py", "chores.py"))

pytestmark = [pytest.mark.crash, pytest.mark.timeout(90)]


class Restarted:
    """A process that dies at `point` and is started again, as a supervisor would; and its only client."""

    def __init__(self, url: str, directory: Path, point: str) -> None:
        self.url, self.directory, self.point = url, directory, point
        self.exits: list[int] = []
        self.client = Client(NodeConfig(run_dir=directory / "run").socket("eni_manager"), name="ipam")
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> None:
        while True:
            crash_at = {} if self.exits else {"CRASH_AT": self.point}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).with_name("crashing_service.py")),
                self.url,
                str(self.directory),
                env={**os.environ, **crash_at},
                stderr=asyncio.subprocess.DEVNULL,
            )
            self.exits.append(await self._process.wait())

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def call(self, method, params):
        """As ipam does: again until there is an answer."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await self.client.call(method, params)
                except SuiteError:
                    await asyncio.sleep(0.02)

    async def until(self, true, *, demand):
        async with asyncio.timeout(40):
            while True:
                await self.call(DEMAND, Demand(demand))  # a restarted service has forgotten it
                seen = await self.call(WATCH, Watch())
                if seen.synced and true(seen):
                    return seen
                await asyncio.sleep(0.02)


@asynccontextmanager
async def restarted(url, directory, point):
    service = Restarted(url, directory, point)
    async with service.client:
        keeping = asyncio.create_task(service.keep_running())
        try:
            yield service
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await service.end()


def usable(inventory):
    return [address.ipv4 for eni in inventory.enis for address in eni.addresses if address.usable]


def usable6(inventory):
    return [address.ipv6 for eni in inventory.enis for address in eni.addresses if address.usable]


def open_intents(directory):
    with sqlite3.connect(directory / "state" / "eni_manager.sqlite") as journal:
        return journal.execute("SELECT eni, action FROM intent WHERE ended IS NULL").fetchall()


@pytest.mark.parametrize("point", POINTS)
async def test_no_eni_or_address_is_doubled_or_leaked(cloud, tmp_path, point):
    async with restarted(cloud.url, tmp_path, point) as eni:
        await eni.until(lambda seen: len(usable(seen)) == 3, demand=3)
        seen = await eni.until(lambda seen: len(usable(seen)) == 5, demand=5)
        assert [sorted(one.ipv4) for one in cloud.enis()] == [sorted(usable(seen))]
        assert [sorted(one.ipv6) for one in cloud.enis()] == [sorted(usable6(seen))]

        gone = next(address.ipv4 for address in seen.enis[0].addresses if not address.primary)
        await eni.until(lambda seen: True, demand=4)
        await eni.call(GIVE_BACK, GiveBack([gone]))
        seen = await eni.until(lambda seen: [len(one.addresses) for one in seen.enis] == [4], demand=4)
        assert [sorted(one.ipv4) for one in cloud.enis()] == [sorted(usable(seen))]
        assert [sorted(one.ipv6) for one in cloud.enis()] == [sorted(usable6(seen))]

        await eni.until(lambda seen: True, demand=0)
        await eni.call(GIVE_BACK, GiveBack(usable(seen)))
        await eni.until(lambda seen: seen.enis == [], demand=0)
        assert cloud.enis() == []
        assert open_intents(tmp_path) == []
    assert eni.exits == [STATUS], "it died at the point, once"


def test_each_call_that_changes_something_has_a_point_on_either_side():
    steps = {name.rsplit(".", 1)[0] for name in POINTS if name.endswith(".before_call")}
    calls = ("create", "attach", "assign", "assign_ipv6", "unassign", "detach", "delete")
    assert steps == {f"eni.{call}" for call in calls}
    # Both families go back in one step, and a death between the two is one of its deaths.
    assert {f"{step}.after_call" for step in (*steps, "eni.unassign_ipv6")} <= set(POINTS)
