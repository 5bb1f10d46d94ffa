"""Limits hold in both directions, hurt nobody else, queue little, and change while the pod runs."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Limit
from shared.contracts.ipam import Bandwidth
from shared.errors import NotFound
from tests.system.dataplane.iperf import answered, flow, pinging
from tests.system.dataplane.limits import DIRECTIONS, MBIT, RATES, TOLERANCE, TRIES, beside, met, pushed
from tests.system.dataplane.world import (
    FAR,
    Memory,
    World,
    inhabited,
    plug,
    problems_of,
    running,
    unplug,
    until,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.mark.alone
@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{rate // MBIT}Mbit")
async def test_a_limit_is_met(rate: int, world: World, dataplane: Dataplane) -> None:
    for found in await met(world, dataplane, rate):
        # Whatever else this machine does can only take away: what is too much is too much even once.
        assert max(found) <= 1 + TOLERANCE, found
        assert max(found) >= 1 - TOLERANCE, found


@pytest.mark.alone
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_a_full_queue_delays_by_less_than_30_ms(direction: str, world: World, dataplane: Dataplane) -> None:
    rate = 10 * MBIT
    box = world.sandbox(bandwidth=Bandwidth(ingress=rate, egress=rate))
    await plug(dataplane, box)
    assert answered(box, FAR)
    slow = []
    for _ in range(TRIES):  # a machine whose cores are busy can only add to it
        with pinging(box, FAR) as trips:
            flow(box, world.vpc, FAR, reverse=DIRECTIONS[direction], rate=rate)
        slow.append(trips[len(trips) * 95 // 100])
        if len(trips) > 40 and slow[-1] < 30.0:
            return
    pytest.fail(f"95 of 100 pings take less than {slow} ms")


@pytest.mark.alone
async def test_a_limited_pod_does_not_slow_its_neighbour(world: World, dataplane: Dataplane) -> None:
    limited = world.sandbox(bandwidth=Bandwidth(ingress=MBIT, egress=MBIT))
    free = world.sandbox()
    await plug(dataplane, limited)
    await plug(dataplane, free)
    assert answered(free, FAR)
    seen = []
    for _ in range(TRIES):
        found = await beside(world, limited, free)
        assert found.limited <= (1 + TOLERANCE) * MBIT
        seen.append(found)
        if found.free > 300 * MBIT and found.free > 0.8 * found.alone and found.ping_ms < 5.0:
            return
    pytest.fail(f"never as if it were alone: {seen}")


@pytest.fixture
def inhabitants() -> Iterator[ExitStack]:
    with ExitStack() as living:
        yield living


async def test_limits_change_while_the_pod_runs(
    world: World, memory: Memory, dataplane: Dataplane, inhabitants: ExitStack
) -> None:
    box = world.sandbox()
    await plug(dataplane, box, mtu=1400)
    key, link = box.lease.key, box.lease.host_link
    bare = world.node.qdisc(link), box.qdisc("eth0")

    with pytest.raises(NotFound, match="held by no process"):
        await dataplane.limit(Limit(key, Bandwidth(egress=10 * MBIT)))
    assert box.qdisc("eth0") == bare[1]

    inhabitants.enter_context(inhabited(box))
    await dataplane.limit(Limit(key, Bandwidth(ingress=10 * MBIT, egress=20 * MBIT)))
    assert "rate 10Mbit" in world.node.qdisc(link) and "rate 20Mbit" in box.qdisc("eth0")
    assert memory.kept[key].lease.bandwidth == Bandwidth(10 * MBIT, 20 * MBIT)
    assert (memory.kept[key].netns, memory.kept[key].mtu) == (box.path, 1400)
    assert max(pushed(box, world, "egress", 20 * MBIT, tries=1)) < 1.1

    await dataplane.limit(Limit(key, Bandwidth(egress=30 * MBIT)))
    assert world.node.qdisc(link) == bare[0] and "rate 30Mbit" in box.qdisc("eth0")
    await dataplane.limit(Limit(key, Bandwidth()))
    assert (world.node.qdisc(link), box.qdisc("eth0")) == bare
    await dataplane.limit(Limit(key, Bandwidth()))


async def test_another_process_finds_the_sandbox_again(world: World, memory: Memory, inhabitants: ExitStack) -> None:
    """Nobody tells it the namespace's path, and the one that the ADD had is gone with its shim."""
    box, other = world.sandbox(), world.sandbox()
    async with running(memory) as dataplane:
        await plug(dataplane, box)
        await plug(dataplane, other)
    inhabitants.enter_context(inhabited(other))
    inhabitants.enter_context(inhabited(box))
    async with running(memory) as dataplane:
        await dataplane.limit(Limit(box.lease.key, Bandwidth(egress=MBIT)))
        assert "rate 1Mbit" in box.qdisc("eth0")
        assert "tbf" not in other.qdisc("eth0")


async def test_a_sandbox_that_is_gone_has_no_limits(world: World, memory: Memory, dataplane: Dataplane) -> None:
    box = world.sandbox()
    with pytest.raises(NotFound, match="not plugged"):
        await dataplane.limit(Limit(box.lease.key, Bandwidth(egress=MBIT)))
    await plug(dataplane, box)
    box.close()
    await until(lambda: box.lease.host_link not in world.node.links())
    with pytest.raises(NotFound, match="is gone"):
        await dataplane.limit(Limit(box.lease.key, Bandwidth(egress=MBIT)))
    await unplug(dataplane, box)
    with pytest.raises(NotFound, match="not plugged"):
        await dataplane.limit(Limit(box.lease.key, Bandwidth()))


async def test_a_foreign_qdisc_stays_where_no_limit_is_wanted(
    world: World, dataplane: Dataplane, inhabitants: ExitStack
) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    world.node.tc(*f"qdisc add dev {box.lease.host_link} root handle 7: htb".split())
    inhabitants.enter_context(inhabited(box))
    await dataplane.limit(Limit(box.lease.key, Bandwidth(egress=MBIT)))
    assert "htb 7:" in world.node.qdisc(box.lease.host_link)


async def test_damaged_limits_are_found_and_the_nodes_side_is_mended(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox(bandwidth=Bandwidth(ingress=10 * MBIT, egress=MBIT))
    await plug(dataplane, box)
    link = box.lease.host_link
    whole = world.node.qdisc(link)
    for damage in (
        f"qdisc del dev {link} root",
        f"qdisc replace dev {link} root handle 1: tbf rate 1gbit burst 128k latency 25ms",
        f"qdisc replace dev {link} root handle 7: pfifo",
    ):
        world.node.tc(*damage.split())
        (problem,) = await problems_of(dataplane, box)
        assert f"qdisc tbf dev {link} rate 1250000 B/s" in problem
        dataplane.repair()
        await until(lambda: world.node.qdisc(link) == whole)
        assert await problems_of(dataplane, box) == []
