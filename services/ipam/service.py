"""Builds ipam's parts, wires them, starts what runs, and stops it in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

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
from shared.rpc.server import Server

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
    clock = steady_clock(time.time(), asyncio.get_running_loop())
    tasks = asyncio.TaskGroup()
    async with AsyncExitStack() as opened:
        opened.enter_context(InstanceLock(node.lock("ipam")))
        store = await opened.enter_async_context(await Store.open(node.database("ipam")))
        pool, milestones = await _remembered(store, clock, settings.ipam)
        enis = Enis(await opened.enter_async_context(Client(node.socket("eni_manager"), name="eni_manager")))
        client = await opened.enter_async_context(KubeClient(node.kube)) if node.kube.server else None
        service = _Service(node, settings, clock, tasks, store, pool, milestones, enis, client)
        await opened.enter_async_context(service.face())
        async with tasks:
            loops = [tasks.create_task(run, name=f"ipam-{name}") for name, run in service.loops()]
            async with service.rpc():
                await stop.wait()
                service.ledger.close("ipam is stopping")  # else the server would wait for who waits for an address
            for loop in reversed(loops):
                loop.cancel()


async def _remembered(store: Store, clock: Clock, config: IpamConfig) -> tuple[Pool, frozenset[str]]:
    """The pool as it was durable when ipam stopped, and the milestones."""
    remembered = await store.load(clock() + config.cooldown_s, clock() + config.sticky_s)
    pool = Pool()
    pool.restore(remembered.leases, remembered.resting, remembered.given_back, clock(), remembered.promises)
    log.info("restored", leases=len(remembered.leases), given_back=len(remembered.given_back))
    return pool, remembered.milestones


class _Service:
    """The parts of one run, and what they tell each other. What needs the API server is None without one."""

    def __init__(
        self,
        node: NodeConfig,
        settings: Settings,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        store: Store,
        pool: Pool,
        milestones: frozenset[str],
        enis: Enis,
        client: KubeClient | None,
    ) -> None:
        self._node, self._settings, self._pool, self._enis = node, settings, pool, enis
        self._registry, self._health = metrics.registry("ipam"), Health()
        self._synced = self._health.condition("inventory")
        config, conf = settings.ipam, settings.eni_conf
        self._pods: Pods | None = None
        if client is not None:
            kinds = stateful_kinds(conf.custom_stateful_workload_kinds)
            self._pods = Pods(client, node.node_name, kinds, limits_changed=self._limits_changed)
        self.ledger = Ledger(
            pool,
            store,
            clock,
            tasks,
            cooldown_s=config.cooldown_s,
            changed=self._changed,
            sticky_s=config.sticky_s,
            sticky=self._sticky,
            lost=self._lost,
        )
        self._demand = Demand(self.ledger, enis, conf, warmed_up=WARMED_UP in milestones)
        self._give_back = GiveBack(self.ledger, enis, self._demand)
        self._handlers = Handlers(
            self.ledger, enis, self._pods, longest_wait_s=config.acquire_wait_s, annotate=config.annotate_pods
        )
        self._garbage: Garbage | None = None
        if self._pods is not None:
            times = GarbageConfig(config.garbage_period_s, config.garbage_confirm_s, config.garbage_min_age_s)
            self._garbage = Garbage(self.ledger, enis, self._pods, times)
        self._demanding = self._reconciling("demand", self._demand.tell, settle_s=DEMAND_SETTLE_S, retry_s=1.0)
        self._handing_over = self._reconciling("give-back", self._give_back.hand_over)
        self._limiting: ReconcileLoop | None = None
        if self._pods is not None:
            limits = Limits(self.ledger, enis, self._pods, self._handlers)
            self._limiting = self._reconciling("limits", limits.follow, retry_s=1.0)
        self._reporting: ReconcileLoop | None = None
        if client is not None and node.node_name:
            condition = NodeCondition(client, node.node_name, heartbeat_s=HEARTBEAT_S - 1.0, clock=clock)
            self._reporting = self._reconciling(
                "node-condition",
                Sufficient(self.ledger, self._demand, condition).tell,
                settle_s=CONDITION_SETTLE_S,
                retry_s=30.0,
                resync_s=HEARTBEAT_S,
            )

    def _reconciling(
        self, name: str, body: Callable[[], Awaitable[None]], *, resync_s: float = RESYNC_S, **pace: float
    ) -> ReconcileLoop:
        reporter = self._health.reporter(name, 3 * resync_s)
        return ReconcileLoop(name, body, resync_s=resync_s, reporter=reporter, **pace)

    # ---- what one part tells others

    def _changed(self) -> None:
        self._demanding.poke()
        if self._reporting is not None:
            self._reporting.poke()
        self._limits_changed()
        if self._pool.marks:
            self._handing_over.poke()

    def _limits_changed(self) -> None:
        if self._limiting is not None:
            self._limiting.poke()

    def _sticky(self, lease: Lease) -> bool:
        """As the ADD found it, or as is known by now: the pods' watch may have been behind."""
        return lease.sticky or (self._pods is not None and self._pods.is_stateful(lease.pod, lease.pod_uid))

    def _warned(self, reason: str, what: str) -> None:
        if self._pods is not None:
            self._pods.warn_node(reason, what)

    def _lost(self, lease: Lease, what: str) -> None:
        if self._pods is not None:
            self._pods.warn(lease.pod, lease.pod_uid, "ResourceInvalid", what)

    # ---- faces

    def face(self) -> HttpFace:
        """/state and /metrics, and whether all is well."""
        report = Report(self.ledger, self._enis, self._demand, self._handlers, self._garbage, self._pods)
        report.register(self._registry)
        return HttpFace(
            name="ipam",
            host=self._settings.ipam.http_host,
            port=self._settings.ipam.http_port,
            health=self._health,
            state=report.state,
            registry=self._registry,
        )

    def rpc(self) -> Server:
        """What the gateway and policy ask."""
        server = Server(self._node.socket("ipam"), name="ipam", observe=metrics.rpc_observer(self._registry))
        server.register(contract.ACQUIRE, self._handlers.acquire)
        server.register(contract.RELEASE, self._handlers.release)
        server.register(contract.INSPECT, self._handlers.inspect)
        server.register(contract.LEASES, self._handlers.leases)
        server.register(contract.STATUS, self._handlers.status)
        return server

    # ---- what runs unasked

    def loops(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Each with its name, in the order in which they start."""
        config, conf, health = self._settings.ipam, self._settings.eni_conf, self._health
        yield "demand", self._demanding.run()
        yield "give-back", self._handing_over.run()
        period_s = conf.ip_pool_sync_period
        alive = health.reporter("shrink", 3 * period_s + 30.0)
        yield "shrink", self._give_back.shrink(period_s, self._handing_over.poke, alive)
        yield (
            "inventory",
            watch_inventory(
                self.ledger,
                self._enis,
                wait_s=config.watch_wait_s,
                synced=self._synced,
                reporter=health.reporter("inventory", 3 * config.watch_wait_s + 30.0),
                reached=self._changed,
                warned=self._warned,
                first=lambda: rebuild(self.ledger, self._enis),
            ),
        )
        if (pace := reclaim_pace(conf)) is not None:
            yield "reclaim", self._give_back.reclaim(pace, self._handing_over.poke)
        if self._reporting is not None:
            yield "node-condition", self._reporting.run()
        if self._limiting is not None:
            yield "limits", self._limiting.run()
        if self._pods is not None and self._garbage is not None:
            yield "pods", self._pods.run()
            yield "garbage", self._garbage.run(health.reporter("garbage", 3 * config.garbage_period_s + 30.0))
