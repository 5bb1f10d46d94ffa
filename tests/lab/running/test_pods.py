"""Pods of a running lab: made, reached, executed in, listed, removed, also fifty at once."""

import asyncio
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.lab import audit, record, services
from compose.lab.pods import Pods
from compose.lab.reach import reach
from shared.errors import Conflict, NotFound
from shared.model import PodKey
from tests.lab.running.conftest import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def clean(lab: Lab) -> Iterator[None]:
    """Every test gives everything back."""
    yield
    assert lab.ask("audit", "--within", "20")["problems"] == []
    assert lab.ask("pod", "list") == []


async def test_pods_reach_one_another_nodes_and_the_outside(lab: Lab) -> None:
    for name, node in (("web/a", "node1"), ("web/b", "node1"), ("db/c", "node2")):
        made = lab.ask("pod", "add", name, "--node", node, "--serve", "80/tcp,81/udp", "--label", "x=y")
        assert made["labels"] == {"x": "y"} and made["node"] == node and made["phase"] == "Running"
        assert made["sandbox"]["addresses"] == made["addresses"]
        assert made["serves"] == ["80/tcp", "81/udp"]
    try:
        there = record.read(lab.layout)
        async with Pods(lab.layout, {"node1": "cni", "node2": "cni"}) as pods:

            async def by(source: str, target: str) -> str:
                answer = await reach(lab.layout, there, pods, source=source, target=target)
                return answer.by if answer.reached else str(answer)

            for source in ("web/a", "db/c", "node1", "outside"):
                for target in ("web/a", "web/b", "db/c"):
                    assert await by(source, f"{target}:80/tcp") == target
                    assert await by(source, f"{target}:81/udp") == target
            for target in ("outside", "node1", "node2"):
                assert await by("web/a", f"{target}:80/tcp") == target

        answer = lab.ask("probe", "web/a", "db/c:81/udp")
        assert (answer["reached"], answer["by"]) == (True, "db/c")
        refused = lab.run("probe", "web/a", "web/b:99/tcp", ok=False)
        assert refused.returncode == 1 and "refused" in refused.stdout
        silent = lab.run("probe", "web/a", "192.168.9.9:80/tcp", "--timeout", "0.3", ok=False)
        assert silent.returncode == 1
        for unknown in (("web/a", "no/pod:80"), ("no/pod", "web/a:80"), ("web/a", "web/b")):
            assert lab.run("probe", *unknown, ok=False).returncode == 2

        listed = lab.ask("pod", "list")
        assert [info["pod"] for info in listed] == ["db/c", "web/a", "web/b"]
        c = listed[0]["addresses"][0]
        assert lab.run("exec", "web/a", "--", "ping", "-c1", "-W2", c).returncode == 0
        assert lab.ask("exec", "web/a", "--", "sh", "-c", "echo hi; exit 7", ok=False) == {
            "code": 7,
            "stdout": "hi\n",
            "stderr": "",
        }
    finally:
        for name in ("web/a", "web/b", "db/c"):
            lab.run("pod", "del", name)
    assert lab.ask("pod", "del", "web/a") == {"removed": False}


async def test_fifty_pods_at_once_on_one_node(lab: Lab) -> None:
    there = record.read(lab.layout)
    names = [PodKey("default", f"p{number}") for number in range(50)]
    before = services.ask(lab.layout.node("node1"), services.named("ipam"), "/state")[1]
    async with Pods(lab.layout, {"node1": "cni", "node2": "cni"}) as pods:
        made = await asyncio.gather(*(pods.add(name, node="node1") for name in names))
        given = Counter(address for info in made for address in info.addresses)
        assert len(given) == 50 and set(given.values()) == {1}
        found = await audit.until_clean(lab.layout, there)
        assert len(found.nodes["node1"].leases) == 50
        await asyncio.gather(*(pods.delete(name) for name in names))
    found = await audit.until_clean(lab.layout, there)
    assert found.nodes["node1"].leases == [] and found.nodes["node1"].kernel.rules == []
    state = services.ask(lab.layout.node("node1"), services.named("ipam"), "/state")[1]
    tally = {name: state["tally"][name] - before["tally"][name] for name in ("granted", "released", "reclaimed")}
    assert tally == {"granted": 50, "released": 50, "reclaimed": 0}
    assert state["counts"]["used"] == 0


async def test_a_name_is_given_once_and_nodes_are_known_by_name(lab: Lab) -> None:
    async with Pods(lab.layout, {"node1": "cni", "node2": "cni"}) as pods:
        pod = PodKey("default", "one")
        await pods.add(pod, node="node1")
        with pytest.raises(Conflict):
            await pods.add(pod, node="node2")
        with pytest.raises(NotFound, match="node9"):
            await pods.add(PodKey("default", "two"), node="node9")
        with pytest.raises(NotFound, match="nowhere"):
            await pods.add(PodKey("nowhere", "two"), node="node1")
        assert await pods.delete(pod)
        assert not await pods.delete(pod)


async def test_a_pod_whose_add_fails_leaves_nothing(lab: Lab) -> None:
    lab.run("pod", "add", "default/busy", "--node", "node1", "--serve", "80/tcp")
    refused = lab.run("pod", "add", "default/odd", "--node", "node1", "--serve", "80/tcp,80/tcp", ok=False)
    assert refused.returncode == 1 and "80/tcp" in refused.stderr
    assert [info["pod"] for info in lab.ask("pod", "list")] == ["default/busy"]
    lab.run("pod", "del", "default/busy")


def test_a_namespace_that_vanished_before_its_del(lab: Lab) -> None:
    made = lab.ask("pod", "add", "default/gone", "--node", "node1")
    lab.run("pod", "add", "default/stays", "--node", "node1", "--serve", "80/tcp")
    subprocess.run(["ip", "netns", "del", Path(made["sandbox"]["netns"]).name], check=True)
    lab.run("pod", "del", "default/gone")
    assert lab.ask("probe", "node2", "default/stays:80/tcp")["by"] == "default/stays"
    lab.run("pod", "del", "default/stays")


def test_the_same_name_comes_back_at_once(lab: Lab) -> None:
    for _ in range(3):
        lab.run("pod", "add", "default/again", "--node", "node1", "--serve", "80/tcp")
        assert lab.ask("probe", "node2", "default/again:80/tcp")["by"] == "default/again"
        lab.run("pod", "del", "default/again")
