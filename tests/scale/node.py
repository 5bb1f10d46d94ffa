"""One node of many: eni_manager and ipam as they are, but for sockets, threads and the kernel; on virtual time."""

import asyncio
from itertools import count
from typing import NamedTuple, cast

import aiohttp

from compose.lab.cloud.core.model import Instance
from services.eni_manager.adapters.credentials import Credentials, FixedKeys
from services.eni_manager.adapters.ecs import Ecs
from services.eni_manager.adapters.imds import Metadata
from services.eni_manager.adapters.journal import Journal
from services.eni_manager.adapters.openapi import Endpoints, OpenApi
from services.eni_manager.adapters.pacing import Buckets
from services.eni_manager.core.fleet import Fleet
from services.eni_manager.core.model import limits
from services.eni_manager.core.node import Node as Place
from services.eni_manager.handlers import InventoryHandlers, News
from services.eni_manager.loops import Loops, learn_node, learn_pauses
from services.eni_manager.world import World
from services.ipam.core.allocate import Wish
from shared.backoff import TABLE
from shared.contracts.ipam import Lease
from shared.eni_conf import EniConf
from shared.errors import SuiteError
from shared.health import Health
from shared.model import AttachmentKey, Mac, Mode, PodKey, Subnet
from shared.reconcile import ReconcileLoop
from shared.secret import Secret
from shared.sqlite import Database
from tests.pool_and_enis.node import EniLife, IpamLife, Wire, Writer, disks
from tests.scale.cloud import KEY, SECRET, Door, Sky

CONF = EniConf(min_pool_size=1, max_pool_size=5, vswitches={"cn-lab-a": ["vsw-lab-a"]}, security_group="sg-lab")
COMPARE_EVERY_S = 120.0


class Uplink(NamedTuple):
    name: str


class Devices:
    """A kernel in which the link of every ENI that the metadata service lists is there."""

    async def wait_for_link(self, mac: Mac, timeout_s: float) -> object:
        return mac

    async def ensure_eni(self, mac: Mac, subnet4: Subnet | None, subnet6: Subnet | None) -> Uplink:
        return Uplink("eth1")

    async def set_nat(self, nat: object) -> None:
        return None


class Manager:
    """eni_manager, from the first word to the metadata service on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, sky: Sky, instance: Instance) -> None:
        self._sky, self._instance, self._names, self._number = sky, instance, count(1), number
        _, disk = disks()
        self.journal = Journal(cast(Database, Writer(disk)))
        self.news = News()
        self.fleet = Fleet(epoch=f"e{number}", mode=Mode.SHARED_VETH, on_change=self.news.publish)
        self.rpc: InventoryHandlers | None = None
        self.attempts_to_learn, self.last_error = 0, ""
        self.task = loop.create_task(self._live(), name=f"eni-manager-{number}")

    async def _live(self) -> None:
        health = Health()
        door = cast(aiohttp.ClientSession, Door(self._sky, self._instance))
        metadata = Metadata(door)
        keys = FixedKeys(Credentials(KEY, Secret(SECRET), source="test"))
        endpoints = Endpoints("cn-lab", overrides={"Ecs": "http://cloud", "Vpc": "http://cloud"})
        api = OpenApi(door, keys, region="cn-lab", endpoints=endpoints, buckets=Buckets({}, crowd=TABLE["throttled"]))
        cloud = Ecs(api, backoffs=TABLE)
        place = await self._learn(cloud, metadata)
        self.fleet.set_limits(limits(place.kind, most=CONF.max_enis(place.kind.enis)))
        world = World(
            cloud=cloud,
            metadata=metadata,
            wires=Devices(),
            journal=self.journal,
            fleet=self.fleet,
            node=place,
            conf=CONF,
            backoffs=TABLE,
            decide=lambda: decide.poke(),
            clock=self._sky.cloud.clock,
        )
        async with asyncio.TaskGroup() as tasks:
            loops = Loops(
                world, tasks, in_sync=health.condition("cloud"), unique=lambda: f"{self._number}-{next(self._names)}"
            )
            decide = ReconcileLoop("placement", loops.decide, settle_s=0.3, resync_s=15.0)
            compare = ReconcileLoop("comparison", loops.compare, resync_s=COMPARE_EVERY_S)
            self.rpc = InventoryHandlers(
                self.fleet, self.news, decide=decide.poke, take_back=world.give_back, tidy=loops.poke
            )
            loops.resume()
            tasks.create_task(decide.run())
            tasks.create_task(compare.run())

    async def _learn(self, cloud: Ecs, metadata: Metadata) -> Place:
        pauses = learn_pauses()
        while True:
            self.attempts_to_learn += 1
            try:
                return await learn_node(cloud, metadata, self.journal, CONF, "cn-lab")
            except SuiteError as error:
                self.last_error = error.message
                await asyncio.sleep(next(pauses))


class Node:
    """Both services of a machine, and its pods."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, sky: Sky, instance_type: str) -> None:
        self.number = number
        instance = sky.machine(f"node{number}", instance_type)
        self.manager = Manager(loop, number, sky, instance)
        life = cast(EniLife, self.manager)
        self.ipam = IpamLife(loop, number, Wire(lambda: life), disks()[0])

    async def add(self, pod: int, within_s: float) -> Lease:
        """One ADD, as ipam is asked for it; raises what ipam says."""
        ends = asyncio.get_running_loop().time() + within_s
        while self.ipam.ledger is None:  # noqa: ASYNC110  # a few turns of the loop
            await asyncio.sleep(0.01)
        wish = Wish(AttachmentKey("terway", f"c{self.number}-{pod}", "eth0"), PodKey("default", f"p{pod}"))
        return await self.ipam.ledger.acquire(wish, ends)

    async def stop(self) -> None:
        """End both; a bug that has ended one before is raised."""
        tasks = (self.manager.task, self.ipam.task)
        for task in tasks:
            task.cancel()
        for task in tasks:
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
