"""Looks at ENIs share calls, and never see what is older than the question."""

import asyncio
from collections.abc import Sequence

import pytest

from services.eni_manager.adapters.looks import Looks
from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.adapters.pacing import Urgency, urgency
from services.eni_manager.core.drift import CloudEni
from shared.model import EniId, Mac


class Describes:
    """A cloud whose answers come when the test says so, and tell the moment of the call."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[EniId], asyncio.Future[str]]] = []

    async def __call__(self, ids: Sequence[EniId]) -> list[CloudEni]:
        number = len(self.calls)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.calls.append((list(ids), answer))
        await answer
        return [CloudEni(eni, Mac("00:16:3e:00:00:01"), f"as of call {number}") for eni in ids if eni != "eni-gone"]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_all_who_ask_while_a_call_is_under_way_share_the_next() -> None:
    cloud = Describes()
    looks = Looks(cloud)
    first = asyncio.create_task(looks.look(EniId("eni-0")))
    await settle()
    others = [asyncio.create_task(looks.look(EniId(name))) for name in ("eni-1", "eni-2", "eni-0", "eni-gone")]
    await settle()
    assert [ids for ids, _ in cloud.calls] == [["eni-0"]]
    cloud.calls[0][1].set_result("")
    await settle()
    assert [ids for ids, _ in cloud.calls][1:] == [["eni-0", "eni-1", "eni-2", "eni-gone"]]
    cloud.calls[1][1].set_result("")
    seen = await asyncio.gather(first, *others)
    assert [None if one is None else one.status for one in seen] == [
        "as of call 0",
        "as of call 1",
        "as of call 1",
        "as of call 1",  # not of call 0, which had begun before the question
        None,
    ]


async def test_who_asks_for_all_may_give_up() -> None:
    cloud = Describes()
    looks = Looks(cloud)
    first, leader, follower = (asyncio.create_task(looks.look(EniId(f"eni-{n}"))) for n in range(3))
    await settle()
    cloud.calls[0][1].set_result("")
    await settle()
    leader.cancel()
    await settle()
    assert [ids for ids, _ in cloud.calls] == [["eni-0"], ["eni-1", "eni-2"], ["eni-1", "eni-2"]], "another asks again"
    cloud.calls[2][1].set_result("")
    await first
    seen = await follower
    assert seen is not None
    assert seen.id == "eni-2"


async def test_a_failure_is_everybodys_and_the_next_look_asks_again() -> None:
    cloud = Describes()
    looks = Looks(cloud)
    first, *asking = [asyncio.create_task(looks.look(EniId(f"eni-{n}"))) for n in range(3)]
    await settle()
    cloud.calls[0][1].set_result("")
    await first
    await settle()
    cloud.calls[1][1].set_exception(CloudError(action="Describe", cloud_code="Throttling", message="slow down"))
    for task in asking:
        with pytest.raises(CloudError):
            await task
    again = asyncio.create_task(looks.look(EniId("eni-1")))
    await settle()
    cloud.calls[2][1].set_result("")
    assert await again is not None


async def test_a_look_for_a_waiting_pod_does_not_queue_behind_one_that_can_wait() -> None:
    cloud = Describes()
    looks = Looks(cloud)
    tidy = asyncio.create_task(looks.look(EniId("eni-1")))
    await settle()
    with urgency(Urgency.POD_WAITS):
        needed = asyncio.create_task(looks.look(EniId("eni-2")))
    await settle()
    cloud.calls[1][1].set_result("")
    assert await needed is not None
    cloud.calls[0][1].set_result("")
    await tidy
