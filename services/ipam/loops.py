"""What ipam does without being asked."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec

from services.ipam.adapters.enis import Enis, alive
from services.ipam.adapters.node import NodeCondition
from services.ipam.adapters.pods import Pods
from services.ipam.core import garbage, sizing, sufficiency
from services.ipam.core.garbage import Suspect
from services.ipam.core.node_news import NodeNews
from services.ipam.core.pool import Mark
from services.ipam.core.ranges import FROM_RANGES
from services.ipam.core.sizing import Watermarks
from services.ipam.driver import Ledger
from shared import log as logs
from shared.backoff import Backoff
from shared.crashpoint import crashpoint
from shared.eni_conf import EniConf
from shared.errors import SuiteError
from shared.health import Condition, Reporter
from shared.model import AttachmentKey

RECONNECT = Backoff(0.05, factor=2.0, jitter=0.5, cap_s=2.0)
"""A neighbour on the same node: asking costs microseconds, and pods wait."""

WARMED_UP = "warmed-up"
"""The milestone after which the watermarks alone count."""

BLIND_RETRY_S = 5.0
"""How soon garbage is looked for again when the pods or the attachments were not to be seen."""

log = logs.get(__name__)


async def watch_inventory(
    ledger: Ledger,
    enis: Enis,
    *,
    wait_s: float,
    synced: Condition,
    reporter: Reporter,
    reached: Callable[[], None],
    warned: Callable[[str, str], None] = lambda reason, what: None,
    first: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Follow eni_manager's inventory for ever, through its restarts.

    `reached` is called when it is back, `warned` with reason and message of each event that the node should have.
    `first` is awaited, until it succeeds, before any address is known and may be given to anybody.
    """
    news = NodeNews()
    delays = RECONNECT.delays(random.random)
    while True:
        reporter.alive()
        absent = enis.absent
        try:  # after an absence the answer must not wait for news, or nobody would know that it is over
            inventory = await enis.watch(ledger.pool.epoch, ledger.pool.generation, 0.0 if absent else wait_s)
            if first is not None:
                await first()
                first = None
        except SuiteError as error:
            synced.missing(error.message)
            log.debug("inventory_unknown", error=error.message)
            await asyncio.sleep(next(delays))
            continue
        delays = RECONNECT.delays(random.random)
        if (inventory.epoch, inventory.generation) != (ledger.pool.epoch, ledger.pool.generation):
            if inventory.epoch != ledger.pool.epoch:
                log.info("eni_manager_found", epoch=inventory.epoch, synced=inventory.synced)
            ledger.observe(inventory)
        for reason, what in news.heard(inventory, ledger.clock()):
            log.warning("node_warning", reason=reason, what=what)
            warned(reason, what)
        if absent:
            reached()
        if ledger.pool.synced:
            synced.met()
        else:
            synced.missing("eni_manager has not compared this node's addresses with the cloud yet")


class Demand:
    """Tells eni_manager how many items the node should hold; `tell` is the body of a reconcile loop.

    Many changes at once become one call, since only the newest total counts. A restarted eni_manager (another epoch) is
    told again.
    """

    def __init__(self, ledger: Ledger, enis: Enis, eni_conf: EniConf, *, warmed_up: bool = False) -> None:
        self._ledger = ledger
        self._enis = enis
        self._eni_conf = eni_conf
        self._warm_up = 0 if warmed_up else eni_conf.ip_warm_up_size or 0
        self.told: tuple[str, int, int] | None = None
        """(epoch, total, waiting) that eni_manager has acknowledged."""

    def watermarks(self) -> Watermarks:
        """The configured marks as this node can keep them."""
        pool = self._ledger.pool
        low, high = self._eni_conf.pool_bounds(capacity=pool.capacity, addresses_per_eni=pool.per_eni)
        return Watermarks(low, high, min(self._warm_up, pool.capacity))

    def counts(self) -> sizing.Counts:
        """The pool now."""
        return sizing.count(self._ledger.pool, len(self._ledger.waiting), self._ledger.clock())

    async def tell(self) -> None:
        """Say the total when it is news."""
        pool = self._ledger.pool
        if not pool.synced or self._enis.absent or pool.mode in FROM_RANGES:
            return
        counts = self.counts()
        if self._warm_up and pool.capacity and sizing.warmed_up(counts, self.watermarks(), pool.capacity):
            await self._ledger.reach(WARMED_UP)
            log.info("warmed_up", items=counts.kept)
            self._warm_up = 0
        news = (pool.epoch, sizing.needed(counts, self.watermarks(), pool.capacity), counts.waiting)
        if news == self.told:
            return
        _, total, waiting = news
        leases = self._ledger.leases()
        pairs = {lease.ipv4: lease.ipv6 for lease in leases if lease.ipv4 is not None and lease.ipv6 is not None}
        await self._enis.demand(total, waiting, pairs)
        self.told = news
        log.debug("demanded", total=total, waiting=waiting)


class Sufficient:
    """Keeps the node's condition true to the pool; `tell` is the body of a reconcile loop."""

    def __init__(self, ledger: Ledger, demand: Demand, condition: NodeCondition) -> None:
        self._ledger, self._demand, self._condition = ledger, demand, condition

    async def tell(self) -> None:
        """Say what holds now, if it is known. An API server that refuses is asked again later."""
        found = sufficiency.judge(self._ledger.pool, self._demand.counts(), self._ledger.clock())
        if found is None:
            return
        try:
            await self._condition.say(found)
        except SuiteError as error:
            log.warning("node_condition_not_said", error=error.message)


class ReclaimPace(msgspec.Struct, frozen=True):
    """`idle_ip_reclaim_*` of eni_conf: how long no pod may have moved, and how much goes back how often then."""

    after_s: float
    interval_s: float
    batch: int
    jitter: float


def reclaim_pace(conf: EniConf) -> ReclaimPace | None:
    """None: idle addresses are not reclaimed by time."""
    if conf.idle_ip_reclaim_after is None:
        return None
    return ReclaimPace(
        conf.idle_ip_reclaim_after,
        conf.idle_ip_reclaim_interval,
        conf.idle_ip_reclaim_batch_size,
        float(conf.idle_ip_reclaim_jitter_factor),
    )


class GiveBack:
    """The two-sided end of what the node holds too much: marked here for ever, then handed to eni_manager."""

    def __init__(self, ledger: Ledger, enis: Enis, demand: Demand) -> None:
        self._ledger = ledger
        self._enis = enis
        self._demand = demand

    async def shrink(self, period_s: float, poke: Callable[[], None], reporter: Reporter) -> None:
        """Now and then mark what is above the high watermark, for ever."""
        while True:
            reporter.alive()
            await asyncio.sleep(period_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter, no secret
            try:
                await self._mark("too_many_idle", sizing.excess(self._demand.counts(), self._demand.watermarks()))
            except SuiteError as error:
                log.warning("shrink_failed", error=error.message)
            poke()

    async def reclaim(self, pace: ReclaimPace, poke: Callable[[], None]) -> None:
        """In quiet times mark a few of the idle ones, down to the low watermark (terway.md §6.4)."""
        while True:
            quiet_at = self._ledger.pods_moved_at + pace.after_s
            if (left := quiet_at - self._ledger.clock()) > 0:
                await asyncio.sleep(left)
                continue
            try:
                number = sizing.reclaimable(self._demand.counts(), self._demand.watermarks(), pace.batch)
                await self._mark("idle_for_long", number)
            except SuiteError as error:
                log.warning("reclaim_failed", error=error.message)
            poke()
            await asyncio.sleep(pace.interval_s * random.uniform(1 - pace.jitter, 1 + pace.jitter))  # noqa: S311

    async def _mark(self, why: str, number: int) -> None:
        if self._ledger.pool.mode in FROM_RANGES:
            return  # they are the node's own, whether they are used or not
        items = sizing.surplus(self._ledger.pool, number, self._ledger.clock())
        if items:
            log.info(why, number=number, giving_back=items)
            await self._ledger.mark(items)

    async def hand_over(self) -> None:
        """Say what is marked and has not been accepted yet, and forget what has left; the body of a reconcile loop."""
        pool = self._ledger.pool
        pending = [item for item, mark in pool.marks.items() if mark is Mark.MARKED and item in pool.items]
        if pending and pool.synced and not self._enis.absent:
            await self._ledger.settle(await self._enis.give_back(pending))
        await self._ledger.forget()


class GarbageConfig(msgspec.Struct, frozen=True):
    """Times of the garbage loop, in seconds (see IpamConfig)."""

    period_s: float
    confirm_s: float
    min_age_s: float


class Garbage:
    """Ends leases that nobody uses (see core/garbage.py); the first look is made as soon as both sides can be seen."""

    def __init__(self, ledger: Ledger, enis: Enis, pods: Pods, config: GarbageConfig) -> None:
        self._ledger = ledger
        self._enis = enis
        self._pods = pods
        self._config = config
        self.suspects: dict[AttachmentKey, Suspect] = {}
        self.strangers: list[AttachmentKey] = []
        """Connected, but without a lease."""
        self._relics: set[AttachmentKey] = set()
        """Dead attachments without a lease, as the last look found them."""
        self.looks = 0

    async def run(self, reporter: Reporter) -> None:
        """Look for ever: soon when a side could not be seen, sooner while somebody is suspected, else every period."""
        config = self._config
        while True:
            reporter.alive()
            try:
                pause = config.period_s if await self.look() else min(BLIND_RETRY_S, config.period_s)
            except SuiteError as error:
                log.info("garbage_not_looked_for", error=error.message)
                pause = min(BLIND_RETRY_S, config.period_s)
            if self.suspects or self._relics:
                pause = min(pause, config.confirm_s)
            await asyncio.sleep(pause * random.uniform(1.0, 1.1))  # noqa: S311  # jitter, no secret

    async def look(self) -> bool:
        """Compare all leases with both sides; False: a side cannot be seen now. Raises what a side raises."""
        pods = self._pods.facts()
        if pods is None or self._enis.absent:
            return False
        attachments = await self._enis.attachments()
        connected, leases = alive(attachments), self._ledger.leases()
        leased = {lease.key for lease in leases}
        self.strangers = sorted(connected - leased)
        look = garbage.look(
            leases,
            pods,
            connected,
            self.suspects,
            self._ledger.clock(),
            min_age_s=self._config.min_age_s,
            confirm_s=self._config.confirm_s,
        )
        for key in look.suspects.keys() - self.suspects.keys():
            log.info("lease_suspected", attachment=str(key), finding=look.suspects[key].finding)
        self.suspects = look.suspects
        self.looks += 1
        for key in look.confirmed:
            await self._reclaim(key)
        # A lease is made before its attachment and ends after it: one without is a relic, if it is so twice.
        relics = {attachment.key for attachment in attachments} - connected - leased
        again, self._relics = relics & self._relics, relics
        for key in sorted(again):
            await self._enis.clear(key)
            log.warning("attachment_cleared", attachment=str(key))
        return True

    async def _reclaim(self, key: AttachmentKey) -> None:
        """Ask both sides once more, past every cache, and end the lease if they still agree."""
        lease = next((lease for lease in self._ledger.leases() if lease.key == key), None)
        if lease is None:
            return
        pod = await self._pods.ask(lease.pod)
        connected = await self._enis.connected()
        found = garbage.finding(lease, pod, connected, garbage.siblings(lease, self._ledger.leases()))
        self.suspects.pop(key, None)
        if not found:
            return
        await self._enis.clear(key)  # else its rules would stay, and its ENI would never leave for having a user
        crashpoint("ipam.garbage.after_clear")
        if await self._ledger.release(key) is not None:
            self._ledger.tally.reclaimed += 1
            log.warning(
                "lease_reclaimed", attachment=str(key), pod=str(lease.pod), addresses=lease.addresses, finding=found
            )
