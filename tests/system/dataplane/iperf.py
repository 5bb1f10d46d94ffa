"""iperf3 between namespaces: TCP through whatever lies between, and how long a ping takes meanwhile."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.system.dataplane.world import Space

FRAME, PAYLOAD = 1514, 1448
"""A full Ethernet frame of a link with an MTU of 1500, and what of it is TCP's payload (with timestamps)."""


class Flow(NamedTuple):
    """One flow: bytes per second as the links carry them, and segments sent again."""

    rate: float
    again: int


def flow(
    client: Space, server: Space, address: str, *, reverse: bool, rate: int, seconds: int = 3, port: int = 5201
) -> Flow:
    """TCP as fast as it goes, from client to server or in reverse, for so long. `rate`: about."""
    # Counted from the first byte: behind a warm-up, what a lost frame had held back would count as if it came then.
    # Small pieces where the rate is small: iperf3 counts what arrives in whole ones.
    piece = max(PAYLOAD, min(131_072, rate // 100))
    options = ["-p", str(port), "-t", str(seconds), "-l", str(piece), "-J"]
    with _server(server, port), client.inside():
        command = ["iperf3", "-c", address, *options, *(["-R"] if reverse else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
    said = json.loads(done.stdout)
    assert "error" not in said, said["error"]
    end: dict[str, Any] = said["end"]
    goodput = end["sum_received"]["bits_per_second"] / 8
    return Flow(goodput * FRAME / PAYLOAD, end["sum_sent"].get("retransmits", 0))


def answered(space: Space, address: str) -> bool:
    """Does a ping come back within some seconds? After that no ARP question is asked for a while."""
    with space.inside():
        asked = ["ping", "-n", "-c", "1", "-i", "0.2", "-w", "5", address]
        return subprocess.run(asked, stdout=subprocess.DEVNULL, check=False).returncode == 0


@contextmanager
def pinging(space: Space, address: str) -> Iterator[list[float]]:
    """Round trips from `space` meanwhile, in milliseconds; the list is filled at the end."""
    found: list[float] = []
    with space.inside():
        ping = subprocess.Popen(["ping", "-n", "-i", "0.05", address], stdout=subprocess.PIPE, text=True)
    try:
        yield found
    finally:
        ping.terminate()
        answers, _ = ping.communicate(timeout=5)
        found += sorted(float(line.split("time=")[1].split()[0]) for line in answers.splitlines() if "time=" in line)


@contextmanager
def _server(space: Space, port: int) -> Iterator[None]:
    with space.inside():
        server = subprocess.Popen(
            ["iperf3", "-s", "-1", "-p", str(port), "--forceflush"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    try:
        assert server.stdout is not None
        # Its first lines come when it listens.
        assert any("listening" in line for line in server.stdout)
        yield
    finally:
        server.terminate()
        server.communicate(timeout=5)
