"""A running ipam with a scripted eni_manager, in the test's own loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from services.ipam.config import IpamConfig, Settings
from services.ipam.service import serve
from shared.config import KubeConfig, NodeConfig
from shared.contracts import ipam as contract
from shared.contracts.ipam import Acquire, Lease, Release
from shared.eni_conf import EniConf
from shared.model import AttachmentKey, PodKey
from shared.rpc.client import Client
from tests.ipam.world import key


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningIpam:
    """An ipam and a caller of it."""

    def __init__(self, client: Client, node: NodeConfig, port: int) -> None:
        self.client = client
        self.node = node
        self.url = f"http://127.0.0.1:{port}"

    async def add(self, container: str, *, pod: str = "", deadline_s: float = 10.0, **more: Any) -> Lease:
        ask = Acquire(key(container), PodKey("default", pod or f"pod-{container}"), **{"annotations": {}, **more})
        return await self.client.call(contract.ACQUIRE, ask, deadline_s=deadline_s)

    async def delete(self, container: str) -> Lease | None:
        return (await self.client.call(contract.RELEASE, Release(key(container)))).lease

    async def leases(self) -> dict[AttachmentKey, Lease]:
        found = (await self.client.call(contract.LEASES, contract.ListLeases())).leases
        return {lease.key: lease for lease in found}

    async def get(self, path: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await (answer.json() if path != "/metrics" else answer.text())

    async def until(self, path: str, condition: Callable[[int, Any], bool], within_s: float = 10.0) -> Any:
        """Ask until the answer is as wanted."""
        async with asyncio.timeout(within_s):
            while True:
                status, body = await self.get(path)
                if condition(status, body):
                    return body
                await asyncio.sleep(0.01)

    async def ready(self) -> None:
        await self.until("/readyz", lambda status, _: status == 200)


Start = Callable[..., AbstractAsyncContextManager[RunningIpam]]


@pytest.fixture
def node(tmp_path: Path) -> NodeConfig:
    return NodeConfig(run_dir=tmp_path / "run", state_dir=tmp_path / "state", node_name="node1")


@pytest.fixture
def start(node: NodeConfig) -> Start:
    """`async with start(cooldown_s=…) as ipam`: may be entered again after it ended, on the same files."""

    @asynccontextmanager
    async def starting(*, kube: str = "", pool: tuple[int, int] = (0, 5), **config: Any) -> AsyncIterator[RunningIpam]:
        port = free_port()
        here = NodeConfig(node.run_dir, node.state_dir, node.node_name, kube=KubeConfig(server=kube))
        period = config.pop("sync_period_s", 120.0)
        more = config.pop("conf", {})
        eni_conf = EniConf(min_pool_size=pool[0], max_pool_size=pool[1], ip_pool_sync_period=period, **more)
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(here, Settings(IpamConfig(http_port=port, **config), eni_conf), stop))
        async with Client(node.socket("ipam")) as client:
            ipam = RunningIpam(client, node, port)
            try:
                async with asyncio.timeout(10.0):
                    while not node.socket("ipam").exists():
                        if serving.done():
                            await serving
                        await asyncio.sleep(0.002)
                yield ipam
            finally:
                stop.set()
                await serving

    return starting


@pytest.fixture
def nothing_blocks() -> Iterator[BlockBuster]:
    """Waiting for SQLite, a socket or a sleep on the event loop, in our code, is an error."""
    with blockbuster_ctx(["services.ipam", "shared"]) as buster:
        for name, function in buster.functions.items():
            if not name.startswith(("sqlite3.", "socket.", "ssl.", "time.")):
                function.deactivate()
        yield buster
