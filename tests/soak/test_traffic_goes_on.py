"""kill -9, restart and upgrade of every service while pods exchange packets: not one is lost.

What wires a pod is in the kernel, and a service that starts finds it whole and leaves it so.
"""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from compose.lab import lab, process, services
from compose.lab.audit import until_clean
from compose.lab.layout import Layout, NodeLayout
from compose.lab.pods import Pods
from compose.lab.record import Options
from compose.lab.waiting import until
from shared.model import PodKey
from tests.soak.traffic import PORT, Flow

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

NODES = ("node1", "node2")
PODS = {"a": "node1", "b": "node1", "c": "node2"}
FLOWS = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")]
ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[tuple[Layout, Pods]]:
    layout = Layout.of(f"traffic{os.getpid() % 10000}")
    options = Options(nodes=2, runtime="cni", processes=True, delays="none", cooldown_s=0.2)
    record = await lab.up(layout, options, say=lambda line: None)
    try:
        async with Pods(layout, dict.fromkeys(NODES, "cni")) as pods:
            await pods.ensure_namespace("default")
            for pod, node in PODS.items():
                await pods.add(PodKey("default", pod), node=node)
            yield layout, pods
            for pod in PODS:
                await pods.delete(PodKey("default", pod))
            await until_clean(layout, record)
    finally:
        await lab.down(layout, say=lambda line: None)


class Traffic:
    """Every flow, running."""

    def __init__(self, flows: list[Flow]) -> None:
        self.flows = flows

    async def flows_on(self) -> None:
        """Wait until some more have arrived on each flow: it goes on, and did while we did something else."""
        before = [flow.arrived for flow in self.flows]

        async def missing() -> str:
            still = [flow.name for flow, had in zip(self.flows, before, strict=True) if flow.arrived < had + 50]
            return ", ".join(still)

        await until(missing, what="every flow goes on", within_s=20)

    def nothing_lost(self) -> None:
        counted = {flow.name: flow.count() for flow in self.flows}
        print({name: (each.sent, len(each.lost), round(each.longest_gap_s, 3)) for name, each in counted.items()})
        assert {name: (each.lost, each.doubled) for name, each in counted.items()} == dict.fromkeys(counted, ([], 0))


@pytest_asyncio.fixture(loop_scope="module")
async def traffic(site: tuple[Layout, Pods]) -> AsyncIterator[Traffic]:
    _, pods = site
    sandboxes = {pod: await pods.sandbox(PodKey("default", pod)) for pod in PODS}
    with ExitStack() as opened:
        flows = [
            opened.enter_context(
                Flow(f"{a}-{b}", sandboxes[a].entry, sandboxes[b].entry, sandboxes[b].addresses[0], PORT + number)
            )
            for number, (a, b) in enumerate(FLOWS)
        ]
        running = Traffic(flows)
        await running.flows_on()
        yield running


async def test_kill_of_one_service_after_the_other(site: tuple[Layout, Pods], traffic: Traffic) -> None:
    layout, _ = site
    for node in NODES:
        for service in services.SERVICES:
            await services.stop(layout.node(node), service, kill=True)
            await traffic.flows_on()
            services.start(layout.node(node), service)
            await services.wait_ready(layout.node(node))
    await traffic.flows_on()
    traffic.nothing_lost()


async def test_kill_of_all_at_once(site: tuple[Layout, Pods], traffic: Traffic) -> None:
    layout, _ = site
    for node in NODES:
        for service in services.SERVICES:
            await services.stop(layout.node(node), service, kill=True)
    await traffic.flows_on()
    for node in NODES:
        for service in services.SERVICES:
            services.start(layout.node(node), service)
        await services.wait_ready(layout.node(node))
    await traffic.flows_on()
    traffic.nothing_lost()


async def test_upgrade(site: tuple[Layout, Pods], traffic: Traffic, other_code: Path) -> None:
    """All services of a node stop and others start, from another directory, on the same databases; and back."""
    layout, _ = site
    for node in NODES:
        corner = layout.node(node)
        for service in reversed(services.SERVICES):
            await services.stop(corner, service)
        await traffic.flows_on()
        for service in services.SERVICES:
            _start_from(other_code, corner, service)
        await services.wait_ready(corner)
        await traffic.flows_on()
        for service in services.SERVICES:
            running = services.running_process(corner, service)
            assert running is not None
            assert str(other_code) in Path(f"/proc/{running.pid}/environ").read_text()
            await services.restart(corner, service)
        await services.wait_ready(corner)
    await traffic.flows_on()
    traffic.nothing_lost()


@pytest.fixture
def other_code(tmp_path: Path) -> Iterator[Path]:
    """A copy of what a service is made of."""
    for folder in ("services", "shared"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    yield tmp_path


def _start_from(code: Path, node: NodeLayout, service: services.Service) -> None:
    process.spawn(
        service.name,
        [sys.executable, "-P", "-m", f"services.{service.name}", "--config", str(node.config)],
        netns=node.netns,
        log=node.log(service.name),
        records=node.processes,
        env={"PYTHONPATH": str(code)},
    )
