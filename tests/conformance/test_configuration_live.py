"""The policy service's configuration changes while packets flow (test_calico_live.py changes the profile)."""

import asyncio
import json

import pytest

from compose.lab.probe import ask
from compose.lab.serve import Port
from tests.conformance.cases import DENY_X, ONLY_B_TO_A, step
from tests.conformance.site import PORTS, Probe, Site
from tests.conformance.streams import POLICIES, STREAMS, streaming
from tests.conformance.test_enforced_live import judged_all_the_time, more
from tests.conformance.test_functional_live import DENIED_S, NODES, REACHED_S, listening, open_of, reconfigured

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="session")]

TCP80 = PORTS[0]


async def test_what_is_allowed_does_not_notice_that_enforcing_ends_and_begins(cluster: Site) -> None:
    """Also the connections that there are: what was judged by nobody is known when policies come back."""
    denied = [Probe("x/c", "x/a", TCP80), Probe("z/a", "x/a", TCP80)]
    before = {node: json.loads(cluster.layout.node(node).config.read_text()) for node in NODES}
    await cluster.enter(step(DENY_X, ONLY_B_TO_A, *POLICIES))
    async with streaming(cluster, [stream for stream in STREAMS if stream.allowed]) as flowing:
        for wanted in ("observe", "enforce", "off", "enforce"):
            for node in NODES:
                flowing.note(f"{node}: {wanted}")
                policy = before[node]["policy"] | {"network_policy": wanted}
                await reconfigured(cluster.layout.node(node), before[node] | {"policy": policy})
            if wanted == "enforce":
                await cluster.settled()
            let_in = set() if wanted == "enforce" else set(denied)
            assert await open_of(cluster, denied, let_in) == let_in, wanted
    await cluster.settled()


async def test_what_pods_may_ask_of_their_own_node_changes_while_packets_flow(cluster: Site) -> None:
    """endpoint_to_host_action: Felix's DefaultEndpointToHostAction. Other packets do not notice; answers to the node's
    own questions are no questions."""
    corner = cluster.layout.node("node1")
    config = json.loads(corner.config.read_text())
    own, port = cluster.record.facts("node1").primary_ip, Port(8081, "tcp")
    await cluster.enter(step(DENY_X, ONLY_B_TO_A, *POLICIES))
    async with judged_all_the_time(cluster) as rounds, streaming(cluster) as flowing:
        with listening(corner, 8081):
            for action, reached in (("DROP", False), ("RETURN", True), ("ACCEPT", True)):
                wanted = config | {"policy": config["policy"] | {"endpoint_to_host_action": action}}
                flowing.note(f"endpoint_to_host_action: {action}")
                await reconfigured(corner, wanted)  # which is ready again: what it says is in force
                patience = REACHED_S if reached else DENIED_S
                pods = [cluster.entries[pod] for pod in ("x/b", "y/a")]
                answers = await asyncio.gather(*(ask(pod, own, port, timeout_s=patience) for pod in pods))
                assert [answer.reached for answer in answers] == [reached, reached], action
                assert (await ask(cluster.entries["z/a"], own, port, timeout_s=REACHED_S)).reached, "another node's pod"
                kubelet = await ask(corner.netns, cluster.addresses["x/a"], TCP80, timeout_s=REACHED_S)
                assert kubelet.reached, action
        await more(rounds, len(rounds))
