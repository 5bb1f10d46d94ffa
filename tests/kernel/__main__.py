"""`make test-kernel`: run in a guest kernel what this machine's kernel has to skip, and see that it did run there.

1. Collect all tests here; those that are skipped for what the kernel lacks are the ones to run.
2. Run these in guests, as many at a time as a small machine has processors: output and junit of each are left in
   build/guest/results.
3. Each of the ones to run must be in a junit, and not as skipped.

Arguments: further ones for the guests' pytest, such as `-k name`; then a part is run, and 3 is left out.
TERWAY_GUEST_S: how long each guest may take, if not a quarter of an hour.
"""

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compose.guest.kernel import fetch, fetch_kernel
from compose.guest.machine import SLOWER, Guest, run
from shared.errors import SuiteError
from tests.kernel.verdict import shortcomings

CACHE = Path("build/guest")
RESULTS = CACHE / "results"
TIMEOUT_S = float(os.environ.get("TERWAY_GUEST_S", "900"))
GUESTS = 2
ALSO = ("tests/eni_manager/bpf/test_host_path.py", "tests/system/dataplane/test_kernel.py")
"""What runs here and gives other answers there: another verifier, other kinds of things."""
LABS = {
    "tests/system/modes/": 90.0,
    "tests/conformance/": 250.0,
}
"""Tests that share a lab, by how their ids begin, and how many seconds that costs beside them: one guest runs them."""
USUAL_S = 2.5
"""Of a test in a guest."""
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout")
"""No others: what is imported takes fifteen times as long there."""


def main(arguments: list[str]) -> int:
    """The worse status of the guests' pytests; 1 also when something did not run."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for old in RESULTS.glob("guest*"):
        old.unlink()
    skipped = collect()
    print(f"{len(skipped)} tests need another kernel than this one", flush=True)
    fetch_kernel(CACHE), fetch("busybox-static", CACHE)  # once, and not by all guests at a time
    with ThreadPoolExecutor() as guests:
        started = [
            guests.submit(in_guest, number, tests, arguments)
            for number, tests in enumerate(shares([*skipped, *ALSO], GUESTS))
        ]
        statuses = [each.result() for each in started]
    junits = sorted(RESULTS.glob("guest*.xml"))
    if arguments or not junits:
        return max(statuses)
    missed = shortcomings(skipped, junits)
    print("".join(f"{sentence}\n" for sentence in missed), end="")
    return max(statuses) or bool(missed)


def shares(tests: Iterable[str], guests: int) -> list[list[str]]:
    """Tests by their ids, dealt to guests so that all take about as long; those of a lab last, since it stays."""
    groups: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        groups[group(test)].append(test)
    costs = {name: LABS.get(name, 0.0) + USUAL_S * len(members) for name, members in groups.items()}
    dealt: list[list[str]] = [[] for _ in range(min(guests, len(groups)))]
    for name in sorted(groups, key=lambda name: -costs[name]):
        min(dealt, key=lambda names: sum(costs[each] for each in names)).append(name)
    return [[test for name in sorted(names, key=LABS.__contains__) for test in groups[name]] for names in dealt]


def group(test: str) -> str:
    """What must run in one guest: a lab's tests, or a file's."""
    return next((start for start in LABS if test.startswith(start)), test.partition("::")[0])


def in_guest(number: int, tests: list[str], arguments: list[str]) -> int:
    """Run these tests; the status, after what was printed."""
    junit, output = RESULTS / f"guest{number}.xml", RESULTS / f"guest{number}.txt"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for plugin in PLUGINS:
        command += ["-p", plugin]
    command += [f"--junitxml={junit}", "--timeout", "300", "--durations", "5", *arguments, *tests]
    guest = Guest(cache=CACHE, kept=(RESULTS,), timeout_s=TIMEOUT_S, output=output)
    environment = dict(os.environ) | SLOWER | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    try:
        ended = run(guest, command, environment=environment)
    except SuiteError as error:
        print(f"test-kernel: {error.message}", file=sys.stderr)
        return 1
    print(output.read_text(errors="replace"), end="")
    print(f"Linux {ended.kernel}: status {ended.status}, {ended.seconds:g} s, {ended.memory_mib} MiB", flush=True)
    none_chosen = 5
    return 0 if arguments and ended.status == none_chosen else ended.status


def collect() -> list[str]:
    """The ids of all tests that are skipped here for what the kernel lacks."""
    listing = RESULTS / "lacking"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-qq",
        "-p",
        "tests.kernel.lacking",
        "-p",
        "no:randomly",
    ]
    environment = dict(os.environ) | {"TERWAY_LACKING": str(listing)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"test-kernel: the tests cannot be collected:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return listing.read_text().splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
