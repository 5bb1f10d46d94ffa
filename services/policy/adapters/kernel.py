"""Tables of ours in the kernel: carried out, looked at, repaired, removed.

    Kernel (async) --> the one thread --> Workshop --> Compiler, NfSocket of the node
                   --> a few threads  --> Visitors --> one pod's namespace each, with what the Workshop has compiled

One thread compiles, and is the only one that writes the node's table. All are born in the node's namespace and in
another's only for as long as a socket is opened there, which is closed when what it was opened for is done.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from services.policy.adapters import sandboxes
from services.policy.adapters.conntrack import forget
from services.policy.adapters.nfnetlink import Batch, NfSocket, Request
from services.policy.adapters.nft_batch import emptying, planned, removal, requests
from services.policy.adapters.nft_compiler import Compiler, Forms
from services.policy.adapters.nft_counters import forgetting
from services.policy.adapters.nft_mending import UNKNOWN, Done, compare, mend, summary
from services.policy.adapters.sandboxes import Sought, Where
from services.policy.adapters.visits import Before, Closing, Prepared, Visitors, nothing
from services.policy.core.counts import Denial
from services.policy.core.nft.model import Change, Table
from shared.crashpoint import crashpoint
from shared.errors import NotFound

_SPARE_RULES: Final = 1000
"""Compiled rules that nobody uses, before they are forgotten."""
PASSED_S: Final = 0.01
"""How long a packet is between a table's rules, at most by far."""
_ALIKE: Final = 8
"""Changes of pods' tables that are kept in the kernel's form: one change of a policy is the same for all its pods."""

T = TypeVar("T")


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
        self._alike: deque[Prepared] = deque(maxlen=_ALIKE)

    def close(self) -> None:
        """Give everything back."""
        self._compiler.close()
        self._socket.close()

    def carry_out(self, change: Change, wanted: Table) -> Done:
        """One transaction that makes `wanted` of what was wanted before. Raises Rejected, Internal: nothing is done."""
        began = time.perf_counter()
        plan = planned(change, wanted)
        self._compiler.prepare((*plan.chains_added, *plan.chains_filled), plan.sets_added, wanted.sets)
        batch = list(requests(plan, wanted.name, self._compiler.forms))
        crashpoint("policy.apply.before_transaction")
        since, generation = self._transact(self._socket, batch)
        crashpoint("policy.apply.after_transaction")
        self._tidy(wanted)
        return Done(plan.steps, time.perf_counter() - began, since, generation)

    def reconcile(self, wanted: Table) -> Done:
        """Whatever the kernel has: one transaction that makes `wanted` of it, or none if it is so already."""
        began = time.perf_counter()
        plan, since, generation = mend(self._socket, wanted, self.forms(wanted), self._transact)
        self._tidy(wanted)
        return Done(plan.steps, time.perf_counter() - began, since, generation, summary(plan))

    def prepare(self, change: Change, wanted: Table) -> Prepared:
        """A change of a pod's table in the kernel's form. Raises Internal."""
        known = self.prepared(change)
        if known is None:
            plan = planned(change, wanted)
            self._compiler.prepare((*plan.chains_added, *plan.chains_filled), plan.sets_added, wanted.sets)
            known = Prepared(change, plan, Batch(list(requests(plan, wanted.name, self._compiler.forms))))
            self._alike.append(known)
        return known

    def prepared(self, change: Change) -> Prepared | None:
        """What `prepare` made of an equal change. From any thread."""
        return next((one for one in reversed(self._alike.copy()) if one.change == change), None)

    def forms(self, wanted: Table) -> Forms:
        """All of a table in the kernel's form. Raises Internal."""
        self._compiler.prepare(wanted.chains.values(), wanted.sets.values(), wanted.sets)
        return self._compiler.forms

    def differences(self, wanted: Table) -> str:
        """What `reconcile` would touch, a clause; empty: nothing."""
        return compare(self._socket, wanted, self.forms(wanted))

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
        _withdraw(socket, table)
        return True


def _withdraw(socket: NfSocket, table: str) -> None:
    """Rules first, and what they look up when no packet is between them any more.

    A packet that has begun with the rules goes on with them, but finds in their maps what is there now: gone at the
    same moment, its link would be one of no pod, and it would be dropped though it is allowed.
    """
    socket.transact(emptying(table))
    time.sleep(PASSED_S)
    socket.transact(removal(table))


def take_away_inside(sought: Mapping[str, Sought], table: str) -> list[str]:
    """Remove our table from the namespaces of these pods; whose had one. Raises Unavailable: no right to.

    The calling thread is in each of them for a moment: one that nobody else uses.
    """
    gone = []
    for name, where in sandboxes.search(sought).items():
        with suppress(NotFound), sandboxes.inside(where) as (socket, _):
            if table in socket.tables():
                _withdraw(socket, table)
                gone.append(name)
    return gone


class Kernel:
    """The thread and its workshop, for the event loop. An async context manager."""

    def __init__(self, ear: Ear | None = None) -> None:
        self._ear = ear
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy-kernel")
        self._workshop: Workshop | None = None
        self._visitors: Visitors | None = None

    async def __aenter__(self) -> Self:
        try:
            self._workshop = await self._do(Workshop, self._ear)
            self._visitors = Visitors()
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._visitors is not None:
            await asyncio.to_thread(self._visitors.close)
        if self._workshop is not None:
            await self._do(self._workshop.close)
        self._thread.shutdown()

    async def carry_out(self, change: Change, wanted: Table) -> Done:
        """See Workshop."""
        return await self._do(self._open.carry_out, change, wanted)

    async def reconcile(self, wanted: Table) -> Done:
        """See Workshop."""
        return await self._do(self._open.reconcile, wanted)

    async def keep(
        self, where: Where, wanted: Table, change: Change, since: int, before: Before = nothing
    ) -> tuple[Where, Done]:
        """A pod's table: the change where nobody has written since that generation, else whatever mends it.

        `wanted` must not change meanwhile. Raises NotFound: the namespace has ended.
        """
        if since != UNKNOWN:
            prepared = None
            if not change.empty():
                prepared = self._open.prepared(change) or await self._do(self._open.prepare, change, wanted)
            delivered = await self._visit(self._visits.deliver, where, prepared, since, before)
            if delivered is not None:
                return delivered
        forms = await self._do(self._open.forms, wanted)
        return await self._visit(self._visits.mend, where, wanted, forms, change, before)

    async def pod_differences(self, where: Where, wanted: Table) -> str:
        """What is not as wanted in a pod's namespace, a clause; empty: nothing. Raises NotFound: it has ended."""
        forms = await self._do(self._open.forms, wanted)
        return await self._visit(self._visits.compare, where, wanted, forms)

    async def where(self, path: str) -> Where:
        """See sandboxes.at."""
        return await self._visit(sandboxes.at, path)

    async def search(self, sought: Mapping[str, Sought]) -> dict[str, Where]:
        """See sandboxes.search."""
        return await self._visit(sandboxes.search, sought)

    async def made_in(self, where: Where, make: Callable[[], T]) -> T:
        """See sandboxes."""
        return await self._visit(sandboxes.made_in, where, make)

    async def unheld(self, held: Iterable[Where]) -> list[Where]:
        """See sandboxes."""
        return await self._visit(sandboxes.unheld, held)

    def close_later(self, opened: Closing) -> None:
        """See Visitors."""
        self._visits.close_later(opened)

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

    @property
    def _visits(self) -> Visitors:
        assert self._visitors is not None, "the kernel is not open"
        return self._visitors

    async def _visit(self, act: Callable[..., T], *arguments: Any) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._visits.threads, act, *arguments)
        return await asyncio.shield(running)

    async def _do(self, act: Callable[..., T], *arguments: Any) -> T:
        """Once begun it ends, whoever waits: a transaction that nobody knows the end of would be one too few."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, act, *arguments))
