"""`make test-kernel`: run in a guest kernel what this machine's kernel has to skip, and see that it did run there.

1. Collect all tests here; those that are skipped for what the kernel lacks are the ones to run.
2. Run their files in guests, as many at a time as a small machine has processors: output and junit of each are left
   in build/guest/results.
3. Each of the ones to run must be in a junit, and not as skipped.

Arguments: further ones for the guest's pytest, such as `-k name`; then a part is run, and 3 is left out.
"""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compose.guest.kernel import fetch, fetch_kernel
from compose.guest.machine import Guest, run
from shared.errors import SuiteError
from tests.kernel.verdict import shortcomings

CACHE = Path("build/guest")
RESULTS = CACHE / "results"
TIMEOUT_S = 900.0
GUESTS = 2
ALSO = ("tests/eni_manager/bpf/test_host_path.py", "tests/system/dataplane/test_kernel.py")
"""What runs here and gives other answers there: another verifier, other kinds of things."""
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
            guests.submit(in_guest, number, files, arguments) for number, files in enumerate(shares(skipped, GUESTS))
        ]
        statuses = [each.result() for each in started]
    junits = sorted(RESULTS.glob("guest*.xml"))
    if arguments or not junits:
        return max(statuses)
    missed = shortcomings(skipped, junits)
    print("".join(f"{sentence}\n" for sentence in missed), end="")
    return max(statuses) or bool(missed)


def shares(node_ids: list[str], guests: int) -> list[list[str]]:
    """The tests' files, dealt to guests so that each has about as many tests."""
    counts = Counter([*(node_id.partition("::")[0] for node_id in node_ids), *ALSO])
    dealt: list[list[str]] = [[] for _ in range(min(guests, len(counts)))]
    for file, _ in counts.most_common():
        min(dealt, key=lambda files: sum(counts[each] for each in files)).append(file)
    return dealt


def in_guest(number: int, files: list[str], arguments: list[str]) -> int:
    """Run these files' tests; the status, after what was printed."""
    junit, output = RESULTS / f"guest{number}.xml", RESULTS / f"guest{number}.txt"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for plugin in PLUGINS:
        command += ["-p", plugin]
    command += [f"--junitxml={junit}", "--timeout", "120", "--durations", "5", *arguments, *files]
    guest = Guest(cache=CACHE, kept=(RESULTS,), timeout_s=TIMEOUT_S, output=output)
    environment = dict(os.environ) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TERWAY_GUEST": "1"}
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
