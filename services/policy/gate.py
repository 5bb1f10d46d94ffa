"""The gate: a pod starts when its rules are in the kernel.

    attach   wired: the pod's object with the addresses of its lease --> calculation --> transaction --> answer
    detach   the link becomes one that nobody knows, which drops everything, until it is gone
    inside   modes in which packets pass the host by: the same, and a table in the pod's namespace (pods.py), which is
             there before the pod's link is: the gateway attaches such a pod before it is wired
    leases   what ipam holds is what is wired: known again after a restart, and dropped when nobody detached it

Nothing of this is durable here. A lease exists before its link does and until after the link is gone, so ipam's leases
say all there is to know.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import msgspec

from services.policy.core import objects
from services.policy.core.local_pods import LocalPods, Wired
from services.policy.core.messages import WorkloadEndpointID
from services.policy.core.nft.settings import Attachment
from services.policy.core.tally import Drop, PolicyCount
from services.policy.enforce import Enforcer
from services.policy.live import Live
from services.policy.pods import IN_THE_POD, Inside, PodTables
from shared.contracts.ipam import Lease
from shared.contracts.policy import Attach, Attached, CheckAttached, Detach, Detached, PolicyChecked
from shared.errors import NotFound, Refused, SuiteError, Unavailable
from shared.log import get
from shared.model import AttachmentKey, Mode, PodKey

log = get("policy.gate")

Unready = Literal["retry", "closed", "open"]

ASK_AFTER_S = 0.5
"""How long a pod's object may take to come by the watch before the API server is asked for it."""
DETACH_WITHIN_S = 10.0
IN_THE_HOST = frozenset((Mode.SHARED_VETH, Mode.VPC_ROUTE))
"""Modes whose pods' packets pass the host's own hooks."""

Ask = Callable[[PodKey], Awaitable[objects.Pod]]
"""The API server's own word on a pod. Raises SuiteError."""


class Standing(msgspec.Struct, frozen=True):
    """What `terwayctl policy status` says of one sandbox. Times are Unix seconds, 0: not yet."""

    pod: str
    container_id: str
    link: str
    addresses: tuple[str, ...]
    attached_at: float
    enforced_at: float
    """since when its rules have been in force"""
    pending: bool
    """something is calculated that is not in the kernel yet"""
    trouble: str
    policies: tuple[str, ...] = ()
    """in force, in the order in which they are asked"""
    profiles: tuple[str, ...] = ()
    counted: tuple[PolicyCount, ...] = ()
    """what those matched on this node, of all endpoints that ask them"""
    dropped: tuple[Drop, ...] = ()
    """of this pod's packets, and who decided"""


class Gate:
    """The answers to the gateway while NetworkPolicy is enforced."""

    def __init__(
        self,
        live: Live,
        enforcer: Enforcer,
        pods: PodTables | None = None,
        *,
        bound_s: float,
        unready: Unready,
        ask: Ask,
        passed: Callable[[float], None] = lambda seconds: None,
        ended: Callable[[str], None] = lambda how: None,
        learn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`learn` tells `pods` where the node's own stack is (Beside). Raises SuiteError."""
        self._live = live
        self._enforcer = enforcer
        self._learn = learn
        self._inside = pods
        self._modes = IN_THE_HOST if pods is None else IN_THE_HOST | IN_THE_POD
        self._bound_s = bound_s
        self._unready: Unready = unready
        self._ask = ask
        self._passed = passed
        self._ended = ended
        self._since: dict[AttachmentKey, list[float]] = {}
        """Attached at, enforced at."""
        self._detached: dict[AttachmentKey, float] = {}
        """When, by the monotonic clock; as long as the lease is still to be given back."""
        self._missing: set[AttachmentKey] = set()
        """Wired, and without a lease at the last look."""

    @property
    def _pods(self) -> LocalPods:
        return self._live.local

    # ---- what the gateway asks

    async def attach(self, request: Attach) -> Attached:
        """Returns when the pod's rules are in force. Unavailable: not within the bound, and a retry is configured."""
        if request.mode not in self._modes:
            raise Refused(
                f"network_policy: enforce has no rules for pods of the mode {request.mode}, which pass the host by; "
                "set network_policy to off on this node, or give its pods another mode"
            )
        if request.mode in IN_THE_POD and self._inside is not None and self._inside.second(request.key):
            raise Refused(
                f"network_policy: enforce has rules for one interface of a sandbox in mode {request.mode}, and "
                f"{request.key.container_id} has one beside {request.key.ifname} already"
            )
        began, asked_at = time.monotonic(), time.time()
        wired = Wired(request.key, request.pod, request.pod_uid, request.host_link, request.addresses)
        self._detached.pop(request.key, None)
        self._wire(wired, request.mode)
        if request.mode in IN_THE_POD:
            self._enter(wired, request.mode, request.netns)
        try:
            async with asyncio.timeout(self._bound_s):
                if request.mode is Mode.SHARED_IPVLAN and self._learn is not None:
                    await self._learn()
                await self._in_force(wired)
        except TimeoutError:
            return await self._not_ready(wired, request.mode, f"not within {self._bound_s:g} s: {self._why()}")
        except SuiteError as error:
            return await self._not_ready(wired, request.mode, error.message)
        self._passed(time.time() - (request.asked_at or asked_at))
        self._ended("enforced")
        log.info(
            "enforced", pod=str(request.pod), link=request.host_link, ms=round((time.monotonic() - began) * 1000, 1)
        )
        return Attached(enforced=True)

    async def detach(self, request: Detach) -> Detached:
        """Returns when the link is one that drops everything, and no connection is left that would be let through to
        the next owner of the address. Unknown keys are success."""
        self._detached[request.key] = time.monotonic()
        wired = self._unwire(request.key)
        if wired is not None and self._enforcer.begun.is_set():
            self._live.flush()
            try:
                async with asyncio.timeout(DETACH_WITHIN_S):
                    await self._enforcer.in_force(request.key)
                    await self._enforcer.forget_connections(wired.addresses)
            except TimeoutError:
                raise Unavailable(f"rules of {request.key} are still in the kernel: {self._why()}") from None
        return Detached()

    async def check(self, request: CheckAttached) -> PolicyChecked:
        """Is the sandbox known, and is the kernel as wanted?"""
        wired = self._pods.find(request.key)
        if wired is None:
            return PolicyChecked([f"there are no rules for {request.key}: policy does not know it"])
        try:
            inside = [] if self._inside is None else await self._inside.problems(request.key)
            return PolicyChecked([*await self._enforcer.problems(), *inside])
        except TimeoutError:
            return PolicyChecked([f"rules of {wired.link} wait to be written: {self._why()}"])

    # ---- what ipam holds

    def adopt(self, leases: Iterable[Lease], asked_at: float) -> None:
        """All leases of the node, as of some moment after `asked_at` of the monotonic clock."""
        held = {lease.key: lease for lease in leases}
        # A list that was asked for before the detach may be older than the lease.
        self._detached = {key: at for key, at in self._detached.items() if key in held or at >= asked_at}
        for key, lease in held.items():
            if key in self._detached or lease.mode not in self._modes:
                continue
            wired = Wired(key, lease.pod, lease.pod_uid, lease.host_link, lease.addresses)
            if self._pods.find(key) != wired:
                self._wire(wired, lease.mode)
                if lease.mode in IN_THE_POD:
                    self._enter(wired, lease.mode)
        # Once may be a lease that was granted after the list was made.
        missing = {wired.key for wired in self._pods} - held.keys()
        for key in missing & self._missing:
            log.warning("sandbox_gone", key=str(key))
            self._unwire(key)
        self._missing = missing
        self._live.flush()

    @property
    def doubts(self) -> bool:
        """Whether another look at the leases would decide something."""
        return bool(self._missing & {wired.key for wired in self._pods})

    # ---- what people ask

    def standing(self, pod: PodKey) -> list[Standing]:
        """One per sandbox of the pod; empty: it has none on this node."""
        endpoint = self._live.cluster.state.workloads.get(_workload(pod))
        policies: list[str] = []
        for tier in endpoint.tiers if endpoint is not None else ():
            for listed in (*tier.ingress_policies, *tier.egress_policies):
                name = listed if isinstance(listed, str) else listed.text
                if name not in policies:
                    policies.append(name)
        found = []
        for wired in self._pods.of(pod):
            attached_at, enforced_at = self._since.get(wired.key, (0.0, 0.0))
            found.append(
                Standing(
                    pod=str(pod),
                    container_id=wired.key.container_id,
                    link=wired.link,
                    addresses=tuple(wired.addresses),
                    attached_at=attached_at,
                    enforced_at=enforced_at,
                    pending=self._enforcer.waits(wired.key) or endpoint is None,
                    trouble=self._trouble(wired.key) or ("" if endpoint is not None else "no endpoint is calculated"),
                    policies=tuple(policies),
                    profiles=endpoint.profile_ids if endpoint is not None else (),
                )
            )
        return found

    def count(self) -> int:
        """Sandboxes that are known."""
        return len(self._pods)

    def in_force(self) -> None:
        """All that is known is in the kernel: the first transaction of this process is through."""
        now = time.time()
        for wired in self._pods:
            times = self._since.setdefault(wired.key, [now, 0.0])
            times[1] = times[1] or now

    # ---- parts

    def _wire(self, wired: Wired, mode: Mode, *, open: bool = False) -> None:
        self._live.wire(wired)
        self._since.setdefault(wired.key, [time.time(), 0.0])
        self._enforcer.attach(
            Attachment(
                link=wired.link,
                addresses=tuple(wired.addresses),
                workload=_workload(wired.pod),
                open=open,
                by_address=mode is Mode.SHARED_IPVLAN,
            )
        )

    def _enter(self, wired: Wired, mode: Mode, netns: str = "", *, open: bool = False) -> None:
        """Its table is to be in its namespace. `netns`: a path to it; empty: where it was, or to be searched for."""
        assert self._inside is not None, "modes without it are refused"
        workload = _workload(wired.pod)
        addresses = tuple(wired.addresses)
        self._inside.attach(Inside(wired.key, wired.pod, wired.uid, addresses, workload, netns, open, mode))
        self._enforcer.again()

    def _trouble(self, key: AttachmentKey) -> str:
        return self._enforcer.trouble or ("" if self._inside is None else self._inside.trouble(key))

    def _unwire(self, key: AttachmentKey) -> Wired | None:
        wired = self._live.unwire(key)
        if self._inside is not None:
            self._inside.detach(key)
        self._since.pop(key, None)
        if wired is not None and all(other.link != wired.link for other in self._pods):
            self._enforcer.detach(wired.link)
        return wired

    async def _in_force(self, wired: Wired) -> None:
        await self._enforcer.begun.wait()
        await self._known(wired)
        self._live.flush()
        if _workload(wired.pod) not in self._live.cluster.state.workloads:
            raise Unavailable(f"no endpoint can be calculated for {wired.pod}: {self._live.problem_of(wired.pod)}")
        await self._enforcer.in_force(wired.key)
        if trouble := "" if self._inside is None else self._inside.trouble(wired.key):
            raise Unavailable(f"rules of {wired.pod} cannot be written: {trouble}")
        times = self._since.setdefault(wired.key, [time.time(), 0.0])
        if not times[1]:  # of an owner before, whose end nobody told us
            await self._enforcer.forget_connections(wired.addresses)
        times[1] = time.time()

    async def _known(self, wired: Wired) -> None:
        """The watch has brought the pod's object, or the API server was asked for it."""
        try:
            async with asyncio.timeout(ASK_AFTER_S):
                await self._live.arrival(wired.pod, wired.uid)
        except TimeoutError:
            try:
                pod = await self._ask(wired.pod)
            except NotFound:
                raise Unavailable(f"the API server knows no pod {wired.pod}") from None
            self._live.tell(pod)
            await self._live.arrival(wired.pod, wired.uid)

    async def _not_ready(self, wired: Wired, mode: Mode, why: str) -> Attached:
        log.warning("not_enforced", pod=str(wired.pod), link=wired.link, why=why, unready=self._unready)
        self._ended(self._unready)
        if self._unready == "open":
            self._wire(wired, mode, open=True)
            if mode in IN_THE_POD:
                self._enter(wired, mode, open=True)
            try:
                async with asyncio.timeout(self._bound_s):
                    await self._enforcer.in_force(wired.key)
            except TimeoutError:
                raise Unavailable(f"not even open rules can be written for {wired.pod}: {self._why()}") from None
        elif self._unready == "retry":
            raise Unavailable(f"NetworkPolicy for {wired.pod} is not in force: {why}")
        return Attached(enforced=False)

    def _why(self) -> str:
        return self._enforcer.trouble or self._live.waits_for() or "the kernel has not taken them yet"


def _workload(pod: PodKey) -> WorkloadEndpointID:
    return WorkloadEndpointID("k8s", str(pod), "eth0")
