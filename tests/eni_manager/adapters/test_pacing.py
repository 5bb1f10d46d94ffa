"""Token buckets: the rate is kept, and what a waiting pod needs goes first."""

import asyncio

import pytest

from services.eni_manager.adapters.pacing import Bucket, Urgency, urgency


async def called(bucket: Bucket, name: str, log: list[str], how: Urgency = Urgency.BACKGROUND) -> None:
    with urgency(how):
        await bucket.take()
    log.append(name)


async def test_what_a_waiting_pod_needs_goes_before_what_came_earlier() -> None:
    bucket, log = Bucket(50.0, 1), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for name in ("first", "tidy-1", "tidy-2"):
            tasks.create_task(called(bucket, name, log))
        await asyncio.sleep(0)
        for name in ("pod-1", "pod-2"):
            tasks.create_task(called(bucket, name, log, Urgency.POD_WAITS))
    assert log == ["first", "pod-1", "pod-2", "tidy-1", "tidy-2"]


@pytest.mark.looptime
async def test_who_gives_up_in_the_line_takes_no_token() -> None:
    bucket, loop = Bucket(1.0, 1), asyncio.get_running_loop()
    await bucket.take()
    gone = [asyncio.create_task(bucket.take()) for _ in range(20)]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    began = loop.time()
    await bucket.take()
    assert loop.time() - began == pytest.approx(1.0)


@pytest.mark.looptime
async def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on() -> None:
    bucket, loop = Bucket(1.0, 1), asyncio.get_running_loop()
    await bucket.take()
    first, second = asyncio.create_task(bucket.take()), asyncio.create_task(bucket.take())
    await asyncio.sleep(0)
    loop.call_at(loop.time() + 1.0, first.cancel)  # right after it has been given the token
    assert await second == pytest.approx(1.0)
    assert first.cancelled()
