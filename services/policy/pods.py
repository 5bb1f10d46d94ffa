"""Tables inside pods' own namespaces, for modes in which a pod's packets pass its host by.

    Enforcer: each flush --follow--> what becomes of each pod's table --run--> adapters/kernel: one transaction each,
                                                                       several pods at once, those that start first
    adapters/nft_pods_monitor: somebody wrote there --heard--> look, mend, say so as an event on the pod

A pod's table is that pod's part of the host's (core/nft/pod.py). Whoever runs in the pod with CAP_NET_ADMIN can remove
it, and finds it back a moment later. Nothing of a namespace is held (adapters/sandboxes.py), nothing is durable here:
after a restart ipam's leases say which pods there are, and their addresses where.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from services.policy.adapters.nfnetlink import NfSocket
from services.policy.adapters.nft_mending import UNKNOWN, Done
from services.policy.adapters.sandboxes import Sought, Where
from services.policy.adapters.visits import AT_ONCE, Before, nothing
from services.policy.core.nft.model import Change, Table
from services.policy.core.nft.pod import References
from services.policy.core.nft.settings import Settings
from services.policy.held import Beside as Beside
from services.policy.held import Held, later
from services.policy.held import Inside as Inside
from shared.errors import Invalid, NotFound, SuiteError
from shared.health import Reporter
from shared.log import get
from shared.model import AttachmentKey, Mode

log = get("policy.pods")

IN_THE_POD: Final = frozenset((Mode.EXCLUSIVE_ENI, Mode.SHARED_IPVLAN))
"""Modes whose pods' packets pass hooks of the pod's own only."""
QUIET_S: Final = 30.0
"""Signs of life while nothing happens."""


class PodKernel(Protocol):
    """What is asked of adapters/kernel.py."""

    async def keep(
        self, where: Where, wanted: Table, change: Change, since: int, before: Before = ...
    ) -> tuple[Where, Done]: ...
    async def pod_differences(self, where: Where, wanted: Table) -> str: ...
    async def where(self, path: str) -> Where: ...
    async def search(self, sought: dict[str, Sought]) -> dict[str, Where]: ...


class Watching(Protocol):
    """Who wants to know of pods' tables: counters, the flow log."""

    async def made(self, inside: Inside, where: Where) -> None:
        """A table is in force in a namespace, before anybody is told so."""

    def ended(self, key: AttachmentKey) -> None:
        """It is not there any more, or not looked after; may be told of what was never made."""

    def filled(self, key: AttachmentKey) -> Before:
        """What looks at chains that are about to be filled anew; called by another thread, in the pod's namespace."""


class PodTables:
    """All of a node. Everything but `run` is done at once."""

    def __init__(
        self,
        settings: Settings,
        kernel: PodKernel,
        *,
        applied: Callable[[float], None] = lambda took_s: None,
        restored: Callable[[Inside, str], None] = lambda inside, touched: None,
    ) -> None:
        self._settings = settings
        self._kernel = kernel
        self._applied = applied
        self._restored = restored
        self._held: dict[AttachmentKey, Held] = {}
        self._waiting: dict[AttachmentKey, None] = {}
        """In the order in which they were told of something."""
        self._starting: dict[AttachmentKey, None] = {}
        """Those that an ADD waits for."""
        self._busy: dict[AttachmentKey, Held] = {}
        self._searching: asyncio.Task[None] | None = None
        self._some = asyncio.Event()
        self._news = asyncio.Condition()
        self._beside: Beside | None = None
        self._references = References()
        self.watching: list[Watching] = []
        self.restorations = 0

    # ---- what is wanted

    def attach(self, inside: Inside) -> None:
        """A sandbox is there, or is about to be wired; told again, the later holds."""
        known = self._held.get(inside.key)
        if known is not None and msgspec.structs.replace(inside, netns="") == msgspec.structs.replace(
            known.inside, netns=""
        ):
            known.inside = msgspec.structs.replace(inside, netns=inside.netns or known.inside.netns)
            known.awake()
            if inside.netns:  # of that path it may be another by now
                known.where, known.generation, known.suspicious = None, UNKNOWN, True
            self._tell(known)
            return
        self._hold(inside, known)

    def _hold(self, inside: Inside, known: Held | None) -> None:
        """What is wanted anew of a sandbox is written as a whole; without a path it is where it was."""
        made = self._held[inside.key] = Held(inside, self._settings, self._beside or Beside(), self._references)
        if known is not None:
            made.installed, made.told_of = known.installed, known.told_of
            if not inside.netns:
                made.where = known.where
                made.inside = msgspec.structs.replace(inside, netns=known.inside.netns)

    def beside(self, told: Beside) -> None:
        """Where the node's own stack is, from now on."""
        if told == self._beside:
            return
        self._beside = told
        for held in list(self._held.values()):
            if held.inside.mode is Mode.SHARED_IPVLAN:
                self._hold(msgspec.structs.replace(held.inside, netns=""), held)

    def detach(self, key: AttachmentKey) -> None:
        """The sandbox goes, and its table with its namespace. Until then nothing new is let in. Unknown: ignored."""
        held = self._held.pop(key, None)
        self._waiting.pop(key, None)
        self._starting.pop(key, None)
        if held is not None:
            self._forget(held)
            self._some.set()  # whoever waits for it need not

    def follow(self, host: Table, change: Change) -> None:
        """The host's table as it is wanted now, and what changed of it."""
        self._references.forget(change.chains_removed)
        for held in self._held.values():
            staged = held.table.take(host, change)
            held.staged = held.staged or staged
            if staged or not held.followed:
                held.followed = True
                self._tell(held)

    # ---- what is heard

    def heard(self, number: int, generation: int | None = None) -> None:
        """Somebody, maybe ourselves, wrote in the namespace of that number, and made it that generation if known.

        A negative number: in any namespace.
        """
        for held in self._held.values():
            if number >= 0 and (held.where is None or held.where.number != number):
                continue
            if generation is None:
                held.suspicious = True
            elif self._busy.get(held.inside.key) is held:
                held.heard = generation
            elif later(generation, held.generation):
                held.suspicious = True
            self._tell(held)

    def look(self) -> None:
        """The timer: somebody may have written whom we did not hear."""
        self.heard(-1)

    def _tell(self, held: Held) -> None:
        if held.due:
            (self._starting if held.starting else self._waiting).setdefault(held.inside.key)
            self._some.set()

    # ---- what is in force

    def pending(self, key: AttachmentKey | None = None) -> bool:
        """Whether something of this sandbox, or of any, is being written or about to be."""
        if self._busy if key is None else key in self._busy:
            return True
        now = asyncio.get_running_loop().time()
        of = self._held.values() if key is None else filter(None, (self._held.get(key),))
        return any(held.due and held.rests_until <= now for held in of)

    async def settled(self, key: AttachmentKey | None = None) -> None:
        """Return when this sandbox's table, or all, are as wanted, or `trouble` says why not."""
        async with self._news:
            await self._news.wait_for(lambda: not self.pending(key))

    def where(self) -> dict[AttachmentKey, Where]:
        """The namespaces that have tables, as far as they were found."""
        return {key: held.where for key, held in self._held.items() if held.installed and held.where is not None}

    def second(self, key: AttachmentKey) -> bool:
        """Whether another interface of the same sandbox has the namespace's table already."""
        return any(one.container_id == key.container_id and one != key for one in self._held)

    def knows(self, key: AttachmentKey) -> bool:
        """Whether this sandbox has a table of its own."""
        return key in self._held

    def trouble(self, key: AttachmentKey) -> str:
        """Why a sandbox's table is not as wanted; empty: it is, or there is none."""
        held = self._held.get(key)
        return "" if held is None else held.trouble

    async def problems(self, key: AttachmentKey) -> list[str]:
        """What in the sandbox is not as wanted, a clause each."""
        held = self._held.get(key)
        if held is None:
            return []
        if held.trouble or held.where is None:
            return [f"rules in the pod's namespace are not in force: {held.trouble}"]
        try:
            found = await self._kernel.pod_differences(held.where, held.table.table)
        except SuiteError as error:
            return [f"rules in the pod's namespace cannot be looked at: {error.message}"]
        if found:
            held.suspicious = True
            self._tell(held)
        return [f"rules in the pod's namespace are not as they should be: {found}"] if found else []

    def troubles(self) -> Iterator[str]:
        """Every sandbox whose table is not as wanted, and why."""
        return (f"{held.inside.pod}: {held.trouble}" for held in self._held.values() if held.trouble)

    def __len__(self) -> int:
        return len(self._held)

    # ---- the kernel

    async def run(self, reporter: Reporter) -> None:
        """Make every pod's table as wanted. What one pod's namespace refuses is that pod's trouble alone.

        Until cancelled. At most AT_ONCE pods at a time, and as many again that are starting, which wait for nobody.
        """
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as tasks:
            while True:
                reporter.alive()
                self._some.clear()
                while (held := self._next(clock())) is not None:
                    self._waiting.pop(held.inside.key, None)
                    self._starting.pop(held.inside.key, None)
                    self._busy[held.inside.key] = held
                    tasks.create_task(self._write(held), name="policy-pod")
                async with self._news:
                    self._news.notify_all()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience_s(clock())):
                        await self._some.wait()

    def _next(self, now: float) -> Held | None:
        """Who is to be written: of those that wait the first, but one that starts before all others."""
        for waiting, most in ((self._starting, 2 * AT_ONCE), (self._waiting, AT_ONCE)):
            for key in list(waiting) if len(self._busy) < most else ():
                held = self._held[key]
                if not held.due:
                    del waiting[key]
                elif key not in self._busy and held.rests_until <= now:
                    return held
        return None

    def _patience_s(self, now: float) -> float:
        ends = (self._held[key].rests_until for key in (*self._starting, *self._waiting))
        return min([QUIET_S, *(end - now for end in ends if end > now)])

    async def _write(self, held: Held) -> None:
        try:
            if held.where is not None or await self._locate(held):
                await self._keep(held)
        finally:
            del self._busy[held.inside.key]
            current = self._held.get(held.inside.key)
            if current is not None:
                self._tell(current)
            self._some.set()

    async def _locate(self, held: Held) -> bool:
        clock = asyncio.get_running_loop().time
        if held.inside.netns:
            try:
                held.where = await self._kernel.where(held.inside.netns)
                return True
            except (NotFound, Invalid) as error:
                held.trouble = error.message  # the path was its ADD's, which has ended
                held.inside = msgspec.structs.replace(held.inside, netns="")
            except SuiteError as error:
                held.trouble = error.message
                held.rest(clock())
                return False
        if self._searching is None:  # one search finds all
            self._searching = asyncio.create_task(self._search(), name="policy-search")
        await asyncio.shield(self._searching)
        return held.where is not None

    async def _search(self) -> None:
        now = asyncio.get_running_loop().time()
        sought = {
            str(held.inside.key): held
            for held in self._held.values()
            if held.where is None and not held.inside.netns and held.due and held.rests_until <= now
        }
        try:
            found = await self._kernel.search({name: held.inside.sought for name, held in sought.items()})
        except SuiteError as error:
            for held in sought.values():
                held.trouble = error.message
                held.rest(now)
            return
        finally:
            self._searching = None
        for name, held in sought.items():
            held.where = found.get(name)
            if held.where is None:
                addresses = ", ".join(held.inside.addresses)
                held.trouble = f"no network namespace has {addresses} on {held.inside.key.ifname}"
                held.rest(now, search=True)

    async def _keep(self, held: Held) -> None:
        where, known, since = held.where, held.installed, held.generation
        assert where is not None
        change = held.begin()
        try:
            found, done = await self._kernel.keep(where, held.table.table, change, since, self._before(held))
        except NotFound as ended:  # the timer looks for it once more, should it be another by now
            if held.is_at(where):
                held.where, held.generation, held.trouble = None, UNKNOWN, ended.message
                self._forget(held)
            return
        except SuiteError as error:
            held.generation, held.suspicious = UNKNOWN, True
            if held.trouble != error.message:
                log.warning("pod_table_not_written", pod=str(held.inside.pod), why=error.message)
            held.trouble = error.message
            held.rest(asyncio.get_running_loop().time())
            return
        if not held.is_at(where) or self._held.get(held.inside.key) is not held:
            return  # attached once more meanwhile, maybe in another namespace, or not wanted any more
        held.where = found
        held.generation = done.generation if done.alone else UNKNOWN
        held.suspicious = held.suspicious or not done.alone or held.heard_after(done.generation)
        await self._watched(held, found)
        held.well()
        if not done.steps:
            return
        self._applied(done.took_s)
        if known and done.foreign:
            self.restorations += 1
            log.warning("pod_rules_restored", pod=str(held.inside.pod), touched=done.touched)
            self._restored(held.inside, done.touched)

    # ---- who watches

    def _before(self, held: Held) -> Before:
        asked = [one.filled(held.inside.key) for one in self.watching]
        if not asked or not held.installed:
            return nothing

        def before(socket: NfSocket, chains: frozenset[str]) -> None:
            for one in asked:
                one(socket, chains)

        return before

    async def _watched(self, held: Held, where: Where) -> None:
        if held.told_of == where.inode:
            return
        self._forget(held)
        held.told_of = where.inode
        for one in self.watching:
            await one.made(held.inside, where)
        current = self._held.get(held.inside.key)
        if current is not held:  # it went while they were told
            if current is not None:
                current.told_of = None
            self._forget(held, even=True)

    def _forget(self, held: Held, *, even: bool = False) -> None:
        """`even`: though they were told before, as one may have been told of it since."""
        if held.told_of is not None or even:
            held.told_of = None
            for one in self.watching:
                one.ended(held.inside.key)
