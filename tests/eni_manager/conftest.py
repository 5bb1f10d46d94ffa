"""A node of the lab's cloud on loopback, and eni_manager running against it, without a kernel."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from blockbuster import BlockBuster, blockbuster_ctx
from msgspec.structs import replace

from compose.lab.cloud import CLOUD, Account, Cloud, NullFabric, build_app
from compose.lab.cloud.core.layout import Layout
from compose.lab.cloud.core.model import AccessKey, Delays, Instance
from services.eni_manager.config import EniManagerConfig, Settings
from services.eni_manager.core.wiring.vpc_route import Nat
from services.eni_manager.service import serve
from shared.backoff import TABLE, Backoff
from shared.config import NodeConfig
from shared.contracts.eni import (
    DEMAND,
    GIVE_BACK,
    WATCH,
    Attachments,
    Check,
    Checked,
    Demand,
    EniAddress,
    GiveBack,
    GivenBack,
    Inventory,
    Limit,
    Limited,
    Plug,
    Plugged,
    Unplug,
    Unplugged,
    Watch,
)
from shared.duration import Duration
from shared.eni_conf import EniConf
from shared.errors import SuiteError, Unavailable
from shared.model import Ip, Mac, Mode, Subnet
from shared.rpc.client import Client
from shared.secret import Secret

QUICK = Backoff(0.01, 1.2, steps=40)
DELAYS = Delays(attach=(0.01, 0.02), detach=(0.01, 0.02), delete=(0.01, 0.02), metadata=(0.01, 0.02))
TYPE = "ecs.g6.2xlarge"
"""4 ENIs, 10 addresses each: 30 pods."""


class Uplink(NamedTuple):
    name: str


class NoKernel:
    """Stands in for the dataplane: every ENI's device is there at once, unless its MAC is in `absent`."""

    def __init__(self) -> None:
        self.absent: set[Mac] = set()
        self.wired: list[Mac] = []
        self.nats: list[Nat] = []

    async def __aenter__(self) -> "NoKernel":
        return self

    async def __aexit__(self, *exc: Any) -> None:
        return None

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait_for_link(self, mac: Mac, timeout_s: float) -> object:
        if mac in self.absent:
            raise Unavailable(f"no link with MAC {mac} appeared in {timeout_s:g} s")
        return mac

    async def ensure_eni(self, mac: Mac, subnet4: Subnet | None, subnet6: Subnet | None) -> Uplink:
        self.wired.append(mac)
        return Uplink("eth1")

    async def set_nat(self, nat: Nat) -> None:
        self.nat = nat
        self.nats.append(nat)

    async def plug(self, request: Plug) -> Plugged:
        raise NotImplementedError

    async def unplug(self, request: Unplug) -> Unplugged:
        raise NotImplementedError

    async def limit(self, request: Limit) -> Limited:
        return Limited()

    async def check(self, request: Check) -> Checked:
        raise NotImplementedError

    async def attachments(self) -> Attachments:
        return Attachments([])


class CloudOfOne(NamedTuple):
    """The lab's cloud with one instance, and where it is served."""

    url: str
    account: Account
    instance: Instance
    cloud: Cloud

    def enis(self) -> list[Any]:
        """Secondary ENIs, whoever has them."""
        return [eni for eni in self.account.enis.values() if eni.type == "Secondary"]

    def addresses(self) -> int:
        """How many addresses they have in all."""
        return sum(len(eni.ipv4) for eni in self.enis())


class Site(NamedTuple):
    """What a test may ask of the cloud: `parametrize("cloud", [Site(…)], indirect=True)`."""

    layout: Layout = Layout()
    instance_type: str = TYPE


@pytest.fixture
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[CloudOfOne]:
    site: Site = getattr(request, "param", Site())
    account = Account(site.layout, delays=DELAYS)
    account.add_key(AccessKey("ak", "s3cr3t"))
    instance = account.run_instance("node1", vswitch="vsw-lab-a", instance_type=site.instance_type, now=time.time())
    app = build_app(account, NullFabric(), metadata_for=instance.id)
    async with TestServer(app) as server:
        yield CloudOfOne(str(server.make_url("")), account, instance, app[CLOUD])


@pytest.fixture
def nothing_blocks() -> Iterator[BlockBuster]:
    """Waiting for SQLite, a socket or a sleep on the event loop, in our code, is an error."""
    with blockbuster_ctx(["services.eni_manager", "shared"]) as buster:
        for name, function in buster.functions.items():
            if not name.startswith(("sqlite3.", "socket.", "ssl.", "time.")):
                function.deactivate()
        yield buster


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


class Running:
    """A running eni_manager and ipam's side of its socket."""

    def __init__(self, client: Client, wiring: NoKernel, http: str) -> None:
        self.client, self.wiring, self.http = client, wiring, http

    async def demand(self, total: int, *, waiting: int = 0) -> None:
        await self.client.call(DEMAND, Demand(total, waiting))

    async def give_back(self, *items: Ip) -> GivenBack:
        return await self.client.call(GIVE_BACK, GiveBack(list(items)))

    async def inventory(self) -> Inventory:
        return await self.client.call(WATCH, Watch())

    async def until(self, true: Callable[[Inventory], bool], *, within_s: float = 30.0) -> Inventory:
        """The first inventory that `true` accepts."""
        seen = await self.inventory()
        try:
            async with asyncio.timeout(within_s):
                while not true(seen):
                    seen = await self.client.call(WATCH, Watch(seen.epoch, seen.generation, wait_s=within_s))
        except TimeoutError:
            raise AssertionError(f"never came; last seen: {seen}") from None
        return seen

    async def until_usable(self, count: int) -> Inventory:
        return await self.until(lambda seen: seen.synced and len(usable(seen)) == count)


def usable(inventory: Inventory) -> list[EniAddress]:
    return [address for eni in inventory.enis for address in eni.addresses if address.usable]


Start = Callable[..., Any]


@pytest.fixture
def start(cloud: CloudOfOne, tmp_path: Path) -> Start:
    """`async with start(backoffs, mode, conf changes…) as running`: against the cloud; the journal stays."""

    @asynccontextmanager
    async def started(
        backoffs: dict[str, Backoff] | None = None, mode: Mode = Mode.SHARED_VETH, **conf: Any
    ) -> AsyncIterator[Running]:
        node = NodeConfig(run_dir=tmp_path / "run", state_dir=tmp_path / "state")
        wiring = NoKernel()
        settings = settings_for(cloud.url, backoffs, http_port=(port := free_port()), **conf)
        settings = settings._replace(own=replace(settings.own, mode=mode, allowed_modes=(mode,)))
        stop = asyncio.Event()
        service = asyncio.create_task(serve(node, settings, stop, wiring=wiring), name="eni_manager")
        async with Client(node.socket("eni_manager"), name="ipam") as client:
            running = Running(client, wiring, f"http://127.0.0.1:{port}")
            await answers(running.inventory, service)
            try:
                yield running
            finally:
                stop.set()
                await service

    return started


async def answers(ask: Callable[[], Awaitable[Any]], service: asyncio.Task[None]) -> None:
    """Ask until there is an answer, or the service has ended."""
    async with asyncio.timeout(10):
        while not service.done():
            try:
                await ask()
                return
            except SuiteError:
                await asyncio.sleep(0.01)
    await service
    raise AssertionError("the service has ended")


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_for(url: str, backoffs: dict[str, Backoff] | None = None, *, http_port: int = 0, **conf: Any) -> Settings:
    own = EniManagerConfig(
        http_port=http_port, metadata_url=url, ecs_endpoint=url, vpc_endpoint=url, gather_s=0.01, device_wait_s=0.05
    )
    given = {
        "access_key": Secret("ak"),
        "access_secret": Secret("s3cr3t"),
        "backoff_override": {**dict.fromkeys(TABLE, QUICK), **(backoffs or {})},
        "ip_pool_sync_period": Duration(0.2),
        "rate_limit": dict.fromkeys(RATED, 60_000),
        **conf,
    }
    return Settings(own, EniConf(**given))


RATED = (
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeNetworkInterfaces",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
    "DescribeInstanceTypes",
    "DescribeVSwitches",
)
