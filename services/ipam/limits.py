"""Limits that change while a pod runs: its annotations against its lease, and the difference to eni_manager.

    pod's annotations × lease ─► core.bandwidth ─► eni.limit ─► lease

The kernel comes first: a lease that says what is in force already needs nothing, so a death in between is made good by
the next look.
"""

from collections import OrderedDict

from services.ipam.adapters.enis import Enis
from services.ipam.adapters.pods import Pods
from services.ipam.core import bandwidth
from services.ipam.driver import Ledger
from services.ipam.handlers import AnnotationProblem, Handlers
from shared import log as logs
from shared.contracts.ipam import Lease
from shared.crashpoint import crashpoint
from shared.errors import SuiteError
from shared.model import AttachmentKey

TOLD_REMEMBERED = 1024

log = logs.get(__name__)


class Limits:
    """Looks at all leases; `follow` is for a reconcile loop."""

    def __init__(self, ledger: Ledger, enis: Enis, pods: Pods, handlers: Handlers) -> None:
        self._ledger, self._enis, self._pods, self._handlers = ledger, enis, pods, handlers
        self._told: OrderedDict[tuple[AttachmentKey, str], None] = OrderedDict()

    async def follow(self) -> None:
        """Apply what differs; the first failure is raised after the others were tried."""
        failed: SuiteError | None = None
        for lease in self._ledger.leases():
            try:
                await self._follow(lease)
            except SuiteError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def _follow(self, lease: Lease) -> None:
        annotations = self._pods.known_annotations(lease.pod, lease.pod_uid)
        if annotations is None:
            return
        wanted = bandwidth.read(annotations, lease.bandwidth_stated, otherwise=lease.bandwidth)
        for problem in wanted.problems:
            self._tell_once(lease, problem)
        if wanted.bandwidth == lease.bandwidth:
            return
        await self._enis.limit(lease.key, wanted.bandwidth)
        crashpoint("ipam.limit.after_call")
        await self._ledger.relimit(lease.key, wanted.bandwidth)
        log.info("limits_changed", pod=str(lease.pod), attachment=str(lease.key), bandwidth=wanted.bandwidth)

    def _tell_once(self, lease: Lease, problem: str) -> None:
        told = (lease.key, problem)
        # The ADD may have told it already.
        if told not in self._told and AnnotationProblem(str(lease.pod), problem) not in self._handlers.problems:
            self._handlers.unreadable(lease.pod, lease.pod_uid, problem)
        self._told[told] = None
        self._told.move_to_end(told)
        if len(self._told) > TOLD_REMEMBERED:
            self._told.popitem(last=False)
