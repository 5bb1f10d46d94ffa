"""Token buckets: the rate is kept, and what a waiting pod needs goes first."""

import asyncio
from functools import partial

import pytest

from services.eni_manager.adapters.pacing import Bucket, Crowd, Urgency, urgency
from shared.backoff import Backoff


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


# ---- among a crowd


async def times(crowd: Crowd, action: str, count: int) -> list[float]:
    """When the next calls are made, from now on."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    made = []
    for _ in range(count):
        await crowd.take(action)
        made.append(round(loop.time() - began, 3))
    return made


@pytest.mark.looptime
async def test_without_refusals_nobody_waits() -> None:
    crowd = Crowd(Backoff(10.0, 2.0, cap_s=30.0), lambda: 0.5)
    assert await times(crowd, "A", 3) == [0.0, 0.0, 0.0]


@pytest.mark.looptime
async def test_a_refusal_slows_every_action_and_more_refusals_more_up_to_a_cap() -> None:
    crowd = Crowd(Backoff(10.0, 2.0, cap_s=30.0), lambda: 0.5)
    crowd.refused("A")
    crowd.refused("A")  # they were under way together
    assert crowd.pause_s == 10.0
    assert await times(crowd, "A", 2) == [10.0, 15.0]
    assert await times(crowd, "B", 2) == [0.0, 5.0], "the others keep a distance, too"
    for expected in (20.0, 30.0, 30.0):
        crowd.refused("A")
        assert crowd.pause_s == expected
        await asyncio.sleep(crowd.pause_s / 2)


@pytest.mark.looptime
async def test_a_quiet_time_ends_the_pauses() -> None:
    crowd = Crowd(Backoff(10.0, 2.0, cap_s=30.0), lambda: 0.5)
    crowd.refused("A")
    await asyncio.sleep(10.0)
    crowd.refused("A")
    crowd.passed()
    assert crowd.pause_s == 20.0, "one that passes proves little"
    await asyncio.sleep(40.0)
    crowd.passed()
    assert crowd.pause_s == 10.0
    await asyncio.sleep(20.0)
    crowd.passed()
    assert crowd.pause_s == 0.0
    assert await times(crowd, "C", 3) == [0.0, 0.0, 0.0]


@pytest.mark.looptime
async def test_pauses_differ_from_node_to_node() -> None:
    for chance, expected in ((0.0, 5.0), (1.0, 15.0)):
        crowd = Crowd(Backoff(10.0, 2.0, cap_s=30.0), partial(float, chance))
        crowd.refused("A")
        assert await times(crowd, "A", 1) == [expected]
