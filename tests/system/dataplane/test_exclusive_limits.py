"""Limits of a pod with an ENI to itself: as test_limits says of every mode, and over both of its links together."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.eni_manager.dataplane import Dataplane
from shared.contracts.ipam import Bandwidth
from tests.system.dataplane.exclusive import Exclusive, running
from tests.system.dataplane.iperf import flow
from tests.system.dataplane.limits import MBIT, TOLERANCE
from tests.system.dataplane.test_limits import (  # noqa: F401 the same tests, in this module's world
    test_a_full_queue_delays_by_less_than_30_ms,
    test_a_limit_is_met,
    test_a_limited_pod_does_not_slow_its_neighbour,
)
from tests.system.dataplane.world import FAR, NODE_IP, Memory, plug, standing, talks

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def world() -> Iterator[Exclusive]:
    with standing(Exclusive) as made:
        yield made


@pytest.fixture
async def dataplane(world: Exclusive, memory: Memory) -> AsyncIterator[Dataplane]:
    async with running(memory) as made:
        yield made


@pytest.mark.alone
async def test_what_comes_in_by_the_node_and_by_the_eni_is_limited_together(
    world: Exclusive, dataplane: Dataplane
) -> None:
    rate = 20 * MBIT
    box = world.sandbox(bandwidth=Bandwidth(ingress=rate))
    await plug(dataplane, box)
    assert talks(box, box.ipv4, world.vpc, FAR) and talks(box, box.ipv4, world.node, NODE_IP)
    with ThreadPoolExecutor(1) as thread:  # it enters namespaces, and comes back to the node's before it ends
        other = thread.submit(flow, box, world.node, NODE_IP, reverse=True, rate=rate, seconds=3, port=5202)
        by_eni = flow(box, world.vpc, FAR, reverse=True, rate=rate, seconds=3)
        by_node = other.result()
    assert by_node.rate + by_eni.rate <= (1 + 3 * TOLERANCE) * rate, "their times do not match to the millisecond"
    assert by_node.rate > 0.05 * rate and by_eni.rate > 0.05 * rate
