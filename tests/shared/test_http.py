"""The HTTP face, asked over HTTP."""

import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from shared import metrics
from shared.errors import Refused
from shared.health import Condition, Health, Reporter
from shared.http import HttpFace
from shared.model import PodKey
from shared.secret import Secret


class World:
    """A service with one loop, one condition and some state."""

    def __init__(self) -> None:
        self.now = 0.0
        self.health = Health(lambda: self.now)
        self.loop: Reporter = self.health.reporter("gc", 10.0)
        self.synced: Condition = self.health.condition("synced")
        self.state: Any = {"leases": {PodKey("ns", "web"): "10.0.0.1"}, "key": Secret("hunter2")}
        self.idle = 3.0
        self.registry = metrics.registry("ipam")
        metrics.computed_gauge(self.registry, "idle", "Idle addresses", lambda: [(("eni-1",), self.idle)], ["eni"])
        self.observe = metrics.rpc_observer(self.registry)

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text="a page of the service's own")

    async def broken(self, request: web.Request) -> web.Response:
        raise RuntimeError("hunter2")

    def face(self, port: int = 0) -> HttpFace:
        return HttpFace(
            name="ipam",
            port=port,
            health=self.health,
            state=lambda: self.state,
            registry=self.registry,
            routes=[web.get("/page", self.page), web.get("/broken", self.broken)],
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def client(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with world.face() as face, aiohttp.ClientSession(f"http://127.0.0.1:{face.port}") as session:
        yield session


async def ask(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(path) as response:
        body = await response.read()
        assert response.content_type == "application/json"
        return response.status, msgspec.json.decode(body)


async def test_liveness_is_about_loops(world: World, client: aiohttp.ClientSession) -> None:
    assert await ask(client, "/healthz") == (200, {"service": "ipam", "live": True, "problems": []})
    world.now = 11.0
    problem = "gc: silent for 11.0 s, allowed are 10 s"
    assert await ask(client, "/healthz") == (503, {"service": "ipam", "live": False, "problems": [problem]})


async def test_readiness_says_what_is_missing(world: World, client: aiohttp.ClientSession) -> None:
    missing = ["synced: not yet known"]
    assert await ask(client, "/readyz") == (503, {"service": "ipam", "ready": False, "missing": missing})
    world.synced.met()
    assert await ask(client, "/readyz") == (200, {"service": "ipam", "ready": True, "missing": []})


async def test_state_shows_everything_but_secrets(world: World, client: aiohttp.ClientSession) -> None:
    assert await ask(client, "/state") == (200, {"leases": {"ns/web": "10.0.0.1"}, "key": "***"})


async def test_metrics(world: World, client: aiohttp.ClientSession) -> None:
    world.observe("ipam.acquire", "", 0.002)
    world.observe("ipam.acquire", "exhausted", 0.1)
    world.idle = 7.0
    async with client.get("/metrics") as response:
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(await response.text())
            for sample in family.samples
        }
    assert samples["idle", ("eni", "eni-1")] == 7.0, "computed when asked"
    assert samples["terway_service_info", ("service", "ipam")] == 1.0
    assert samples["process_resident_memory_bytes",] > 0
    acquire = ("rpc_api", "ipam.acquire")
    assert samples["terway_rpc_latency_count", ("error", "false"), acquire] == 1.0
    assert samples["terway_rpc_latency_sum", ("error", "true"), acquire] == pytest.approx(100.0), "milliseconds"


async def test_own_pages_and_errors(world: World, client: aiohttp.ClientSession) -> None:
    async with client.get("/page") as response:
        assert await response.text() == "a page of the service's own"
    assert await ask(client, "/nothing") == (404, {"error": "Not Found", "path": "/nothing"})
    status, body = await ask(client, "/broken")
    assert status == 500 and "hunter2" not in str(body)
    assert (await ask(client, "/healthz"))[0] == 200, "it goes on"


async def test_only_loopback_by_default(world: World) -> None:
    async with world.face() as face:
        assert face.host == "127.0.0.1" and face.port > 0


async def test_a_taken_port_is_refused(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"ipam: cannot serve HTTP at 127.0.0.1:{port}"):
            async with world.face(port):
                raise AssertionError("unreachable")


async def test_a_metrics_registry_is_each_services_own() -> None:
    for _ in range(2):
        metrics.rpc_observer(metrics.registry("ipam"))
