"""Kubernetes' own idea of NetworkPolicy: every cell of cyclonus' cases, judged by the messages of the calculation."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.policy.core.matrix import Place, Probe, judged
from services.policy.core.profiles import PROFILES, Compat
from tests.policy.clusters import LEGEND, Cluster, workload

Json = Any


def cluster(step: Json, document: Json) -> Iterator[Json]:
    """The step's cluster as Kubernetes objects, everything on one node."""
    for name, labels in step["namespaces"].items():
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    ports = [
        {"name": f"serve-{port}-{protocol.lower()}", "containerPort": port, "protocol": protocol}
        for port in document["ports"]
        for protocol in document["protocols"]
    ]
    for pod in step["pods"]:
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": pod["namespace"], "name": pod["name"], "labels": pod["labels"]},
            "spec": {"nodeName": "node1", "containers": [{"ports": ports}]},
            "status": {"podIP": pod["ip"], "podIPs": [{"ip": pod["ip"]}]},
        }
    for policy in step["policies"] or ():  # some cases leave their kind out: there is no other
        yield {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **policy}


def wrong_cells(step: Json, document: Json, compat: Compat) -> tuple[int, list[str]]:
    """How many cells there are, and those that are judged otherwise."""
    state = Cluster(cluster(step, document), compat).state
    names = {
        (f"serve-{port}-{protocol.lower()}", protocol.lower()): port
        for port in document["ports"]
        for protocol in document["protocols"]
    }
    places = [
        Place(
            f"{pod['namespace']}/{pod['name']}",
            workload(f"{pod['namespace']}/{pod['name']}"),
            pod["ip"],
            names,
        )
        for pod in step["pods"]
    ]
    count, wrong = 0, []
    for probed, rows in step["expected"].items():
        protocol, _, port = probed.partition("/")
        probe = Probe(int(port), protocol.lower())
        for source, row in zip(places, rows, strict=True):
            for destination, expected in zip(places, row, strict=True):
                count += 1
                cell = LEGEND[judged(state, source, destination, probe)]
                if cell != expected:
                    wrong.append(f"{probed} {source.name} -> {destination.name}: {cell}, not {expected}")
    return count, wrong


def unknown_to_3_5_2(step: Json) -> bool:
    """Whether a policy uses what that version reads otherwise, as its own recordings show.

    It ignores endPort, takes an empty port entry for all protocols, and drops a policy with ports of SCTP.
    """
    rules = [rule for policy in step["policies"] or () for rule in _rules(policy["spec"])]
    return any(
        not port or "endPort" in port or (port.get("protocol") == "SCTP" and "port" in port)
        for rule in rules
        for port in rule.get("ports") or ()
    )


def _rules(spec: Json) -> Json:
    return (spec.get("ingress") or []) + (spec.get("egress") or [])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_cell(vectors: Path, profile: str) -> None:
    document = json.loads((vectors / "cyclonus_vectors.json").read_text())
    cells = 0
    wrong: list[str] = []
    otherwise: list[str] = []
    for case in document["cases"]:
        for number, step in enumerate(case["steps"]):
            count, found = wrong_cells(step, document, PROFILES[profile])
            cells += count
            accepted = otherwise if profile == "3.5.2" and unknown_to_3_5_2(step) else wrong
            accepted += [f"{case['id']} step {number} {cell}" for cell in found]
    assert cells == 123_669
    assert not wrong, f"{len(wrong)} of {cells} cells: {wrong[:10]}"
    assert len(otherwise) == (1280 if profile == "3.5.2" else 0)
