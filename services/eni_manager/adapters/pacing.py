"""Token buckets, one per OpenAPI action (terway.md §6.9): we slow ourselves before the cloud does.

Where calls queue for tokens, those that a waiting pod needs go first. A caller says which its calls are by `urgency`,
for everything that it awaits inside.
"""

import asyncio
import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Final

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


class Buckets:
    """A bucket per action, made when first asked for; `overrides` is eni_conf's `rate_limit`."""

    def __init__(self, overrides: Mapping[str, int]) -> None:
        self._overrides, self._buckets = overrides, dict[str, Bucket]()

    async def take(self, action: str) -> float:
        """Wait until one call of `action` may be made; gives the seconds waited."""
        bucket = self._buckets.get(action)
        if bucket is None:
            per_minute = self._overrides.get(action) or PER_MINUTE.get(action, DEFAULT_PER_MINUTE)
            bucket = self._buckets[action] = Bucket(per_minute / 60, min(BURST, max(1, per_minute // 60)))
        return await bucket.take()
