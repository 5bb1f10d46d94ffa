"""The flows that judge restarts notice what is lost."""

import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from compose.lab.waiting import until
from tests.soak.traffic import PORT, Flow

pytestmark = pytest.mark.system


@pytest.fixture
def netns() -> Iterator[Path]:
    name = f"soak-flow-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield Path("/run/netns") / name
    finally:
        _ip("netns", "del", name)


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True)


async def _arrived(flow: Flow, more: int) -> None:
    wanted = flow.arrived + more

    async def missing() -> str:
        return "" if flow.arrived >= wanted else f"{flow.arrived} of {wanted}"

    await until(missing, what="datagrams arrive", within_s=20)


async def test_a_path_that_is_whole_loses_nothing(netns: Path) -> None:
    with Flow("whole", netns, netns, "127.0.0.1", PORT) as flow:
        await _arrived(flow, 50)
        counted = flow.count()
    assert (counted.lost, counted.doubled) == ([], 0)
    assert counted.sent >= 50


async def test_an_interruption_is_counted(netns: Path) -> None:
    with Flow("cut", netns, netns, "127.0.0.1", PORT) as flow:
        await _arrived(flow, 20)
        _ip("-n", netns.name, "link", "set", "lo", "down")
        await until(_more(flow, flow.sent + 5), what="some more are sent", within_s=20)
        _ip("-n", netns.name, "link", "set", "lo", "up")
        await _arrived(flow, 20)
        counted = flow.count()
    assert len(counted.lost) >= 5


def _more(flow: Flow, wanted: int) -> Callable[[], Awaitable[str]]:
    async def missing() -> str:
        return "" if flow.sent >= wanted else "not yet"

    return missing
