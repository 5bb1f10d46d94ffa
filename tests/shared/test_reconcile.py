"""The loop in virtual time: hours pass in milliseconds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shared.errors import Internal, Unavailable
from shared.health import Health
from shared.reconcile import ReconcileLoop

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


class Runs:
    """Notes when it ran; fails and dawdles as told."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.failures = 0
        self.takes_s = 0.0

    async def __call__(self) -> None:
        self.times.append(round(asyncio.get_running_loop().time(), 3))
        await asyncio.sleep(self.takes_s)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not yet")


@asynccontextmanager
async def running(fn: Callable[[], Awaitable[None]], **options: float) -> AsyncIterator[ReconcileLoop]:
    loop = ReconcileLoop("routes", fn, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_once_at_start_and_then_every_resync() -> None:
    runs = Runs()
    async with running(runs, resync_s=300.0):
        await asyncio.sleep(1000)
    assert runs.times == [0, 300, 600, 900]


async def test_pokes_are_merged() -> None:
    runs = Runs()
    async with running(runs, settle_s=0.2, resync_s=300.0) as loop:
        await asyncio.sleep(10)
        for _ in range(10):
            loop.poke()
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)
        loop.poke()
        await asyncio.sleep(5)
    assert runs.times == [0, 10.2, 15.3]
    assert loop.runs == 3


async def test_a_poke_during_a_run_is_one_more_run() -> None:
    runs = Runs()
    runs.takes_s = 5.0
    async with running(runs, settle_s=0.2, resync_s=300.0) as loop:
        await asyncio.sleep(1)
        loop.poke()
        loop.poke()
        await asyncio.sleep(50)
    assert runs.times == [0, 5.2]


async def test_a_failure_is_tried_again_soon_and_forgotten_after_success() -> None:
    runs = Runs()
    runs.failures = 2
    async with running(runs, retry_s=5.0, resync_s=300.0) as loop:
        await asyncio.sleep(1)
        assert str(loop.last_error) == "not yet"
        await asyncio.sleep(11)
        assert str(loop.last_error) == "None"
        await asyncio.sleep(300)
    assert runs.times == [0, 5, 10, 310]


async def test_a_poke_shortens_the_wait_after_a_failure() -> None:
    runs = Runs()
    runs.failures = 1
    async with running(runs, settle_s=0.2, retry_s=60.0, resync_s=300.0) as loop:
        await asyncio.sleep(1)
        loop.poke()
        await asyncio.sleep(10)
    assert runs.times == [0, 1.2]


async def test_it_reports_even_when_it_fails() -> None:
    """A loop that goes round is alive; what it fails at is a matter of readiness."""
    health = Health(asyncio.get_running_loop().time)
    runs = Runs()
    runs.failures = 1000
    loop = ReconcileLoop("routes", runs, retry_s=5.0, resync_s=60.0, reporter=health.reporter("routes", 10.0))
    task = asyncio.create_task(loop.run())
    await asyncio.sleep(100)
    assert health.live() == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(11)
    assert len(health.live()) == 1


async def test_cancelling_a_run_ends_the_loop() -> None:
    runs = Runs()
    runs.takes_s = 1000.0
    async with running(runs):
        await asyncio.sleep(1)
    assert runs.times == [0]


@pytest.mark.parametrize(("error", "level"), [(Unavailable("it hung up"), "WARNING"), (Internal("a bug"), "ERROR")])
async def test_only_a_bug_is_told_with_its_story(
    error: Exception, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails() -> None:
        raise error

    async with running(fails):
        await asyncio.sleep(1)
    [said] = [record for record in caplog.records if record.msg == "reconcile_failed"]
    assert (said.levelname, bool(said.exc_info)) == (level, level == "ERROR")
