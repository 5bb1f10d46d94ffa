"""Cyclonus' cases live: every step that has the nine pods, on two nodes, with the real services and real packets.

60 steps in the suite; all of them with TERWAY_CONFORMANCE=all, as `make conformance` does. By SCTP the first packet is
sent by hand: this machine's kernel may have no such sockets (sctp.py). A pod's way to itself passes no hook (the
vectors' README) and is not asked.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from compose.lab.serve import Port
from tests.conformance.site import Probe, Site
from tests.policy.conftest import vectors

__all__ = ["vectors"]
pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="session")]

ALL = os.environ.get("TERWAY_CONFORMANCE") == "all"
SAMPLE = 60

Json = Any


def steps(document: Json, sample: int = SAMPLE) -> list[tuple[str, Json]]:
    """Name and content of the steps with at most nine pods, all or evenly chosen."""
    found = [
        (f"{case['id']} step {number}: {case['description']}", step)
        for case in document["cases"]
        for number, step in enumerate(case["steps"])
        if len(step["pods"]) <= 9
    ]
    return found if ALL else [found[place * len(found) // sample] for place in range(sample)]


def cells(step: Json) -> dict[Probe, str]:
    """Each probe between two pods, and cyclonus' word."""
    names = [f"{pod['namespace']}/{pod['name']}" for pod in step["pods"]]
    return {
        Probe(source, destination, Port(int(port), protocol.lower())): expected
        for probed, rows in step["expected"].items()
        for protocol, _, port in [probed.partition("/")]
        for source, row in zip(names, rows, strict=True)
        for destination, expected in zip(names, row, strict=True)
        if source != destination
    }


async def test_every_cell(vectors: Path, cluster: Site) -> None:
    document = json.loads((vectors / "cyclonus_vectors.json").read_text())
    assert await wrong_cells(cluster, steps(document)) == []


async def wrong_cells(cluster: Site, chosen: list[tuple[str, Json]]) -> list[str]:
    """Goes through the steps; a sentence for each cell that is not as cyclonus says."""
    asked = denied = 0
    wrong: list[str] = []
    began = time.monotonic()
    for name, step in chosen:
        await cluster.enter(step)
        expected = cells(step)
        open_ones = {probe for probe, cell in expected.items() if cell == "."}
        answers = await cluster.ask(expected, open_ones)
        for probe, cell in expected.items():
            asked += 1
            denied += cell != "."
            # A denied connection is answered by nothing at all: no reset, no ICMP.
            if answers[probe] != ("." if cell == "." else "X"):
                wrong.append(
                    f"{name}: {probe.source} -> {probe.destination} {probe.port}: {answers[probe]}, not {cell}"
                )
    print(f"{len(chosen)} steps, {asked} cells, {denied} denied, {time.monotonic() - began:.1f} s")
    assert asked >= 144 * len(chosen)
    assert 0 < denied < asked
    return wrong
