"""Builds eni_manager's adapters, wires the flow, starts the tasks.

The RPC face is up at once: pods can be wired while the cloud is out of reach. What needs the cloud starts when the
node's facts are known, and says in /readyz what it waits for.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import aiohttp
import msgspec
from aiohttp import web
from msgspec.structs import replace

from services.eni_manager.adapters import credentials, host, kernel
from services.eni_manager.adapters.device_plugin import DevicePlugin
from services.eni_manager.adapters.ecs import Ecs
from services.eni_manager.adapters.imds import Metadata
from services.eni_manager.adapters.journal import Journal
from services.eni_manager.adapters.nodes import ClusterNodes
from services.eni_manager.adapters.openapi import Endpoints, OpenApi
from services.eni_manager.adapters.pacing import Buckets
from services.eni_manager.adapters.vpc import Vpc
from services.eni_manager.config import Settings
from services.eni_manager.core import capacity, preflight
from services.eni_manager.core.fleet import Fleet
from services.eni_manager.core.model import InstanceType, limits
from services.eni_manager.core.wiring.values import Node as Host
from services.eni_manager.core.wiring.vpc_route import Nat
from services.eni_manager.dataplane import Dataplane
from services.eni_manager.handlers import InventoryHandlers, News
from services.eni_manager.loops import Loops, backoffs, learn_node, learn_pauses
from services.eni_manager.observed import Metrics
from services.eni_manager.routes import Routes, Surroundings, left_behind
from services.eni_manager.world import Wires, World
from shared import log as logs
from shared import metrics
from shared.backoff import TABLE
from shared.config import NodeConfig
from shared.contracts import eni as contract
from shared.contracts.eni import (
    Attachments,
    Check,
    Checked,
    Limit,
    Limited,
    ListAttachments,
    Plug,
    Plugged,
    Unplug,
    Unplugged,
)
from shared.dump import dump_pretty
from shared.errors import Refused, SuiteError, Unavailable
from shared.health import Health
from shared.http import HttpFace
from shared.kube.client import KubeClient
from shared.lifecycle import InstanceLock
from shared.model import Cidr, Ip, Mode
from shared.reconcile import ReconcileLoop
from shared.rpc.server import Server

DECIDE_EVERY_S = 15.0
MODE_CHANGE_LOOK_S = 1.0
"""How soon a mode takes effect when the last pod of another one has gone."""
NAMED_PODS = 5
"""So many are named where there may be a hundred."""

HOST_STACK = "host_stack_cidrs"
"""The journal's note of them."""

log = logs.get(__name__)


class Wiring(Wires, Protocol):
    """What plugs pods and ENIs: dataplane.Dataplane, or a stand-in for tests of the cloud half."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *exc: Any) -> None: ...

    async def run(self) -> None: ...

    async def plug(self, request: Plug) -> Plugged: ...

    async def unplug(self, request: Unplug) -> Unplugged: ...

    async def check(self, request: Check) -> Checked: ...

    async def limit(self, request: Limit) -> Limited: ...

    async def attachments(self) -> Attachments: ...


async def serve(node: NodeConfig, settings: Settings, stop: asyncio.Event, *, wiring: Wiring | None = None) -> None:
    """Serve until `stop` is set. Refused: another instance runs, the port is taken, the kernel lacks something."""
    fallen_back = ""
    async with AsyncExitStack() as opened:
        opened.enter_context(InstanceLock(node.lock("eni_manager")))
        if wiring is None:
            settings, fallen_back = await fitted(settings)
        journal = await opened.enter_async_context(await Journal.open(node.database("eni_manager")))
        health = Health()
        if wiring is None:
            reporter = health.reporter("wiring-repair", deadline_s=1200.0)
            own6 = host.default_source6() if settings.eni.ip_stack == "dual" else None
            own = Host(
                ipv4=_own_address(),
                ipv6=own6,
                mtu=settings.own.mtu,
                mode=settings.own.mode,
                host_stack=settings.host_stack,
                own_address=settings.own.services_keep_source,
            )
            stated = await _stated(journal)
            wiring = Dataplane(
                own,
                journal,
                stated=stated,
                symmetric=settings.symmetric_routing,
                marking=settings.marking,
                reporter=reporter,
            )
        await opened.enter_async_context(wiring)
        service = _Service(node, settings, journal, wiring, health)
        service.warn_of_fallback(fallen_back)
        await service.run(stop)


async def _stated(journal: Journal) -> tuple[Cidr, ...]:
    """What the CNI configuration stated last of what pods reach by the node's own stack (terway.md §2.3)."""
    noted = await journal.noted(HOST_STACK)
    return () if noted is None else msgspec.json.decode(noted, type=tuple[Cidr, ...])


async def fitted(settings: Settings) -> tuple[Settings, str]:
    """The settings with a mode that the kernel can carry, and why that is another one; empty: it is not.

    Refused: it cannot carry the mode, and falling back is not configured or no way out.
    """
    own = settings.own
    try:
        await require_kernel(own.mode)
    except Refused as lacking:
        if own.mode is not Mode.SHARED_IPVLAN or not own.ipvlan_fallback:
            raise
        await require_kernel(Mode.SHARED_VETH)
        because = f"{lacking.message}; mode {Mode.SHARED_VETH} runs instead, as ipvlan_fallback allows"
        log.warning("mode_fallen_back", because=because)
        return settings._replace(own=replace(own, mode=Mode.SHARED_VETH)), because
    return settings, ""


async def require_kernel(mode: Mode) -> None:
    """Refused, before anything is changed: the kernel cannot carry the mode; it names what is missing."""
    needs = preflight.NEEDS[mode]
    if lacking := preflight.kernel_lacks(mode, await asyncio.to_thread(kernel.known, needs)):
        raise Refused(f"mode {mode} cannot run on this node: its kernel has no {', no '.join(lacking)}")


def _own_address() -> Ip:
    address = host.default_source()
    if address is None:
        raise Unavailable("the node has no IPv4 default route, so pods would have no address to reach it by")
    return address


class _Service:
    """One run of the service, in the order of its methods."""

    _api: OpenApi

    def __init__(self, node: NodeConfig, settings: Settings, journal: Journal, wiring: Wiring, health: Health) -> None:
        self._node, self._settings, self._journal, self._wiring, self._health = node, settings, journal, wiring, health
        self._news = News()
        self._fleet = Fleet(epoch=uuid.uuid4().hex, mode=settings.own.mode, on_change=self._news.publish)
        self._fleet.dual = settings.eni.ip_stack == "dual"  # until the node's type says otherwise
        self._registry = metrics.registry("eni_manager")
        self._metrics = Metrics(self._registry, self._fleet)
        self._in_sync = health.condition("cloud")
        self._in_sync.missing("the node's facts are not known yet")
        self._world: World | None = None
        self._loops: Loops | None = None
        self._decide: ReconcileLoop | None = None
        self._source = ""
        self._stated: tuple[Cidr, ...] | None = None

    def warn_of_fallback(self, because: str) -> None:
        """ipam makes an event of every warning."""
        self._fleet.set_warnings("mode", {"fallback": because} if because else {})

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        self._fleet.enis = await self._journal.load()
        self._fleet.changed()
        async with AsyncExitStack() as opened:
            await opened.enter_async_context(self._face())
            await opened.enter_async_context(self._rpc())
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._wiring.run(), name="dataplane"),
                    tasks.create_task(self._cloud_side(), name="cloud-side"),
                ]
                await stop.wait()
                for task in reversed(running):
                    task.cancel()

    # ---- faces

    def _face(self) -> HttpFace:
        own = self._settings.own
        return HttpFace(
            name="eni_manager",
            host=own.http_host,
            port=own.http_port,
            health=self._health,
            state=self._state,
            registry=self._registry,
            routes=[web.get("/calls", self._calls)],
        )

    async def _calls(self, request: web.Request) -> web.Response:
        """The latest cloud calls that change something: what was meant, when, and what came of it."""
        return web.Response(body=dump_pretty(await self._journal.recent()), content_type="application/json")

    def _rpc(self) -> Server:
        rpc = Server(self._node.socket("eni_manager"), name="eni_manager", observe=metrics.rpc_observer(self._registry))
        inventory = InventoryHandlers(
            self._fleet, self._news, decide=self._poke_decide, take_back=self._take_back, tidy=self._tidy
        )
        rpc.register(contract.WATCH, inventory.watch, long_poll=True)
        rpc.register(contract.DEMAND, inventory.demand)
        rpc.register(contract.GIVE_BACK, inventory.give_back)
        rpc.register(contract.PLUG, self._plug)
        rpc.register(contract.UNPLUG, self._wiring.unplug)
        rpc.register(contract.CHECK, self._wiring.check)
        rpc.register(contract.LIMIT, self._wiring.limit)
        rpc.register(contract.ATTACHMENTS, self._attachments)
        return rpc

    async def _plug(self, request: Plug) -> Plugged:
        lease, mode = request.lease, self._fleet.mode
        if lease.mode is not mode and all(one.lease.key != lease.key for one in await self._journal.attachments()):
            raise Refused(f"the lease of {lease.pod} is of mode {lease.mode}, and this node's mode is {mode} by now")
        if request.host_stack not in (None, self._stated):
            self._stated = request.host_stack
            await self._journal.note(HOST_STACK, msgspec.json.encode(self._stated))
        return await self._wiring.plug(request)

    async def _attachments(self, request: ListAttachments) -> Attachments:
        return await self._wiring.attachments()

    async def _take_back(self, items: Sequence[Ip]) -> tuple[list[Ip], dict[Ip, str]]:
        if self._world is None:
            raise Unavailable("eni_manager does not know its node's place in the cloud yet")
        return await self._world.give_back(items)

    def _poke_decide(self) -> None:
        if self._decide is not None:
            self._decide.poke()

    def _tidy(self) -> None:
        if self._loops is not None:
            self._loops.poke()

    def _state(self) -> dict[str, object]:
        fleet, world, now = self._fleet, self._world, time.time()
        return {
            "mode": fleet.mode,
            "dual": fleet.dual,
            "node": None if world is None else world.node,
            "credentials": self._source,
            "synced": fleet.synced,
            "epoch": fleet.epoch,
            "generation": fleet.generation,
            "demand": {"total": fleet.total, "waiting": fleet.waiting},
            "limits": {"enis": fleet.limits.enis, "per_eni": fleet.limits.per_eni, "capacity": fleet.limits.capacity},
            "blocked": fleet.blocked,
            "ranges": fleet.ranges,
            "blocks": fleet.blocks.standing(now),
            "troubles": fleet.troubles,
            "warnings": sorted(fleet.warnings.values()),
            "plan": fleet.plan,
            "enis": [eni for _, eni in sorted(fleet.enis.items())],
            "notices": [] if world is None else list(world.notices),
        }

    # ---- the cloud's side

    async def _cloud_side(self) -> None:
        own, conf = self._settings.own, self._settings.eni
        async with aiohttp.ClientSession(trust_env=False) as session:
            metadata = Metadata(session, base_url=own.metadata_url, observe=self._metrics.metadata)
            await self._refuse_mode_change()
            world = self._world = await self._learn(session, metadata)
            if lacking := world.node.lacks(self._fleet.mode):
                self._refuse_instance("; ".join(lacking))
                return
            async with AsyncExitStack() as opened, asyncio.TaskGroup() as tasks:
                if (routes := await self._routes(opened, world, metadata)) is not None:
                    tasks.create_task(routes.run(self._health), name="routes")
                if self._fleet.mode is Mode.EXCLUSIVE_ENI and not conf.disable_device_plugin:
                    plugin = DevicePlugin(own.device_plugin_dir, lambda: self._fleet.limits.capacity, said=self._device)
                    tasks.create_task(plugin.run(), name="device-plugin")
                loops = self._loops = Loops(world, tasks, in_sync=self._in_sync)
                loops.resume()
                self._decide = ReconcileLoop(
                    "placement",
                    loops.decide,
                    settle_s=own.gather_s,
                    resync_s=DECIDE_EVERY_S,
                    reporter=self._health.reporter("placement", deadline_s=120.0),
                )
                compare = ReconcileLoop(
                    "comparison",
                    loops.compare,
                    resync_s=float(conf.ip_pool_sync_period),
                    reporter=self._health.reporter("comparison", deadline_s=4 * float(conf.ip_pool_sync_period) + 300),
                )
                tasks.create_task(self._decide.run(), name="placement")
                tasks.create_task(compare.run(), name="comparison")

    async def _refuse_mode_change(self) -> None:
        """Wait, saying why, until no pod of another mode is left. Those there are stay wired, and end as ever."""
        mode, said = self._fleet.mode, ""
        while others := await self._pods_of_other_modes():
            why = (
                f"mode {mode} is refused while pods of another mode run here ({others}): drain the node, or set "
                "eni_manager.mode back"
            )
            if why != said:
                log.error("mode_change_refused", mode=mode, because=why)
                self._in_sync.missing(why)
                self._fleet.set_refused(why)
                said = why
            await asyncio.sleep(MODE_CHANGE_LOOK_S)
        self._fleet.set_refused("")

    async def _pods_of_other_modes(self) -> str:
        """Pods that live and are wired otherwise than is configured, in words; empty: none."""
        alive = {one.key for one in (await self._wiring.attachments()).attachments if one.alive}
        leases = [one.lease for one in await self._journal.attachments() if one.lease.key in alive]
        others = sorted({f"{lease.pod} in {lease.mode}" for lease in leases if lease.mode is not self._fleet.mode})
        more = f" and {len(others) - NAMED_PODS} more" if len(others) > NAMED_PODS else ""
        return ", ".join(others[:NAMED_PODS]) + more

    async def _routes(self, opened: AsyncExitStack, world: World, metadata: Metadata) -> Routes | None:
        """What keeps the route table, in mode vpc-route and where that has left entries; None: nothing does."""
        own, conf, serving = self._settings.own, self._settings.eni, self._fleet.mode is Mode.VPC_ROUTE
        in_sync = self._health.condition("routes")
        if not serving:
            in_sync.met()
            await self._wiring.set_nat(Nat())
            if not await left_behind(self._journal):
                return None
        if not (self._node.kube.server and self._node.node_name):
            why = "mode vpc-route needs the API server and this node's name: set node.kube.server and node.node_name"
            if serving:
                in_sync.missing(why)
                self._fleet.set_trouble("routes", why)
            return None
        client = await opened.enter_async_context(KubeClient(self._node.kube))
        inside = (await metadata.text("vpc-cidr-block"), *own.no_masquerade)
        return Routes(
            world,
            Vpc(self._api, backoffs=world.backoffs),
            ClusterNodes(client),
            self._node.node_name,
            Surroundings(await metadata.text("vpc-id"), tuple(map(Cidr, inside)), own.route_table),
            dual=conf.ip_stack == "dual",
            in_sync=in_sync,
        )

    def _device(self, trouble: str) -> None:
        """What people should know of the device plugin; pods that do not ask for devices run without it."""
        self._fleet.set_warnings("devices", {"plugin": trouble} if trouble else {})

    def _refuse_instance(self, why: str) -> None:
        """Nothing is asked of the cloud. Pods that are wired stay so, and what there is no place for is told why."""
        log.error("mode_refused", mode=self._fleet.mode, because=why)
        self._in_sync.missing(why)
        self._fleet.set_trouble("instance", why)
        if not self._fleet.enis:
            self._fleet.set_synced(True)

    async def _learn(self, session: aiohttp.ClientSession, metadata: Metadata) -> World:
        """Everything that needs the node's facts, as soon as they can be had."""
        own, conf = self._settings.own, self._settings.eni
        table = backoffs(conf, TABLE)
        keys = await asyncio.to_thread(credentials.choose, conf, metadata, directory=own.addon_secret_dir)
        self._source = keys.source
        pauses = learn_pauses()
        while True:
            try:
                region = conf.region_id or await metadata.region()
                endpoints = Endpoints(
                    region,
                    overrides={"Ecs": own.ecs_endpoint, "Vpc": own.vpc_endpoint},
                    scheme=own.scheme or "https",
                    network="public" if own.endpoint_type == "public" else "vpc",
                )
                api = OpenApi(
                    session,
                    keys,
                    region=region,
                    endpoints=endpoints,
                    buckets=Buckets(conf.rate_limit, crowd=table["throttled"]),
                    observe=self._metrics.openapi,
                    trouble=lambda action, why: self._fleet.set_trouble(f"call {action}", why),
                    attempt_timeout_s=own.call_timeout_s,
                )
                self._api, cloud = api, Ecs(api, backoffs=table)
                place = await learn_node(cloud, metadata, self._journal, conf, region)
                break
            except SuiteError as error:
                self._in_sync.missing(error.message)
                pause = next(pauses)
                log.warning("node_not_known", because=error.message, again_in_s=round(pause, 1))
                await asyncio.sleep(pause)
        self._in_sync.missing("not yet compared with the cloud")
        exclusive = own.mode is Mode.EXCLUSIVE_ENI
        self._fleet.set_limits(limits(place.kind, most=conf.max_enis(place.kind.enis), exclusive=exclusive))
        dual = conf.ip_stack == "dual" and not self._without_dual(place.kind)
        log.info("node_known", instance=place.instance, type=place.kind.name, zone=place.zone)
        return World(
            cloud=cloud,
            metadata=metadata,
            wires=self._wiring,
            journal=self._journal,
            fleet=self._fleet,
            node=place,
            conf=conf,
            backoffs=table,
            decide=self._poke_decide,
            allocated=self._metrics.allocated,
            device_wait_s=own.device_wait_s,
            dual=dual,
        )

    def _without_dual(self, kind: InstanceType) -> str:
        """Why the node serves IPv4 alone though dual stack is configured, as Terway does; empty: it need not.

        Said as a warning for as long as it is so.
        """
        lacking = capacity.dual_lacks(kind, exclusive=self._fleet.mode is Mode.EXCLUSIVE_ENI)
        if not lacking and not host.has_ipv6():
            lacking = "its kernel has no IPv6"
        if lacking:
            log.warning("dual_stack_refused", because=lacking)
            self._fleet.set_warnings("ip_stack", {"dual": f"pods of this node get IPv4 addresses only: {lacking}"})
        return lacking
