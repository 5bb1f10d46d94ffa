"""A fabric with nodes, that leaves nothing behind."""

from collections.abc import AsyncIterator

import pytest

from compose.lab.fabric import names
from compose.lab.fabric.vpc import VpcFabric
from tests.lab.fabric.nodes import Nodes, new_lab, plan


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with VpcFabric(plan(new_lab())) as fabric:
        nodes = Nodes(fabric)
        await nodes.build()
        yield nodes
    assert names.existing(fabric.lab) == []
