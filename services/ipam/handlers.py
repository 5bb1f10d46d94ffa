"""What ipam answers: one method per RPC of shared.contracts.ipam."""

import asyncio
from collections import deque
from collections.abc import Mapping

import msgspec

from services.ipam.adapters.enis import Enis
from services.ipam.adapters.pods import Pods
from services.ipam.core import allocate, bandwidth, stickiness
from services.ipam.core.allocate import Wish
from services.ipam.driver import Ledger
from shared import log as logs
from shared.contracts import ipam as contract
from shared.contracts.ipam import Lease
from shared.errors import Exhausted, Invalid, Refused, SuiteError, Unavailable
from shared.model import PodKey
from shared.rpc.server import deadline

ANSWER_MARGIN = 0.1
"""This part of a caller's time (1 s at most) is kept for the answer, so that a wait ends with its reason."""

log = logs.get(__name__)


class AnnotationProblem(msgspec.Struct, frozen=True):
    """An annotation that could not be read, for /state."""

    pod: str
    problem: str


class Handlers:
    """`pods` None: there is no API server to ask."""

    def __init__(
        self, ledger: Ledger, enis: Enis, pods: Pods | None, *, longest_wait_s: float, annotate: bool = False
    ) -> None:
        self._ledger = ledger
        self._enis = enis
        self._pods = pods
        self._longest_wait_s = longest_wait_s
        self._annotate = annotate
        self.problems: deque[AnnotationProblem] = deque(maxlen=32)

    async def acquire(self, ask: contract.Acquire) -> Lease:
        """The sandbox's lease: the one it has, or a new one as soon as there is an address."""
        if not (ask.key.container_id and ask.key.ifname and ask.pod.name):
            raise Invalid("key.container_id, key.ifname and pod.name must not be empty")
        began = asyncio.get_running_loop().time()
        held = await self._ledger.find(ask.key, ask.pod)
        if held is not None:
            return held
        annotations = await self._annotations(ask)
        limits = bandwidth.read(annotations, ask.bandwidth)
        for problem in limits.problems:
            self.unreadable(ask.pod, ask.pod_uid, problem)
        sticky = self._sticky(ask, annotations)
        if self._enis.absent:  # what it would be given could not be plugged in
            raise Unavailable(self._enis.absent)
        left = min(deadline.get() - began, self._longest_wait_s)
        ends = began + left - min(left * ANSWER_MARGIN, 1.0)
        wish = Wish(ask.key, ask.pod, ask.pod_uid, limits.bandwidth, sticky, limits.stated)
        try:
            lease = await self._ledger.acquire(wish, ends)
        except (Exhausted, Refused) as error:
            self._tell_failure(ask, error)
            raise
        took_s = asyncio.get_running_loop().time() - began
        log.info(
            "address_granted",
            pod=str(ask.pod),
            attachment=str(ask.key),
            addresses=lease.addresses,
            eni=lease.eni_id,
            host_link=lease.host_link,
            waited_ms=round(took_s * 1000, 1),
        )
        if self._pods is not None:
            if self._annotate:
                self._pods.annotate(ask.pod, ask.pod_uid, lease.addresses)
            self._pods.note(ask.pod, ask.pod_uid, "AllocIPSucceed", f"Alloc IP {_written(lease)} took {took_s:.3f}s")
        return lease

    async def release(self, ask: contract.Release) -> contract.Released:
        """End a lease; the address rests. Unknown keys are success."""
        lease = await self._ledger.release(ask.key)
        if lease is not None:
            log.info("address_released", pod=str(lease.pod), attachment=str(ask.key), addresses=lease.addresses)
        return contract.Released(lease)

    async def inspect(self, ask: contract.Inspect) -> contract.Inspected:
        """What is durable under a key."""
        return contract.Inspected(next((lease for lease in self._ledger.leases() if lease.key == ask.key), None))

    async def leases(self, ask: contract.ListLeases) -> contract.Leases:
        """All leases, or those of one network."""
        found = self._ledger.leases()
        return contract.Leases([lease for lease in found if ask.network in (None, lease.key.network)])

    async def status(self, ask: contract.AskStatus) -> contract.Status:
        """Whether a new pod would get an address."""
        reason = self._enis.absent or allocate.outlook(
            self._ledger.pool, len(self._ledger.waiting), self._ledger.clock()
        )
        return contract.Status(able=not reason, reason=reason)

    def _sticky(self, ask: contract.Acquire, annotations: Mapping[str, str]) -> bool:
        asked, problem = stickiness.asks_for_it(annotations)
        if problem:
            self.unreadable(ask.pod, ask.pod_uid, problem)
        return asked or (self._pods is not None and self._pods.is_stateful(ask.pod, ask.pod_uid))

    def unreadable(self, pod: PodKey, uid: str, problem: str) -> None:
        """Tell a pod's owner of an annotation that cannot be read."""
        log.warning("annotation_unreadable", pod=str(pod), problem=problem)
        self.problems.append(AnnotationProblem(str(pod), problem))
        if self._pods is not None:
            self._pods.warn(pod, uid, "ParseFailed", problem)

    def _tell_failure(self, ask: contract.Acquire, error: SuiteError) -> None:
        """On the pod. The same words each time the kubelet tries again, so that the API server counts one event up."""
        if self._pods is not None:
            pool = self._ledger.pool
            why = allocate.shortage(pool, self._ledger.clock()) if pool.mode is not None else error.message
            self._pods.warn(ask.pod, ask.pod_uid, "AllocIPFailed", why)

    async def _annotations(self, ask: contract.Acquire) -> Mapping[str, str]:
        if ask.annotations is not None:
            return ask.annotations
        if self._pods is None:
            return {}
        return await self._pods.annotations(ask.pod, ask.pod_uid)


def _written(lease: Lease) -> str:
    """`192.168.0.7/20`, of both families."""
    pairs = ((lease.ipv4, lease.subnet4), (lease.ipv6, lease.subnet6))
    return ",".join(f"{ip}/{subnet.cidr.partition('/')[2]}" if subnet else ip for ip, subnet in pairs if ip)
