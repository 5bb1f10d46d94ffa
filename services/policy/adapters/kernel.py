"""Tables of ours in the kernel: carried out, looked at, repaired, removed. One thread does all of it.

    Kernel (async) --> the one thread --> Workshop --> Compiler, NfSocket

The thread is born in the node's namespace and is in a pod's only for as long as a socket is opened there; that socket
is closed when what it was opened for is done (sandboxes.py).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import msgspec

from services.policy.adapters import sandboxes
from services.policy.adapters.conntrack import forget
from services.policy.adapters.nfnetlink import NfSocket, Rejected, Request
from services.policy.adapters.nft_batch import Plan, complete, planned, removal, repairs, requests
from services.policy.adapters.nft_compiler import Compiler
from services.policy.adapters.nft_counters import forgetting
from services.policy.adapters.nft_seen import look
from services.policy.adapters.sandboxes import Sought, Where
from services.policy.core.counts import Denial
from services.policy.core.nft.model import Change, Table
from shared.crashpoint import crashpoint
from shared.errors import NotFound
from shared.log import get

log = get("policy.kernel")

_SPARE_RULES: Final = 1000
"""Compiled rules that nobody uses, before they are forgotten."""
_LOOKS: Final = 5
"""Attempts at a repair while others change the namespace's rules."""

UNKNOWN: Final = -1
"""No generation: somebody may have written."""

T = TypeVar("T")


class Done(msgspec.Struct, frozen=True):
    """What was carried out: how many objects and lists of elements were touched, and which.

    `since` and `generation` are the namespace's before and after; nobody else wrote in between if `alone`.
    """

    steps: int
    took_s: float
    since: int
    generation: int
    touched: str = ""

    @property
    def alone(self) -> bool:
        """Whether the generation went up by our own transaction only."""
        return self.generation == (self.since + bool(self.steps)) & 0xFFFFFFFF


class Ear(Protocol):
    """Who listens to what is written, and must not hear ourselves."""

    def pause(self) -> None: ...
    def listen(self) -> None: ...


class Workshop:
    """What the thread has open. All of it blocks."""

    def __init__(self, ear: Ear | None = None) -> None:
        self._ear = ear
        self._compiler = Compiler()
        self._socket = NfSocket()

    def close(self) -> None:
        """Give everything back."""
        self._compiler.close()
        self._socket.close()

    def carry_out(self, change: Change, wanted: Table) -> Done:
        """One transaction that makes `wanted` of what was wanted before. Raises Rejected, Internal: nothing is done."""
        began = time.perf_counter()
        plan = planned(change, wanted)
        self._compiler.prepare((*plan.chains_added, *plan.chains_filled), plan.sets_added, wanted.sets)
        batch = list(requests(plan, wanted.name, self._compiler))
        crashpoint("policy.apply.before_transaction")
        since, generation = self._transact(self._socket, batch)
        crashpoint("policy.apply.after_transaction")
        self._tidy(wanted)
        return Done(plan.steps, time.perf_counter() - began, since, generation)

    def reconcile(self, wanted: Table) -> Done:
        """Whatever the kernel has: one transaction that makes `wanted` of it, or none if it is so already."""
        began = time.perf_counter()
        self._compiler.prepare(wanted.chains.values(), wanted.sets.values(), wanted.sets)
        plan, since, generation = self._mend(self._socket, wanted)
        self._tidy(wanted)
        return Done(plan.steps, time.perf_counter() - began, since, generation, summary(plan))

    def keep(self, where: Where, wanted: Table, change: Change | None, since: int) -> tuple[Where, Done]:
        """A pod's table: the change where nobody has written since that generation, else whatever mends it.

        Raises NotFound: the namespace has ended.
        """
        began = time.perf_counter()
        with sandboxes.inside(where) as (socket, there):
            before = after = socket.generation()
            if before == since:
                plan = planned(change or Change(), wanted)
                if plan.steps:
                    self._compiler.prepare((*plan.chains_added, *plan.chains_filled), plan.sets_added, wanted.sets)
                    batch = list(requests(plan, wanted.name, self._compiler))
                    crashpoint("policy.pod.before_transaction")
                    socket.transact(batch)
                    crashpoint("policy.pod.after_transaction")
                    after = socket.generation()
            else:
                self._compiler.prepare(wanted.chains.values(), wanted.sets.values(), wanted.sets)
                plan, before, after = self._mend(socket, wanted)
        return there, Done(plan.steps, time.perf_counter() - began, before, after, summary(plan))

    def pod_differences(self, where: Where, wanted: Table) -> str:
        """What is not as wanted in a pod's namespace, a clause; empty: nothing. Raises NotFound: it has ended."""
        self._compiler.prepare(wanted.chains.values(), wanted.sets.values(), wanted.sets)
        with sandboxes.inside(where) as (socket, _):
            return summary(repairs(look(socket, wanted.name, ignoring=_dynamic(wanted)), wanted, self._compiler))

    def differences(self, wanted: Table) -> str:
        """What `reconcile` would touch, a clause; empty: nothing."""
        self._compiler.prepare(wanted.chains.values(), wanted.sets.values(), wanted.sets)
        return summary(repairs(look(self._socket, wanted.name, ignoring=_dynamic(wanted)), wanted, self._compiler))

    @property
    def compiled(self) -> int:
        """Rules that are kept in the kernel's form."""
        return self._compiler.size

    def forget_connections(self, addresses: Sequence[str]) -> int:
        """What these addresses talked about with anybody is over; how many connections that were."""
        return forget(self._socket, addresses)

    def forget_denials(self, table: str, denials: Iterable[Denial], prefix: str) -> tuple[int, int]:
        """Links out of the sets that rules fill; the generations before and after. Raises Rejected: one is not in."""
        return self._transact(self._socket, list(forgetting(table, denials, prefix)))

    def generation(self) -> int:
        """The node's generation."""
        return self._socket.generation()

    def _mend(self, socket: NfSocket, wanted: Table) -> tuple[Plan, int, int]:
        """Look and mend; what was done, and the generations before and after."""
        for left in reversed(range(_LOOKS)):
            before = socket.generation()
            plan = repairs(look(socket, wanted.name, ignoring=_dynamic(wanted)), wanted, self._compiler)
            if socket.generation() != before and left:
                continue  # somebody wrote meanwhile: what was seen may never have been
            if not plan.steps:
                return plan, before, before
            batch = list(requests(plan, wanted.name, self._compiler))
            crashpoint("policy.repair.before_transaction")
            try:
                generations = self._transact(socket, batch)
            except Rejected as refused:
                if left > 1:
                    continue
                log.warning("repair_refused", error=refused.message)
                plan = complete(wanted)
                generations = self._transact(socket, list(requests(plan, wanted.name, self._compiler)))
            crashpoint("policy.repair.after_transaction")
            return plan, *generations
        raise AssertionError("the last attempt returns or raises")

    def _transact(self, socket: NfSocket, batch: list[Request]) -> tuple[int, int]:
        """One batch; the generations before and after."""
        if self._ear is not None:
            self._ear.pause()
        try:
            since = socket.generation()
            socket.transact(batch)
            return since, socket.generation()
        finally:
            if self._ear is not None:
                self._ear.listen()

    def _tidy(self, wanted: Table) -> None:
        if self._compiler.size > _SPARE_RULES + 4 * len(wanted.chains):
            self._compiler.forget_all_but(wanted.chains.values())


def take_away(table: str) -> bool:
    """Remove our table from the calling thread's namespace; whether there was one. Raises Unavailable: no right to."""
    with NfSocket() as socket:
        if table not in socket.tables():
            return False
        socket.transact(removal(table))
        return True


def take_away_inside(sought: Mapping[str, Sought], table: str) -> list[str]:
    """Remove our table from the namespaces of these pods; whose had one. Raises Unavailable: no right to.

    The calling thread is in each of them for a moment: one that nobody else uses.
    """
    gone = []
    for name, where in sandboxes.search(sought).items():
        with suppress(NotFound), sandboxes.inside(where) as (socket, _):
            if table in socket.tables():
                socket.transact(removal(table))
                gone.append(name)
    return gone


def _dynamic(wanted: Table) -> frozenset[str]:
    return frozenset(name for name, one in wanted.sets.items() if "dynamic" in one.flags)


def summary(plan: Plan) -> str:
    """What a plan touches, for a log and an event."""
    if plan.replace:
        return "the whole table"
    parts = {
        "chains": [chain.name for chain in (*plan.chains_added, *plan.chains_filled)] + plan.chains_removed,
        "sets": [one.name for one in plan.sets_added] + plan.sets_removed,
        "elements of": sorted({*plan.items_added, *plan.items_removed}),
    }
    return "; ".join(
        f"{what} {', '.join(names[:5])}{' …' * (len(names) > 5)}" for what, names in parts.items() if names
    )


class Kernel:
    """The thread and its workshop, for the event loop. An async context manager."""

    def __init__(self, ear: Ear | None = None) -> None:
        self._ear = ear
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy-kernel")
        self._workshop: Workshop | None = None

    async def __aenter__(self) -> Self:
        try:
            self._workshop = await self._do(Workshop, self._ear)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._workshop is not None:
            await self._do(self._workshop.close)
        self._thread.shutdown()

    async def carry_out(self, change: Change, wanted: Table) -> Done:
        """See Workshop."""
        return await self._do(self._open.carry_out, change, wanted)

    async def reconcile(self, wanted: Table) -> Done:
        """See Workshop."""
        return await self._do(self._open.reconcile, wanted)

    async def keep(self, where: Where, wanted: Table, change: Change | None, since: int) -> tuple[Where, Done]:
        """See Workshop."""
        return await self._do(self._open.keep, where, wanted, change, since)

    async def pod_differences(self, where: Where, wanted: Table) -> str:
        """See Workshop."""
        return await self._do(self._open.pod_differences, where, wanted)

    async def where(self, path: str) -> Where:
        """See sandboxes.at."""
        return await self._do(sandboxes.at, path)

    async def search(self, sought: Mapping[str, Sought]) -> dict[str, Where]:
        """See sandboxes.search."""
        return await self._do(sandboxes.search, sought)

    async def differences(self, wanted: Table) -> str:
        """See Workshop."""
        return await self._do(self._open.differences, wanted)

    async def forget_connections(self, addresses: Sequence[str]) -> int:
        """See Workshop."""
        return await self._do(self._open.forget_connections, addresses)

    async def forget_denials(self, table: str, denials: Iterable[Denial], prefix: str) -> tuple[int, int]:
        """See Workshop."""
        return await self._do(self._open.forget_denials, table, denials, prefix)

    async def generation(self) -> int:
        """See Workshop."""
        return await self._do(self._open.generation)

    @property
    def _open(self) -> Workshop:
        assert self._workshop is not None, "the kernel thread is not open"
        return self._workshop

    async def _do(self, act: Callable[..., T], *arguments: Any) -> T:
        """Once begun it ends, whoever waits: a transaction that nobody knows the end of would be one too few."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, act, *arguments))
