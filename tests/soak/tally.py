"""What a soak has done and met, counted; what it prints at the end."""

from collections import Counter

import msgspec


class Tally(msgspec.Struct):
    """Counts by what happened; times in seconds of the ADDs that succeeded, from the pod's creation on."""

    adds: Counter[str] = msgspec.field(default_factory=Counter)
    """`ok`, or the code of the error that one attempt ended with (`cni 11`, `unavailable` of the API server, …)."""
    deletes: Counter[str] = msgspec.field(default_factory=Counter)
    deaths: Counter[str] = msgspec.field(default_factory=Counter)
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    lives: Counter[str] = msgspec.field(default_factory=Counter)
    took_s: list[float] = msgspec.field(default_factory=list)
    longest_attempt_s: float = 0.0

    def lines(self) -> list[str]:
        """For people."""
        took = sorted(self.took_s) or [0.0]
        p50, p99 = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
        return [
            f"pods: {_named(self.lives)}",
            f"ADD:  {_named(self.adds)}; until a pod ran: p50 {p50:.2f} s, p99 {p99:.2f} s, max {took[-1]:.2f} s; "
            f"longest single ADD {self.longest_attempt_s:.1f} s",
            f"DEL:  {_named(self.deletes)}",
            f"killed or restarted: {_named(self.deaths)}",
            f"faults: {_named(self.faults)}",
        ]


def _named(counts: Counter[str]) -> str:
    return ", ".join(f"{times} {what}" for what, times in counts.most_common()) or "none"
