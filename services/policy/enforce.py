"""Keeps the kernel as the renderer wants it.

    messages, attachments --> Renderer --flush--> Change --> Kernel: one transaction
                                  ^                              |
    a foreign change, the timer --+--> look, compare, repair <---+ a refusal

Until the first transaction the kernel keeps what an earlier process left there: old rules are better than none. From
then on each flush is one transaction of what changed. Several flushes that come while one is carried out are one.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

from services.policy.adapters.kernel import Kernel
from services.policy.adapters.nft_mending import UNKNOWN
from services.policy.core.counts import Denial
from services.policy.core.messages import Message
from services.policy.core.nft.model import TABLE, Change
from services.policy.core.nft.policies import denied
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment
from services.policy.pods import PodTables
from shared.backoff import Backoff
from shared.errors import SuiteError
from shared.health import Reporter
from shared.log import get
from shared.model import AttachmentKey

log = get("policy.enforce")

DENIED = denied("")
"""What names of sets that rules fill begin with."""

RETRIES = Backoff(initial_s=0.05, factor=2.0, jitter=1.0, cap_s=5.0)
"""After the kernel refused, or others kept writing."""

SHOWN = 5
"""Pods with trouble that /state names."""
QUIET_S = 30.0
"""Signs of life while nothing happens."""


class EnforcedState(msgspec.Struct, frozen=True):
    """For /state: `trouble` is why the kernel is not as wanted, empty while it is."""

    applied: int
    """Transactions carried out."""
    repairs: int
    """Of them, those that mended what somebody else had changed."""
    last_applied_at: float
    """Unix time; 0: nothing has been applied by this process."""
    last_repair: str
    trouble: str
    pods: int = 0
    """Sandboxes with a table in their own namespace."""
    restored: int = 0
    """Such tables that were put back after somebody had changed them."""
    pods_trouble: tuple[str, ...] = ()
    """Some of those that are not as wanted, and why."""


class Enforcer:
    """The node's table, and with each flush the `pods'` that follow it. Nothing is written before `begin`."""

    def __init__(
        self,
        renderer: Renderer,
        kernel: Kernel,
        *,
        refresh_s: float,
        applied: Callable[[float], None] = lambda took_s: None,
        repaired: Callable[[], None] = lambda: None,
        pods: PodTables | None = None,
        before: Callable[[Change], Awaitable[None]] | None = None,
    ) -> None:
        """`before` is awaited before a change is carried out: what its chains have counted would be lost."""
        self._renderer = renderer
        self._kernel = kernel
        self._refresh_s = refresh_s
        self._observe = applied
        self._count_repair = repaired
        self._pods = pods
        self.before = before
        self._interfaces: dict[str, frozenset[str]] = {}
        self._told = 0
        self._applied = 0
        self._started = False
        self._begun = asyncio.Event()
        self._wake = asyncio.Event()
        self._news = asyncio.Condition()
        self._suspicious = False
        self._generation = UNKNOWN
        """The namespace's, after our last transaction or look: as long as it stays, nobody has written."""
        self._transactions = self._repairs = 0
        self._applied_at = 0.0
        self._last_repair = ""
        self.trouble = "not everything is known yet that rules depend on"

    # ---- what is wanted

    def take(self, said: Iterable[Message]) -> None:
        """What the calculation says."""
        for message in said:
            self._renderer.take(message)
        self._changed()

    def attach(self, attachment: Attachment) -> None:
        """A sandbox is wired."""
        self._renderer.attach(attachment)
        self._changed()

    def detach(self, link: str) -> None:
        """A sandbox goes."""
        self._renderer.detach(link)
        self._changed()

    def interfaces(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """The node's own interfaces, as they are now."""
        told = {link: frozenset(held) for link, held in addresses.items()}
        if told != self._interfaces:
            self._interfaces = told
            self._renderer.interfaces(told)
            self._changed()

    def again(self) -> None:
        """Something is wanted that the pods' tables were told."""
        self._changed()

    def begin(self) -> None:
        """Everything is known that was there at the start: from now on the kernel is made as wanted."""
        self._started = True
        self._begun.set()
        self._changed()

    def suspect(self) -> None:
        """Somebody else may have changed our table."""
        self._suspicious = True
        self._wake.set()

    def _changed(self) -> None:
        self._told += 1
        self._wake.set()

    # ---- what is in force

    @property
    def begun(self) -> asyncio.Event:
        """Set once `begin` was called."""
        return self._begun

    @property
    def pending(self) -> bool:
        """Whether something is wanted that is not in the kernel yet."""
        return self._unsaid or (self._pods is not None and self._pods.pending())

    @property
    def _unsaid(self) -> bool:
        return self._applied < self._told or not self._started

    def waits(self, key: AttachmentKey) -> bool:
        """As `pending`, of what concerns one sandbox."""
        return self._unsaid or (self._pods is not None and self._pods.pending(key))

    async def in_force(self, key: AttachmentKey | None = None) -> None:
        """Return when all that was wanted at the time of the call is in the kernel: in the node's table, and in the
        pods', of which `key` names the only one to wait for."""
        await self._node_in_force()
        if self._pods is not None:
            await self._pods.settled(key)

    async def _node_in_force(self) -> None:
        ticket = self._told
        async with self._news:
            await self._news.wait_for(lambda: self._started and self._applied >= ticket)

    async def forget_connections(self, addresses: Sequence[str]) -> int:
        """Connections of these addresses are no excuse any more; how many there were."""
        return await self._kernel.forget_connections(addresses)

    async def forget_denials(self, denials: Iterable[Denial]) -> None:
        """Links that are gone, in the sets that rules fill. Raises SuiteError."""
        since, generation = await self._kernel.forget_denials(TABLE, tuple(denials), DENIED)
        if since == self._generation and generation == (since + 1) & 0xFFFFFFFF:
            self._generation = generation  # nobody but us has written

    async def problems(self) -> list[str]:
        """What in the kernel is not as wanted, a clause each. Looks only if somebody may have written."""
        if self.trouble:
            return [f"rules are not in force: {self.trouble}"]
        if await self._kernel.generation() == self._generation:
            return []
        async with asyncio.timeout(10):
            await self._node_in_force()
        found = await self._kernel.differences(self._renderer.table)
        if found:
            self.suspect()
        return [f"rules are not as they should be: {found}"] if found else []

    def state(self) -> EnforcedState:
        """For /state."""
        return EnforcedState(
            applied=self._transactions,
            repairs=self._repairs,
            last_applied_at=self._applied_at,
            last_repair=self._last_repair,
            trouble=self.trouble,
            pods=len(self._pods) if self._pods is not None else 0,
            restored=self._pods.restorations if self._pods is not None else 0,
            pods_trouble=tuple(islice(self._pods.troubles(), SHOWN)) if self._pods is not None else (),
        )

    @property
    def renderer(self) -> Renderer:
        """Whose table it is."""
        return self._renderer

    # ---- the loop

    async def run(self, reporter: Reporter) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        await self._until_begun(reporter)
        delays = RETRIES.delays(random.random)
        self._suspicious = True  # whatever is there is another process's
        looked = clock()
        while True:
            reporter.alive()
            self._wake.clear()
            ticket, must = self._told, self._suspicious
            self._suspicious = False
            try:
                if not must:
                    await self._flush()
                    must = clock() - looked >= self._refresh_s and await self._was_written_to()
                if must:
                    await self._look()
                if clock() - looked >= self._refresh_s:
                    looked = clock()
                    if self._pods is not None:
                        self._pods.look()
            except SuiteError as error:
                log.error("apply_failed", error=error.message)
                self.trouble = error.message
                self._suspicious = True
                await asyncio.sleep(next(delays))
                continue
            self.trouble = ""
            delays = RETRIES.delays(random.random)
            async with self._news:
                self._applied = ticket
                self._news.notify_all()
            await self._wait(min(QUIET_S, looked + self._refresh_s - clock()))

    async def _until_begun(self, reporter: Reporter) -> None:
        while not self._begun.is_set():
            reporter.alive()
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._begun.wait()

    async def _wait(self, patience_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, patience_s)):
                await self._wake.wait()

    async def _flush(self) -> None:
        change = self._render()
        if change.empty():
            return
        if self.before is not None:
            await self.before(change)
        done = await self._kernel.carry_out(change, self._renderer.table)
        self._note(done.took_s)
        if done.alone and done.since == self._generation:
            self._generation = done.generation
        elif not done.alone:
            self.suspect()

    def _render(self) -> Change:
        """What changed of the node's table. Pods' tables are told all of it, whatever becomes of it here."""
        change = self._renderer.flush()
        if self._pods is not None:
            self._pods.follow(self._renderer.table, change)
        return change

    async def _was_written_to(self) -> bool:
        """Whether somebody wrote to the namespace's rules since the last look, maybe to ours."""
        return await self._kernel.generation() != self._generation

    async def _look(self) -> None:
        """Compare with the kernel and mend; what is new goes with it."""
        unsaid = not self._render().empty()
        done = await self._kernel.reconcile(self._renderer.table)
        self._generation = done.generation if done.alone else UNKNOWN
        if not done.steps:
            return
        first = not self._transactions
        self._note(done.took_s)
        if first:
            log.info("rules_in_force", touched=done.touched, took_ms=round(done.took_s * 1000, 1))
        elif not unsaid:
            self._repairs += 1
            self._last_repair = done.touched
            self._count_repair()
            log.warning("rules_repaired", touched=done.touched)

    def _note(self, took_s: float) -> None:
        self._transactions += 1
        self._applied_at = time.time()
        self._observe(took_s)
