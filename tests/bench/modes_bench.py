"""Each mode beside what its packets would do without us, and its limits: `python -m tests.bench.modes_bench [MODE …]`.

A mode is one function of MODES that sets up a world and names its contests: a path as we wire it and the same one bare.
Both are measured in turns, so that what disturbs one disturbs the other. shared-veth has its table in bandwidth_bench.
Prints tables and adds its figures to build/bench.json.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.eni_manager.adapters import netns
from services.eni_manager.dataplane import Dataplane
from shared.model import Mode
from tests.bench.bandwidth_bench import FULL_SPEED, RATES, limited, table
from tests.bench.cni_bench import report
from tests.system.dataplane import exclusive
from tests.system.dataplane.iperf import flow, pinging
from tests.system.dataplane.world import FAR, SUBNET, Memory, Sandbox, Space, World, plug

TURNS = 7
SECONDS = 1.5
Row = dict[str, Any]


class Way(NamedTuple):
    """From one namespace to an address in another."""

    source: Space
    target: Space
    address: str


@dataclass(frozen=True)
class Contest:
    """One path as the mode wires it, and the same without us."""

    name: str
    ours: Way
    bare: Way
    goal: float


@dataclass(frozen=True)
class Ground:
    """A world, its dataplane, and what is to be compared."""

    world: World
    dataplane: Dataplane
    contests: tuple[Contest, ...]


@asynccontextmanager
async def exclusive_eni(opened: ExitStack, home: int) -> AsyncIterator[Ground]:
    """A pod with an ENI to itself, beside a namespace into which somebody has moved one by hand."""
    world = exclusive.Exclusive(opened, home)
    world.build()
    netns.enter(world.node.fd)
    async with exclusive.running(Memory()) as dataplane:
        pod, bare = world.sandbox(), world.sandbox()
        await plug(dataplane, pod)
        by_hand(world, bare)
        contest = Contest("by the ENI", Way(pod, world.vpc, FAR), Way(bare, world.vpc, FAR), 0.98)
        yield Ground(world, dataplane, (contest,))


def by_hand(world: exclusive.Exclusive, box: Sandbox) -> None:
    """The bare NIC: moved, addressed, routed, and nothing else."""
    [name] = world.at_home(box)
    world.node.ip("link", "set", name, "netns", box.path, "name", "eth0")
    box.ip("link", "set", "eth0", "up")
    box.ip("addr", "add", f"{box.ipv4}/32", "dev", "eth0")
    box.ip("route", "add", "default", "via", SUBNET.gateway, "dev", "eth0", "onlink")


MODES: Mapping[Mode, Callable[[ExitStack, int], AbstractAsyncContextManager[Ground]]] = {
    Mode.EXCLUSIVE_ENI: exclusive_eni,
}


def main(wanted: list[str]) -> int:
    """Measure; 0 whatever the figures are."""
    for mode in wanted or list(MODES):
        home = netns.own_netns()
        with ExitStack() as opened:
            opened.callback(os.close, home)
            opened.callback(netns.enter, home)
            limits, rows = asyncio.run(measure(MODES[Mode(mode)](opened, home)))
        report({f"{mode}.limits": limits, f"{mode}.ratios": rows})
        print(table(f"{mode}: limits", limits))
        print(table(f"{mode}: unlimited, beside the same path bare", rows))
    return 0


async def measure(ground: AbstractAsyncContextManager[Ground]) -> tuple[list[Row], list[Row]]:
    """Limits, then contests."""
    async with ground as there:
        limits = [
            await limited(there.world, there.dataplane, rate, direction)
            for rate in RATES
            for direction in ("egress", "ingress")
        ]
        return limits, [await contested(contest) for contest in there.contests]


async def contested(contest: Contest) -> Row:
    """In turns, each turn beginning with the other one."""
    ways = {"ours": contest.ours, "bare": contest.bare}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    trips: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name, way in sorted(ways.items(), reverse=bool(turn % 2)):
            found = flow(way.source, way.target, way.address, reverse=False, rate=FULL_SPEED, seconds=SECONDS)
            rates[name].append(found.rate * 8 / 1e9)
            with pinging(way.source, way.address) as quiet:
                await asyncio.sleep(0.5)
            trips[name] += quiet
    ratios = [ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)]
    rtt = {name: statistics.median(found) for name, found in trips.items()}
    return {
        "path": contest.name,
        "gbit_s": round(statistics.median(rates["ours"]), 2),
        "bare_gbit_s": round(statistics.median(rates["bare"]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "goal": contest.goal,
        "rtt_ms": round(rtt["ours"], 3),
        "bare_rtt_ms": round(rtt["bare"], 3),
        "rtt_ratio": round(rtt["ours"] / rtt["bare"], 3),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
