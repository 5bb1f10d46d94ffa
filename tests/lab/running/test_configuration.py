"""The configuration of a node with pods changes: nothing is dropped, whatever it changes to."""

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from compose.lab import services
from compose.lab.services import SERVICES
from compose.lab.waiting import until
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import EVENTS, NODES
from tests.lab.running.conftest import Lab

pytestmark = pytest.mark.lab

NAMED = {service.name: service for service in SERVICES}


class Node:
    """node1 of the running lab."""

    def __init__(self, lab: Lab) -> None:
        self.layout = lab.layout.node("node1")
        self.kube = KubeAddress(f"unix://{lab.layout.kube_socket}")
        self.before = self.layout.config.read_text()

    def write(self, **eni_conf: object) -> None:
        """The file's eni_conf, with these keys instead."""
        document = json.loads(self.before)
        document["eni_conf"] |= eni_conf
        self.layout.config.write_text(json.dumps(document))

    def state(self, service: str) -> dict[str, Any]:
        return services.ask(self.layout, NAMED[service], "/state")[1]

    def pid(self, service: str) -> int:
        running = services.running_process(self.layout, NAMED[service])
        assert running is not None
        return running.pid

    async def changed(self, service: str, *settings: str) -> None:
        """The latest change was of these, and perhaps of what the test before had left."""

        async def missing() -> str:
            said = self.state(service).get("configuration", {}).get("changed", [])
            return "" if set(settings) <= set(said) else f"changed is {said}"

        await until(missing, what=f"{service}'s configuration", within_s=30)

    async def unused(self, low: int, high: int) -> None:
        """The pool goes by these marks, and holds at least the lower; what is above the other leaves slowly."""

        async def missing() -> str:
            state = self.state("ipam")
            counts, marks = state.get("counts", {}), state.get("watermarks", {})
            if (marks.get("low"), marks.get("high")) != (low, high):
                return f"watermarks are {marks}"
            found = counts["idle"] + counts["cooling"]
            return "" if low <= found else f"{found} unused"

        await until(missing, what=f"{low} unused addresses", within_s=30)


@pytest_asyncio.fixture
async def node(lab: Lab) -> AsyncIterator[Node]:
    node = Node(lab)
    lab.run("pod", "add", "conf/a", "--node", "node1", "--serve", "80/tcp")
    lab.run("pod", "add", "conf/b", "--node", "node2")
    yield node
    node.layout.config.write_text(node.before)
    await node.unused(2, 5)
    await services.wait_ready(node.layout)
    for pod in ("conf/a", "conf/b"):
        lab.run("pod", "del", pod)
    assert lab.ask("audit", "--within", "30")["problems"] == []


async def test_a_change_of_the_file_drops_nothing(lab: Lab, node: Node) -> None:
    pids = [node.pid(name) for name in NAMED]
    node.write(min_pool_size=7, max_pool_size=9, eni_tags={"team": "net"})
    for service in ("ipam", "eni_manager"):
        await node.changed(service, "eni_conf.eni_tags", "eni_conf.max_pool_size", "eni_conf.min_pool_size")
        assert node.state(service)["configuration"]["new_enis_only"] == ["eni_conf.eni_tags"]
    await node.unused(7, 9)
    assert lab.ask("probe", "conf/b", "conf/a:80/tcp")["reached"]
    lab.run("pod", "add", "conf/c", "--node", "node1")
    lab.run("pod", "del", "conf/c")

    node.write(min_pool_size=9, max_pool_size=7, service_cidr="10.0.0.0/33")
    for service in ("ipam", "eni_manager"):

        async def missing(service: str = service) -> str:
            return "" if len(node.state(service)["configuration"]["problems"]) == 2 else "no two problems"

        await until(missing, what=f"{service} to say what is bad", within_s=30)
    assert lab.ask("probe", "conf/b", "conf/a:80/tcp")["reached"]
    lab.run("pod", "add", "conf/c", "--node", "node1")
    lab.run("pod", "del", "conf/c")
    async with KubeClient(node.kube) as kube:
        events = [event async for event in kube.list(EVENTS, dict, namespace="default")]
    said = [event["message"] for event in events if event["reason"] == "ConfigError"]
    assert said and all("min_pool_size: 9 is more than max_pool_size, 7" in message for message in said)
    assert pids == [node.pid(name) for name in NAMED], "no process died for it"


async def test_the_cluster_says_it_for_one_node(lab: Lab, node: Node, tmp_path: Path) -> None:
    manifest = tmp_path / "pool-a.yaml"
    manifest.write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: pool-a, namespace: kube-system},"
        ' data: {eni_conf: \'{"min_pool_size": 4, "max_pool_size": 6}\'}}'
    )
    lab.run("apply", "-f", str(manifest))
    async with KubeClient(node.kube) as kube:
        await kube.patch(NODES, dict, "node1", {"metadata": {"labels": {"terway-config": "pool-a"}}})
    for service in ("ipam", "eni_manager"):
        os.kill(node.pid(service), signal.SIGHUP)
        await node.changed(service, "eni_conf.max_pool_size", "eni_conf.min_pool_size")
    await node.unused(4, 6)
    assert lab.ask("probe", "conf/b", "conf/a:80/tcp")["reached"]
    async with KubeClient(node.kube) as kube:
        await kube.patch(NODES, dict, "node1", {"metadata": {"labels": {"terway-config": None}}})
    for service in ("ipam", "eni_manager"):
        os.kill(node.pid(service), signal.SIGHUP)
    await node.unused(2, 5)
    lab.run("delete", "-f", str(manifest))
