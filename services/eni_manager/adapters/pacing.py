"""Token buckets, one per OpenAPI action (terway.md §6.9): we slow ourselves before the cloud does.

The account's limits are shared by all its nodes, which do not know of one another. What they have in common is that
they are refused: each slows down then, in all its actions, and by chance, so that together they come to what the
account may call; see `Crowd`.

Where calls queue for tokens, those that a waiting pod needs go first. A caller says which its calls are by `urgency`,
for everything that it awaits inside.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Final

from shared.backoff import Backoff

PER_MINUTE: Final[Mapping[str, int]] = {
    "DescribeNetworkInterfaces": 800,
    "DescribeNetworkInterfaceAttribute": 2000,
    "DetachNetworkInterface": 400,
    "AssignPrivateIpAddresses": 400,
    "UnassignPrivateIpAddresses": 400,
    "AssignIpv6Addresses": 400,
    "UnassignIpv6Addresses": 400,
    "DescribeInstanceTypes": 400,
    "DescribeVSwitches": 300,
}
DEFAULT_PER_MINUTE: Final = 500
BURST: Final = 10
ROUNDING: Final = 1e-6
"""A token that lacks no more than this is whole."""


class Urgency(IntEnum):
    """Who goes first; the lower."""

    POD_WAITS = 0
    BACKGROUND = 1


_urgency: ContextVar[Urgency] = ContextVar("urgency", default=Urgency.BACKGROUND)


@contextmanager
def urgency(of: Urgency) -> Iterator[None]:
    """The calls inside are this urgent."""
    token = _urgency.set(of)
    try:
        yield
    finally:
        _urgency.reset(token)


def current_urgency() -> Urgency:
    """Of a call that is made now."""
    return _urgency.get()


class Bucket:
    """`rate_s` tokens a second, at most `burst` of them saved. Who comes when it is empty waits, the urgent first."""

    def __init__(self, rate_s: float, burst: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._rate, self._burst = rate_s, burst
        self._tokens, self._filled = float(burst), self._loop.time()
        self._line: list[tuple[Urgency, int, asyncio.Future[None]]] = []
        self._came = 0
        self._alarm: asyncio.TimerHandle | None = None

    async def take(self) -> float:
        """Wait for a token; gives the seconds waited."""
        began = self._loop.time()
        turn: asyncio.Future[None] = self._loop.create_future()
        self._came += 1
        heapq.heappush(self._line, (_urgency.get(), self._came, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was this one's turn, and it has gone
                self._tokens += 1
                self._serve()
            raise
        return self._loop.time() - began

    def _serve(self) -> None:
        now = self._loop.time()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        while self._line and (self._line[0][2].done() or self._tokens >= 1 - ROUNDING):
            _, _, turn = heapq.heappop(self._line)
            if not turn.done():
                self._tokens -= 1
                turn.set_result(None)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._line:
            self._alarm = self._loop.call_later((1 - self._tokens) / self._rate, self._serve)


class Crowd:
    """How crowded the account is, as its refusals show: a call that was refused is made again after about `pause_s`.

    A refusal makes it `factor` times longer, from `initial_s` up to `cap_s`; a time without one halves it, down to
    nothing. Calls that were refused together are one refusal. Every pause is between a half and one and a half of it,
    by chance; after a call that was let through, half as long. What matters is the first pause: when N nodes start
    together, all of their first calls are refused but a few, and each second attempt that comes too early is lost, too.
    The test for 100 nodes (tests/scale) says what a change of these numbers does.
    """

    def __init__(self, backoff: Backoff, chance: Callable[[], float]) -> None:
        self._loop = asyncio.get_running_loop()
        self._backoff, self._chance = backoff, chance
        self.pause_s = 0.0
        self._changed = self._loop.time()
        self._next: dict[str, float] = {}

    async def take(self, action: str) -> None:
        """Wait for our turn among the crowd, and take it."""
        while (left := self._next.get(action, 0.0) - self._loop.time()) > 0:  # noqa: ASYNC110  # who came first has moved it
            await asyncio.sleep(left)
        self._space(action, self.pause_s / 2)

    def refused(self, action: str) -> None:
        """A call was throttled."""
        now, backoff = self._loop.time(), self._backoff
        if not self.pause_s or now - self._changed >= self.pause_s / 2:
            longer = max(backoff.initial_s, self.pause_s * backoff.factor)
            self.pause_s, self._changed = min(longer, backoff.cap_s or longer), now
        self._space(action, self.pause_s)

    def passed(self) -> None:
        """A call was not throttled."""
        now = self._loop.time()
        if self.pause_s and now - self._changed >= 2 * self.pause_s:
            half = self.pause_s / 2
            self.pause_s, self._changed = half if half >= self._backoff.initial_s else 0.0, now

    def _space(self, action: str, about_s: float) -> None:
        if about_s:
            self._next[action] = self._loop.time() + about_s * (0.5 + self._chance())


class Buckets:
    """A bucket per action, made when first asked for; `overrides` is eni_conf's `rate_limit`.

    `crowd`: how to slow down when the account's limits refuse us; None: only as each call's own back-off does.
    """

    def __init__(self, overrides: Mapping[str, int], *, crowd: Backoff | None = None) -> None:
        self._overrides, self._buckets = overrides, dict[str, Bucket]()
        self._crowd = None if crowd is None else Crowd(crowd, random.random)

    def throttled(self, action: str) -> bool:
        """The account's limits have refused a call; True: `take` knows, so that nobody else has to wait for that."""
        if self._crowd is not None:
            self._crowd.refused(action)
        return self._crowd is not None

    def passed(self) -> None:
        """They have let a call through."""
        if self._crowd is not None:
            self._crowd.passed()

    async def take(self, action: str) -> float:
        """Wait until one call of `action` may be made; gives the seconds waited."""
        began = asyncio.get_running_loop().time()
        if self._crowd is not None:
            await self._crowd.take(action)
        bucket = self._buckets.get(action)
        if bucket is None:
            per_minute = self._overrides.get(action) or PER_MINUTE.get(action, DEFAULT_PER_MINUTE)
            bucket = self._buckets[action] = Bucket(per_minute / 60, min(BURST, max(1, per_minute // 60)))
        await bucket.take()
        return asyncio.get_running_loop().time() - began
