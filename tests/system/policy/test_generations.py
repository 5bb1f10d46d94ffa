"""kill -9 while tables are written: what is in the kernel is one generation, the old or the new, never a mixture."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from services.policy.adapters import kernel, nft_mending, visits
from tests.system.policy.bench import namespace
from tests.system.policy.generations import CHAINS

pytestmark = pytest.mark.system

POINTS = (
    "policy.apply.before_transaction",
    "policy.apply.after_transaction",
    "policy.repair.before_transaction",
    "policy.repair.after_transaction",
    "policy.pod.before_transaction",
    "policy.pod.after_transaction",
)


@pytest.fixture
def netns() -> Iterator[str]:
    with namespace() as name:
        yield name


def writer(netns: str, *, inside: bool = False, **env: str) -> subprocess.Popen[str]:
    """The writer, when it writes, or has died at its crash point already. `inside`: as to a pod's namespace, from a
    node's."""
    path = f"/run/netns/{netns}"
    entry = ["unshare", "--net"] if inside else ["nsenter", f"--net={path}"]
    process = subprocess.Popen(
        [*entry, sys.executable, "-m", "tests.system.policy.generations", *([path] if inside else [])],
        stdout=subprocess.PIPE,
        env=os.environ | env,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def generation_in(netns: str) -> int | None:
    """The one generation of which everything in the table is; None: there is no table."""
    listed = subprocess.run(
        ["ip", "netns", "exec", netns, "nft", "list", "ruleset"], capture_output=True, text=True, check=True
    ).stdout
    if "table inet terway" not in listed:
        return None
    said = re.findall(r'comment "generation (\d+)"', listed)
    assert len(said) == CHAINS + 2
    numbers = {int(number) for number in said}
    numbers |= {int(number) for number in re.findall(r"(?:only|target)(\d+)", listed)}
    assert len(numbers) == 1, f"a mixture: {numbers}"
    [number] = numbers
    block = f"10.{number >> 8 & 255}.{number & 255}."
    elements = re.findall(r"10\.\d+\.\d+\.\d+", listed)
    assert len(elements) > 4 * 40
    assert all(element.startswith(block) for element in elements), f"elements of another generation than {number}"
    return number


@pytest.mark.parametrize("inside", [False, True])
def test_killed_at_any_moment(netns: str, inside: bool) -> None:
    reached = []
    for attempt in range(8):
        process = writer(netns, inside=inside)
        time.sleep(0.03 + attempt * 0.011)  # not until something: any moment will do
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        number = generation_in(netns)
        assert number is not None, "the table was away"
        reached.append(number)
    assert any(reached), "nothing was ever written"


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_crash_point_of_applying(netns: str, point: str) -> None:
    """On top of what an earlier process left, whose rules stay until ours replace them."""
    first = writer(netns)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert first.stdout is not None
    first.stdout.close()
    before = generation_in(netns)
    assert before is not None
    if point.startswith("policy.repair"):
        subprocess.run(["ip", "netns", "exec", netns, "nft", "add chain inet terway foreign"], check=True)
    process = writer(netns, inside=point.startswith("policy.pod"), CRASH_AT=point)
    assert process.wait(timeout=30) == 137, "it never came to its crash point"
    assert process.stdout is not None
    process.stdout.close()
    expected = {
        "policy.repair.before_transaction": before,
        "policy.repair.after_transaction": 0,
        "policy.apply.before_transaction": 0,
        "policy.apply.after_transaction": 1,
        "policy.pod.before_transaction": 0,
        "policy.pod.after_transaction": 1,
    }
    assert generation_in(netns) == expected[point]


def test_every_crash_point_of_applying_is_tried() -> None:
    sources = "".join(map(inspect.getsource, (kernel, nft_mending, visits)))
    assert set(re.findall(r'crashpoint\("([^"]+)"\)', sources)) == set(POINTS)
