"""When to flush: at once after a quiet time, and no more than a hundred times a second under load (felix.md §3.7)."""

import asyncio
from collections.abc import Callable

from shared.health import Reporter

RATE = 100.0
"""Flushes a second, in the long run."""
BURST = 10.0
"""Flushes in a row that wait for nothing."""
QUIET_S = 30.0
"""Signs of life while nothing happens."""


class Tokens:
    """A bucket that fills with time, by the clock it is asked with. Pure."""

    def __init__(self, now: float, *, rate: float = RATE, burst: float = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._held = burst
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token."""
        self._held = min(self._burst, self._held + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._held) / self._rate)

    def take(self) -> None:
        """One flush; one that is forced may go into debt."""
        self._held -= 1.0


class Flushing:
    """Calls `flush` when something changed, and soon enough that many changes are one flush."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._changed = asyncio.Event()
        self._forced = asyncio.Event()

    def changed(self) -> None:
        """There is something to flush."""
        self._changed.set()

    def force(self) -> None:
        """Flush though the bucket may be empty: everything waits for the first in sync."""
        self._forced.set()
        self._changed.set()

    @property
    def waiting(self) -> bool:
        """Whether something changed that is not flushed yet."""
        return self._changed.is_set()

    async def run(self, reporter: Reporter) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        tokens = Tokens(clock())
        while True:
            reporter.alive()
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._changed.wait()
                async with asyncio.timeout(tokens.wait_s(clock())):
                    await self._forced.wait()
            except TimeoutError:
                pass
            if not self._changed.is_set():
                continue
            self._changed.clear()
            self._forced.clear()
            tokens.wait_s(clock())
            tokens.take()
            self._flush()
            await asyncio.sleep(0)  # a stream of changes must not starve those who ask
