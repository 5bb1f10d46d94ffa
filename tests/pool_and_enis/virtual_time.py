"""An event loop whose time passes only when everybody waits: hours take milliseconds, and every run is the same."""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

LONGEST_NAP_S = 3600.0


class _Jumping(selectors.SelectSelector):
    """Never waits for its sockets, of which there are none but the loop's own; moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += LONGEST_NAP_S if timeout is None else max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`advance` lets time pass; what fails unhandled in a callback is raised there."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self._broken: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda loop, context: self._broken.append(context))

    def time(self) -> float:
        return self._jumping.now

    def advance(self, seconds: float) -> None:
        """Run everything that is due within `seconds`."""
        self.run_until_complete(asyncio.sleep(seconds))
        self._raise_broken()

    def turn(self, times: int) -> None:
        """Run so many turns of the loop, however little time passes in each: stops at any await there is."""
        for _ in range(times):
            self.call_soon(self.stop)
            self.run_forever()
        self._raise_broken()

    def _raise_broken(self) -> None:
        if self._broken:
            raise AssertionError(f"unhandled: {self._broken}")
