"""Who waits for whom."""

import asyncio

import pytest

from services.cni_shim.turns import Turns
from shared.errors import DeadlineExceeded
from shared.model import AttachmentKey

A, B = AttachmentKey("n", "a", "eth0"), AttachmentKey("n", "b", "eth0")


def in_s(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


class Story:
    """Writes down who begins and ends."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.told: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def act(self, name: str, key: AttachmentKey | None, ends_in_s: float = 60) -> None:
        gate = self.gates[name] = asyncio.Event()
        ends = in_s(ends_in_s)
        async with self.turns.alone(ends) if key is None else self.turns.of(key, ends):
            self.told.append(f"{name} begins")
            await gate.wait()
            self.told.append(f"{name} ends")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_same_key_in_order_others_at_once() -> None:
    story = Story()
    async with asyncio.TaskGroup() as tasks:
        for name, key in (("a1", A), ("a2", A), ("b", B)):
            tasks.create_task(story.act(name, key))
            await settle()
        assert story.told == ["a1 begins", "b begins"]
        story.gates["a1"].set()
        await settle()
        assert story.told[2:] == ["a1 ends", "a2 begins"]
        story.gates["a2"].set()
        story.gates["b"].set()


async def test_alone_waits_for_those_who_run_and_keeps_those_who_come() -> None:
    story = Story()
    async with asyncio.TaskGroup() as tasks:
        for name, key in (("a", A), ("gc", None), ("b", B)):
            tasks.create_task(story.act(name, key))
            await settle()
        assert story.told == ["a begins"]
        for name in ("a", "gc", "b"):
            story.gates[name].set()
            await settle()
    assert story.told == ["a begins", "a ends", "gc begins", "gc ends", "b begins", "b ends"]


@pytest.mark.parametrize("second", [A, None])
async def test_patience_ends(second: AttachmentKey | None) -> None:
    story = Story()
    first = asyncio.create_task(story.act("a", A))
    await settle()
    with pytest.raises(DeadlineExceeded, match="still run"):
        await story.act("late", second, ends_in_s=0.01)
    story.gates["a"].set()
    await first
    follow = asyncio.create_task(story.act("b", B))
    await settle()
    assert story.told[-1] == "b begins", "who gave up holds nobody up"
    story.gates["b"].set()
    await follow


async def test_cancelled_waiters_leave_nothing_behind() -> None:
    story = Story()
    first = asyncio.create_task(story.act("a", A))
    await settle()
    waiters = [asyncio.create_task(story.act(f"w{n}", key)) for n, key in enumerate((A, A, None))]
    await settle()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    story.gates["a"].set()
    await first
    assert vars(story.turns)["_locks"] == {} == vars(story.turns)["_interested"]
    gc = asyncio.create_task(story.act("gc", None))
    await settle()
    assert story.told[-1] == "gc begins"
    story.gates["gc"].set()
    await gc
