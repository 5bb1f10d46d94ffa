"""What running policies promise beyond a matrix: from the first packet on, through deaths, and until they are off."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from compose.lab import services
from compose.lab.layout import NodeLayout
from compose.lab.probe import ask
from compose.lab.serve import Port
from shared.model import PodKey
from tests.conformance.cases import DENY_X, ONLY_B_TO_A, every, step
from tests.conformance.flooding import at_the_link, received_by_closed_pods
from tests.conformance.site import PORTS, Probe, Site
from tests.conformance.streams import POLICIES, streaming

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="session")]

STARTS = 200 if os.environ.get("TERWAY_CONFORMANCE") == "all" else 40
AT_ONCE = 4
POLICY = services.named("policy")

Json = Any


async def test_a_denied_connection_times_out_and_the_node_is_answered(cluster: Site) -> None:
    await cluster.enter(step(DENY_X))
    answers = await cluster.ask(every("x/a", cluster.addresses))
    assert set(answers.values()) == {"X"}, "no answer of any kind: no reset, no ICMP"
    corner = cluster.layout.node("node1")
    for port in PORTS:
        answer = await ask(corner.netns, cluster.addresses["x/a"], port, timeout_s=20)
        assert answer.reached, "a kubelet's probe of its own pod is nobody's business"
    other = await ask(cluster.layout.node("node2").netns, cluster.addresses["x/a"], PORTS[0], timeout_s=1)
    assert not other.reached, "another node is a peer like any"


async def test_policies_hold_while_the_service_is_killed_and_started(cluster: Site) -> None:
    """Old rules stay until the new process knows everything; nothing is let through or dropped meanwhile."""
    await cluster.enter(step(DENY_X, ONLY_B_TO_A, *POLICIES))
    async with judged_all_the_time(cluster) as rounds, streaming(cluster) as flowing:
        for _ in range(3):
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


async def test_policies_hold_while_the_api_server_is_away(cluster: Site) -> None:
    """Also when the service starts without one: then what is in the kernel stays as it was."""
    await cluster.enter(step(DENY_X, ONLY_B_TO_A))
    corner = cluster.layout.node("node1")
    async with judged_all_the_time(cluster) as rounds:
        with api_away(corner, cluster):
            before = len(rounds)
            await more(rounds, before)
            await services.stop(corner, POLICY, kill=True)
            services.start(corner, POLICY)
            await more(rounds, len(rounds) + 3)
            assert services.ask(corner, POLICY, "/readyz")[0] != 200
        await services.wait_ready(corner, [POLICY])
        await more(rounds, len(rounds))
    await cluster.settled()


async def test_off_takes_all_of_ours_and_only_ours(cluster: Site) -> None:
    await cluster.enter(step(DENY_X))
    corner = cluster.layout.node("node1")
    await nft(corner, "add table inet foreign { chain c { type filter hook forward priority 10; policy accept; }; }")
    foreign = await nft(corner, "list table inet foreign")
    config = json.loads(corner.config.read_text())
    try:
        services.write_config(corner, config | {"policy": {"network_policy": "off"}})
        await services.restart(corner, POLICY)
        await services.wait_ready(corner, [POLICY])
        assert "inet terway\n" not in await nft(corner, "list tables")
        assert await nft(corner, "list table inet foreign") == foreign
        probes = every("x/a", cluster.addresses)
        assert set((await cluster.ask(probes, probes)).values()) == {"."}
    finally:
        services.write_config(corner, config)
        await services.restart(corner, POLICY)
        await nft(corner, "delete table inet foreign")
    await services.wait_ready(corner, [POLICY])
    assert set((await cluster.ask(every("x/a", cluster.addresses))).values()) == {"X"}


async def test_status_says_what_is_in_force(cluster: Site) -> None:
    await cluster.enter(step(DENY_X, ONLY_B_TO_A))
    status, found = services.ask(cluster.layout.node("node1"), POLICY, "/policy/status?pod=x/a")
    assert status == 200
    [standing] = found["value"] if isinstance(found, dict) else found
    assert not standing["pending"]
    assert standing["policies"] == ["default/x/knp.default.deny", "default/x/knp.default.only-b"] or standing[
        "policies"
    ] == ["x/knp.default.deny", "x/knp.default.only-b"]
    info = await cluster.pods.get(PodKey("x", "a"))
    assert standing["addresses"] == info.addresses and cluster.addresses["x/a"] in info.addresses
    assert 0 < standing["attached_at"] <= standing["enforced_at"] <= time.time()
    assert services.ask(cluster.layout.node("node1"), POLICY, "/policy/status?pod=z/a")[0] == 404


async def test_not_one_packet_gets_in_from_a_peer_that_is_denied(cluster: Site) -> None:
    """It floods the addresses from before the pods exist until after they run; what a namespace ever received is
    counted from its birth."""
    began = time.monotonic()
    assert await received_by_closed_pods(cluster, STARTS, AT_ONCE, at_the_link) == [(0, 0)] * STARTS
    print(f"{STARTS} pods started under floods in {time.monotonic() - began:.1f} s: not one packet came in")


# ---- parts


@asynccontextmanager
async def judged_all_the_time(cluster: Site) -> AsyncIterator[list[int]]:
    """New connections all the time meanwhile, each judged; the list grows by one with each round."""
    allowed = {Probe("x/b", "x/a", Port(80, "tcp"))}
    probes = every("x/a", ("x/b", "x/c", "y/a", "z/a")) + every("z/b", ("x/a", "y/b", "z/c"))
    allowed |= {probe for probe in probes if probe.destination == "z/b"}
    rounds: list[int] = []
    over = asyncio.Event()

    async def judge() -> None:
        while not over.is_set():
            answers = await cluster.ask(probes, allowed)
            wrong = {
                f"{probe.source} -> {probe.destination} {probe.port}": answer
                for probe, answer in answers.items()
                if (answer == ".") != (probe in allowed)
            }
            assert not wrong, f"round {len(rounds)}: {wrong}"
            rounds.append(1)

    judging = asyncio.create_task(judge())
    acting = asyncio.current_task()
    assert acting is not None
    judging.add_done_callback(lambda task: acting.cancel() if task.exception() is not None else None)
    try:
        yield rounds
    except asyncio.CancelledError:
        if not judging.done():
            raise
    finally:
        over.set()
        await asyncio.wait([judging])
    judging.result()


async def more(rounds: list[int], than: int) -> None:
    """One round that began after this call has ended."""
    async with asyncio.timeout(120):
        while len(rounds) < than + 2:  # noqa: ASYNC110  the judge has no event for it
            await asyncio.sleep(0.01)


@contextmanager
def api_away(corner: NodeLayout, cluster: Site) -> Iterator[None]:
    """The API server refuses this node's packets."""
    server = str(cluster.record.about["kubernetes"]).partition("://")[2].rpartition(":")[0]
    rule = f"ip daddr {server} tcp dport 6443 reject with tcp reset"
    chain = f"chain out {{ type filter hook output priority 0; {rule}; }};"
    run(corner, f"add table inet away {{ {chain} }}")
    try:
        yield
    finally:
        run(corner, "delete table inet away")


async def nft(corner: NodeLayout, command: str) -> str:
    return await asyncio.to_thread(run, corner, command)


def run(corner: NodeLayout, command: str) -> str:
    argv = ["nsenter", f"--net={corner.netns}", "nft", command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
