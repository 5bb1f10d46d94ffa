"""What is wrong with a service, for /healthz and /readyz.

Live: every loop has reported within its deadline; a restart would help when not. Ready: every condition is met (in
sync with the cloud, neighbour reachable, …); a restart would not help.
"""

import time
from collections.abc import Callable


class Reporter:
    """One loop's sign of life."""

    def __init__(self, name: str, deadline_s: float, clock: Callable[[], float]) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self._clock = clock
        self._last = clock()

    def alive(self) -> None:
        """The loop has gone round once more."""
        self._last = self._clock()

    def silent_s(self) -> float:
        """Seconds since the last sign of life, or since this reporter was made."""
        return self._clock() - self._last


class Condition:
    """One thing that must hold before the service can do its job; missing until it is said to be met."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.why: str | None = "not yet known"

    def met(self) -> None:
        """It holds."""
        self.why = None

    def missing(self, why: str) -> None:
        """It does not hold, and `why` is a clause for people."""
        self.why = why

    def __bool__(self) -> bool:
        return self.why is None


class Health:
    """All reporters and conditions of one service."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reporters: dict[str, Reporter] = {}
        self._conditions: dict[str, Condition] = {}
        self._watched: dict[str, Callable[[], str]] = {}

    def reporter(self, name: str, deadline_s: float) -> Reporter:
        """A new reporter, whose deadline runs from now."""
        if name in self._reporters:
            raise ValueError(f"there is a reporter {name} already")
        self._reporters[name] = Reporter(name, deadline_s, self._clock)
        return self._reporters[name]

    def condition(self, name: str) -> Condition:
        """A new condition, missing for now."""
        if name in self._conditions or name in self._watched:
            raise ValueError(f"there is a condition {name} already")
        self._conditions[name] = Condition(name)
        return self._conditions[name]

    def watch(self, name: str, why: Callable[[], str]) -> None:
        """A condition that is looked at when somebody asks: `why` says what is missing, nothing while it holds."""
        if name in self._conditions or name in self._watched:
            raise ValueError(f"there is a condition {name} already")
        self._watched[name] = why

    def live(self) -> list[str]:
        """One sentence per loop that is late; empty: all is well."""
        return [
            f"{reporter.name}: silent for {silent:.1f} s, allowed are {reporter.deadline_s:g} s"
            for reporter in self._reporters.values()
            if (silent := reporter.silent_s()) > reporter.deadline_s
        ]

    def ready(self) -> list[str]:
        """One sentence per condition that does not hold; empty: ready."""
        missing = [f"{condition.name}: {condition.why}" for condition in self._conditions.values() if not condition]
        return missing + [f"{name}: {said}" for name, why in self._watched.items() if (said := why())]
