"""A sample of cyclonus' cases and a short flood in the other modes whose pods the node's hooks see, and by IPv6."""

import json
import os
import uuid
from pathlib import Path

import pytest

from compose.lab.record import Stack
from shared.model import Mode
from tests.conformance.flooding import at_the_link, received_by_closed_pods
from tests.conformance.site import site
from tests.conformance.test_cyclonus_live import steps, wrong_cells
from tests.policy.conftest import vectors

__all__ = ["vectors"]
pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SAMPLE = 12
STARTS = 8
AT_ONCE = 4


@pytest.mark.skipif(os.environ.get("TERWAY_CONFORMANCE") == "all", reason="make conformance MODE= STACK= asks all")
@pytest.mark.parametrize(
    ("mode", "stack"), [(Mode.VPC_ROUTE, "ipv4"), (Mode.SHARED_VETH, "dual"), (Mode.VPC_ROUTE, "dual")]
)
async def test_every_cell_and_not_one_packet_of_a_flood(mode: Mode, stack: Stack, vectors: Path) -> None:
    document = json.loads((vectors / "cyclonus_vectors.json").read_text())
    async with site(f"np{uuid.uuid4().hex[:6]}", mode, stack) as cluster:
        assert await wrong_cells(cluster, steps(document, SAMPLE)) == []
        assert await received_by_closed_pods(cluster, STARTS, AT_ONCE, at_the_link) == [(0, 0)] * STARTS
