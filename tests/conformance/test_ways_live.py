"""A sample of cyclonus' cases in the other modes whose pods the node's hooks see, and by IPv6."""

import json
import os
import uuid
from pathlib import Path

import pytest

from compose.lab.record import Stack
from shared.model import Mode
from tests.conformance.site import site
from tests.conformance.test_cyclonus_live import steps, wrong_cells
from tests.policy.conftest import vectors

__all__ = ["vectors"]
pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SAMPLE = 12


@pytest.mark.skipif(os.environ.get("TERWAY_CONFORMANCE") == "all", reason="make conformance MODE= STACK= asks all")
@pytest.mark.parametrize(
    ("mode", "stack"), [(Mode.VPC_ROUTE, "ipv4"), (Mode.SHARED_VETH, "dual"), (Mode.VPC_ROUTE, "dual")]
)
async def test_every_cell(mode: Mode, stack: Stack, vectors: Path) -> None:
    document = json.loads((vectors / "cyclonus_vectors.json").read_text())
    async with site(f"np{uuid.uuid4().hex[:6]}", mode, stack) as cluster:
        assert await wrong_cells(cluster, steps(document, SAMPLE)) == []
