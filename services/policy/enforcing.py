"""The parts that only enforcing has, put together: the kernel and who listens to it, the enforcer, the gate, ipam."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from services.policy.adapters.interfaces import interfaces
from services.policy.adapters.kernel import Kernel
from services.policy.adapters.nft_monitor import Monitor
from services.policy.adapters.nft_pods_monitor import PodsMonitor
from services.policy.config import PolicyConfig
from services.policy.core import objects
from services.policy.core.nft.model import TABLE
from services.policy.core.nft.render import Renderer
from services.policy.core.problems import Invalid
from services.policy.counters import CounterMetrics, Counters
from services.policy.enforce import Enforcer
from services.policy.flows import FlowLog
from services.policy.gate import Gate
from services.policy.live import Live
from services.policy.pod_flows import PodFlows
from services.policy.pods import Beside, Inside, PodTables
from shared.contracts import eni, ipam
from shared.errors import Internal, SuiteError, Unavailable
from shared.health import Health, Reporter
from shared.kube.client import KubeClient
from shared.kube.objects import ObjectReference
from shared.kube.recorder import Recorder
from shared.kube.resources import PODS
from shared.log import get
from shared.model import Mode, PodKey
from shared.rpc.client import Client

log = get("policy.enforcing")

LEASES_PERIOD_S = 30.0
LEASES_DOUBT_S = 2.0
"""After a look that missed a sandbox: a second one decides."""
LEASES_RETRY_S = 0.5
INTERFACES_PERIOD_S = 5.0
"""Until a host endpoint is found by an address that an interface has just been given."""
_APPLY = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_GATE = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Enforcing:
    """An async context manager: the kernel is open while it lasts. What is in force stays when it ends."""

    def __init__(self, config: PolicyConfig, registry: CollectorRegistry, recorder: Recorder) -> None:
        self._config = config
        self._recorder = recorder
        self._registry = registry
        self.flows: FlowLog | None = None
        self.pod_flows: PodFlows | None = None
        self._opened = AsyncExitStack()
        self._looked = asyncio.Event()
        """The node's interfaces are known."""
        self._applied = Histogram(
            "terway_policy_apply_seconds", "Seconds per transaction", registry=registry, buckets=_APPLY
        )
        self._repairs = Counter(
            "terway_policy_repairs", "Transactions that mended what somebody else had changed", registry=registry
        )
        self._restored = Counter(
            "terway_policy_pod_restorations",
            "Tables in pods' namespaces that were put back after somebody changed them",
            registry=registry,
        )
        self._gate_s = Histogram(
            "terway_policy_gate_seconds", "Seconds from a pod's ADD to its rules", registry=registry, buckets=_GATE
        )
        self._gates = Counter(
            "terway_policy_gate", "Pods that came to the gate, by how it ended", ["outcome"], registry=registry
        )

    async def __aenter__(self) -> Self:
        monitor = self._opened.enter_context(Monitor(TABLE, lambda: self.enforcer.suspect()))
        kernel = await self._opened.enter_async_context(Kernel(monitor))
        self._kernel = kernel
        settings = self._config.settings()
        self.pods = PodTables(settings, kernel, applied=self._applied.observe, restored=self._say_restored)
        self.enforcer = Enforcer(
            Renderer(settings),
            kernel,
            refresh_s=self._config.refresh_s,
            applied=self._applied.observe,
            repaired=self._repairs.inc,
            pods=self.pods,
        )
        try:
            self._opened.enter_context(PodsMonitor(TABLE, self.pods.heard))
        except Unavailable as error:  # the timer looks, too
            log.warning("pods_not_heard", why=error.message, looked_at_every_s=self._config.refresh_s)
        return self

    def _say_restored(self, inside: Inside, touched: str) -> None:
        self._restored.inc()
        about = ObjectReference(
            kind="Pod", api_version="v1", name=inside.pod.name, namespace=inside.pod.namespace, uid=inside.uid
        )
        text = f"somebody changed NetworkPolicy's rules in the pod's network namespace; put back: {touched}"
        self._recorder.warn(about, "PolicyRulesRestored", text)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def observe(self, live: Live) -> None:
        """Counters are read from now on, and the flow log where one is set. Until the context ends."""
        config = self._config
        self.counters = Counters(self.enforcer, live.local, prefixes=config.interface_prefixes)
        await self._opened.enter_async_context(self.counters)
        self.enforcer.before = self.counters.before
        self.pods.watching.append(self.counters.inside)
        if config.counters != "off":
            CounterMetrics(self.counters, config.counters, config.counters_most).register(self._registry)
        if config.flow_log_group is None:
            return
        lost = Counter(
            "terway_policy_flow_log_lost", "Samples that were not logged, by where", ["where"], registry=self._registry
        )
        self.flows = FlowLog(
            live,
            self.enforcer.renderer,
            group=config.flow_log_group,
            file=config.flow_log_file,
            lost=lambda where, number: lost.labels(where).inc(number),
        )
        try:
            await self._opened.enter_async_context(self.flows)
        except Unavailable as error:  # policies are in force all the same
            self.flows = None
            log.error("flow_log_off", why=error.message)
            return
        self.pod_flows = PodFlows(self.flows, self._kernel, group=config.flow_log_group)
        self._opened.callback(self.pod_flows.close)
        self.pods.watching.append(self.pod_flows)

    async def _learn(self) -> None:
        """Where the node's own stack is; eni_manager knows."""
        async with Client(self._eni_socket, name="eni_manager") as asked:
            said = await asked.call(eni.ATTACHMENTS, eni.ListAttachments())
        self.pods.beside(Beside(tuple(said.own), tuple(said.host_stack)))
        self.enforcer.again()

    def gate(self, live: Live, client: KubeClient, eni_socket: Path) -> Gate:
        """The answers to the gateway."""
        self._eni_socket = eni_socket

        async def ask(pod: PodKey) -> objects.Pod:
            written = await client.get(PODS, dict, pod.name, namespace=pod.namespace)
            try:
                read = objects.read(written, objects.Pod)
            except Invalid as error:
                raise Internal(f"the pod {pod} cannot be read: {error.field}: {error.reason}") from error
            assert isinstance(read, objects.Pod)
            return read

        return Gate(
            live,
            self.enforcer,
            self.pods,
            bound_s=self._config.gate_s,
            unready=self._config.unready,
            ask=ask,
            passed=self._gate_s.observe,
            ended=lambda how: self._gates.labels(how).inc(),
            learn=self._learn,
        )

    def start(
        self, tasks: asyncio.TaskGroup, live: Live, gate: Gate, health: Health, ipam_socket: Path
    ) -> list[asyncio.Task[None]]:
        """Start the loops."""
        health.watch("in_force", lambda: "" if self.enforcer.begun.is_set() else "the leases are not known yet")
        health.watch("kernel", lambda: self.enforcer.trouble)
        leases = health.reporter("leases", 4 * LEASES_PERIOD_S)
        kernel = health.reporter("enforce", 120.0)
        links = health.reporter("interfaces", 60.0)
        observing = [
            tasks.create_task(self.counters.run(health.reporter("counters", 240.0)), name="policy-counters"),
        ]
        if self.flows is not None:
            observing.append(tasks.create_task(self.flows.run(), name="policy-flows"))
        if self.pod_flows is not None:
            reporter = health.reporter("pod_flows", 120.0)
            observing.append(tasks.create_task(self.pod_flows.run(reporter), name="policy-pod-flows"))
        return [
            *observing,
            tasks.create_task(self.enforcer.run(kernel), name="policy-enforce"),
            tasks.create_task(self.pods.run(health.reporter("pods", 120.0)), name="policy-pods"),
            tasks.create_task(self._follow_interfaces(links), name="policy-interfaces"),
            tasks.create_task(self._follow_leases(live, gate, ipam_socket, leases), name="policy-leases"),
        ]

    async def _follow_leases(self, live: Live, gate: Gate, ipam_socket: Path, reporter: Reporter) -> None:
        """First what there is, then the kernel; after that now and then, for what was never detached."""
        async with Client(ipam_socket, name="ipam") as client:
            while True:
                reporter.alive()
                asked_at = time.monotonic()
                try:
                    held = (await client.call(ipam.LEASES, ipam.ListLeases())).leases
                    if any(lease.mode is Mode.SHARED_IPVLAN for lease in held):
                        await self._learn()
                except SuiteError as error:
                    if not self.enforcer.begun.is_set():
                        log.info("leases_unknown", why=error.message)
                    await asyncio.sleep(LEASES_RETRY_S)
                    continue
                gate.adopt(held, asked_at)
                if not self.enforcer.begun.is_set():
                    await _alive_until(live.synced, reporter)
                    await self._looked.wait()
                    live.flush()
                    self.enforcer.begin()
                    await self.enforcer.in_force()
                    gate.in_force()
                await asyncio.sleep(LEASES_DOUBT_S if gate.doubts else LEASES_PERIOD_S)

    async def _follow_interfaces(self, reporter: Reporter) -> None:
        """Host endpoints are interfaces; pods' links are not."""
        prefixes = self._config.interface_prefixes
        while True:
            reporter.alive()
            found = await asyncio.to_thread(interfaces)
            self.enforcer.interfaces({link: held for link, held in found.items() if not link.startswith(prefixes)})
            self._looked.set()
            await asyncio.sleep(INTERFACES_PERIOD_S)

    def routes(self, gate: Gate) -> Sequence[web.RouteDef]:
        """`GET /policy/status?pod=NAMESPACE/NAME`: what is in force for a pod of this node."""

        async def status(request: web.Request) -> web.Response:
            namespace, slash, name = request.query.get("pod", "").partition("/")
            if not (namespace and slash and name):
                return web.json_response({"error": "expected ?pod=NAMESPACE/NAME"}, status=400)
            found = gate.standing(PodKey(namespace, name))
            if not found:
                return web.json_response(
                    {"error": f"{namespace}/{name} has no sandbox on this node that policy knows of"}, status=404
                )
            await self.counters.refresh()
            counted = self.counters.tally()
            drops = next((one.drops for one in counted.endpoints if one.endpoint == f"{namespace}/{name}"), [])
            shown = [
                msgspec.structs.replace(
                    one,
                    counted=tuple(
                        policy
                        for policy in counted.policies
                        if {policy.name, policy.text} & {*(one.policies if policy.kind == "policy" else one.profiles)}
                    ),
                    dropped=tuple(drops),
                )
                for one in found
            ]
            return web.Response(body=msgspec.json.encode(shown), content_type="application/json")

        return (web.get("/policy/status", status), *self.counters.routes())


async def _alive_until(event: asyncio.Event, reporter: Reporter) -> None:
    while not event.is_set():
        reporter.alive()
        try:
            async with asyncio.timeout(LEASES_PERIOD_S):
                await event.wait()
        except TimeoutError:
            continue
