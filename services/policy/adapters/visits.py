"""What is done in pods' namespaces, by a few threads of their own: one visit is one namespace, and nothing stays open.

    Kernel --compiled batch, generation--> deliver --the generation is another--> mend
                                                                   counters <-- before, what chains are filled anew

The kernel lets whoever closes a socket of nftables wait until what the last transaction removed is forgotten, some 15
ms. So another thread closes them, and a visit costs what it does. For that moment a namespace that ends lives on.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from services.policy.adapters import sandboxes
from services.policy.adapters.nfnetlink import Batch, NfSocket, Request
from services.policy.adapters.nft_batch import Plan
from services.policy.adapters.nft_compiler import Forms
from services.policy.adapters.nft_mending import Done, beyond, compare, mend, summary
from services.policy.adapters.sandboxes import Where
from services.policy.core.nft.model import Change, Table
from shared.crashpoint import crashpoint

AT_ONCE: Final = 4
"""Visits. Most of one is the kernel's work, which pods' namespaces do side by side."""

Before = Callable[[NfSocket, frozenset[str]], None]
"""Is told in a pod's namespace which chains are about to be filled anew: what they counted is lost then."""


def nothing(socket: NfSocket, chains: frozenset[str]) -> None:
    """Nobody counts."""


class Closing(Protocol):
    """A socket of netfilter's."""

    def close(self) -> None: ...


class Prepared(NamedTuple):
    """A change in the kernel's form; the same for all pods that it is the same for."""

    change: Change
    plan: Plan
    batch: Batch


class Visitors:
    """The threads. They are born where this is made, and go back there after each visit."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="policy-visits")
        self._closing = ThreadPoolExecutor(1, thread_name_prefix="policy-closing")
        here = threading.Barrier(AT_ONCE)
        for begun in [self._threads.submit(here.wait) for _ in range(AT_ONCE)]:
            begun.result()
        self._closing.submit(int).result()

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where visits are to run."""
        return self._threads

    def close(self) -> None:
        """When all that was begun has ended."""
        self._threads.shutdown()
        self._closing.shutdown()

    def deliver(
        self, where: Where, prepared: Prepared | None, since: int, before: Before = nothing
    ) -> tuple[Where, Done] | None:
        """A change, where nobody has written since that generation; None: somebody has. Without one: has anybody?

        Raises NotFound: the namespace has ended.
        """
        began = time.perf_counter()
        with sandboxes.inside(where, self.close_later) as (socket, there):
            generation = socket.generation()
            if generation != since:
                return None
            if prepared is None:
                return there, Done(0, time.perf_counter() - began, since, since)
            _tell(before, socket, prepared.plan)
            crashpoint("policy.pod.before_transaction")
            socket.transact(prepared.batch)
            crashpoint("policy.pod.after_transaction")
            generation = socket.generation()
        steps = prepared.plan.steps
        return there, Done(steps, time.perf_counter() - began, since, generation, summary(prepared.plan))

    def mend(
        self, where: Where, wanted: Table, forms: Forms, change: Change, before: Before = nothing
    ) -> tuple[Where, Done]:
        """Whatever is there becomes what is wanted. Raises NotFound: the namespace has ended."""
        began = time.perf_counter()
        with sandboxes.inside(where, self.close_later) as (socket, there):
            plan, since, generation = mend(
                socket, wanted, forms, _transact, before=lambda plan: _tell(before, socket, plan)
            )
        took = time.perf_counter() - began
        return there, Done(plan.steps, took, since, generation, summary(plan), beyond(plan, change))

    def compare(self, where: Where, wanted: Table, forms: Forms) -> str:
        """What is not as wanted, a clause; empty: nothing. Raises NotFound: the namespace has ended."""
        with sandboxes.inside(where, self.close_later) as (socket, _):
            return compare(socket, wanted, forms)

    def close_later(self, opened: Closing) -> None:
        """Soon, by the thread that may wait for it."""
        self._closing.submit(opened.close)


def _transact(socket: NfSocket, batch: list[Request]) -> tuple[int, int]:
    since = socket.generation()
    socket.transact(batch)
    return since, socket.generation()


def _tell(before: Before, socket: NfSocket, plan: Plan) -> None:
    if plan.chains_filled:
        before(socket, frozenset(chain.name for chain in plan.chains_filled))
