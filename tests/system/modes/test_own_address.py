"""A Service's backend sees the pod's own address, in modes whose pods' packets to Services are turned back to them.

One dual-stack lab that enforces policies: pods a and b on node1, c on node2.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from compose.lab import audit, lab, services
from compose.lab.layout import Layout
from compose.lab.pods import Pods
from compose.lab.record import Options
from compose.lab.sandbox import Sandbox
from compose.lab.serve import parse_ports
from compose.lab.waiting import until
from services.eni_manager.adapters import classifiers
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NETWORK_POLICIES
from shared.model import Mode, PodKey
from tests.system.modes.conversation import BACKEND_PORT, PORT, Ends, carry, service
from tests.system.modes.modes import chosen, lacking
from tests.system.modes.site import NODES, Site, eventually, inside

pytestmark = [
    pytest.mark.lab,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(Mode.EXCLUSIVE_ENI not in chosen(), reason="another mode was chosen"),
]

Crew = dict[str, Sandbox]
BOTH = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
LONG = 64 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Site]:
    if why := lacking(Mode.EXCLUSIVE_ENI):
        pytest.skip(why)
    assert classifiers.able(), "this kernel has cls_bpf and is new enough"
    layout = Layout.of(f"o{os.getpid()}")
    options: dict[str, Any] = {"runtime": "cni", "processes": True, "cooldown_s": 0.2, "policy": True}
    options["instance_type"] = "ecs.g6.4xlarge"  # seven ENIs for pods
    record = await lab.up(layout, Options(mode=Mode.EXCLUSIVE_ENI, stack="dual", **options), say=lambda line: None)
    try:
        async with Pods(layout, dict.fromkeys(NODES, "cni")) as pods:
            await pods.ensure_namespace("default")
            yield Site(Mode.EXCLUSIVE_ENI, layout, record, pods)
        await audit.until_clean(layout, record, within_s=30)
    finally:
        await lab.down(layout, say=lambda line: None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crew(cluster: Site) -> AsyncIterator[Crew]:
    async with AsyncExitStack() as opened:
        yield {
            name: await opened.enter_async_context(cluster.pod(name, node))
            for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2"))
        }


def ends(cluster: Site, crew: Crew, client: str, server: str, *, six: bool) -> tuple[Ends, str, str]:
    """Both, and their addresses."""
    places: dict[str, tuple[Path, Sequence[str]]] = {
        name: (sandbox.entry, sandbox.addresses) for name, sandbox in crew.items()
    }
    facts = {node: cluster.record.facts(node) for node in NODES}
    places |= {n: (cluster.node(n).netns, (facts[n].primary_ip, facts[n].primary_ipv6)) for n in NODES}
    places["outside"] = (cluster.layout.outside_netns, ("203.0.113.10", "2001:db8:113::10"))
    (source, from_), (target, to) = places[client], places[server]
    return Ends(source, target, six), from_[six], to[six]


# ---- who is seen


@BOTH
@pytest.mark.parametrize("backend", ["b", "c", "node2", "outside"])
async def test_the_backend_sees_the_pod(backend: str, six: bool, cluster: Site, crew: Crew) -> None:
    both, own, to = ends(cluster, crew, "a", backend, six=six)
    with service(cluster.node("node1").netns, to):
        with both.tcp() as (client, server):
            assert server.getpeername()[0] == own
            assert carry(client, server, 1 << 16) and carry(server, client, 1 << 16)
        for size in (100, 20_000):  # the latter in pieces
            assert await asyncio.to_thread(both.datagrams, size) == (own, size)


@BOTH
async def test_who_is_seen_otherwise_is_as_ever(six: bool, cluster: Site, crew: Crew) -> None:
    """A pod that reaches itself is masqueraded, whatever kube-proxy masquerades, and the node is itself."""
    node = ends(cluster, crew, "node1", "b", six=six)[1]
    for client, backend, masquerade in (("a", "a", False), ("a", "c", True), ("node1", "c", False)):
        both, _, to = ends(cluster, crew, client, backend, six=six)
        with service(cluster.node("node1").netns, to, masquerade=masquerade), both.tcp() as (_, server):
            assert server.getpeername()[0] == node


@BOTH
async def test_much_is_carried_both_ways(six: bool, cluster: Site, crew: Crew) -> None:
    both, own, to = ends(cluster, crew, "a", "c", six=six)
    with service(cluster.node("node1").netns, to), both.tcp() as (client, server):
        for sender, receiver in ((client, server), (server, client)):
            took = await asyncio.to_thread(carry, sender, receiver, LONG)
            assert took < 30, f"{LONG >> 20} MB took {took:.1f} s"
        assert server.getpeername()[0] == own


@BOTH
async def test_an_error_about_a_datagram_reaches_its_sender(six: bool, cluster: Site, crew: Crew) -> None:
    both, _, to = ends(cluster, crew, "a", "node2", six=six)  # pods' errors pass no policy's rules; a node's do
    with service(cluster.node("node1").netns, to):
        assert await asyncio.to_thread(both.refused)


@BOTH
async def test_a_port_may_be_used_to_the_service_and_to_its_backend(six: bool, cluster: Site, crew: Crew) -> None:
    """They would be one connection on the wire if the node left the port as it is."""
    both, own, to = ends(cluster, crew, "a", "c", six=six)
    targets = ((to, BACKEND_PORT), (both.vip, PORT))
    with service(cluster.node("node1").netns, to), both.from_one_port(40_000, *targets) as pairs:
        (_, straight), (_, by_service) = pairs
        assert straight.getpeername()[:2] == (own, 40_000)
        assert by_service.getpeername()[0] == own and by_service.getpeername()[1] < 32_768
        for client, server in pairs:
            assert carry(client, server, 1 << 16) and carry(server, client, 1 << 16)


async def test_limits_count_each_way_by_itself(cluster: Site, crew: Crew) -> None:
    """What a limited pod sends to a Service is limited; what it gets from there is not by the same limit."""
    async with cluster.pod("limited", "node1", **{"k8s.aliyun.com/egress-bandwidth": "1M"}) as limited:
        both, own, to = ends(cluster, {**crew, "limited": limited}, "limited", "c", six=False)
        with service(cluster.node("node1").netns, to), both.tcp() as (client, server):
            assert server.getpeername()[0] == own
            assert await asyncio.to_thread(carry, server, client, 32 << 20) < 16, "32 MB at 1 MB/s would take 32 s"
            assert await asyncio.to_thread(carry, client, server, 3 << 20) > 2, "3 MB at 1 MB/s take 3 s"


# ---- policy


@BOTH
async def test_a_policy_by_label_lets_the_right_pod_in_by_the_service(six: bool, cluster: Site) -> None:
    async with AsyncExitStack() as opened:
        made: Crew = {}
        for name, node, role in (("friend", "node1", "friend"), ("other", "node1", "other"), ("db", "node2", "db")):
            pod = PodKey("default", name)
            await cluster.pods.add(pod, node=node, labels={"role": role}, ports=parse_ports(f"{BACKEND_PORT}/tcp"))
            opened.push_async_callback(cluster.pods.delete, pod)
            made[name] = await cluster.pods.sandbox(pod)
        kube = await opened.enter_async_context(KubeClient(KubeAddress(f"unix://{cluster.layout.kube_socket}")))
        friend, _, to = ends(cluster, made, "friend", "db", six=six)
        other, _, _ = ends(cluster, made, "other", "db", six=six)
        opened.enter_context(service(cluster.node("node1").netns, to))
        assert friend.reached(within_s=10) and other.reached(within_s=10), "nothing is denied yet"
        await kube.create(NETWORK_POLICIES, dict, _only_friends(), namespace="default")
        opened.push_async_callback(kube.delete, NETWORK_POLICIES, "db", namespace="default")

        async def others_are_out() -> str:
            return "" if not await asyncio.to_thread(other.reached, within_s=0.5) else "others still reach it"

        await until(others_are_out, what="the policy is in force", within_s=30)
        assert await asyncio.to_thread(friend.reached, within_s=10)
        assert not await asyncio.to_thread(other.reached, within_s=1)


def _only_friends() -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"role": "db"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        },
    }


# ---- damage, and the way back


@pytest.mark.parametrize("link, part", [("eth0", "answers"), ("veth1", "onward")])
async def test_a_connection_outlives_a_lost_classifier(link: str, part: str, cluster: Site, crew: Crew) -> None:
    """The flows that it noted are in the other one, too."""
    both, own, to = ends(cluster, crew, "a", "c", six=False)
    with service(cluster.node("node1").netns, to), both.tcp() as (client, server):
        inside(crew["a"].entry, "tc", "filter", "del", "dev", link, "ingress", "prio", "20000")
        assert part in await cluster.check("node1", crew["a"])
        await cluster.repair("node1")
        await eventually(lambda: cluster.check("node1", crew["a"]), "")
        assert await asyncio.to_thread(carry, server, client, 1 << 16), "the server speaks first"
        assert server.getpeername()[0] == own


async def test_it_can_be_switched_off_and_on(cluster: Site, crew: Crew) -> None:
    """As where the kernel has no such programs: the node's address, and nothing left on the node."""
    corner, entry = cluster.node("node1"), cluster.node("node1").netns
    both, own, to = ends(cluster, crew, "a", "c", six=False)
    for keeps, seen in ((False, cluster.address("node1")), (True, own)):
        config = json.loads(corner.config.read_text())
        config["eni_manager"]["services_keep_source"] = keeps
        services.write_config(corner, config)

        async def differs(keeps: bool = keeps) -> str:
            return "" if ("snat to :1024-32767" in inside(entry, "nft", "list", "ruleset")) is keeps else "not yet"

        await until(differs, what="the change takes effect", within_s=60)
        await services.wait_ready(corner)
        with service(entry, to), both.tcp() as (client, server):
            assert server.getpeername()[0] == seen
            assert carry(client, server, 1 << 16) and carry(server, client, 1 << 16)
        rules, links = inside(entry, "ip", "rule"), inside(entry, "ip", "-o", "link")
        assert ("fwmark 0x20" in rules) is keeps and ("terway-turn" in links) is keeps
        assert await cluster.check("node1", crew["a"]) == ""
