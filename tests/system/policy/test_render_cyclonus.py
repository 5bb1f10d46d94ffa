"""Cyclonus' cases by real packets: what the kernel does with rendered text is what the calculation says.

Every step of every case with `TERWAY_POLICY_STEPS=all`, else every fifth. The judge is `verdict.judge`, which
tests/policy holds to Kubernetes' own answers for every one of these cells.
"""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from services.policy.core.nft.model import Table, difference
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment
from services.policy.core.profiles import FELIX_CURRENT
from services.policy.core.state import State
from services.policy.core.verdict import Flow, judge
from tests.policy.clusters import Cluster, workload
from tests.policy.conftest import vectors
from tests.policy.nft.test_render import messages_of, same
from tests.policy.test_cyclonus import cluster
from tests.system.policy.render_listing import read
from tests.system.policy.render_world import Packet, Place, Site, site

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
__all__ = ["vectors"]

EVERY = 1 if os.environ.get("TERWAY_POLICY_STEPS") == "all" else 5

Json = Any


@pytest.fixture(scope="module")
def eleven() -> Iterator[Site]:
    with site(11) as made:
        yield made


def test_every_cell(vectors: Path, eleven: Site) -> None:
    document = json.loads((vectors / "cyclonus_vectors.json").read_text())
    steps = [(case["id"], number, step) for case in document["cases"] for number, step in enumerate(case["steps"])]
    cells, denied, wrong = 0, 0, []
    before = Table()
    for turn, (case, number, step) in enumerate(islice(steps, 0, None, EVERY)):
        state = Cluster(cluster(step, document), FELIX_CURRENT).state
        renderer = Renderer()
        _place(eleven, step["pods"])
        for index, pod in enumerate(step["pods"]):
            name = workload(f"{pod['namespace']}/{pod['name']}")
            renderer.attach(Attachment(f"cali{index}", (pod["ip"],), name))
        for message in messages_of(state):
            renderer.take(message)
        renderer.flush()
        # The table of one case becomes that of the next, as on a node.
        eleven.node.load(difference(before, renderer.table).text())
        before = renderer.table
        same(read(eleven.node.listing()), before)
        probes = list(_probes(eleven, step["pods"], document, 20_000 + turn))
        answers = eleven.ask([(place, packet) for place, packet, _, _ in probes])
        for (_, packet, source, destination), arrived in zip(probes, answers, strict=True):
            expected = _judged(state, source, destination, packet)
            cells += 1
            denied += not expected
            if arrived != expected:
                wrong.append(f"{case} step {number}: {packet} arrived: {arrived}")
    assert not wrong, f"{len(wrong)} of {cells} cells: {wrong[:10]}"
    assert denied > cells // 20, "the cases deny something"


def _place(made: Site, pods: Sequence[Json]) -> None:
    addresses = [pod["ip"] for pod in pods]
    if addresses != [held[0] for held in made.addresses.values() if held]:
        for index in range(len(made.pods)):
            made.address(index)
        for index, address in enumerate(addresses):
            made.address(index, address)


def _probes(
    made: Site, pods: Sequence[Json], document: Json, source_port: int
) -> Iterator[tuple[Place, Packet, Json, Json]]:
    for index, source in enumerate(pods):
        for destination in pods:
            # What a pod says to itself never reaches its host.
            if source is not destination:
                for protocol in document["protocols"]:
                    for port in document["ports"]:
                        packet = Packet(source["ip"], destination["ip"], protocol.lower(), port, source_port)
                        yield made.pods[index], packet, source, destination


def _judged(state: State, source: Json, destination: Json, packet: Packet) -> bool:
    flow = Flow(packet.source, packet.destination, packet.protocol, packet.port, packet.source_port)
    sender = state.workloads[workload(f"{source['namespace']}/{source['name']}")]
    receiver = state.workloads[workload(f"{destination['namespace']}/{destination['name']}")]
    return judge(state, sender, "egress", flow).allowed and judge(state, receiver, "ingress", flow).allowed
