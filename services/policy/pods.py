"""Tables inside pods' own namespaces, for modes in which a pod's packets pass its host by.

    Enforcer: each flush --follow--> what becomes of each pod's table --settle--> adapters/kernel: one transaction each
    adapters/nft_pods_monitor: somebody wrote there --suspect--> look, mend, say so as an event on the pod

A pod's table is that pod's part of the host's (core/nft/pod.py). Whoever runs in the pod with CAP_NET_ADMIN can remove
it, and finds it back a moment later. Nothing of a namespace is held (adapters/sandboxes.py), nothing is durable here:
after a restart ipam's leases say which pods there are, and their addresses where.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from services.policy.adapters.kernel import UNKNOWN, Done
from services.policy.adapters.sandboxes import Sought, Where
from services.policy.core.messages import WorkloadEndpointID
from services.policy.core.nft.model import Change, Table
from services.policy.core.nft.pod import PodTable
from services.policy.core.nft.settings import Settings
from shared.errors import Invalid, NotFound, SuiteError
from shared.log import get
from shared.model import AttachmentKey, Mode, PodKey, host_peer_name

log = get("policy.pods")

IN_THE_POD: Final = frozenset((Mode.EXCLUSIVE_ENI, Mode.SHARED_IPVLAN))
"""Modes whose pods' packets pass hooks of the pod's own only."""
SEARCH_AGAIN_S: Final = 5.0
"""A namespace that was not found may have ended, or its pod is being wired."""


class Beside(msgspec.Struct, frozen=True):
    """Where the node's own stack is, of a pod whose link is not the node's (shared-ipvlan): eni_manager says it."""

    own: tuple[str, ...] = ()
    """The node's addresses. What it passes on to the pod bears them, and was judged by the node."""
    host_stack: tuple[str, ...] = ()
    """What the pod reaches by it, Services among it, and the node judges when it knows the true destination."""


class Inside(msgspec.Struct, frozen=True):
    """A sandbox with rules of its own. `netns`: a path to it at this moment; empty: to be searched for."""

    key: AttachmentKey
    pod: PodKey
    uid: str
    addresses: tuple[str, ...]
    workload: WorkloadEndpointID
    netns: str = ""
    open: bool = False
    mode: Mode = Mode.EXCLUSIVE_ENI

    @property
    def sought(self) -> Sought:
        """What tells its namespace."""
        return Sought(self.key.ifname, self.addresses)


class PodKernel(Protocol):
    """What is asked of adapters/kernel.py."""

    async def keep(self, where: Where, wanted: Table, change: Change | None, since: int) -> tuple[Where, Done]: ...
    async def pod_differences(self, where: Where, wanted: Table) -> str: ...
    async def where(self, path: str) -> Where: ...
    async def search(self, sought: dict[str, Sought]) -> dict[str, Where]: ...


class _Held:
    """One sandbox's table, and what is known of it in the kernel."""

    def __init__(self, inside: Inside, settings: Settings, beside: Beside) -> None:
        self.inside = inside
        judged = ""
        if inside.mode is Mode.EXCLUSIVE_ENI:
            judged = host_peer_name(inside.key.ifname)
        else:
            settings = msgspec.structs.replace(settings, host_addresses=beside.own, service_nets=beside.host_stack)
        self.table = PodTable(
            inside.workload, settings, open=inside.open, judged_link=judged, addresses=inside.addresses
        )
        self.where: Where | None = None
        self.pending: Change | None = None
        self.generation = UNKNOWN
        self.suspicious = True
        self.installed = False
        self.trouble = "not written yet"
        self.searched_at = float("-inf")

    def add(self, change: Change) -> None:
        """What `follow` said. Two changes that wait are mended as one: the kernel is looked at."""
        if change.empty():
            return
        if self.pending is not None:
            self.generation = UNKNOWN
        self.pending = change

    @property
    def due(self) -> bool:
        """Whether something is to be done."""
        return self.pending is not None or self.suspicious


class PodTables:
    """All of a node. Everything but `settle` is done at once; `settle` is called by one task only, after `follow`."""

    def __init__(
        self,
        settings: Settings,
        kernel: PodKernel,
        *,
        applied: Callable[[float], None] = lambda took_s: None,
        restored: Callable[[Inside, str], None] = lambda inside, touched: None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._kernel = kernel
        self._applied = applied
        self._restored = restored
        self.wake = wake
        self._held: dict[AttachmentKey, _Held] = {}
        self._beside: Beside | None = None
        self.restorations = 0

    # ---- what is wanted

    def attach(self, inside: Inside) -> None:
        """A sandbox is there, or is about to be wired; told again, the later holds."""
        known = self._held.get(inside.key)
        if known is not None and msgspec.structs.replace(inside, netns="") == msgspec.structs.replace(
            known.inside, netns=""
        ):
            known.inside = msgspec.structs.replace(inside, netns=inside.netns or known.inside.netns)
            if inside.netns:  # of that path it may be another by now
                known.where, known.generation, known.suspicious = None, UNKNOWN, True
            return
        self._hold(inside, known)

    def _hold(self, inside: Inside, known: _Held | None) -> None:
        made = self._held[inside.key] = _Held(inside, self._settings, self._beside or Beside())
        if known is not None:
            made.where, made.installed = (None if inside.netns else known.where), known.installed

    def beside(self, told: Beside) -> None:
        """Where the node's own stack is, from now on."""
        if told == self._beside:
            return
        self._beside = told
        for held in list(self._held.values()):
            if held.inside.mode is Mode.SHARED_IPVLAN:
                self._hold(held.inside, held)

    def detach(self, key: AttachmentKey) -> None:
        """The sandbox goes, and its table with its namespace. Until then nothing new is let in. Unknown: ignored."""
        self._held.pop(key, None)

    def follow(self, host: Table, change: Change) -> None:
        """The host's table as it is wanted now, and what changed of it."""
        for held in self._held.values():
            held.add(held.table.follow(host, change))

    # ---- what is heard

    def heard(self, number: int) -> None:
        """Somebody, maybe ourselves, wrote in the namespace of that number; a negative one: in any."""
        for held in self._held.values():
            if number < 0 or (held.where is not None and held.where.number == number):
                held.suspicious = True
        if self.due:
            self.wake()

    def look(self) -> None:
        """The timer: somebody may have written whom we did not hear."""
        self.heard(-1)

    # ---- what is in force

    @property
    def due(self) -> bool:
        """Whether `settle` has something to do."""
        return any(held.due for held in self._held.values())

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
            self.wake()
        return [f"rules in the pod's namespace are not as they should be: {found}"] if found else []

    def troubles(self) -> Iterator[str]:
        """Every sandbox whose table is not as wanted, and why."""
        return (f"{held.inside.pod}: {held.trouble}" for held in self._held.values() if held.trouble)

    def __len__(self) -> int:
        return len(self._held)

    # ---- the kernel

    async def settle(self) -> None:
        """Make every pod's table as wanted. What one pod's namespace refuses is that pod's trouble alone."""
        await self._locate()
        for held in list(self._held.values()):
            if held.due and held.where is not None:
                await self._keep(held)

    async def _locate(self) -> None:
        now = asyncio.get_running_loop().time()
        sought: dict[str, _Held] = {}
        for held in list(self._held.values()):  # more may come and go meanwhile
            if held.where is not None or not held.due:
                continue
            if held.inside.netns:
                try:
                    held.where = await self._kernel.where(held.inside.netns)
                    continue
                except (NotFound, Invalid) as error:
                    held.trouble = error.message  # the path was its ADD's, which has ended
                    held.inside = msgspec.structs.replace(held.inside, netns="")
                except SuiteError as error:
                    held.trouble = error.message
                    continue
            if now - held.searched_at >= SEARCH_AGAIN_S:
                held.searched_at = now
                sought[str(held.inside.key)] = held
        if not sought:
            return
        try:
            found = await self._kernel.search({name: held.inside.sought for name, held in sought.items()})
        except SuiteError as error:
            for held in sought.values():
                held.trouble = error.message
            return
        for name, held in sought.items():
            held.where = found.get(name)
            if held.where is None:
                addresses = ", ".join(held.inside.addresses)
                held.trouble = f"no network namespace has {addresses} on {held.inside.key.ifname}"

    async def _keep(self, held: _Held) -> None:
        assert held.where is not None
        pending, known = held.pending, held.installed
        held.suspicious = False
        try:
            held.where, done = await self._kernel.keep(held.where, held.table.table, pending, held.generation)
        except NotFound as ended:  # the timer looks for it once more, should it be another by now
            held.where, held.pending, held.generation, held.trouble = None, None, UNKNOWN, ended.message
            return
        except SuiteError as error:
            held.generation, held.suspicious = UNKNOWN, True
            if held.trouble != error.message:
                log.warning("pod_table_not_written", pod=str(held.inside.pod), why=error.message)
            held.trouble = error.message
            return
        held.pending, held.trouble, held.installed = None, "", True
        held.generation = done.generation if done.alone else UNKNOWN
        held.suspicious = held.suspicious or not done.alone
        if not done.steps:
            return
        self._applied(done.took_s)
        if known and pending is None:
            self.restorations += 1
            log.warning("pod_rules_restored", pod=str(held.inside.pod), touched=done.touched)
            self._restored(held.inside, done.touched)
