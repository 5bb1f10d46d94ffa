"""How long to wait between attempts: pure, so that tests and virtual time need no patience.

`TABLE` is Terway's table (terway.md §6.8) as it is now, `TABLE_2021` as it was in the guide's time.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from typing import Final

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """At most `steps` attempts (None: without end), with growing pauses between them, in seconds.

    Pause n is `initial_s × factor^n`, at most `cap_s`, and then longer by up to `jitter` of itself, as Kubernetes'
    wait.Backoff has it. `first_s` is the pause before the very first attempt, for things known to take a while.
    """

    initial_s: float
    factor: float = 1.0
    jitter: float = 0.0
    cap_s: float | None = None
    steps: int | None = None
    first_s: float = 0.0

    def delays(self, random: Callable[[], float]) -> Iterator[float]:
        """The pauses between attempts, so one fewer than `steps`. `random` gives numbers in [0, 1)."""
        pauses = self._endless(random)
        return pauses if self.steps is None else islice(pauses, max(0, self.steps - 1))

    def attempts(self, random: Callable[[], float]) -> Iterator[float]:
        """The pause before each attempt: `for pause in …: await sleep(pause); …try…`. The first is `first_s`."""
        if self.steps is None or self.steps > 0:
            yield self.first_s
        yield from self.delays(random)

    def _endless(self, random: Callable[[], float]) -> Iterator[float]:
        pause = self.initial_s
        for _ in count():
            if self.cap_s is not None:
                pause = min(pause, self.cap_s)
            yield pause * (1.0 + self.jitter * random())
            pause = min(pause * self.factor, 1e9)  # a float never overflows, however long it goes on


TABLE_2021: Final[Mapping[str, Backoff]] = {
    "default": Backoff(2.0, 1.5, 0.3, steps=6),
    "eni_ops": Backoff(5.0, 2.0, 0.3, steps=6),
    "eni_release": Backoff(4.0, 2.0, 0.5, steps=8),
    "wait_eni_status": Backoff(5.0, 1.5, 0.5, steps=8),
    "wait_podeni_status": Backoff(5.0, 2.0, 0.3, steps=3),
    "meta_assign_private_ip": Backoff(1.1, 1.0, 0.2, steps=10),
    "meta_unassign_private_ip": Backoff(1.1, 1.0, 0.2, steps=10),
    "wait_sts_token_ready": Backoff(1.0, 1.0, 0.2, steps=60),
}

TABLE: Final[Mapping[str, Backoff]] = {
    "default": Backoff(2.0, 1.5, 0.3, steps=6),
    "throttled": Backoff(10.0, 1.3, cap_s=20.0),
    "eni_create": Backoff(10.0, 2.0, 0.3, steps=2),
    "eni_ops": Backoff(5.0, 2.0, 0.3, steps=6),
    "eni_ip_ops": Backoff(5.0, 1.0, 1.3, steps=6),
    "eni_release": Backoff(4.0, 2.0, 0.5, steps=8),
    "eni_delete_confirm": Backoff(2.0, 1.5, cap_s=4.0, steps=4, first_s=1.0),
    "wait_eni_ip_removed": Backoff(2.0, 1.5, 0.5, steps=4, first_s=1.0),
    "wait_eni_status": Backoff(3.0, 1.5, 0.5, steps=8, first_s=3.0),
    "wait_member_eni_status": Backoff(1.0, 1.5, 0.5, steps=8, first_s=2.0),
    "wait_leni_status": Backoff(5.0, 1.5, 0.5, steps=8, first_s=18.0),
    "wait_hdeni_status": Backoff(5.0, 1.5, 0.5, steps=8, first_s=18.0),
    "wait_podeni_status": Backoff(1.0, 1.0, 0.3, steps=100, first_s=2.0),
    "wait_networkinterface_status": Backoff(1.0, 1.0, 0.3, steps=120, first_s=2.0),
    "meta_assign_private_ip": Backoff(1.1, 1.0, 0.2, steps=10),
    "meta_unassign_private_ip": Backoff(1.1, 1.0, 0.2, steps=10),
    "wait_sts_token_ready": Backoff(1.0, 1.0, 0.2, steps=60),
    "wait_node_status": Backoff(1.0, 1.0, 0.3, steps=90),
    "wait_route_entry": Backoff(1.0, 1.5, 0.3, cap_s=5.0, steps=20),
}


def with_overrides(overrides: Mapping[str, Backoff], table: Mapping[str, Backoff] = TABLE) -> dict[str, Backoff]:
    """`table` with `overrides` (eni_conf's `backoff_override`) in place of entries of the same name."""
    return {**table, **overrides}
