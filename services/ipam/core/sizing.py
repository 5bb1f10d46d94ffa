"""How many pool items the node should hold.

Theory of operation
-------------------
Two watermarks bound the items that no pod uses: at least `low`, at most `high` (min_pool_size, max_pool_size). Cooling
items count as unused for both, or every wave of deletions would first buy addresses and then return them. They do not
count for pods that wait: those need items that are usable now, so each waiting pod asks for one of its own.

`needed` is the declarative total for eni.demand: never fewer than the pods and the low mark require, never more than
the node can hold, and in between whatever is there. The slack between the marks is the hysteresis: with it, a pod
that comes or goes moves no address in the cloud.

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


class Counts(msgspec.Struct, frozen=True):
    """The items of the inventory by what they are; marked ones are counted apart, for they are on their way out."""

    used: int
    idle: int
    cooling: int
    unusable: int
    given_back: int
    waiting: int

    @property
    def kept(self) -> int:
        """Items that the node has and means to keep."""
        return self.used + self.idle + self.cooling + self.unusable


def count(pool: Pool, waiting: int, now: float) -> Counts:
    """Sort the pool's items by what they are at `now`."""
    states = [pool.state(item, now) for item in pool.items]
    return Counts(
        used=sum(state in (ItemState.GRANTING, ItemState.LEASED, ItemState.RELEASING) for state in states),
        idle=states.count(ItemState.IDLE),
        cooling=states.count(ItemState.COOLING),
        unusable=states.count(ItemState.UNUSABLE),
        given_back=states.count(ItemState.GIVEN_BACK),
        waiting=waiting,
    )


def needed(counts: Counts, marks: Watermarks, capacity: int) -> int:
    """How many items the node should hold in all."""
    for_waiting = counts.used + counts.cooling + counts.waiting if counts.waiting else 0
    floor = max(for_waiting, counts.used + counts.waiting + marks.low)
    ceiling = counts.used + counts.waiting + marks.high
    return min(max(floor, min(counts.kept, ceiling)), capacity)


def excess(counts: Counts, marks: Watermarks) -> int:
    """How many items are too many."""
    return 0 if counts.waiting else max(counts.idle + counts.cooling - marks.high, 0)


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
