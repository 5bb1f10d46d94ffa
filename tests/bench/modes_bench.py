"""Each mode beside what its packets would do without us: `python -m tests.bench.modes_bench [MODE …]`.

All forms of a mode's paths (grounds.py) are measured in turns, so that what disturbs one disturbs the others. Ratios
are those of one turn, and the median of the turns counts; `best` divides the best turns. Prints one table and adds its
figures to build/bench.json.
"""

import asyncio
import socket
import statistics
import sys
import time
from typing import Any

from shared.model import Mode
from tests.bench.cni_bench import report
from tests.bench.grounds import GROUNDS, Contest, Way
from tests.system.dataplane.iperf import answered, flow
from tests.system.dataplane.limits import FULL_SPEED

TURNS = 7
ROWS, IN_A_ROW = 80, 50
Row = dict[str, Any]


def main(wanted: list[str]) -> int:
    """Measure; 0 whatever the figures are."""
    rows = [row for mode in wanted or GROUNDS for row in asyncio.run(measure(Mode(mode)))]
    report({"modes": rows})
    print(table("unlimited, beside a bare veth pair or a bare NIC (ratios; by hand: as many hops without us)", rows))
    return 0


async def measure(mode: Mode) -> list[Row]:
    """All paths of a mode."""
    async with GROUNDS[mode]() as ground:
        ways = dict.fromkeys(
            way for one in ground.contests for way in (one.bare, one.by_hand, one.ours) if way is not None
        )
        for way in ways:
            assert answered(way.source, way.address), way
        rates: dict[Way, list[float]] = {way: [] for way in ways}
        trips: dict[Way, list[float]] = {way: [] for way in ways}
        for turn in range(TURNS):
            for way in reversed(ways) if turn % 2 else ways:
                found = flow(way.source, way.target, way.address, reverse=False, rate=FULL_SPEED, seconds=1)
                rates[way].append(found.rate * 8 / 1e9)
                trips[way].append(round_trip_us(way))
        return [{"path": f"{mode}: {one.name}", **compared(one, rates, trips)} for one in ground.contests]


def round_trip_us(way: Way) -> float:
    """A datagram there and one back, in the best of many short rows of them: what the way takes when nobody disturbs.

    One thread sends and receives both, so no scheduler is in it.
    """
    with way.source.socket("::" if ":" in way.address else "0.0.0.0") as asking:
        with way.target.socket(way.address, 7000) as answering:
            asking.connect((way.address, 7000))
            asking.send(b"?")
            answering.connect(answering.recvfrom(1)[1][:2])  # outbound NAT may lie between
            return min(_round_trips(asking, answering) for _ in range(ROWS)) / IN_A_ROW * 1e6


def _round_trips(asking: socket.socket, answering: socket.socket) -> float:
    began = time.perf_counter()
    for _ in range(IN_A_ROW):
        answering.send(b"!")
        asking.recv(1)
        asking.send(b"?")
        answering.recv(1)
    return time.perf_counter() - began


def compared(contest: Contest, rates: dict[Way, list[float]], trips: dict[Way, list[float]]) -> Row:
    """One line of the table."""

    def ratio(figures: dict[Way, list[float]], way: Way) -> float:
        pairs = zip(figures[way], figures[contest.bare], strict=True)
        return round(statistics.median(this / bare for this, bare in pairs), 3)

    reached = ratio(rates, contest.ours)
    return {
        "gbit_s": round(statistics.median(rates[contest.ours]), 1),
        "ratio": reached,
        "best": round(max(rates[contest.ours]) / max(rates[contest.bare]), 3),
        "goal": "" if contest.goal is None else contest.goal,
        "met": "" if contest.goal is None else "yes" if reached >= contest.goal else "no",
        "by_hand": "" if contest.by_hand is None else ratio(rates, contest.by_hand),
        "rtt_us": round(statistics.median(trips[contest.ours]), 1),
        "rtt_ratio": ratio(trips, contest.ours),
        "by_hand_rtt": "" if contest.by_hand is None else ratio(trips, contest.by_hand),
    }


def table(title: str, rows: list[Row]) -> str:
    """For people."""
    lines = ["", title]
    for row in [{name: name for name in rows[0]}, *rows]:
        first, *rest = row.values()
        lines.append(f"  {first:42}" + "".join(f"{value!s:>13}" for value in rest))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
