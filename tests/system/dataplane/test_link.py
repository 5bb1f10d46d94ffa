"""A hot-plugged ENI is waited for, whenever it comes."""

import asyncio
import time

import pytest
import uvloop

from services.eni_manager.dataplane import Dataplane
from shared.errors import NotFound, Unavailable
from shared.model import Mac
from tests.system.dataplane.world import ENI_MAC, SUBNET, Memory, World, running

pytestmark = pytest.mark.system
LATE = Mac("02:16:3e:00:00:77")


async def test_a_link_that_is_there_is_found_at_once(world: World, dataplane: Dataplane) -> None:
    assert (await dataplane.wait_for_link(ENI_MAC, 5.0)).name == "eth1"


async def appears(world: World, dataplane: Dataplane) -> str:
    waiting = asyncio.create_task(dataplane.wait_for_link(LATE, 5.0))
    await dataplane.attachments()  # the kernel thread is through with the first look
    world.node.ip("link", "add", "noise0", "type", "veth", "peer", "name", "noise1")
    assert not waiting.done()
    world.node.ip("link", "add", "eth9", "address", LATE, "type", "veth", "peer", "name", "far9")
    return (await waiting).name


async def test_a_link_is_found_when_it_appears(world: World, dataplane: Dataplane) -> None:
    assert await appears(world, dataplane) == "eth9"


def test_on_uvloop_too(world: World, memory: Memory) -> None:
    async def main() -> str:
        async with running(memory) as dataplane:
            return await appears(world, dataplane)

    assert uvloop.run(main()) == "eth9"


async def test_a_link_that_gets_its_mac_later_is_found(world: World, dataplane: Dataplane) -> None:
    world.node.ip("link", "add", "eth9", "type", "veth", "peer", "name", "far9")
    waiting = asyncio.create_task(dataplane.wait_for_link(LATE, 5.0))
    await dataplane.attachments()
    world.node.ip("link", "set", "eth9", "address", LATE)
    assert (await waiting).name == "eth9"


async def test_a_link_that_does_not_come_is_unavailable_in_time(world: World, dataplane: Dataplane) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=LATE):
        await dataplane.wait_for_link(LATE, 0.1)
    assert time.monotonic() - began < 2


async def test_an_eni_is_ready_only_when_its_link_is_there(world: World, dataplane: Dataplane) -> None:
    with pytest.raises(NotFound, match=LATE):
        await dataplane.ensure_eni(LATE, SUBNET)
