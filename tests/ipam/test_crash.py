"""ipam dies at each of its crash points in the middle of a node's ordinary day, is started again, and nothing is lost.

The day: pods come and go, repeated calls, then the pool shrinks with one item refused at first. Callers do as the
gateway and the kubelet do: what failed is asked again. The list of crash points is read from the source.
"""

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from shared.contracts import ipam as contract
from shared.contracts.ipam import Acquire, Lease, Release
from shared.crashpoint import STATUS, names
from shared.errors import Unavailable
from shared.model import Ip, PodKey
from shared.rpc.client import Client
from tests.ipam.eni_manager import ScriptedEniManager
from tests.ipam.world import ip, key, lease_of, one_eni

pytestmark = pytest.mark.crash

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
COOLDOWN_S = 0.2
ELSEWHERE = ("ipam.limit.", "ipam.garbage.")
"""These need pods that can be watched: tests/crash comes to them."""
POINTS = sorted(name for name in names(ROOT / "services" / "ipam") if not name.startswith((*ELSEWHERE, "ipam.adopt.")))
ADOPTING = sorted(name for name in names(ROOT / "services" / "ipam") if name.startswith("ipam.adopt."))


class Node:
    """A directory, an ipam process that is started again when it dies at its crash point, and its caller."""

    def __init__(self, folder: Path, point: str) -> None:
        self.run_dir, self.state_dir = folder / "run", folder / "state"
        self.deaths = 0
        self._point = point
        self._config = folder / "config.json"
        self._client = Client(self.run_dir / "ipam.sock")
        self._process: asyncio.subprocess.Process | None = None
        document = {
            "node": {"run_dir": str(self.run_dir), "state_dir": str(self.state_dir), "log_level": "warning"},
            "ipam": {"http_port": 0, "cooldown_s": COOLDOWN_S},
            "eni_conf": {"min_pool_size": 0, "max_pool_size": 1, "ip_pool_sync_period": "100ms"},
        }
        self._config.write_bytes(msgspec.json.encode(document))

    async def start(self) -> None:
        environment = {**os.environ, "CRASH_AT": "" if self.deaths else self._point}
        arguments = ["-m", "services.ipam", "--config", str(self._config)]
        self._process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, env=environment)

    async def stop(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        assert await self._process.wait() == 0
        async with self._client:
            pass

    async def revive(self) -> None:
        """Start again what died at its point; any other death is a failure."""
        assert self._process is not None
        if self._process.returncode is not None:
            assert self._process.returncode == STATUS
            self.deaths += 1
            assert self.deaths == 1
            await self.start()

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until it is answered."""
        async with asyncio.timeout(20.0):
            while True:
                try:
                    return await ask()
                except Unavailable:
                    await self.revive()
                    await asyncio.sleep(0.02)

    async def add(self, container: str) -> Lease:
        ask = Acquire(key(container), PodKey("default", "web"), annotations={})
        return await self.insist(lambda: self._client.call(contract.ACQUIRE, ask, deadline_s=10.0))

    async def delete(self, container: str) -> None:
        await self.insist(lambda: self._client.call(contract.RELEASE, Release(key(container))))

    async def leases(self) -> dict[str, Lease]:
        answer = await self.insist(lambda: self._client.call(contract.LEASES, contract.ListLeases()))
        return {lease.key.container_id: lease for lease in answer.leases}

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.state_dir / "ipam.sqlite")) as database:
            return database.execute(query).fetchall()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20.0):
            while not condition():
                await self.revive()
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("point", POINTS)
async def test_nothing_is_lost_or_doubled(tmp_path: Path, point: str) -> None:
    node = Node(tmp_path, point)
    async with ScriptedEniManager(node.run_dir / "eni_manager.sock", one_eni(4, capacity=4)) as enis:
        enis.refuse_once = {ip(3): "still used"}
        await node.start()
        try:
            await ordinary_day(node, enis)
        finally:
            await node.stop()
    assert node.deaths == 1, "the day did not pass this crash point"


@pytest.mark.parametrize("point", ADOPTING)
async def test_owners_are_rebuilt_after_a_death_in_the_middle(tmp_path: Path, point: str) -> None:
    node = Node(tmp_path, point)
    async with ScriptedEniManager(node.run_dir / "eni_manager.sock", one_eni(4, capacity=4)) as enis:
        for number in (1, 3):
            held = lease_of(f"old{number}", number)
            enis.attached[held.key], enis.plugged_with[held.key] = True, held
        await node.start()
        try:
            fresh = [await node.add(name) for name in ("a", "b")]
            assert {held.ipv4 for held in fresh} == {ip(2), ip(4)}, "what sandboxes have goes to nobody"
            assert set(await node.leases()) == {"a", "b", "old1", "old3"}
        finally:
            await node.stop()
    assert node.deaths == 1


async def ordinary_day(node: Node, enis: ScriptedEniManager) -> None:
    first = await node.add("a")
    assert await node.add("a") == first
    second = await node.add("b")
    assert second.ipv4 != first.ipv4
    assert second.host_link != first.host_link
    assert await node.leases() == {"a": first, "b": second}

    released = time.monotonic()
    await node.delete("a")
    await node.delete("a")
    assert await node.leases() == {"b": second}
    third = await node.add("c")
    assert third.ipv4 != second.ipv4
    if time.monotonic() - released < COOLDOWN_S:
        assert third.ipv4 != first.ipv4, "what was released rests"
    await node.delete("c")

    def handed_over() -> list[Ip]:
        """What is given back on both sides and still there: the cloud may take it."""
        marked = {Ip(str(item)) for (item,) in node.rows("SELECT item FROM given_back")}
        assert second.ipv4 not in marked
        return sorted(marked & {item for items in enis.given_back for item in items} & enis.addresses)

    while len(enis.addresses) > 2:  # one in use, one idle
        await node.until(lambda: bool(handed_over()))
        await enis.take_back(handed_over())
    await node.until(lambda: node.rows("SELECT * FROM given_back") == [])

    assert await node.leases() == {"b": second}
    last = await node.add("d")
    assert {last.ipv4, second.ipv4} == enis.addresses, "every address that is left can be used"
    assert len(node.rows("SELECT * FROM leases")) == 2
