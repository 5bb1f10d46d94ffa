"""The dataplane half: pods are plugged, unplugged and checked; what live pods need is kept whole.

    plug    wiring, in the kernel thread  ┐ side by side; the answer waits for both
            attachment, in the journal    ┘
    unplug  rules and routes withdrawn ─► attachment forgotten ─► links deleted later, many at once
    repair  at start, on a timer: what journal and marks say is live gets back what it lost

All kernel work is done by one thread, in the order in which it is asked for; what the loop knows when it asks is
therefore true when the work is done.

The journal and the kernel need not wait for one another: what was wired when we died and did not get into the journal
bears our marks, and unplug goes by those. The journal is what knows of sandboxes whose links are gone.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Final, ParamSpec, Protocol, Self, TypeVar
from weakref import WeakValueDictionary

from msgspec.structs import replace

from services.eni_manager.adapters.ipvlan_plumbing import plumbing
from services.eni_manager.adapters.netlink_monitor import wait_for_link
from services.eni_manager.adapters.netlink_plumbing import Plumbing
from services.eni_manager.adapters.reaper import Reaper
from services.eni_manager.core.wiring.marks import mac_of
from services.eni_manager.core.wiring.standing import SeenLink
from services.eni_manager.core.wiring.symmetric import TERWAYS, Marking
from services.eni_manager.core.wiring.values import EniLink, Node
from services.eni_manager.core.wiring.vpc_route import Nat
from shared import log as logs
from shared.contracts.eni import (
    Attachment,
    Attachments,
    Check,
    Checked,
    Limit,
    Limited,
    Plug,
    Plugged,
    Unplug,
    Unplugged,
)
from shared.contracts.ipam import Lease
from shared.crashpoint import crashpoint
from shared.errors import Conflict, Internal, NotFound, Unavailable
from shared.health import Reporter
from shared.model import AttachmentKey, Cidr, Ip, Mac, Mode, Subnet
from shared.reconcile import ReconcileLoop

log = logs.get(__name__)
P = ParamSpec("P")
T = TypeVar("T")

PODS_AT_A_TIME: Final = 32
"""So many sandboxes are looked into before others may use the kernel's thread again."""

HOMECOMING_S: Final = 5.0
"""How long a plug waits for its ENI. The kernel ends a namespace, and sends its devices home, within a second."""

_PASSING: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.ENOMEM})


class StoredAttachment(Protocol):
    """What the store gives back."""

    @property
    def lease(self) -> Lease: ...

    @property
    def netns(self) -> str: ...

    @property
    def mtu(self) -> int | None: ...


class AttachmentStore(Protocol):
    """Where attachments are kept; each call is durable when it returns."""

    async def put_attachment(self, lease: Lease, *, netns: str, mtu: int | None = None) -> None: ...

    async def drop_attachment(self, key: AttachmentKey) -> object: ...

    async def attachments(self) -> Sequence[StoredAttachment]: ...


class Dataplane:
    """Wires pods. An async context manager; `run()` does what is due without being asked.

    `linger_s`: how long an unplugged link waits for others (or for its namespace's end) before it is deleted.
    `nat`: which packets of pods bear the node's address; None: not known yet, what an earlier life set stays.
    `stated`: what the CNI configuration stated last of what pods reach by the node's stack, beside `node.host_stack`.
    `symmetric`: answers leave by the primary interface that their questions came in by, by `marking`
    (core/wiring/symmetric.py).
    """

    def __init__(
        self,
        node: Node,
        store: AttachmentStore,
        *,
        linger_s: float = 0.25,
        repair_s: float = 300.0,
        symmetric: bool = False,
        marking: Marking = TERWAYS,
        nat: Nat | None = None,
        stated: tuple[Cidr, ...] = (),
        reporter: Reporter | None = None,
        plumbing: Callable[[Node], Plumbing] = plumbing,
    ) -> None:
        self._host_stack = node.host_stack
        self.node = replace(node, host_stack=_union(node.host_stack, stated))
        self._make_plumbing = plumbing
        self._store = store
        self._symmetric, self._marking = symmetric, marking
        self._nat = nat
        self._passes_nothing_on = False
        self._wired: dict[AttachmentKey, Lease] = {}
        self._holders: dict[Ip, AttachmentKey] = {}
        self._leaving: set[AttachmentKey] = set()
        # What an earlier life left in the kernel and not in the journal.
        self._strays: dict[AttachmentKey, str] = {}
        self._unmarked: dict[Mac, str] = {}
        self._locks: WeakValueDictionary[AttachmentKey, asyncio.Lock] = WeakValueDictionary()
        # Two threads, since a deletion holds up whoever does it for 15 ms or more.
        self._thread = ThreadPoolExecutor(1, "plumbing")
        self._reaper_thread = ThreadPoolExecutor(1, "reaper")
        self._reap = ReconcileLoop("retired-links", self._delete_retired, settle_s=linger_s)
        self._repair = ReconcileLoop("wiring-repair", self._repair_all, resync_s=repair_s, reporter=reporter)

    async def __aenter__(self) -> Self:
        # Both threads are born here and now, in the node's namespace; later one could be born in a pod's.
        self._plumbing = await self._call(self._make_plumbing, self.node)
        self._reaper = await self._on(self._reaper_thread, Reaper)
        for stored in await self._store.attachments():
            self._remember(stored.lease)
        marked = await self._call(self._plumbing.marked_links)
        self._strays = {key: link for key, link in marked.items() if key not in self._wired}
        self._unmarked = await self._call(self._plumbing.unmarked_links)
        if self._strays:
            log.warning("strays_found", links={str(key): link for key, link in self._strays.items()})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._call(self._plumbing.close)
        await self._on(self._reaper_thread, self._reaper.close)
        self._thread.shutdown()
        self._reaper_thread.shutdown()

    async def run(self) -> None:
        """Repair and delete retired links, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reap.run(), name="retired-links")
            tasks.create_task(self._repair.run(), name="wiring-repair")

    # ---- one sandbox

    async def plug(self, request: Plug) -> Plugged:
        """Connect a sandbox; a repeat changes only what differs.

        Raises NotFound (namespace, ENI), Conflict (interface name taken, address wired elsewhere), Refused (mode).
        A plug that failed leaves an attachment behind for unplug to clear.
        """
        lease = request.lease
        async with self._alone(lease.key):
            await self._clear_addresses(lease)
            if lease.mode is Mode.EXCLUSIVE_ENI:
                await self._await_home(request)
            if request.host_stack is not None:
                await self._reach_by_node(request.host_stack)
            crashpoint("eni.plug.before_journal")
            wiring, refused = await asyncio.gather(
                self._call(self._plumbing.connect, lease, request.netns, request.mtu),
                self._save(request),
                return_exceptions=True,
            )
            if refused is not None:
                await self._withdraw(lease.key, lease)
                raise refused
            if isinstance(wiring, BaseException):
                raise wiring
            self._strays.pop(lease.key, None)
        veth = wiring.veth
        return Plugged(mac=wiring.pod_mac, host_mac=veth.host_mac, mtu=veth.mtu)

    async def unplug(self, request: Unplug) -> Unplugged:
        """Disconnect a sandbox; one that is not known, or gone, is success. Conflict: it lives, and was not to."""
        async with self._alone(request.key):
            lease = self._wired.get(request.key) or request.lease
            if request.unless_alive and request.key in await self._call(self._plumbing.marked_links):
                raise Conflict(f"{request.key} is still connected")
            return Unplugged(found=await self._withdraw(request.key, lease, request.netns))

    async def check(self, request: Check) -> Checked:
        """Compare a sandbox's wiring with what its lease wants, on both sides of the link."""
        async with self._alone(request.lease.key):
            stored = self._wired.get(request.lease.key, request.lease)
            lease = replace(request.lease, host_peer=stored.host_peer)
            problems = await self._call(self._plumbing.check, lease, request.netns, request.mtu)
        return Checked(problems=problems)

    async def limit(self, request: Limit) -> Limited:
        """Change the limits of a sandbox that is plugged. Raises NotFound; a repeat may find what was missing.

        Journal first: a death in between leaves the node's side to repair and all of it to the caller's next try.
        """
        async with self._alone(request.key):
            stored = next((a for a in await self._store.attachments() if a.lease.key == request.key), None)
            if stored is None or request.key not in self._wired:
                raise NotFound(f"{request.key} is not plugged")
            lease = replace(stored.lease, bandwidth=request.bandwidth)
            self._remember(lease)
            await self._store.put_attachment(lease, netns=stored.netns, mtu=stored.mtu)
            crashpoint("eni.limit.after_journal")
            await self._call(self._plumbing.limit, lease)
        log.info("limited", attachment=str(request.key), pod=str(lease.pod), bandwidth=request.bandwidth)
        return Limited()

    async def attachments(self) -> Attachments:
        """Everything that is wired, or found wired by its marks."""
        alive = await self._call(self._plumbing.marked_links)
        known = {key: lease.host_link for key, lease in self._wired.items()} | self._strays
        return Attachments(
            [Attachment(key, link, alive.get(key) == link, self._wired.get(key)) for key, link in known.items()],
            host_stack=self.node.host_stack,
            own=tuple(own for own in (self.node.ipv4, self.node.ipv6) if own is not None),
        )

    # ---- ENIs

    async def ensure_eni(self, mac: Mac, subnet4: Subnet | None, subnet6: Subnet | None = None) -> EniLink:
        """Make an ENI ready for pods. Raises NotFound when no link has this MAC."""
        if self.node.mode is Mode.EXCLUSIVE_ENI:
            seen = await self._whereabouts(mac)
            if seen is None:
                raise NotFound(f"no link of this node has MAC {mac}", retry_after=1.0)
            return EniLink(seen.name, seen.index)
        return await self._call(self._plumbing.ensure_eni, mac, subnet4, subnet6)

    async def wait_for_link(self, mac: Mac, timeout_s: float = 10.0) -> SeenLink:
        """Wait for a hot-plugged ENI to appear. Raises Unavailable when it does not."""

        def look() -> Awaitable[SeenLink | None]:
            if self.node.mode is Mode.EXCLUSIVE_ENI:
                return self._whereabouts(mac)
            return self._call(self._plumbing.find, mac)

        return await wait_for_link(mac, look, timeout_s)

    async def set_nat(self, nat: Nat) -> None:
        """Say which packets of pods bear the node's address from now on."""
        if nat != self._nat:
            await self._call(self._plumbing.ensure_masquerade, nat)
            self._nat = nat

    def repair(self) -> None:
        """Have live pods' wiring looked at soon."""
        self._repair.poke()

    # ---- within

    async def _save(self, request: Plug) -> None:
        self._remember(request.lease)
        await self._store.put_attachment(request.lease, netns=request.netns, mtu=request.mtu)
        crashpoint("eni.plug.after_journal")

    async def _reach_by_node(self, stated: tuple[Cidr, ...]) -> None:
        wanted = _union(self._host_stack, stated)
        if wanted != self.node.host_stack:
            self.node = replace(self.node, host_stack=wanted)
            await self._call(self._plumbing.know, self.node)
            self.repair()

    def _held(self, mac: Mac) -> bool:
        """Does an attachment have this ENI to itself?"""
        return any(lease.eni_mac == mac for key, lease in self._wired.items() if key not in self._leaving)

    async def _await_home(self, request: Plug) -> None:
        """An ENI whose last sandbox has just ended is on its way home. If it does not come, the plug says so."""
        mac = request.lease.eni_mac
        with suppress(Unavailable):
            await wait_for_link(mac, lambda: self._whereabouts(mac, request.netns), HOMECOMING_S)

    def _whereabouts(self, mac: Mac, netns_path: str | None = None) -> Awaitable[SeenLink | None]:
        return self._call(self._plumbing.whereabouts, mac, held=self._held(mac), netns_path=netns_path)

    async def _withdraw(self, key: AttachmentKey, lease: Lease | None, netns: str | None = None) -> bool:
        host_link = self._host_link_by_marks(key) if lease is None else lease.host_link
        if host_link is None:
            return False
        kept = {ip for ip, holder in self._holders.items() if holder != key}
        # Repair, which may be asked for at any moment from now on, must not put back what goes.
        self._leaving.add(key)
        try:
            addresses = None if lease is None else lease.addresses
            nic = lease.eni_mac if lease is not None and lease.mode is Mode.EXCLUSIVE_ENI else None
            found = await self._call(
                self._plumbing.disconnect, key, host_link, addresses, kept, nic=nic, netns_path=netns
            )
            self._reap.poke()
            crashpoint("eni.unplug.before_journal")
            await self._store.drop_attachment(key)
            known = self._forget(key)
            stray = self._strays.pop(key, None) is not None
        finally:
            self._leaving.discard(key)
        if lease is not None and lease.mode is not self.node.mode:
            self._repair.poke()  # it may have been the last one for whom the node was as it is
        return found or known or stray

    def _host_link_by_marks(self, key: AttachmentKey) -> str | None:
        return self._strays.get(key) or self._unmarked.get(mac_of(key, "host"))

    async def _clear_addresses(self, lease: Lease) -> None:
        """An address has one sandbox: a dead one is unplugged. Raises Conflict when the other one lives."""
        for ip in lease.addresses:
            other = self._wired.get(self._holders.get(ip, lease.key))
            if other is None or other.key == lease.key:
                continue
            if (await self._call(self._plumbing.marked_links)).get(other.key) == other.host_link:
                raise Conflict(f"{ip} is wired for {other.pod}, sandbox {other.key.container_id}")
            await self._withdraw(other.key, other)

    def _remember(self, lease: Lease) -> None:
        self._wired[lease.key] = lease
        self._holders.update(dict.fromkeys(lease.addresses, lease.key))

    def _forget(self, key: AttachmentKey) -> bool:
        lease = self._wired.pop(key, None)
        for ip in () if lease is None else lease.addresses:
            if self._holders.get(ip) == key:
                del self._holders[ip]
        return lease is not None

    async def _repair_all(self) -> None:
        live = [lease for key, lease in self._wired.items() if key not in self._leaving]
        repaired = await self._call(self._plumbing.repair, live, set(self._holders))
        for sentence in repaired.mended:
            log.warning("wiring_mended", what=sentence)
        for key, why in repaired.skipped.items():
            log.info("wiring_skipped", attachment=key, why=why)
        for start in range(0, len(live), PODS_AT_A_TIME):
            keys = {lease.key for lease in live[start : start + PODS_AT_A_TIME]} - self._leaving
            some = [self._wired[key] for key in keys if key in self._wired]
            for sentence in await self._call(self._plumbing.mend_inside, some):
                log.warning("sandbox_mended", what=sentence)
        if self.node.mode is Mode.EXCLUSIVE_ENI:
            await self._fetch_strays()
        beside = self.node.mode in (Mode.EXCLUSIVE_ENI, Mode.SHARED_IPVLAN)
        if beside or not self._passes_nothing_on:
            await self._call(self._plumbing.ensure_node_passes_on, wanted=beside)
            self._passes_nothing_on = not beside  # what an earlier mode left is taken away once
        if self._nat is not None:
            await self._call(self._plumbing.ensure_masquerade, self._nat)
        wanted = self._wants_symmetric()
        try:
            for sentence in await self._call(self._plumbing.ensure_symmetric, self._marking, wanted=wanted):
                log.info("symmetric_routing", what=sentence)
        except NotFound as impossible:
            log.warning("symmetric_routing_impossible", because=impossible.message)

    async def _fetch_strays(self) -> None:
        """ENIs that no sandbox has and that are not at home: what held their namespaces has not let go of them."""
        held = {lease.eni_mac for lease in self._wired.values()}
        for mac in await self._call(self._plumbing.fetch_strays, held):
            log.warning("eni_brought_home", mac=mac)

    def _wants_symmetric(self) -> bool:
        """Only where pods are on ENIs that are the node's. While the mode changes, the pods that run count.

        Where pods have ENIs to themselves, or slaves of one, no answer of theirs crosses the node but what it has
        masqueraded; where they are on none, all goes by the primary interface, and the mark would send answers away
        from pods.
        """
        modes = {lease.mode for lease in self._wired.values()} or {self.node.mode}
        return self._symmetric and modes.isdisjoint((Mode.EXCLUSIVE_ENI, Mode.VPC_ROUTE, Mode.SHARED_IPVLAN))

    async def _delete_retired(self) -> None:
        await self._on(self._reaper_thread, self._reaper.delete_retired)

    @asynccontextmanager
    async def _alone(self, key: AttachmentKey) -> AsyncIterator[None]:
        # Whoever holds or awaits a lock keeps it in the dictionary; nobody else does.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield

    async def _call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._on(self._thread, fn, *args, **kwargs)

    async def _on(self, thread: ThreadPoolExecutor, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run on a kernel thread. A cancelled wait leaves the work to finish there, before anything asked for later."""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, lambda: fn(*args, **kwargs))
        except OSError as refused:
            raise (Unavailable if refused.errno in _PASSING else Internal)(str(refused)) from refused


def _union(configured: tuple[Cidr, ...], stated: tuple[Cidr, ...]) -> tuple[Cidr, ...]:
    return tuple(dict.fromkeys((*configured, *stated)))
