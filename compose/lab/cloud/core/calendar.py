"""What will happen, and when: the cloud does most things later than it says."""

import heapq
from collections.abc import Callable

from compose.lab.cloud.core.spread import Spread, draw


class Calendar:
    """Acts in the order of their times. `random` gives numbers in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._added = 0

    @property
    def next_due(self) -> float | None:
        """When `advance` has something to do."""
        return self._entries[0][0] if self._entries else None

    def after(self, spread: Spread, now: float, act: Callable[[], None]) -> None:
        """Let `act` happen after a delay drawn from `spread`; at once when there is none."""
        wait = draw(spread, self._random())
        if wait <= 0:
            act()
        else:
            self._added += 1
            heapq.heappush(self._entries, (now + wait, self._added, act))

    def advance(self, now: float) -> None:
        """Let everything happen whose time has come."""
        while self._entries and self._entries[0][0] <= now:
            heapq.heappop(self._entries)[2]()
