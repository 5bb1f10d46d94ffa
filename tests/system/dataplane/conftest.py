"""The node as a fixture. Its tests run inside its namespace, as services do."""

from collections.abc import AsyncIterator, Iterator

import pytest

from services.eni_manager.dataplane import Dataplane
from tests.system.dataplane.world import Memory, World, running, standing


@pytest.fixture
def world() -> Iterator[World]:
    with standing(World) as made:
        yield made


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def dataplane(world: World, memory: Memory) -> AsyncIterator[Dataplane]:
    async with running(memory) as dataplane:
        yield dataplane
