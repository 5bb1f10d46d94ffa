"""What ipam shows of itself: /state as values, /metrics computed from the same state at each scrape."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
from prometheus_client import CollectorRegistry

from services.ipam.adapters.enis import Enis
from services.ipam.adapters.pods import Pods
from services.ipam.core import allocate
from services.ipam.core.garbage import Suspect
from services.ipam.core.pool import ItemState, StoryLine, item_id
from services.ipam.core.sizing import Counts, Watermarks
from services.ipam.driver import Ledger, Tally
from services.ipam.handlers import AnnotationProblem, Handlers
from services.ipam.loops import Demand, Garbage
from shared.contracts.ipam import Lease
from shared.kube.reflector import ReflectorState
from shared.metrics import Sample, computed_gauge
from shared.model import EniId, Ip

POOL_LABELS = ("name", "type", "capacity", "max_idle", "min_idle")
"""Terway's labels (terway.md §11.1)."""


class InventoryState(msgspec.Struct, frozen=True):
    """The last inventory's outline."""

    epoch: str
    generation: int
    synced: bool
    mode: str | None
    capacity: int
    blocked: str
    absent: str
    """why eni_manager is not there"""


class AddressState(msgspec.Struct, frozen=True):
    """One pool item: what it is, since when by its story, and what it waits for."""

    state: ItemState
    eni: EniId | None
    primary: bool
    held_by: str | None
    waits_for: str | None
    """the sticky pod that it is promised to"""
    cools_for_s: float
    story: list[StoryLine]


class WaitingState(msgspec.Struct, frozen=True):
    """One place in the line."""

    attachment: str
    pod: str
    waited_s: float
    reason: str


class State(msgspec.Struct, frozen=True):
    """Everything that ipam knows."""

    inventory: InventoryState
    counts: Counts
    watermarks: Watermarks
    demanded: tuple[str, int, int] | None
    outlook: str
    leases: list[Lease]
    addresses: dict[Ip, AddressState]
    waiting: list[WaitingState]
    differences: list[str]
    suspects: dict[str, Suspect]
    strangers: list[str]
    annotation_problems: list[AnnotationProblem]
    tally: Tally
    pods: ReflectorState | None


@dataclass(frozen=True, slots=True)
class Report:
    """Looks at the parts of the service; changes nothing."""

    ledger: Ledger
    enis: Enis
    demand: Demand
    handlers: Handlers
    garbage: Garbage | None
    pods: Pods | None

    def state(self) -> State:
        """One moment of everything."""
        pool, now = self.ledger.pool, self.ledger.clock()
        return State(
            inventory=InventoryState(
                pool.epoch, pool.generation, pool.synced, pool.mode, pool.capacity, pool.blocked, self.enis.absent
            ),
            counts=self.demand.counts(),
            watermarks=self.demand.watermarks(),
            demanded=self.demand.told,
            outlook=allocate.outlook(pool, len(self.ledger.waiting), now),
            leases=self.ledger.leases(),
            addresses=dict(self._addresses(now)),
            waiting=[
                WaitingState(str(waiter.wish.key), str(waiter.wish.pod), now - waiter.since, waiter.reason)
                for waiter in self.ledger.waiting
            ],
            differences=list(pool.differences().values()),
            suspects={} if self.garbage is None else {str(key): what for key, what in self.garbage.suspects.items()},
            strangers=[] if self.garbage is None else [str(key) for key in self.garbage.strangers],
            annotation_problems=list(self.handlers.problems),
            tally=self.ledger.tally,
            pods=None if self.pods is None else self.pods.state(),
        )

    def _addresses(self, now: float) -> Iterable[tuple[Ip, AddressState]]:
        pool = self.ledger.pool
        held = {item_id(hold.lease) for hold in pool.holds.values()}
        for name in sorted(pool.items.keys() | held | pool.marks.keys()):
            item, key = pool.items.get(name), pool.holders.get(name)
            yield (
                name,
                AddressState(
                    state=pool.state(name, now),
                    eni=item.eni if item else None,
                    primary=item is not None and item.primary,
                    held_by=None if key is None else str(key),
                    waits_for=self._waits_for(name, now),
                    cools_for_s=max(pool.resting.get(name, now) - now, 0.0),
                    story=pool.story(name),
                ),
            )

    def _waits_for(self, name: Ip, now: float) -> str | None:
        pool = self.ledger.pool
        return str(pool.promises[name].pod) if pool.state(name, now) is ItemState.PROMISED else None

    def register(self, registry: CollectorRegistry) -> None:
        """Terway's pool metrics and our own. Totals of events are gauges by type because of Terway's names."""

        def pool_gauge(name: str, help: str, value: Callable[[Counts], float]) -> None:
            def compute() -> Iterable[Sample]:
                marks = self.demand.watermarks()
                labels = ("eniip", "eniip", str(self.ledger.pool.capacity), str(marks.high), str(marks.low))
                yield labels, value(self.demand.counts())

            computed_gauge(registry, name, help, compute, POOL_LABELS)

        def gauge(name: str, help: str, value: Callable[[], float]) -> None:
            computed_gauge(registry, name, help, lambda: [((), value())])

        pool_gauge("terway_resource_pool_total_count", "Pool items of this node", lambda counts: counts.kept)
        pool_gauge(
            "terway_resource_pool_idle_count",
            "Pool items that no pod uses",
            lambda counts: counts.idle + counts.cooling,
        )
        tally, ledger = self.ledger.tally, self.ledger
        gauge("terway_resource_pool_disposed_count", "Items given back to the cloud", lambda: tally.given_back)
        gauge("terway_resource_pool_allocated_count", "Leases granted", lambda: tally.granted)
        gauge("terway_ipam_released_count", "Leases ended", lambda: tally.released)
        gauge("terway_ipam_reclaimed_count", "Leases ended because nobody used them", lambda: tally.reclaimed)
        gauge("terway_ipam_exhausted_count", "ADDs that got no address in time", lambda: tally.exhausted)
        gauge("terway_ipam_leases", "Leases held", lambda: len(ledger.leases()))
        gauge("terway_ipam_waiting", "ADDs that wait for an address", lambda: len(ledger.waiting))
        gauge(
            "terway_ipam_leases_not_in_inventory",
            "Leased addresses that this node no longer has",
            lambda: len(ledger.pool.differences()),
        )
        computed_gauge(registry, "terway_ipam_addresses", "Pool items by state", self._by_state, ("state",))

    def _by_state(self) -> Iterable[Sample]:
        pool, now = self.ledger.pool, self.ledger.clock()
        states = [pool.state(item, now) for item in pool.items]
        return [((state.value,), states.count(state)) for state in ItemState if state is not ItemState.ABSENT]
