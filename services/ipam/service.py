"""Builds ipam's parts, wires them, starts what runs, and stops it in order."""

import asyncio
import time
from contextlib import AsyncExitStack

from services.ipam.adapters.enis import Enis
from services.ipam.adapters.node import NodeCondition
from services.ipam.adapters.pods import Pods
from services.ipam.adapters.store import Store
from services.ipam.config import IpamConfig, Settings
from services.ipam.core.pool import Pool
from services.ipam.core.stickiness import stateful_kinds
from services.ipam.driver import Clock, Ledger, steady_clock
from services.ipam.handlers import Handlers
from services.ipam.limits import Limits
from services.ipam.loops import (
    WARMED_UP,
    Demand,
    Garbage,
    GarbageConfig,
    GiveBack,
    Sufficient,
    reclaim_pace,
    watch_inventory,
)
from services.ipam.owners import rebuild
from services.ipam.report import Report
from shared import log as logs
from shared import metrics
from shared.config import NodeConfig
from shared.contracts import ipam as contract
from shared.contracts.ipam import Lease
from shared.health import Health
from shared.http import HttpFace
from shared.kube.client import KubeClient
from shared.lifecycle import InstanceLock
from shared.reconcile import ReconcileLoop
from shared.rpc.client import Client
from shared.rpc.server import Observer, Server

log = logs.get(__name__)

DEMAND_SETTLE_S = 0.03
"""Pods that come in a burst are one demand; the cloud takes ten times longer to answer it."""
HEARTBEAT_S = 300.0
"""How often the node's condition is said though it has not changed (terway.md §3.2)."""
CONDITION_SETTLE_S = 2.0
"""A shortage that is over before that is nobody's business."""
RESYNC_S = 60.0
"""How often the reconcile loops run though nothing happened."""


async def serve(node: NodeConfig, settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Refused: another instance runs, the port is taken, the database is not ours."""
    config, sync_period_s = settings.ipam, settings.eni_conf.ip_pool_sync_period
    registry, health = metrics.registry("ipam"), Health()
    clock = steady_clock(time.time(), asyncio.get_running_loop())
    tasks = asyncio.TaskGroup()

    async with AsyncExitStack() as opened:
        opened.enter_context(InstanceLock(node.lock("ipam")))
        store = await opened.enter_async_context(await Store.open(node.database("ipam")))
        pool, milestones = await _remembered(store, clock, config)
        enis = Enis(await opened.enter_async_context(Client(node.socket("eni_manager"), name="eni_manager")))
        pods = node_condition = None
        if node.kube.server:
            client = await opened.enter_async_context(KubeClient(node.kube))
            kinds = stateful_kinds(settings.eni_conf.custom_stateful_workload_kinds)
            pods = Pods(client, node.node_name, kinds, limits_changed=lambda: limits_changed())

            if node.node_name:
                node_condition = NodeCondition(client, node.node_name, heartbeat_s=HEARTBEAT_S - 1.0, clock=clock)

        def changed() -> None:
            demanding.poke()
            if reporting is not None:
                reporting.poke()
            limits_changed()
            if pool.marks:
                handing_over.poke()

        def limits_changed() -> None:
            if limiting is not None:
                limiting.poke()

        def sticky(lease: Lease) -> bool:
            """As the ADD found it, or as is known by now: the pods' watch may have been behind."""
            return lease.sticky or (pods is not None and pods.is_stateful(lease.pod, lease.pod_uid))

        def warned(reason: str, what: str) -> None:
            if pods is not None:
                pods.warn_node(reason, what)

        def lost(lease: Lease, what: str) -> None:
            if pods is not None:
                pods.warn(lease.pod, lease.pod_uid, "ResourceInvalid", what)

        ledger = Ledger(
            pool,
            store,
            clock,
            tasks,
            cooldown_s=config.cooldown_s,
            changed=changed,
            sticky_s=config.sticky_s,
            sticky=sticky,
            lost=lost,
        )
        demand = Demand(ledger, enis, settings.eni_conf, warmed_up=WARMED_UP in milestones)
        give_back = GiveBack(ledger, enis, demand)
        demanding = ReconcileLoop(
            "demand",
            demand.tell,
            settle_s=DEMAND_SETTLE_S,
            retry_s=1.0,
            resync_s=RESYNC_S,
            reporter=health.reporter("demand", 3 * RESYNC_S),
        )
        handing_over = ReconcileLoop(
            "give-back", give_back.hand_over, resync_s=RESYNC_S, reporter=health.reporter("give-back", 3 * RESYNC_S)
        )
        garbage = None
        if pods is not None:
            times = GarbageConfig(config.garbage_period_s, config.garbage_confirm_s, config.garbage_min_age_s)
            garbage = Garbage(ledger, enis, pods, times)
        handlers = Handlers(ledger, enis, pods, longest_wait_s=config.acquire_wait_s, annotate=config.annotate_pods)
        limiting = None
        if pods is not None:
            limiting = ReconcileLoop(
                "limits",
                Limits(ledger, enis, pods, handlers).follow,
                retry_s=1.0,
                resync_s=RESYNC_S,
                reporter=health.reporter("limits", 3 * RESYNC_S),
            )
        reporting = None
        if node_condition is not None:
            reporting = ReconcileLoop(
                "node-condition",
                Sufficient(ledger, demand, node_condition).tell,
                settle_s=CONDITION_SETTLE_S,
                retry_s=30.0,
                resync_s=HEARTBEAT_S,
                reporter=health.reporter("node-condition", 3 * HEARTBEAT_S),
            )
        report = Report(ledger, enis, demand, handlers, garbage, pods)
        report.register(registry)
        face = HttpFace(
            name="ipam",
            host=config.http_host,
            port=config.http_port,
            health=health,
            state=report.state,
            registry=registry,
        )
        await opened.enter_async_context(face)
        synced = health.condition("inventory")

        async with tasks:
            loops = [
                tasks.create_task(demanding.run(), name="ipam-demand"),
                tasks.create_task(handing_over.run(), name="ipam-give-back"),
                tasks.create_task(
                    give_back.shrink(
                        sync_period_s, handing_over.poke, health.reporter("shrink", 3 * sync_period_s + 30.0)
                    ),
                    name="ipam-shrink",
                ),
                tasks.create_task(
                    watch_inventory(
                        ledger,
                        enis,
                        wait_s=config.watch_wait_s,
                        synced=synced,
                        reporter=health.reporter("inventory", 3 * config.watch_wait_s + 30.0),
                        reached=changed,
                        warned=warned,
                        first=lambda: rebuild(ledger, enis),
                    ),
                    name="ipam-inventory",
                ),
            ]
            if (pace := reclaim_pace(settings.eni_conf)) is not None:
                loops.append(tasks.create_task(give_back.reclaim(pace, handing_over.poke), name="ipam-reclaim"))
            if reporting is not None:
                loops.append(tasks.create_task(reporting.run(), name="ipam-node-condition"))
            if limiting is not None:
                loops.append(tasks.create_task(limiting.run(), name="ipam-limits"))
            if pods is not None and garbage is not None:
                alive = health.reporter("garbage", 3 * config.garbage_period_s + 30.0)
                loops.append(tasks.create_task(pods.run(), name="ipam-pods"))
                loops.append(tasks.create_task(garbage.run(alive), name="ipam-garbage"))
            async with _rpc(node, handlers, metrics.rpc_observer(registry)):
                await stop.wait()
                ledger.close("ipam is stopping")  # else the server would wait for those who wait for an address
            for loop in reversed(loops):
                loop.cancel()


async def _remembered(store: Store, clock: Clock, config: IpamConfig) -> tuple[Pool, frozenset[str]]:
    """The pool as it was durable when ipam stopped, and the milestones."""
    remembered = await store.load(clock() + config.cooldown_s, clock() + config.sticky_s)
    pool = Pool()
    pool.restore(remembered.leases, remembered.resting, remembered.given_back, clock(), remembered.promises)
    log.info("restored", leases=len(remembered.leases), given_back=len(remembered.given_back))
    return pool, remembered.milestones


def _rpc(node: NodeConfig, handlers: Handlers, observe: Observer) -> Server:
    server = Server(node.socket("ipam"), name="ipam", observe=observe)
    server.register(contract.ACQUIRE, handlers.acquire)
    server.register(contract.RELEASE, handlers.release)
    server.register(contract.INSPECT, handlers.inspect)
    server.register(contract.LEASES, handlers.leases)
    server.register(contract.STATUS, handlers.status)
    return server
