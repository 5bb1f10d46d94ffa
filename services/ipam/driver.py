"""Carries out what the core decides: durable first, then memory, then the answer.

    acquire ─► line (first come, first served) ─► serve ─► reserve ─► store.grant ─► commit ─► the callers hear of it
    release ───────────────────────────────────────────► retire ─► store.release ─► cool ─► serve, when it has cooled

The Ledger alone changes the pool and the database, and always both. Decisions are synchronous; while the database
writes, the pool holds the item locked and `_writing` the key, so a second call about the same key finds the first
one's outcome. Each write runs in a task of its own: a caller that hangs up in the middle does not tear it apart.

A caller that has gone is not in the line any more, so it can swallow no address. One that goes during the write leaves
a lease that nobody has seen; it is released at once.

A database that cannot write now (Unavailable) fails the call and leaves the item as it was. Any other failure means
that memory and disk disagree: it ends the service, whose next start takes the disk's word.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import msgspec

from services.ipam.adapters.store import Store
from services.ipam.core import allocate
from services.ipam.core.allocate import Grant, Refuse, Wait, Wish
from services.ipam.core.pool import Phase, Pool, Promise, item_id
from shared import log as logs
from shared.contracts.eni import GivenBack, Inventory
from shared.contracts.ipam import Bandwidth, Lease
from shared.crashpoint import crashpoint
from shared.errors import Conflict, Exhausted, SuiteError, Unavailable
from shared.model import AttachmentKey, Ip, PodKey

Clock = Callable[[], float]
"""Seconds since 1970 that never jump while the process lives."""

log = logs.get(__name__)


def steady_clock(wall_now: float, loop: asyncio.AbstractEventLoop) -> Clock:
    """A clock that starts at the wall's time and goes on with the loop's: setting the node's clock moves nothing."""
    began = loop.time()
    return lambda: wall_now + loop.time() - began


@dataclass(eq=False, slots=True)
class Waiter:
    """One key's place in the line, and everybody who asks under that key."""

    wish: Wish
    since: float
    reason: str = ""
    callers: set[asyncio.Future[Lease]] = field(default_factory=set)

    def answer(self, outcome: Lease | SuiteError) -> None:
        """Tell everybody who is still there."""
        for caller in self.callers:
            if caller.done():
                continue
            if isinstance(outcome, Lease):
                caller.set_result(outcome)
            else:
                caller.set_exception(outcome)


class Tally(msgspec.Struct):
    """Counted since the start."""

    granted: int = 0
    released: int = 0
    reclaimed: int = 0
    given_back: int = 0
    exhausted: int = 0


class Ledger:
    """See the module's docstring. `tasks` owns the writes; `changed` is called after each change of pool or line.

    `sticky` says of a lease that ends whether its address waits `sticky_s` for its pod; `lost` is told, once, that the
    inventory contradicts a lease.
    """

    def __init__(
        self,
        pool: Pool,
        store: Store,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        *,
        cooldown_s: float,
        changed: Callable[[], None],
        sticky_s: float = 0.0,
        sticky: Callable[[Lease], bool] = lambda lease: lease.sticky,
        lost: Callable[[Lease, str], None] = lambda lease, what: None,
    ) -> None:
        self.pool = pool
        self.clock = clock
        self.tally = Tally()
        self._store = store
        self._tasks = tasks
        self._cooldown_s = cooldown_s
        self._sticky_s, self._sticky, self._lost = sticky_s, sticky, lost
        self.pods_moved_at = clock()
        """When a pod was last given an address, or gave one up."""
        self._changed = changed
        self._line: dict[AttachmentKey, Waiter] = {}
        self._writing: dict[AttachmentKey, asyncio.Task[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = ""
        self._differences: dict[AttachmentKey, str] = {}

    @property
    def waiting(self) -> list[Waiter]:
        """The line, first come first."""
        return list(self._line.values())

    # ---- leases

    async def find(self, key: AttachmentKey, pod: PodKey) -> Lease | None:
        """The lease that a key holds, once nothing is being written about it. Conflict: it is another pod's."""
        await self._settled(key)
        found = allocate.held(self.pool, Wish(key, pod))
        if isinstance(found, Refuse):
            raise found.error
        return found

    async def acquire(self, wish: Wish, ends: float) -> Lease:
        """An address for this wish, the same one for the same key; durable. `ends` is a time on the loop's clock.

        Exhausted with the reason: none came until `ends`. Conflict: the key is another pod's, or was released while it
        waited. Unavailable: the database cannot write, or ipam stops.
        """
        held = await self.find(wish.key, wish.pod)
        if held is not None:
            return held
        waiter = self._line.get(wish.key) or self._join(wish)
        if waiter.wish.pod != wish.pod:
            raise Conflict(f"the attachment {wish.key} is being made for the pod {waiter.wish.pod}, not {wish.pod}")
        caller: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter.callers.add(caller)
        if next(iter(self._line.values()), None) is waiter:
            self.serve()
        try:
            async with asyncio.timeout_at(ends):
                return await caller
        except TimeoutError:
            self.tally.exhausted += 1
            waited = self.clock() - waiter.since
            raise Exhausted(
                f"no address for {wish.pod} within {waited:.1f} s: {waiter.reason}",
                retry_after=self.pool.blocked_retry_after,
            ) from None
        finally:
            self._leave(waiter, caller)

    async def release(self, key: AttachmentKey) -> Lease | None:
        """End what is held under a key, or waits; None: nothing is. Unavailable: the database cannot write."""
        waiter = self._line.pop(key, None)
        if waiter is not None:
            waiter.answer(Conflict(f"the attachment {key} was released while it waited for an address"))
            self._changed()
        await self._settled(key)
        if key not in self.pool.holds:
            return None
        lease = self.pool.retire(key)
        await asyncio.wait([self._begin(key, self._release(lease))])
        if key in self.pool.holds:
            raise Unavailable(f"the end of the lease of {key} could not be written")
        return lease

    async def relimit(self, key: AttachmentKey, bandwidth: Bandwidth) -> None:
        """Write down a lease's new limits; nothing when it has ended meanwhile. A failure leaves the old ones."""
        await self._settled(key)
        if (hold := self.pool.holds.get(key)) is not None:
            lease = msgspec.structs.replace(hold.lease, bandwidth=bandwidth)
            await asyncio.wait([self._begin(key, self._relimit(lease))])

    async def adopt(self, lease: Lease) -> None:
        """Take over a lease that only its wiring is left of; durable. Conflict: another lease has what it has."""
        if (why := self.pool.contradicts(lease)) is not None:
            raise Conflict(why)
        await self._store.adopt(lease, item_id(lease))
        crashpoint("ipam.adopt.after_commit")
        self.pool.adopt(lease, self.clock())
        if (waiter := self._line.pop(lease.key, None)) is not None:  # the runtime asks again about a sandbox it has
            waiter.answer(lease)
        self._changed()

    def leases(self) -> list[Lease]:
        """All that are durable."""
        return [hold.lease for hold in self.pool.holds.values() if hold.phase is not Phase.GRANTING]

    def close(self, why: str) -> None:
        """Whoever waits is told, and nobody waits from now on."""
        self._closed = why
        for waiter in self._line.values():
            waiter.answer(Unavailable(why))
        self._line.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    # ---- inventory

    def observe(self, inventory: Inventory) -> None:
        """Take over an inventory; whoever waits may be served by it."""
        self.pool.observe(inventory, self.clock())
        found = self.pool.differences()
        for key, what in found.items():
            if self._differences.get(key) != what:
                log.error("leased_address_not_in_inventory", attachment=str(key), what=what)
                self._lost(self.pool.holds[key].lease, what)
        self._differences = found
        self.serve()
        self._changed()

    def serve(self) -> None:
        """Give what is idle to those who wait, first come first served."""
        now = self.clock()
        while self._line:
            key, waiter = next(iter(self._line.items()))
            match allocate.choose(self.pool, waiter.wish, now):
                case Grant(lease):
                    del self._line[key]
                    self.pool.reserve(lease, now)
                    self._begin(key, self._grant(waiter, lease))
                case Refuse(error):
                    del self._line[key]
                    waiter.answer(error)
                case Wait(reason):
                    for behind in self._line.values():
                        behind.reason = reason
                    break
        self._set_alarm(now)

    # ---- giving back

    async def mark(self, items: list[Ip]) -> None:
        """Decide, for good, that these go back to the cloud."""
        now = self.clock()
        self.pool.mark(items, now)
        try:
            await self._store.mark(items, now)
        except Unavailable:
            self.pool.unmark(items)
            self.serve()
            raise
        crashpoint("ipam.give_back.after_mark")
        self.pool.marked(items, now)

    async def settle(self, answer: GivenBack) -> None:
        """Take over what eni_manager said to what it was given back."""
        crashpoint("ipam.give_back.after_answer")
        self.pool.accepted(answer.accepted)
        refused = {item: why for item, why in answer.refused.items() if item in self.pool.marks}
        if not refused:
            return
        until = self.clock() + self._cooldown_s
        await self._store.unmark(list(refused), until)
        for item, why in refused.items():
            self.pool.refused(item, until, self.clock(), why=why)
            log.warning("not_given_back", address=item, why=why)
        self._set_alarm(self.clock())

    async def forget(self) -> None:
        """Forget what has left the inventory: what was given back, and how long the others had to rest."""
        given_back = self.pool.departed()
        gone = [*given_back, *self.pool.rested_elsewhere(self.clock())]
        if not gone:
            return
        await self._store.forget(gone)
        crashpoint("ipam.give_back.after_forget")
        self.pool.forget(gone)
        if given_back:
            self.tally.given_back += len(given_back)
            log.info("given_back", addresses=given_back)

    async def reach(self, milestone: str) -> None:
        """Remember, for good, that this node has come so far."""
        await self._store.reach(milestone, self.clock())

    # ---- the line

    def _join(self, wish: Wish) -> Waiter:
        if self._closed:
            raise Unavailable(self._closed)
        waiter = self._line[wish.key] = Waiter(wish, self.clock())
        self._changed()
        return waiter

    def _leave(self, waiter: Waiter, caller: asyncio.Future[Lease]) -> None:
        waiter.callers.discard(caller)
        if caller.done() and not caller.cancelled():
            caller.exception()  # seen, even when the caller was cancelled in the same moment
        if not waiter.callers and self._line.get(waiter.wish.key) is waiter:
            del self._line[waiter.wish.key]
            self._changed()

    def _set_alarm(self, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        cooled = self.pool.next_cooled(now) if self._line else None
        if cooled is not None:
            # A hair later, or rounding could wake us before the pool agrees that the time has come.
            self._alarm = asyncio.get_running_loop().call_later(cooled - now + 0.001, self.serve)

    # ---- writes, one per key at a time

    async def _settled(self, key: AttachmentKey) -> None:
        while (task := self._writing.get(key)) is not None:
            await asyncio.wait([task])

    def _begin(self, key: AttachmentKey, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(self._carry_out(key, work), name=f"ipam-write-{key}")
        self._writing[key] = task
        return task

    async def _carry_out(self, key: AttachmentKey, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        finally:
            del self._writing[key]
        self.serve()
        self._changed()

    async def _grant(self, waiter: Waiter, lease: Lease) -> None:
        try:
            await self._store.grant(lease, item_id(lease), lease.granted_at)
        except Unavailable as error:
            self.pool.abandon(lease.key, self.clock())
            waiter.answer(error)
            return
        crashpoint("ipam.acquire.after_commit")
        self.pods_moved_at = self.clock()
        self.pool.commit(lease.key, self.pods_moved_at)
        if waiter.callers:
            self.tally.granted += 1
            waiter.answer(lease)
        else:
            await self._release(self.pool.retire(lease.key))

    async def _relimit(self, lease: Lease) -> None:
        try:
            await self._store.relimit(lease)
        except Unavailable as error:
            log.error("limits_not_written", attachment=str(lease.key), error=error.message)
            return
        self.pool.relimit(lease, self.clock())

    async def _release(self, lease: Lease) -> None:
        now = self.pods_moved_at = self.clock()
        until, promise = now + self._cooldown_s, None
        if self._sticky_s and self._sticky(lease):
            promise = Promise(lease.pod, lease.key.network, lease.key.ifname, now + self._sticky_s)
        try:
            await self._store.release(lease.key, item_id(lease), until, promise)
        except Unavailable as error:
            self.pool.keep(lease.key)
            log.error("release_not_written", attachment=str(lease.key), error=error.message)
            return
        crashpoint("ipam.release.after_commit")
        self.pool.cool(lease.key, until, self.clock(), promise)
        self.tally.released += 1
