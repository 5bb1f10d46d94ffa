"""Policies in mode exclusive-eni: rules in pods' own namespaces, on two nodes, with real packets.

What test_cyclonus_live.py and test_enforced_live.py ask of the default mode, and what only rules in a pod can suffer.
"""

import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from compose.lab import services
from compose.lab.layout import NodeLayout
from compose.lab.probe import ask
from compose.lab.waiting import until
from shared.kube.resources import EVENTS
from shared.model import Mode
from tests.conformance.cases import DENY_X, ONLY_B_TO_A, every, policy, step
from tests.conformance.flooding import behind_the_rules, received_by_closed_pods
from tests.conformance.site import PORTS, Probe, Site, site
from tests.conformance.streams import POLICIES, streaming
from tests.conformance.test_api_server_live import (
    held_while_the_api_server_is_killed_and_started,
    nothing_gets_in_while_services_die,
)
from tests.conformance.test_cyclonus_live import steps, wrong_cells
from tests.conformance.test_enforced_live import POLICY, judged_all_the_time, more
from tests.policy.conftest import vectors

__all__ = ["vectors"]
pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="module")]

ALL = os.environ.get("TERWAY_CONFORMANCE") == "all"
SAMPLE = {Mode.EXCLUSIVE_ENI: 15, Mode.SHARED_IPVLAN: 60}
STARTS = 200 if ALL else 8
AT_ONCE = 3
"""Each has an ENI to itself, and the node has room for four beside those that stay."""
VIP = "172.21.0.77"
REACHED, DENIED = 30.0, 0.3
"""How long an answer is waited for: twenty times as long in a guest."""

Json = Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Site]:
    async with site(f"np{uuid.uuid4().hex[:6]}", Mode.EXCLUSIVE_ENI) as made:
        yield made


async def test_every_cell(vectors: Path, cluster: Site) -> None:
    document = json.loads((vectors / "cyclonus_vectors.json").read_text())
    assert await wrong_cells(cluster, steps(document, SAMPLE[cluster.record.options.mode])) == []


async def test_a_denied_connection_times_out_and_the_node_is_answered(cluster: Site) -> None:
    await cluster.enter(step(DENY_X))
    answers = await cluster.ask(every("x/a", cluster.addresses))
    assert set(answers.values()) == {"X"}, "no answer of any kind: no reset, no ICMP"
    corner = cluster.layout.node("node1")
    for port in PORTS:
        answer = await ask(corner.netns, cluster.addresses["x/a"], port, timeout_s=20)
        assert answer.reached, "a kubelet's probe of its own pod is nobody's business"
    other = await ask(cluster.layout.node("node2").netns, cluster.addresses["x/a"], PORTS[0], timeout_s=DENIED)
    assert not other.reached, "another node is a peer like any"


async def test_what_rules_in_a_pod_count_and_drop_is_seen_like_the_nodes(cluster: Site) -> None:
    """Its link is not the node's: nothing of this passes the node's own table. test_functional_live.py asks the same,
    and the flow log, by `TERWAY_CONFORMANCE_MODE=exclusive-eni`."""
    await cluster.enter(step(DENY_X, ONLY_B_TO_A))
    corner = cluster.layout.node("node1")
    before = counted(corner)
    probes = every("x/a", ("x/b", "z/a"))
    allowed = {Probe("x/b", "x/a", PORTS[0])}
    answers = await cluster.ask(probes, allowed)
    assert {probe for probe, answer in answers.items() if answer == "."} == allowed

    async def missing() -> str:
        after = counted(corner)
        matched, denied = (after[what] - before[what] for what in ("matched", "dropped"))
        return "" if matched == 1 and denied >= len(probes) - 1 else f"{matched} matched, {denied} dropped"

    await until(missing, what="all is counted", within_s=30, every_s=0.3)


def counted(corner: NodeLayout) -> dict[str, int]:
    """What x/a's rules let in, and what no rule of theirs did."""
    status, found = services.ask(corner, POLICY, "/policy/status?pod=x/a")
    assert status == 200, found
    [standing] = found["value"]
    return {
        "matched": sum(
            rule["packets"]
            for one in standing["counted"]
            for rule in one["rules"]
            if one["name"].endswith("only-b") and rule["direction"] == "ingress"
        ),
        "dropped": sum(drop["packets"] for drop in standing["dropped"] if drop["direction"] == "ingress"),
    }


@pytest.mark.parametrize("client, reached", [("x/b", True), ("x/c", False)])
async def test_a_services_backend_on_the_node_is_judged_by_who_really_asks(
    client: str, reached: bool, cluster: Site
) -> None:
    """The node passes it on with its own address, which would reach any pod of its: so it judges before."""
    await cluster.enter(step(DENY_X, ONLY_B_TO_A))
    with service(cluster, "node1", cluster.addresses["x/a"]):
        answer = await ask(cluster.entries[client], VIP, PORTS[0], timeout_s=REACHED if reached else DENIED)
        assert answer.reached is reached


@pytest.mark.parametrize("backend, reached", [("y/a", False), ("z/a", True), ("z/b", False)])
async def test_what_a_pod_asks_of_a_service_is_judged_by_the_backend(
    backend: str, reached: bool, cluster: Site
) -> None:
    only_z = policy(
        "only-z-a",
        "x",
        policyTypes=["Egress"],
        egress=[
            {"to": [{"namespaceSelector": {"matchLabels": {"ns": "z"}}, "podSelector": {"matchLabels": {"pod": "a"}}}]}
        ],
    )
    await cluster.enter(step(only_z))
    with service(cluster, "node1", cluster.addresses[backend]):
        answer = await ask(cluster.entries["x/a"], VIP, PORTS[0], timeout_s=REACHED if reached else DENIED)
        assert answer.reached is reached


@pytest.mark.parametrize(
    "command", ["flush ruleset", "delete table inet terway", "insert rule inet terway input accept"]
)
async def test_rules_that_a_privileged_container_removes_come_back_and_the_pod_says_so(
    command: str, cluster: Site
) -> None:
    await cluster.enter(step(DENY_X))
    before = within(cluster, "x/a", "list table inet terway")
    noticed = await restorations(cluster, "x/a")
    within(cluster, "x/a", command)

    async def missing() -> str:
        again = within(cluster, "x/a", "list tables")
        if "inet terway" not in again or shape(within(cluster, "x/a", "list table inet terway")) != shape(before):
            return "the rules are not as they were"
        return "" if await restorations(cluster, "x/a") > noticed else "there is no event on the pod"

    # Far less than the timer's minute: somebody listens.
    await until(missing, what="the rules come back", within_s=30, every_s=0.05)
    answers = await cluster.ask(every("x/a", cluster.addresses))
    assert set(answers.values()) == {"X"}
    _, state = services.ask(cluster.layout.node("node1"), POLICY, "/state")
    assert state["settled"]


async def test_a_pods_own_rules_are_left_alone(cluster: Site) -> None:
    await cluster.enter(step(DENY_X))
    within(cluster, "x/a", "add table inet own { chain c { type filter hook input priority 10; accept; }; }")
    try:
        own = within(cluster, "x/a", "list table inet own")
        within(cluster, "x/a", "delete table inet terway")

        async def missing() -> str:
            return "" if "inet terway" in within(cluster, "x/a", "list tables") else "the rules are away"

        await until(missing, what="the rules come back", within_s=30, every_s=0.05)
        assert within(cluster, "x/a", "list table inet own") == own
    finally:
        within(cluster, "x/a", "delete table inet own")


async def test_policies_hold_while_the_service_is_killed_and_started(cluster: Site) -> None:
    """Old rules stay until the new process knows everything. It finds the pods' namespaces again by itself."""
    await cluster.enter(step(DENY_X, ONLY_B_TO_A, *POLICIES))
    async with judged_all_the_time(cluster) as rounds, streaming(cluster) as flowing:
        for node in ("node1", "node2"):
            corner = cluster.layout.node(node)
            before = len(rounds)
            await services.stop(corner, POLICY, kill=True)
            flowing.note(f"{node}'s policy service was killed")
            await more(rounds, before)
            before = len(rounds)
            services.start(corner, POLICY)
            flowing.note(f"{node}'s policy service was started")
            await services.wait_ready(corner, [POLICY])
            await more(rounds, before)
    await cluster.settled()
    await cluster.enter(step(ONLY_B_TO_A))  # a change reaches those that it found
    probes = every("x/a", ("x/b", "y/a")) + every("x/c", ("y/a",))
    allowed = {probe for probe in probes if probe.destination == "x/c"} | {Probe("x/b", "x/a", PORTS[0])}
    allowed |= {
        probe for probe in probes if probe.source == "x/b" and probe.port.number == 80 and probe.port == PORTS[0]
    }
    answers = await cluster.ask(probes, allowed)
    assert {probe for probe, answer in answers.items() if answer == "."} == allowed


@pytest.mark.skipif(not ALL, reason="make conformance; the same as in the default mode but for where the rules are")
async def test_not_one_packet_gets_in_while_services_die(cluster: Site) -> None:
    await nothing_gets_in_while_services_die(cluster, AT_ONCE, behind_the_rules)


@pytest.mark.skipif(not ALL, reason="make conformance; the same as in the default mode but for where the rules are")
async def test_policies_hold_while_the_api_server_is_killed_and_started(cluster: Site) -> None:
    await held_while_the_api_server_is_killed_and_started(cluster)


async def test_rules_removed_while_nobody_looks_come_back_with_the_service(cluster: Site) -> None:
    await cluster.enter(step(DENY_X))
    corner = cluster.layout.node("node1")
    await services.stop(corner, POLICY, kill=True)
    within(cluster, "x/a", "flush ruleset")
    services.start(corner, POLICY)
    await services.wait_ready(corner, [POLICY])
    await cluster.settled()
    assert set((await cluster.ask(every("x/a", cluster.addresses))).values()) == {"X"}


async def test_off_takes_all_of_ours_and_only_ours(cluster: Site) -> None:
    await cluster.enter(step(DENY_X))
    corner = cluster.layout.node("node1")
    pods = [pod for pod, node in cluster.nodes.items() if node == "node1"]
    within(cluster, "x/a", "add table inet own { chain c { type filter hook input priority 10; accept; }; }")
    own = within(cluster, "x/a", "list table inet own")
    config = json.loads(corner.config.read_text())
    try:
        services.write_config(corner, config | {"policy": {"network_policy": "off"}})
        await services.restart(corner, POLICY)
        await services.wait_ready(corner, [POLICY])

        async def left() -> str:
            found = [pod for pod in pods if "inet terway" in within(cluster, pod, "list tables")]
            return f"there are rules in {found}" if found else ""

        await until(left, what="all rules are gone", within_s=30, every_s=0.05)
        assert within(cluster, "x/a", "list table inet own") == own
        probes = every("x/a", cluster.addresses)
        assert set((await cluster.ask(probes, probes)).values()) == {"."}
    finally:
        services.write_config(corner, config)
        await services.restart(corner, POLICY)
        within(cluster, "x/a", "delete table inet own")
    await services.wait_ready(corner, [POLICY])
    await cluster.settled()
    assert set((await cluster.ask(every("x/a", cluster.addresses))).values()) == {"X"}


async def test_not_one_packet_gets_in_from_a_peer_that_is_denied(cluster: Site) -> None:
    """It floods the addresses from before the pods exist until after they run; counted is what the pod's stack was
    ever given, from its namespace's birth: behind the rules, which are inside."""
    assert await received_by_closed_pods(cluster, STARTS, AT_ONCE, behind_the_rules) == [(0, 0)] * STARTS


# ---- parts


@contextmanager
def service(cluster: Site, node: str, backend: str) -> Iterator[None]:
    """VIP:80 leads to a backend's port 80, as kube-proxy's rules of the node make it."""
    rule = f"ip daddr {VIP} tcp dport 80 dnat to {backend}:80"
    entry = cluster.layout.node(node).netns
    run(entry, f"add table ip kube {{ chain c {{ type nat hook prerouting priority dstnat; {rule}; }}; }}")
    try:
        yield
    finally:
        run(entry, "delete table ip kube")


def within(cluster: Site, pod: str, command: str) -> str:
    """What a container with CAP_NET_ADMIN can do."""
    return run(cluster.entries[pod], command)


def run(netns: Path, command: str) -> str:
    done = subprocess.run(["nsenter", f"--net={netns}", "nft", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shape(listed: str) -> list[str]:
    """What is listed, without what was counted."""
    return sorted(line.partition("counter packets")[0] for line in listed.splitlines())


async def restorations(cluster: Site, pod: str) -> int:
    """How often the pod's events say that its rules were put back."""
    namespace, _, name = pod.partition("/")
    events = [event async for event in cluster.kube.list(EVENTS, dict, namespace=namespace)]
    return sum(
        int(event.get("count") or 1)
        for event in events
        if event["involvedObject"]["name"] == name and event["reason"] == "PolicyRulesRestored"
    )
