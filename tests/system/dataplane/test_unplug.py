"""Unplug never fails for what is missing, withdraws at once, and leaves nothing behind."""

import asyncio

import pytest
from msgspec.structs import replace

from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Unplug, Unplugged
from shared.contracts.ipam import Lease
from shared.errors import Conflict
from shared.model import AttachmentKey
from tests.system.dataplane.world import FAR, Memory, World, plug, running, talks, unplug, until

pytestmark = pytest.mark.system


async def test_everything_is_as_before(world: World, dataplane: Dataplane, memory: Memory) -> None:
    box = world.sandbox(ipv6=True)
    before = (world.node.state().of_pods, box.state())
    await plug(dataplane, box)
    assert world.node.state().of_pods != before[0]
    assert await dataplane.unplug(Unplug(key=box.lease.key, lease=box.lease)) == Unplugged(found=True)
    assert world.node.state().of_pods.rest == before[0].rest
    await until(lambda: (world.node.state().of_pods, box.state()) == before)
    assert memory.kept == {}


async def test_no_packet_gets_through_once_unplug_has_answered(world: World, memory: Memory) -> None:
    async with running(memory, linger_s=3600.0) as dataplane:
        box = world.sandbox()
        await plug(dataplane, box)
        with box.socket(box.ipv4, 7001) as inside, world.vpc.socket(FAR, 7001) as outside:
            outside.sendto(b"before", (box.ipv4, 7001))
            assert inside.recv(16) == b"before"
            await unplug(dataplane, box)
            inside.settimeout(0.2)
            outside.settimeout(0.2)
            outside.sendto(b"after", (box.ipv4, 7001))
            with pytest.raises(TimeoutError):
                inside.recv(16)
            with pytest.raises(OSError, match=r"timed out|unreachable"):
                inside.sendto(b"after", (FAR, 7001))
                outside.recv(16)


async def test_again_and_for_the_unknown_is_success(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    await unplug(dataplane, box)
    assert await dataplane.unplug(Unplug(key=box.lease.key)) == Unplugged(found=False)
    nobody = AttachmentKey("terway", "nobody", "eth0")
    assert await dataplane.unplug(Unplug(key=nobody)) == Unplugged(found=False)
    assert await dataplane.unplug(Unplug(key=nobody, lease=replace(box.lease, key=nobody))) == Unplugged(found=False)


async def test_the_namespace_may_be_gone(world: World, dataplane: Dataplane, memory: Memory) -> None:
    box = world.sandbox()
    before = world.node.state()
    await plug(dataplane, box)
    path = box.path
    box.close()
    await until(lambda: box.lease.host_link not in world.node.links())
    await dataplane.unplug(Unplug(key=box.lease.key, netns=path))
    assert world.node.state() == before
    assert memory.kept == {}


async def test_without_lease_and_without_journal_the_marks_are_enough(world: World, memory: Memory) -> None:
    box = world.sandbox()
    async with running(memory) as dataplane:
        before = world.node.state()
        await plug(dataplane, box)
    memory.kept.clear()  # the journal is lost
    async with running(memory) as dataplane:
        (found,) = (await dataplane.attachments()).attachments
        assert (found.key, found.host_link, found.alive) == (box.lease.key, box.lease.host_link, True)
        assert talks(box, box.ipv4, world.vpc, FAR), "a stray is a live pod until somebody unplugs it"
        assert await dataplane.unplug(Unplug(key=box.lease.key)) == Unplugged(found=True)
        await until(lambda: world.node.state() == before)
        assert (await dataplane.attachments()).attachments == []


async def test_retired_links_of_an_earlier_life_are_deleted(world: World, memory: Memory) -> None:
    box = world.sandbox()
    async with running(memory, linger_s=3600.0) as dataplane:
        before = world.node.state()
        await plug(dataplane, box)
        await unplug(dataplane, box)
        assert len(world.node.links()) == len(before.links) + 1
    async with running(memory):
        await until(lambda: world.node.state() == before)


async def test_a_foreign_link_under_the_leases_name_survives(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    world.node.ip("link", "del", box.lease.host_link)
    world.node.ip("link", "add", box.lease.host_link, "type", "veth", "peer", "name", "other0")
    await unplug(dataplane, box)
    assert {box.lease.host_link, "other0"} <= set(world.node.links())


async def test_plug_and_unplug_of_one_key_do_not_mix(world: World, dataplane: Dataplane, memory: Memory) -> None:
    box = world.sandbox()
    before = world.node.state()
    await asyncio.gather(*(step(dataplane, box) for _ in range(5) for step in (plug, unplug)))
    await until(lambda: world.node.state() == before)
    assert memory.kept == {}
    await plug(dataplane, box)
    assert talks(box, box.ipv4, world.vpc, FAR)


async def test_one_key_is_worked_on_by_one_call_at_a_time(world: World) -> None:
    class Watching(Memory):
        inside = most = 0

        async def put_attachment(self, lease: Lease, *, netns: str, mtu: int | None = None) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            await super().put_attachment(lease, netns=netns, mtu=mtu)
            self.inside -= 1

    box, store = world.sandbox(), Watching()
    async with running(store) as dataplane:
        for _ in range(3):  # the first of these comes when the last of those before has just let go
            await asyncio.gather(*(plug(dataplane, box) for _ in range(4)))
        assert store.most == 1


async def test_a_plug_that_nobody_waits_for_any_more_is_undone_by_unplug(
    world: World, dataplane: Dataplane, memory: Memory
) -> None:
    box = world.sandbox()
    before = world.node.state()
    for passes in range(12):
        plugging = asyncio.create_task(plug(dataplane, box))
        for _ in range(passes):
            await asyncio.sleep(0)
        plugging.cancel()
        await asyncio.gather(plugging, return_exceptions=True)
        await unplug(dataplane, box)
        await until(lambda: world.node.state() == before)
        assert memory.kept == {}


async def test_a_plug_that_the_journal_refuses_is_undone(world: World) -> None:
    class Refusing(Memory):
        async def put_attachment(self, lease: Lease, *, netns: str, mtu: int | None = None) -> None:
            raise Conflict("given back to the cloud")

    box = world.sandbox()
    async with running(Refusing()) as dataplane:
        before = (world.node.state(), box.state())
        with pytest.raises(Conflict, match="given back"):
            await plug(dataplane, box)
        await until(lambda: (world.node.state(), box.state()) == before)
        assert (await dataplane.attachments()).attachments == []


async def test_a_link_that_died_before_it_was_marked_is_known_by_its_mac(world: World, memory: Memory) -> None:
    box = world.sandbox()
    async with running(memory) as dataplane:
        before = world.node.state()
        await plug(dataplane, box)
    memory.kept.clear()
    world.node.ip("link", "set", box.lease.host_link, "alias", "")
    async with running(memory) as dataplane:
        assert await dataplane.unplug(Unplug(key=box.lease.key)) == Unplugged(found=True)
        await until(lambda: world.node.state() == before)


async def test_what_is_dead_is_cleared_away_and_what_lives_is_left_alone(
    world: World, dataplane: Dataplane, memory: Memory
) -> None:
    """A lost DEL: ipam asks for what is left of the sandbox to go, unless it lives after all."""
    box = world.sandbox()
    before = world.node.state()
    await plug(dataplane, box)
    [listed] = (await dataplane.attachments()).attachments
    assert (listed.key, listed.alive, listed.lease) == (box.lease.key, True, box.lease)
    with pytest.raises(Conflict, match="still connected"):
        await dataplane.unplug(Unplug(key=box.lease.key, unless_alive=True))
    assert talks(box, box.ipv4, world.vpc, FAR)
    box.close()
    await until(lambda: box.lease.host_link not in world.node.links())
    assert [one.alive for one in (await dataplane.attachments()).attachments] == [False]
    await dataplane.unplug(Unplug(key=box.lease.key, unless_alive=True))
    assert world.node.state().rest == before.rest
    assert (memory.kept, (await dataplane.attachments()).attachments) == ({}, [])
