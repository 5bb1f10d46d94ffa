"""`make test-kernel`: run in a guest kernel what this machine's kernel has to skip, and see that it did run there.

1. Collect all tests here; those that are skipped for what the kernel lacks are the ones to run.
2. Run their files in the guest: its output, its junit (build/guest/results), its status.
3. Each of the ones to run must be in that junit, and not as skipped.

Arguments: further ones for the guest's pytest, such as `-k name`; then a part is run, and 3 is left out.
"""

import os
import subprocess
import sys
from pathlib import Path

from compose.guest.machine import Guest, run
from shared.errors import SuiteError
from tests.kernel.verdict import shortcomings

CACHE = Path("build/guest")
RESULTS = CACHE / "results"
TIMEOUT_S = 900.0
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout")
"""No others: what is imported takes fifteen times as long there."""


def main(arguments: list[str]) -> int:
    """The status of the guest's pytest; 1 also when something did not run."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    skipped = collect()
    files = sorted({node_id.partition("::")[0] for node_id in skipped}) or ["tests/kernel"]
    print(f"{len(skipped)} tests need another kernel than this one", flush=True)
    junit = RESULTS / "guest.xml"
    junit.unlink(missing_ok=True)
    command = [sys.executable, "-X", "frozen_modules=on", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for plugin in PLUGINS:
        command += ["-p", plugin]
    command += [f"--junitxml={junit}", "--timeout", "120", "--durations", "8", *arguments, *files]
    guest = Guest(cache=CACHE, kept=(RESULTS,), timeout_s=TIMEOUT_S)
    environment = dict(os.environ) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TERWAY_GUEST": "1"}
    try:
        ended = run(guest, command, environment=environment)
    except SuiteError as error:
        print(f"test-kernel: {error.message}", file=sys.stderr)
        return 1
    print(f"Linux {ended.kernel}: status {ended.status}, {ended.seconds:g} s, {ended.memory_mib} MiB")
    if arguments or not junit.exists():
        return ended.status
    missed = shortcomings(skipped, junit)
    print("".join(f"{sentence}\n" for sentence in missed), end="")
    return ended.status or bool(missed)


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
