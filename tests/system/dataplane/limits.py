"""Limits against what flows reach: what tests judge and `make bench` shows, of every mode's world."""

import asyncio
import statistics
from typing import NamedTuple

from services.eni_manager.dataplane import Dataplane
from shared.contracts.ipam import Bandwidth
from tests.system.dataplane.iperf import flow, pinging
from tests.system.dataplane.world import FAR, Sandbox, World, plug, unplug

MBIT = 125_000
RATES = [MBIT * number for number in (1, 10, 100, 1000)]
TOLERANCE = 0.03
TRIES = 6
DIRECTIONS = {"egress": False, "ingress": True}
FULL_SPEED = 1 << 30


class Beside(NamedTuple):
    """A free pod's flow by itself, beside one at its limit, that one's (bytes per second), and the free one's pings."""

    alone: float
    free: float
    limited: float
    ping_ms: float


def pushed(
    box: Sandbox, world: World, direction: str, rate: int, *, tries: int = TRIES, port: int = 5201
) -> list[float]:
    """What flows in this direction reach, as parts of `rate`, until one reaches it."""
    seconds = 3 if rate >= 10 * MBIT else 8  # where a second has 80 frames, one lost is a percent of it
    found: list[float] = []
    while len(found) < tries and max(found, default=0.0) < 1 - TOLERANCE:
        done = flow(box, world.vpc, FAR, reverse=DIRECTIONS[direction], rate=rate, seconds=seconds, port=port)
        found.append(done.rate / rate)
    return found


async def met(world: World, dataplane: Dataplane, rate: int, *, tries: int = TRIES) -> list[list[float]]:
    """`pushed` for each direction. Side by side where that is little for this machine."""
    turns = asyncio.Lock()

    async def one(port: int, direction: str) -> list[float]:
        box = world.sandbox(bandwidth=Bandwidth(**{direction: rate}))
        await plug(dataplane, box)
        if rate < RATES[-1]:
            found = await asyncio.to_thread(pushed, box, world, direction, rate, tries=tries, port=port)
        else:
            async with turns:
                found = await asyncio.to_thread(pushed, box, world, direction, rate, tries=tries, port=port)
        await unplug(dataplane, box)
        return found

    return list(await asyncio.gather(*(one(*numbered) for numbered in enumerate(DIRECTIONS, 5201))))


async def beside(world: World, limited: Sandbox, free: Sandbox) -> Beside:
    """Both pods are plugged, and `limited` has 1 Mbit/s."""

    def alone() -> float:
        return flow(free, world.vpc, FAR, reverse=False, rate=FULL_SPEED, seconds=1).rate

    before = alone()
    # In a thread, since it enters namespaces; it comes back to the node's before it ends.
    slow = asyncio.create_task(
        asyncio.to_thread(flow, limited, world.vpc, FAR, reverse=False, rate=MBIT, seconds=3, port=5202)
    )
    await asyncio.sleep(0.5)  # its first second is not at its limit
    with pinging(free, FAR) as trips:
        meanwhile = await asyncio.to_thread(flow, free, world.vpc, FAR, reverse=False, rate=FULL_SPEED, seconds=1)
    slowly = await slow
    return Beside((before + alone()) / 2, meanwhile.rate, slowly.rate, statistics.median(trips))
