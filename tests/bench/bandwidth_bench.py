"""Limits against what flows reach, unlimited pods against a bare veth pair: `python -m tests.bench.bandwidth_bench`.

Everything happens in namespaces of this process, by iperf3 and ping. Limits are compared with the rate on the link.
Unlimited flows are measured in turns with those of the bare pair: what disturbs one disturbs the other. Prints tables
and adds its figures to build/bench.json.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from services.eni_manager.adapters import netns
from services.eni_manager.dataplane import Dataplane
from shared.contracts.ipam import Bandwidth
from tests.bench.cni_bench import report
from tests.system.dataplane.iperf import flow, pinging
from tests.system.dataplane.world import FAR, Memory, Sandbox, Space, World, plug, running, talks, unplug

MBIT = 125_000
RATES = [MBIT * number for number in (1, 10, 100, 1000)]
SECONDS = 4.0
TURNS = 5
FULL_SPEED = 1 << 30

Row = dict[str, Any]


def main() -> int:
    """Measure; 0 whatever the figures are."""
    home = netns.own_netns()
    with ExitStack() as opened:
        opened.callback(os.close, home)
        opened.callback(netns.enter, home)
        world = World(opened, home)
        world.build()
        netns.enter(world.node.fd)
        limits, modes = asyncio.run(measure(world))
    report({"limits": limits, "modes": modes})
    print(table("limits", limits))
    print(table("unlimited, beside a bare veth pair", modes))
    return 0


async def measure(world: World) -> tuple[list[Row], list[Row]]:
    """Both tables."""
    async with running(Memory()) as dataplane:
        limits = [
            await limited(world, dataplane, rate, direction) for rate in RATES for direction in ("egress", "ingress")
        ]
        return limits, await unlimited(world, dataplane)


async def limited(world: World, dataplane: Dataplane, rate: int, direction: str) -> Row:
    """One limit in one direction, and pings through the full queue."""
    box = world.sandbox(bandwidth=Bandwidth(**{direction: rate}))
    await plug(dataplane, box)
    assert talks(box, box.ipv4, world.vpc, FAR)
    reverse = direction == "ingress"
    found = flow(box, world.vpc, FAR, reverse=reverse, rate=rate, seconds=SECONDS)
    with pinging(box, FAR) as trips:  # not in the flow that is measured: at 1 Mbit/s pings take 2 % of it
        flow(box, world.vpc, FAR, reverse=reverse, rate=rate, seconds=SECONDS / 2)
    await unplug(dataplane, box)
    return {
        "limit": f"{rate // MBIT} Mbit/s {direction}",
        "reached": round(found.rate / rate, 4),
        "again": found.again,
        "ping_p50_ms": trips[len(trips) // 2],
        "ping_p95_ms": trips[len(trips) * 95 // 100],
    }


async def unlimited(world: World, dataplane: Dataplane) -> list[Row]:
    """Pod to pod on one node, and pod to the other end of the ENI's cable, in turns with a bare pair."""
    one, two = world.sandbox(), world.sandbox()
    await plug(dataplane, one)
    await plug(dataplane, two)
    left, right = bare_pair(world)
    contestants: dict[str, tuple[Space, Space, str]] = {
        "bare veth pair": (left, right, "10.9.0.2"),
        "shared-veth, one node": (one, two, two.ipv4),
        "shared-veth, by the ENI": (one, world.vpc, FAR),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    trips: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(TURNS):
        for name, (source, target, address) in contestants.items():
            found = flow(source, target, address, reverse=False, rate=FULL_SPEED, seconds=1.5)
            rates[name].append(found.rate * 8 / 1e9)
            with pinging(source, address) as quiet:
                await asyncio.sleep(0.5)
            trips[name] += quiet
    bare = "bare veth pair"
    middle: Callable[[list[float]], float] = statistics.median
    return [
        {
            "path": name,
            "gbit_s": round(middle(rates[name]), 2),
            "ratio": round(middle(rates[name]) / middle(rates[bare]), 3),
            "ping_p50_ms": round(middle(trips[name]), 3),
        }
        for name in contestants
    ]


def bare_pair(world: World) -> tuple[Sandbox, Sandbox]:
    """Two namespaces and a cable, nothing else."""
    left, right = world.sandbox(), world.sandbox()
    there = ("netns", f"/proc/{os.getpid()}/fd/{right.fd}")
    left.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1", *there)
    for space, link, address in ((left, "v0", "10.9.0.1/24"), (right, "v1", "10.9.0.2/24")):
        space.ip("addr", "add", address, "dev", link)
        space.ip("link", "set", link, "up")
    return left, right


def table(title: str, rows: list[Row]) -> str:
    """For people."""
    lines = ["", title]
    for row in [{name: name for name in rows[0]}, *rows]:
        first, *rest = row.values()
        lines.append(f"  {first:26}" + "".join(f"{value!s:>13}" for value in rest))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
