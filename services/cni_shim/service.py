"""Builds the gateway's adapters, wires the flow, starts the tasks."""

import asyncio
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.cni_shim.adapters.front import Front
from services.cni_shim.adapters.peers import Peer
from services.cni_shim.adapters.spool import Spool
from services.cni_shim.config import GatewayConfig
from services.cni_shim.handlers import Handlers, Observer
from services.cni_shim.loops import honour_notes, look_for_peers
from services.cni_shim.pipeline import Peers, Pipeline
from services.cni_shim.turns import Turns
from shared import metrics
from shared.config import NodeConfig
from shared.health import Health
from shared.http import HttpFace
from shared.lifecycle import InstanceLock
from shared.reconcile import ReconcileLoop
from shared.rpc.client import Client

STALLED_AFTER_S = 60.0
"""A loop that has not come round for this long, beyond its period, does not live."""


async def serve(config: GatewayConfig, node: NodeConfig, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises Refused when another instance runs or the port is taken."""
    registry, health = metrics.registry("gateway"), Health()
    async with AsyncExitStack() as opened:
        opened.enter_context(InstanceLock(node.lock("gateway")))

        async def peer(service: str) -> Peer:
            client = await opened.enter_async_context(Client(node.socket(service), name=service))
            return Peer(client, node.socket(service))

        peers = Peers(ipam=await peer("ipam"), eni=await peer("eni_manager"), policy=await peer("policy"))
        spool, turns = Spool(node.spool), Turns()
        pipeline = Pipeline(peers, spool, turns)
        handlers = Handlers(pipeline, peers, turns, _observer(registry))
        front = Front(node.socket("gateway"), handlers.answer, drain_s=config.drain_s)
        conditions = {peer.name: health.condition(peer.name) for peer in peers}
        loops = (
            ReconcileLoop(
                "gateway-spool",
                lambda: honour_notes(spool, pipeline),
                retry_s=config.spool_period_s,
                resync_s=config.spool_period_s,
                reporter=health.reporter("spool", config.spool_period_s + STALLED_AFTER_S),
            ),
            ReconcileLoop(
                "gateway-peers",
                lambda: look_for_peers(peers, conditions),
                retry_s=config.probe_period_s,
                resync_s=config.probe_period_s,
                reporter=health.reporter("peers", config.probe_period_s + STALLED_AFTER_S),
            ),
        )
        metrics.computed_gauge(
            registry, "terway_cni_deferred_deletes", "DELs in the spool", lambda: [((), spool.waiting)]
        )
        face = HttpFace(
            name="gateway",
            host=config.http_host,
            port=config.http_port,
            health=health,
            state=lambda: {
                "running": front.running,
                "deferred_deletes": spool.waiting,
                "spool": str(spool.directory),
                "peers": {name: condition.why or "listens" for name, condition in conditions.items()},
            },
            registry=registry,
        )
        await opened.enter_async_context(face)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(loop.run(), name=loop.name) for loop in loops]
            async with front:
                await stop.wait()
            for task in running:
                task.cancel()


def _observer(registry: CollectorRegistry) -> Observer:
    calls = Counter("terway_cni_calls", "Calls of the shim", ("command", "code"), registry=registry)
    seconds = Histogram(
        "terway_cni_seconds",
        "Seconds per call, without the exec of the shim",
        ("command",),
        registry=registry,
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    )

    def observe(command: str, code: int, took: float) -> None:
        calls.labels(command, str(code)).inc()
        seconds.labels(command).observe(took)

    return observe
