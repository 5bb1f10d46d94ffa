"""What tables inside pods' namespaces count: read with the node's own table, by the same thread, one pod after another.

    counters.py --a look--> read: a dump per pod --> core/counts --+
    adapters/visits --before chains are filled anew--> filled -----+--> core/tally, with the node's
    pods.py --a table goes--> ended: one more look, then what its policies' rules have counted stays among the totals

Nothing of a namespace is held: it is entered for each look. A pod's table is that pod's alone, so whatever a policy
denies there is denied to it.
"""

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from services.policy.adapters import sandboxes
from services.policy.adapters.nfnetlink import NfSocket
from services.policy.adapters.nft_counters import counted, table_handle
from services.policy.adapters.sandboxes import Where
from services.policy.adapters.visits import Before
from services.policy.core.counts import Totals
from services.policy.core.nft.model import TABLE
from services.policy.core.nft.pod import BASE_CHAINS
from services.policy.core.tally import Read
from services.policy.pods import Inside
from shared.errors import SuiteError
from shared.log import get
from shared.model import AttachmentKey

log = get("policy.counters")

READ_BEFORE: Final = 64
"""Chains whose counters are read before one transaction fills them anew. Of more, what came since the last look is
lost."""


class _Table:
    """One pod's. Its lock is held from a dump until it is added up, so that no older dump comes after a newer one."""

    def __init__(self, pod: str, where: Where) -> None:
        self.pod = pod
        self.where = where
        self.totals = Totals()
        self.lock = threading.Lock()

    def look(self) -> None:
        """All of it. Raises SuiteError; NotFound: the namespace has ended."""
        with self.lock, sandboxes.inside(self.where) as (socket, there):
            self.where = there
            self.read(socket)

    def read(self, socket: NfSocket, chains: frozenset[str] | None = None) -> None:
        """All of it or some, the lock being held. Raises SuiteError."""
        self.totals.of_table(table_handle(socket, TABLE))
        self.totals.read(counted(socket, TABLE, chains), chains)


class PodCounters:
    """Of all pods with tables of their own. Implements pods.Watching; `read` is for one thread, which `thread` has."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._tables: dict[AttachmentKey, _Table] = {}
        self._past = Totals()
        """Of tables that are gone."""

    # ---- what pods.py says

    async def made(self, inside: Inside, where: Where) -> None:
        """A table is in force there."""
        self._tables[inside.key] = _Table(str(inside.pod), where)

    def ended(self, key: AttachmentKey) -> None:
        """It goes with its namespace; most often that is still there for a moment."""
        table = self._tables.pop(key, None)
        if table is not None:
            with suppress(RuntimeError):  # the thread has ended: nobody reads any more
                self._thread.submit(self._fold, table)

    def filled(self, key: AttachmentKey) -> Before:
        """What looks at chains before they are filled anew. A transaction does not wait for a look that is going on."""

        def before(socket: NfSocket, chains: frozenset[str]) -> None:
            table = self._tables.get(key)
            if table is None or len(chains) > READ_BEFORE or not table.lock.acquire(blocking=False):
                return
            try:
                table.read(socket, chains)
            except SuiteError as error:
                log.warning("counters_unread", pod=table.pod, why=error.message)
            finally:
                table.lock.release()

        return before

    # ---- what the counters' thread does

    def read(self, chains: Collection[str]) -> list[Read]:
        """Look at all of them. `chains`: those that are wanted on the node; of others the totals are forgotten.

        One that cannot be looked at shows what it showed before.
        """
        kept = {*chains, *BASE_CHAINS}
        found = []
        for table in list(self._tables.values()):
            with suppress(SuiteError):
                table.look()
            with table.lock:
                table.totals.keep(kept, ())
                found.append(Read(table.totals.copy(), {}, table.pod))
        self._past.keep(kept, ())
        return [*found, Read(self._past, {})]

    def _fold(self, table: _Table) -> None:
        with suppress(SuiteError):
            table.look()
        with table.lock:
            self._past.add(table.totals)
