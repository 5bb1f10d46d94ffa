"""Builds policy's adapters, wires the flow, starts the tasks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry

from services.policy.adapters.kernel import take_away
from services.policy.adapters.kube import Inputs
from services.policy.config import PolicyConfig
from services.policy.core.nft.model import TABLE
from services.policy.core.profiles import PROFILES
from services.policy.enforcing import Enforcing
from services.policy.handlers import Handlers, NothingEnforced
from services.policy.live import Live
from services.policy.pages import Pages
from services.policy.pods_off import nothing_inside
from services.policy.report import Report, latency
from shared import metrics
from shared.config import NodeConfig
from shared.contracts import policy as contract
from shared.errors import Refused, SuiteError
from shared.health import Health
from shared.http import HttpFace
from shared.kube.client import KubeClient
from shared.kube.recorder import Recorder
from shared.lifecycle import InstanceLock
from shared.log import get
from shared.rpc.server import Server

log = get("policy.service")

EVENT_SOURCE = "terway-policy"


async def serve(node: NodeConfig, config: PolicyConfig, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises Refused when another instance runs, the port is taken, or settings miss."""
    registry, health = metrics.registry("policy"), Health()
    async with AsyncExitStack() as opened:
        opened.enter_context(InstanceLock(node.lock("policy")))
        if config.network_policy != "enforce":
            await _nothing_in_force()
        if config.network_policy == "off":
            async with _faces(node, config, registry, health, _off, NothingEnforced()), nothing_inside(node):
                await stop.wait()
            return
        _require(node)
        client = await opened.enter_async_context(KubeClient(node.kube))
        recorder = Recorder(client, component=EVENT_SOURCE, host=node.node_name)
        enforcing = None
        if config.network_policy == "enforce":
            enforcing = await opened.enter_async_context(Enforcing(config, registry, recorder))
        live = Live(
            node.node_name,
            PROFILES[config.compat],
            recorder=recorder,
            updated=latency(registry, "felix_calc_graph_update_time_seconds", "Seconds per change of an object"),
            flushed=latency(registry, "terway_policy_flush_seconds", "Seconds per flush of the calculation"),
            # Observed, not enforced: what was told is in live.cluster.state.
            sink=enforcing.enforcer.take if enforcing is not None else lambda said: None,
        )
        inputs = Inputs(client, live.cluster.compat, live, period_s=config.discovery_s)
        report = Report(config.network_policy, live, inputs)
        report.register(registry)
        health.watch("in_sync", lambda: "" if live.cluster.state.in_sync else inputs.missing() or "about to be said")
        flushing = health.reporter("flush", 120.0)
        handlers: Handlers = NothingEnforced()
        routes = [*Pages(live).routes()]
        before_metrics: Callable[[], Awaitable[None]] | None = None
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(recorder.run(), name="policy-events"),
                tasks.create_task(inputs.run(), name="policy-inputs"),
                tasks.create_task(live.flushing.run(flushing), name="policy-flush"),
            ]
            if enforcing is None:
                await opened.enter_async_context(nothing_inside(node))
            else:
                await enforcing.observe(live)
                before_metrics = enforcing.counters.refresh
                handlers = gate = enforcing.gate(live, client, node.socket("eni_manager"))
                report.enforcing(enforcing.enforcer, gate)
                routes += enforcing.routes(gate)
                running += enforcing.start(tasks, live, gate, health, node.socket("ipam"))
            async with _faces(node, config, registry, health, report.state, handlers, routes, before_metrics):
                await stop.wait()
            for task in reversed(running):
                task.cancel()


async def _nothing_in_force() -> None:
    """What an earlier process enforced goes, and nothing else."""
    try:
        if await asyncio.to_thread(take_away, TABLE):
            log.info("rules_removed", table=TABLE)
    except SuiteError as error:
        # Whoever never enforced anything needs no right to look.
        log.info("rules_not_looked_for", why=error.message)


def _require(node: NodeConfig) -> None:
    """What the calculation cannot do without. Raises Refused."""
    if not node.kube.server:
        raise Refused("policy: network_policy needs the API server; set node.kube.server, or network_policy to off")
    if not node.node_name:
        raise Refused("policy: network_policy needs to know this node; set node.node_name or NODE_NAME")


def _off() -> object:
    return {"network_policy": "off", "watches": []}


@asynccontextmanager
async def _faces(
    node: NodeConfig,
    config: PolicyConfig,
    registry: CollectorRegistry,
    health: Health,
    state: Callable[[], object],
    handlers: Handlers,
    routes: Sequence[web.RouteDef] = (),
    before_metrics: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[None]:
    """HTTP first, as probes ask it; then the gateway."""
    rpc = Server(node.socket("policy"), name="policy", observe=metrics.rpc_observer(registry))
    rpc.register(contract.ATTACH, handlers.attach)
    rpc.register(contract.DETACH, handlers.detach)
    rpc.register(contract.CHECK, handlers.check)
    face = HttpFace(
        name="policy",
        host=config.http_host,
        port=config.http_port,
        health=health,
        state=state,
        registry=registry,
        routes=routes,
        before_metrics=before_metrics,
    )
    async with face, rpc:
        yield
