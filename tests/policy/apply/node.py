"""A node that enforces, without a kernel and without an API server: both are played."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from services.policy.adapters.kernel import Kernel
from services.policy.adapters.nft_batch import planned
from services.policy.adapters.nft_mending import Done, beyond
from services.policy.adapters.reading import Who
from services.policy.adapters.sandboxes import Sought, Where
from services.policy.adapters.visits import Before, nothing
from services.policy.config import PolicyConfig
from services.policy.core import objects
from services.policy.core.nft.model import Change, Table, difference
from services.policy.core.nft.render import Renderer
from services.policy.core.profiles import FELIX_3_24_5
from services.policy.enforce import Enforcer
from services.policy.gate import Gate, Unready
from services.policy.live import Live
from services.policy.pods import PodTables
from shared.contracts.ipam import Lease
from shared.contracts.policy import Attach
from shared.errors import NotFound, SuiteError
from shared.health import Reporter
from shared.kube.resources import NAMESPACES, NETWORK_POLICIES, PODS, Resource
from shared.model import AttachmentKey, EniId, Ip, Mac, Mode, PodKey, host_link_name

HOST = "node1"
CONFIG = PolicyConfig()


def copied(table: Table) -> Table:
    return Table(dict(table.chains), dict(table.sets), {name: frozenset(held) for name, held in table.elements.items()})


def unordered(change: Change) -> dict[str, Any]:
    """What a change touches; the order in which it names things of one kind does not matter."""
    fields: dict[str, Any] = {}
    for name in change.__struct_fields__:
        held = getattr(change, name)
        if isinstance(held, tuple):
            held = sorted(held, key=str)
        elif isinstance(held, Mapping):
            held = {key: sorted(elements, key=str) for key, elements in held.items()}
        fields[name] = held
    return fields


class PlayedKernel:
    """A table, written while `open` is set. `refuses` is raised instead, once each."""

    def __init__(self) -> None:
        self.table = Table()
        self.open = asyncio.Event()
        self.open.set()
        self.refuses: list[SuiteError] = []
        self.changes: list[Change] = []
        self.generations = 0
        self.forgotten: list[str] = []
        self.rules_now: Callable[[], str | None] | None = None

    async def carry_out(self, change: Change, wanted: Table) -> Done:
        return await self._write(change, wanted)

    async def reconcile(self, wanted: Table) -> Done:
        return await self._write(difference(self.table, copied(wanted)), wanted)

    async def differences(self, wanted: Table) -> str:
        return "" if difference(self.table, copied(wanted)).empty() else "something"

    async def forget_connections(self, addresses: Sequence[str]) -> int:
        assert self.rules_now is None or not self.rules_now(), "connections are forgotten when the link is nobody's"
        self.forgotten += addresses
        return 0

    async def generation(self) -> int:
        return self.generations

    def foreign(self, table: Table) -> None:
        self.table = table
        self.generations += 1

    async def _write(self, change: Change, wanted: Table) -> Done:
        after = copied(wanted)
        await self.open.wait()
        if self.refuses:
            raise self.refuses.pop(0)
        since = self.generations
        if not change.empty():
            # Nothing but the change makes the one of the other.
            assert change.replace or unordered(difference(self.table, after)) == unordered(change)
            self.generations += 1
            self.changes.append(change)
            self.table = after
        return Done(int(not change.empty()), 0.001, since, self.generations, "x" if not change.empty() else "")

    def rules_of(self, link: str) -> str | None:
        """Where the link leads to what is for its pod."""
        found = dict(pair for pair in self.table.elements.get("to-pod", ()) if isinstance(pair, tuple))
        return found.get(f'"{link}"')


class PlayedSandboxes:
    """Pods' namespaces by path: each a table and a generation. What is in `gone` has ended; `refuses` is raised."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.generations: dict[str, int] = {}
        self.gone: set[str] = set()
        self.refuses: dict[str, SuiteError] = {}
        self.found: dict[str, str] = {}
        """Address -> path, for a search."""
        self.searches = 0
        self.order: list[str] = []
        """Whose was written."""
        self.kept = self.waiting = 0
        """Calls of `keep`, and those that have not ended."""
        self.hangs: set[str] = set()
        """Those whose `keep` does not end before `moved`."""
        self.moved = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def where(self, path: str) -> Where:
        await asyncio.sleep(0)
        if path in self.gone:
            raise NotFound(f"network namespace {path} cannot be opened")
        self.tables.setdefault(path, Table())
        return Where(path, (0, hash(path)), 0, list(self.tables).index(path))

    async def search(self, sought: Mapping[str, Sought]) -> dict[str, Where]:
        self.searches += 1
        return {
            name: await self.where(self.found[address])
            for name, one in sought.items()
            for address in one.addresses
            if address in self.found
        }

    async def keep(
        self, where: Where, wanted: Table, change: Change, since: int, before: Before = nothing
    ) -> tuple[Where, Done]:
        path, after = where.path, copied(wanted)
        self.kept += 1
        self.waiting += 1
        await self.open.wait()
        while path in self.hangs:
            await self.moved.wait()
        self.waiting -= 1
        if path in self.gone:
            raise NotFound("its network namespace has ended")
        if path in self.refuses:
            raise self.refuses[path]
        generation, told, foreign = self.generations.get(path, 0), change, False
        if since == generation:
            assert change.empty() or unordered(difference(self.tables[path], after)) == unordered(change)
        else:
            change = difference(self.tables[path], after)
            foreign = beyond(planned(change, after), told)
        if not change.empty():
            self.generations[path] = generation + 1
            self.tables[path] = after
            self.order.append(path)
        now = self.generations.get(path, 0)
        return where, Done(int(not change.empty()), 0.001, generation, now, "the whole table", foreign)

    async def pod_differences(self, where: Where, wanted: Table) -> str:
        return "" if difference(self.tables[where.path], copied(wanted)).empty() else "something"

    def foreign(self, path: str, table: Table) -> None:
        self.tables[path] = table
        self.generations[path] = self.generations.get(path, 0) + 1


class NoEvents:
    def warn(self, *_: Any, **__: Any) -> None:
        """Nobody reads them."""


class PlayedNode:
    """What the gateway, ipam and the API server do, in calls."""

    def __init__(
        self, *, bound_s: float, unready: Unready, kernel: Kernel | None = None, config: PolicyConfig = CONFIG
    ) -> None:
        """`kernel`: a real one, in place of those that are played."""
        self.kernel, self.sandboxes = PlayedKernel(), PlayedSandboxes()
        settings = config.settings()
        self.restored: list[str] = []
        self.pods = PodTables(
            settings, kernel or self.sandboxes, restored=lambda inside, touched: self.restored.append(str(inside.pod))
        )
        self.enforcer = Enforcer(Renderer(settings), kernel or self.kernel, refresh_s=60.0, pods=self.pods)  # type: ignore[arg-type]
        self.live = Live(
            HOST,
            FELIX_3_24_5,
            recorder=NoEvents(),  # type: ignore[arg-type]
            updated=lambda seconds: None,
            flushed=lambda seconds: None,
            sink=self.enforcer.take,
        )
        self.api: dict[PodKey, objects.Pod] = {}
        """What a direct question is answered with."""
        self.asked: list[PodKey] = []
        self.outcomes: list[str] = []
        self.gate = Gate(
            self.live,
            self.enforcer,
            self.pods,
            bound_s=bound_s,
            unready=unready,
            ask=self._ask,
            ended=self.outcomes.append,
        )

    async def _ask(self, pod: PodKey) -> objects.Pod:
        self.asked.append(pod)
        if pod not in self.api:
            raise NotFound(f"no {pod}")
        return self.api[pod]

    def says(self, written: objects.Object) -> None:
        """The watch brings an object."""
        resources: dict[type[objects.Object], Resource] = {
            objects.Pod: PODS,
            objects.Namespace: NAMESPACES,
        }
        meta = written.metadata
        self.live.apply(
            resources.get(type(written), NETWORK_POLICIES), Who(meta.name, meta.namespace, meta.uid, "1"), written
        )

    def adopt(self, *leases: Lease) -> None:
        """What ipam answers now."""
        self.gate.adopt(leases, time.monotonic())

    def begin(self, *leases: Lease) -> None:
        """Everything is known that was there at the start."""
        self.live.in_sync()
        self.adopt(*leases)
        self.live.flush()
        self.enforcer.begin()


def pod(name: str, *, uid: str = "u1", address: str = "", host: str = HOST, **labels: str) -> objects.Pod:
    namespace, _, called = name.partition("/")
    return objects.Pod(
        metadata=objects.Metadata(name=called, namespace=namespace, uid=uid, labels=labels),
        spec=objects.PodSpec(node_name=host, containers=(objects.Container(),)),
        status=objects.PodStatus(pod_ip=address, pod_ips=(objects.PodAddress(address),) if address else ()),
    )


def attach(name: str, address: str, *, sandbox: str = "s1", uid: str = "u1", mode: Mode = Mode.SHARED_VETH) -> Attach:
    key = PodKey(*name.split("/"))
    link = host_link_name(key, "eth0", salt="" if sandbox == "s1" else sandbox)
    return Attach(AttachmentKey("terway", sandbox, "eth0"), key, uid, mode, link, (Ip(address),), "/run/netns/x")


def lease(request: Attach) -> Lease:
    return Lease(
        key=request.key,
        pod=request.pod,
        pod_uid=request.pod_uid,
        mode=request.mode,
        host_link=request.host_link,
        eni_id=EniId("eni-1"),
        eni_mac=Mac("00:16:3e:00:00:01"),
        ipv4=request.addresses[0],
    )


def deny_all(namespace: str) -> objects.KubePolicy:
    written = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": namespace, "uid": "p1"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    read = objects.read(written, objects.KubePolicy)
    assert isinstance(read, objects.KubePolicy)
    return read


@asynccontextmanager
async def node(
    *, bound_s: float = 20.0, unready: Unready = "retry", kernel: Kernel | None = None, config: PolicyConfig = CONFIG
) -> AsyncIterator[PlayedNode]:
    """With the enforcer's loop running."""
    made = PlayedNode(bound_s=bound_s, unready=unready, kernel=kernel, config=config)
    running = [
        asyncio.create_task(made.enforcer.run(Reporter("enforce", 60.0, lambda: 0.0))),
        asyncio.create_task(made.pods.run(Reporter("pods", 60.0, lambda: 0.0))),
    ]
    try:
        made.says(objects.Namespace(metadata=objects.Metadata(name="shop", uid="n1")))
        yield made
    finally:
        for one in running:
            one.cancel()
        for one in running:
            with suppress(asyncio.CancelledError):
                await one
