"""How many pool items the node should hold.

Theory of operation
-------------------
Two watermarks bound the items that no pod uses: at least `low`, at most `high` (min_pool_size, max_pool_size). Cooling
items count as unused for both, or every wave of deletions would first buy addresses and then return them. They do not
count for pods that wait: those need items that are usable now, so each waiting pod asks for one of its own. Items
promised to sticky pods are spoken for and count as used, so that their pods may go and come without any cloud call.

`needed` is the declarative total for eni.demand: never fewer than the pods and the low mark require, never more than
the node can hold, and in between whatever is there. The slack between the marks is the hysteresis: with it, a pod
that comes or goes moves no address in the cloud.

A node that warms up holds at least `warm_up` items, whatever the high mark says, until it has held as many once.
`reclaimable` is the slow way down: in a quiet time the idle ones are given back a few at a time, to the low mark.

`surplus` picks what to give back when more than `high` are unused: only items that have cooled down, none while a pod
waits, and ENI by ENI, beginning with the one that serves fewest pods, so that whole ENIs become free. An ENI's primary
address leaves only together with the ENI, so it is picked only with all the others of its ENI.
"""

import msgspec

from services.ipam.core.pool import Item, ItemState, Pool
from shared.model import EniId, Ip


class Watermarks(msgspec.Struct, frozen=True):
    """How many unused items to keep: at least `low`, at most `high`; low <= high."""

    low: int
    high: int
    warm_up: int = 0
    """How many to hold in all while the node warms up; 0: it has, or need not."""


class Counts(msgspec.Struct, frozen=True):
    """The items of the inventory by what they are.

    Marked ones are counted apart, for they are on their way out, and so are those that the cloud has taken away, though
    a sandbox may hold them: neither is among what eni_manager counts when it meets a demand.
    """

    used: int
    idle: int
    cooling: int
    unusable: int
    given_back: int
    waiting: int
    promised: int = 0
    lost: int = 0

    @property
    def kept(self) -> int:
        """Items that the node has and means to keep."""
        return self.spoken_for + self.idle + self.cooling + self.unusable

    @property
    def spoken_for(self) -> int:
        """Items that pods use, or will when they come back."""
        return self.used + self.promised


def count(pool: Pool, waiting: int, now: float) -> Counts:
    """Sort the pool's items by what they are at `now`."""
    states = [pool.state(item.id, now) for item in pool.items.values() if not item.gone]
    return Counts(
        used=sum(state in (ItemState.GRANTING, ItemState.LEASED, ItemState.RELEASING) for state in states),
        idle=states.count(ItemState.IDLE),
        cooling=states.count(ItemState.COOLING),
        unusable=states.count(ItemState.UNUSABLE),
        given_back=states.count(ItemState.GIVEN_BACK),
        waiting=waiting,
        lost=len(pool.items) - len(states),
        promised=states.count(ItemState.PROMISED),
    )


def needed(counts: Counts, marks: Watermarks, capacity: int) -> int:
    """How many items the node should hold in all."""
    for_waiting = counts.spoken_for + counts.cooling + counts.waiting if counts.waiting else 0
    floor = max(for_waiting, counts.spoken_for + counts.waiting + marks.low, marks.warm_up)
    ceiling = counts.spoken_for + counts.waiting + marks.high
    return min(max(floor, min(counts.kept, ceiling)), capacity)


def excess(counts: Counts, marks: Watermarks) -> int:
    """How many items are too many."""
    return _above(marks.high, counts, marks)


def reclaimable(counts: Counts, marks: Watermarks, batch: int) -> int:
    """How many items a quiet node gives back at once, though they are not too many."""
    return min(batch, _above(marks.low, counts, marks))


def warmed_up(counts: Counts, marks: Watermarks, capacity: int) -> bool:
    """Has the node held what it was to warm up to?"""
    return counts.kept >= min(marks.warm_up, capacity)


def _above(mark: int, counts: Counts, marks: Watermarks) -> int:
    if counts.waiting:
        return 0
    return max(0, min(counts.idle + counts.cooling - mark, counts.kept - marks.warm_up))


def surplus(pool: Pool, number: int, now: float) -> list[Ip]:
    """Up to `number` items to give back, best first (see the module's docstring)."""
    if not pool.synced or number <= 0:
        return []
    idle: dict[EniId, list[Item]] = {}
    for item in pool.idle(now):
        idle.setdefault(item.eni, []).append(item)
    staying: dict[EniId, int] = {}
    for item in pool.items.values():
        if pool.state(item.id, now) not in (ItemState.IDLE, ItemState.GIVEN_BACK):
            staying[item.eni] = staying.get(item.eni, 0) + 1
    picked: list[Ip] = []
    for eni in sorted(idle, key=lambda eni: (staying.get(eni, 0), len(idle[eni]))):
        room = number - len(picked)
        whole = eni not in staying and len(idle[eni]) <= room
        secondary = [item for item in idle[eni] if whole or not item.primary]
        picked += [item.id for item in secondary[:room]]
    return picked
