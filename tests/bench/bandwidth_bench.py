"""Limits against what flows reach, in every mode of grounds.py: `python -m tests.bench.bandwidth_bench [MODE …]`.

Rates are those on the link, as parts of the limit, the best of three flows (what else happens on the machine can only
take away). Beside them: 95 of 100 round trips under load at 10 Mbit/s, and what a pod without limits gets beside one at
its limit, as a part of what it gets alone. Prints one table and adds its figures to build/bench.json.
"""

import asyncio
import statistics
import sys
from typing import Any

from shared.contracts.ipam import Bandwidth
from shared.model import Mode
from tests.bench.cni_bench import report
from tests.bench.grounds import GROUNDS, Ground
from tests.bench.modes_bench import table
from tests.system.dataplane.iperf import answered, flow, pinging
from tests.system.dataplane.limits import DIRECTIONS, MBIT, RATES, beside, met
from tests.system.dataplane.world import FAR, plug, unplug

TRIES = 3
LOADED = 10 * MBIT

Row = dict[str, Any]


def main(wanted: list[str]) -> int:
    """Measure; 0 whatever the figures are."""
    rows = [row for mode in wanted or GROUNDS for row in asyncio.run(measure(Mode(mode)))]
    report({"limits": rows})
    print(table("limits in Mbit/s: what is reached of them (goal: 0.97 to 1.03; ping at 10 Mbit/s below 30 ms)", rows))
    return 0


async def measure(mode: Mode) -> list[Row]:
    """Both directions of a mode."""
    async with GROUNDS[mode]() as ground:
        rates = {f"{rate // MBIT}": await met(ground.world, ground.dataplane, rate, tries=TRIES) for rate in RATES}
        trips = [await loaded(ground, direction) for direction in DIRECTIONS]
        neighbour = await neighbours(ground)
    return [
        {
            "limit": f"{mode} {direction}",
            **{rate: round(max(found[number]), 3) for rate, found in rates.items()},
            "ping_p95_ms": round(trips[number], 1),
            "neighbour": neighbour,
        }
        for number, direction in enumerate(DIRECTIONS)
    ]


async def loaded(ground: Ground, direction: str) -> float:
    """95 of 100 pings through the full queue take less than so many milliseconds."""
    box = ground.world.sandbox(bandwidth=Bandwidth(egress=LOADED, ingress=LOADED))
    await plug(ground.dataplane, box)
    assert answered(box, FAR)
    with pinging(box, FAR) as trips:
        flow(box, ground.world.vpc, FAR, reverse=DIRECTIONS[direction], rate=LOADED)
    await unplug(ground.dataplane, box)
    return trips[len(trips) * 95 // 100]


async def neighbours(ground: Ground) -> float:
    """A free pod's throughput beside a limited one, as a part of what it has alone."""
    limited, free = ground.world.sandbox(bandwidth=Bandwidth(MBIT, MBIT)), ground.world.sandbox()
    for box in (limited, free):
        await plug(ground.dataplane, box)
        assert answered(box, FAR)
    found = [await beside(ground.world, limited, free) for _ in range(TRIES)]
    return round(statistics.median(one.free / one.alone for one in found), 3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
