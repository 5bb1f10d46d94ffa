"""200 ADDs at once on a cold node with room for them: all are served, by few cloud calls, soon after the first address.

ipam and eni_manager as they run, with their sockets and databases, against the lab's cloud over HTTP; no kernel.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from compose.lab.cloud import CLOUD, Account, NullFabric, build_app
from compose.lab.cloud.core.model import DELAYS, AccessKey
from services.eni_manager import service as eni_manager
from services.eni_manager.config import EniManagerConfig
from services.eni_manager.config import Settings as EniSettings
from services.ipam import service as ipam
from services.ipam.config import IpamConfig
from services.ipam.config import Settings as IpamSettings
from shared.config import NodeConfig
from shared.contracts import ipam as contract
from shared.contracts.eni import WATCH, Watch
from shared.contracts.ipam import Acquire, Lease
from shared.eni_conf import EniConf
from shared.errors import SuiteError
from shared.model import AttachmentKey, PodKey
from shared.rpc.client import Client
from shared.secret import Secret
from tests.eni_manager.conftest import NoKernel, free_port

PODS = 200
TYPE = "ecs.g6e.26xlarge"
"""14 ENIs for pods, 30 addresses each."""
CALLS_PER_POD = 0.15

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site(NamedTuple):
    """A node whose services run."""

    ipam: Client
    eni: Client
    calls: Counter[str]


@asynccontextmanager
async def node(folder: Path, *, delays: str) -> AsyncIterator[Site]:
    """Both services, in sync, with nothing yet."""
    account, calls = Account(delays=DELAYS[delays]), Counter[str]()
    account.add_key(AccessKey("ak", "s3cr3t"))
    instance = account.run_instance("node1", vswitch="vsw-lab-a", instance_type=TYPE, now=time.time())
    app = build_app(account, NullFabric(), metadata_for=instance.id)

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/":
            calls[request.query["Action"]] += 1
        answer = await handler(request)
        return answer

    app.middlewares.append(count)
    async with AsyncExitStack() as opened:
        url = str((await opened.enter_async_context(TestServer(app))).make_url(""))
        assert app[CLOUD].account is account
        here = NodeConfig(run_dir=folder / "run", state_dir=folder / "state")
        conf = EniConf(
            access_key=Secret("ak"),
            access_secret=Secret("s3cr3t"),
            min_pool_size=0,
            max_pool_size=5,
            vswitches={instance.zone: ["vsw-lab-a"]},
            security_group="sg-lab",
        )
        own = EniManagerConfig(http_port=free_port(), metadata_url=url, ecs_endpoint=url, vpc_endpoint=url)
        stop, running = asyncio.Event(), []
        running.append(
            asyncio.create_task(eni_manager.serve(here, EniSettings(own, conf), stop, wiring=NoKernel()), name="eni")
        )
        running.append(
            asyncio.create_task(ipam.serve(here, IpamSettings(IpamConfig(http_port=free_port()), conf), stop))
        )
        try:
            eni_client = await opened.enter_async_context(Client(here.socket("eni_manager"), name="eni_manager"))
            ipam_client = await opened.enter_async_context(Client(here.socket("ipam"), name="ipam"))
            await _in_sync(eni_client, ipam_client)
            yield Site(ipam_client, eni_client, calls)
        finally:
            stop.set()
            await asyncio.gather(*running)


async def _in_sync(eni: Client, own: Client) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                known = (await eni.call(WATCH, Watch())).synced
                if known and (await own.call(contract.STATUS, contract.AskStatus())).able:
                    return
            except SuiteError:
                pass
            await asyncio.sleep(0.02)


async def add(site: Site, number: int) -> tuple[Lease, float]:
    ask = Acquire(AttachmentKey("terway", f"c{number}", "eth0"), PodKey("default", f"p{number}"), annotations={})
    lease = await site.ipam.call(contract.ACQUIRE, ask, deadline_s=90.0)
    return lease, asyncio.get_running_loop().time()


async def first_address(site: Site) -> float:
    """When eni_manager first has an address for a pod."""
    seen = await site.eni.call(WATCH, Watch())
    while not any(address.usable for eni in seen.enis for address in eni.addresses):
        seen = await site.eni.call(WATCH, Watch(seen.epoch, seen.generation, wait_s=30.0), deadline_s=40.0)
    return asyncio.get_running_loop().time()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("delays", ["fast"])
async def test_200_pods_at_once(tmp_path: Path, delays: str, capsys: pytest.CaptureFixture[str]) -> None:
    random.seed(5)
    async with node(tmp_path, delays=delays) as site:
        site.calls.clear()
        loop = asyncio.get_running_loop()
        began, first = loop.time(), asyncio.create_task(first_address(site))
        served = await asyncio.gather(*(add(site, number) for number in range(PODS)))
        last, calls = max(at for _, at in served), Counter(site.calls)
        available = await first
        assert len({lease.ipv4 for lease, _ in served}) == PODS
    with capsys.disabled():
        print(f"\n{PODS} ADDs at once, {delays} delays: {calls.total() / PODS:.3f} calls per pod {dict(calls)}")
        print(f"first address after {available - began:.2f} s, last pod served {last - available:.2f} s later")
    assert calls.total() / PODS <= CALLS_PER_POD
