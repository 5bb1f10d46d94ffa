"""100 nodes start at once against what one account may call: all converge, no pod fails, no retry storm."""

import asyncio
import random
import time
from collections import Counter
from typing import NamedTuple

import pytest

from compose.lab.cloud.core.throttle import Limit, Limits
from tests.pool_and_enis.virtual_time import VirtualLoop
from tests.scale.cloud import Sky
from tests.scale.node import Node

NODES, PODS = 100, 8
TYPE = "ecs.g6.2xlarge"
PER_MINUTE = 500.0
NEEDED = Counter(
    {
        "DescribeInstanceTypes": 1,
        "DescribeVSwitches": 1,
        "DescribeNetworkInterfaces": 3,
        "CreateNetworkInterface": 1,
        "AttachNetworkInterface": 1,
    }
)
"""The fewest calls that give a new node its pods' addresses: what it can hold; that its vSwitch is there; what is
attached to it, and what bears its tag; one ENI with all the addresses; and one look at it that finds it in use."""


class Outcome(NamedTuple):
    made: Counter[str]
    refused: Counter[str]
    served_s: float
    """Until the last pod had its address."""


async def start_at_once(nodes: int, limits: Limits, seed: int) -> Outcome:
    sky = Sky(limits, random.Random(seed))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with sky.cloud:
        there = [Node(loop, number, sky, TYPE) for number in range(nodes)]
        leases = await asyncio.gather(*(node.add(pod, 110.0) for node in there for pod in range(PODS)))
        served = loop.time() - began
        assert len({lease.ipv4 for lease in leases}) == nodes * PODS
        await asyncio.sleep(30.0)  # what is still under way is counted, too
        for node in there:
            assert node.manager.fleet.synced
            await node.stop()
    return Outcome(sky.made, sky.refused, served)


def run(nodes: int, limits: Limits, seed: int) -> Outcome:
    random.seed(seed)
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(start_at_once(nodes, limits, seed))
    finally:
        loop.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_100_nodes_at_once(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    outcome = run(NODES, Limits(each_action=Limit(PER_MINUTE)), seed)
    fewest = NODES * NEEDED.total()
    with capsys.disabled():
        print(
            f"\n{NODES} nodes, {PODS} pods each: {outcome.made.total()} calls ({outcome.refused.total()} throttled), "
        )
        print(f"theoretical minimum {fewest}: {outcome.made.total() / fewest:.2f} times that; ", end="")
        print(f"last pod served after {outcome.served_s:.0f} s; simulated in {time.monotonic() - began:.0f} s")
        print(f"made {dict(outcome.made)}, throttled {dict(outcome.refused)}")
    assert outcome.made.total() <= 1.3 * fewest
