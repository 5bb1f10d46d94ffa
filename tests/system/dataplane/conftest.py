"""The node as a fixture. Its tests run inside its namespace, as services do."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from services.eni_manager.adapters import netns
from services.eni_manager.dataplane import Dataplane
from tests.system.dataplane.world import Memory, World, running


@pytest.fixture
def world() -> Iterator[World]:
    home = netns.own_netns()
    with ExitStack() as opened:
        opened.callback(os.close, home)
        opened.callback(netns.enter, home)
        world = World(opened, home)
        world.build()
        netns.enter(world.node.fd)
        yield world


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def dataplane(world: World, memory: Memory) -> AsyncIterator[Dataplane]:
    async with running(memory) as dataplane:
        yield dataplane
