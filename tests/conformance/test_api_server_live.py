"""The API server ends as if killed, its ports closed, and starts again, with traffic all the time.

First with all of its past, so that watches go on from where they were; then with none, so that nobody can (410) and
everything is listed anew. The policy service is killed too, while there is no API server, and starts without one.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from compose.lab import services
from compose.lab.control import Control, connect
from compose.lab.serve import Port
from compose.lab.waiting import until
from shared.kube.resources import CONFIGMAPS
from tests.conformance.cases import DENY_X, ONLY_B_TO_A, step
from tests.conformance.flooding import Count, at_the_link, received_by_closed_pods
from tests.conformance.site import PATIENCE_S, Probe, Site
from tests.conformance.streams import POLICIES, streaming
from tests.conformance.test_enforced_live import POLICY, judged_all_the_time, more

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="session")]

RESUMED_WITHIN_S = 3.0
STARTS = 60 if os.environ.get("TERWAY_CONFORMANCE") == "all" else 4
AT_ONCE = 3


async def test_policies_hold_while_the_api_server_is_killed_and_started(cluster: Site) -> None:
    await held_while_the_api_server_is_killed_and_started(cluster)


async def held_while_the_api_server_is_killed_and_started(cluster: Site) -> None:
    """In any mode: no packet is wrongly dropped or let through, and what is written afterwards is in force."""
    await cluster.enter(step(DENY_X, ONLY_B_TO_A, *POLICIES))
    async with (
        connect(cluster.layout.cloud_socket) as cloud,
        judged_all_the_time(cluster) as rounds,
        streaming(cluster) as flowing,
    ):
        before, began = await lists(cluster), time.monotonic()
        async with down(cloud):
            flowing.note("the API server was killed")
            await unheard(cluster)
        flowing.note("it was started")
        await cluster._mark()
        await cluster.settled()
        # After some tries in vain a watch gives up its place, as it should: not within such a time.
        if time.monotonic() - began < RESUMED_WITHIN_S:
            assert await lists(cluster) == before, "watches went on from where they were"
        flowing.note("watches were back")
        await more(rounds, len(rounds))

        # Of a kind that nobody watches: a version that no watch has heard of.
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "later-"}}
        await cluster.kube.create(CONFIGMAPS, dict, made, namespace="default")
        async with down(cloud):
            flowing.note("the API server was killed again")
            corner = cluster.layout.node("node2")
            await services.stop(corner, POLICY, kill=True)
            services.start(corner, POLICY)
            flowing.note("node2's policy service was killed and started without an API server")
            await unheard(cluster)
            await more(rounds, len(rounds))
            assert services.ask(corner, POLICY, "/readyz")[0] != 200
            await cloud.send("POST", "/faults", {"action": "kubernetes", "kind": "compacted"})
        flowing.note("it was started, and has forgotten its past")
        await cluster._mark()
        await cluster.settled()
        await services.wait_ready(corner, [POLICY])

        async def missing() -> str:
            kept = {
                name for name, count in (await lists(cluster)).items() if name[0] == "node1" and count <= before[name]
            }
            return f"{kept} are as they were" if kept else ""

        await until(missing, what="all of node1 is listed anew", within_s=PATIENCE_S, every_s=0.05)
        flowing.note("all was listed anew")
        await more(rounds, len(rounds))
    await cluster.enter(step(DENY_X))
    denied = Probe("x/b", "x/a", Port(80, "tcp"))
    assert await cluster.ask([denied]) == {denied: "X"}


async def test_not_one_packet_gets_in_while_services_die(cluster: Site) -> None:
    await nothing_gets_in_while_services_die(cluster, AT_ONCE, at_the_link)


async def nothing_gets_in_while_services_die(cluster: Site, at_once: int, count: Count) -> None:
    """Pods start under floods while the policy service is killed again and again, and the API server, too."""
    deaths = Counter[str]()
    corner = cluster.layout.node("node2")

    async def one_dies(cloud: Control) -> None:
        if deaths.total() % 3 == 2:
            async with down(cloud):
                deaths["API server"] += 1
                await unheard(cluster, ("node2",))
        else:
            await services.stop(corner, POLICY, kill=True)
            deaths["policy service"] += 1
            services.start(corner, POLICY)
        await services.wait_ready(corner, [POLICY])

    async with connect(cluster.layout.cloud_socket) as cloud:
        got = await received_by_closed_pods(cluster, STARTS, at_once, count, lambda: one_dies(cloud))
    assert got == [(0, 0)] * STARTS
    assert deaths["policy service"], deaths
    await cluster.settled()
    print(f"{STARTS} pods started under floods, while {dict(deaths)} died: not one packet came in")


@asynccontextmanager
async def down(cloud: Control) -> AsyncIterator[None]:
    """There is no API server."""
    fault = await cloud.send("POST", "/faults", {"action": "kubernetes", "kind": "down"})
    try:
        yield
    finally:
        await cloud.send("DELETE", f"/faults?id={fault['id']}")


async def lists(cluster: Site) -> dict[tuple[str, str], int]:
    """Node and kind -> how often the node's policy service has listed it."""
    found = {}
    for fact in cluster.record.nodes:
        _, state = await asyncio.to_thread(services.ask, cluster.layout.node(fact.name), POLICY, "/state")
        found |= {(fact.name, watch["resource"]): watch["lists"] for watch in state["watches"]}
    return found


async def unheard(cluster: Site, nodes: Iterable[str] = ("node1", "node2")) -> None:
    """These nodes' policy services have noticed: their watches have failed, and were tried again."""

    async def missing() -> str:
        for node in nodes:
            _, state = await asyncio.to_thread(services.ask, cluster.layout.node(node), POLICY, "/state")
            well = [watch["resource"] for watch in state.get("watches", ()) if not watch["trouble"]]
            if well or not state:
                return f"{node} has not noticed: {well}"
        return ""

    await until(missing, what="that the API server is away is noticed", within_s=PATIENCE_S, every_s=0.05)
