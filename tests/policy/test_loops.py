"""When flushes happen: at once after quiet, bundled under load, forced for the first in sync. In virtual time."""

import asyncio

import pytest

from services.policy.loops import BURST, RATE, Flushing, Tokens
from shared.health import Health, Reporter

pytestmark = pytest.mark.looptime


class Flushes:
    """When they happened."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self._flushed = asyncio.Event()
        self.flushing = Flushing(self._flush)

    def _flush(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        self._flushed.set()

    async def next(self) -> None:
        self._flushed.clear()
        await self._flushed.wait()

    async def run(self, reporter: Reporter, seconds: float, *, every: float) -> None:
        running = asyncio.create_task(self.flushing.run(reporter))
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while clock() < end:
            self.flushing.changed()
            await asyncio.sleep(every)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def test_tokens() -> None:
    tokens = Tokens(0.0, rate=10.0, burst=2.0)
    for _ in range(2):
        assert tokens.wait_s(0.0) == 0
        tokens.take()
    assert tokens.wait_s(0.0) == pytest.approx(0.1)
    assert tokens.wait_s(0.06) == pytest.approx(0.04)
    assert tokens.wait_s(100.0) == 0
    tokens.take()
    tokens.take()
    assert tokens.wait_s(100.0) == pytest.approx(0.1), "quiet times fill no more than the bucket"


async def test_a_change_now_and_then_is_flushed_at_once() -> None:
    flushes = Flushes()
    start = asyncio.get_running_loop().time()
    await flushes.run(Health().reporter("flush", 60.0), 10.0, every=1.0)
    assert [round(at - start, 3) for at in flushes.at] == [float(second) for second in range(10)]


async def test_a_stream_of_changes_is_bundled() -> None:
    flushes = Flushes()
    await flushes.run(Health().reporter("flush", 60.0), 5.0, every=0.001)
    assert RATE * 5 * 0.8 < len(flushes.at) <= RATE * 5 + BURST + 1


async def test_force_does_not_wait_for_a_token() -> None:
    flushes = Flushes()
    running = asyncio.create_task(flushes.flushing.run(Health().reporter("flush", 60.0)))
    for _ in range(int(BURST)):
        flushes.flushing.changed()
        await flushes.next()
    flushes.flushing.changed()
    flushes.flushing.force()
    await flushes.next()
    assert flushes.at[-1] - flushes.at[0] < 1 / RATE / 2, "not a moment passed"
    flushes.flushing.changed()
    await flushes.next()
    assert flushes.at[-1] - flushes.at[0] > 1 / RATE, "the debt is paid"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_nothing_changed_nothing_flushed_and_still_alive() -> None:
    flushes, health = Flushes(), Health(asyncio.get_running_loop().time)
    running = asyncio.create_task(flushes.flushing.run(health.reporter("flush", 60.0)))
    await asyncio.sleep(3600)
    assert flushes.at == []
    assert health.live() == []
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
