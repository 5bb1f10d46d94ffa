"""Labs that run, driven as people drive them: by the command line."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from compose.lab import leftovers
from compose.lab.layout import Layout

UP_WITHIN_S = 90


@dataclass
class Lab:
    """One lab by its name."""

    name: str

    @property
    def layout(self) -> Layout:
        return Layout.of(self.name)

    def run(self, *argv: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """`terwayctl lab ARGV`; with `ok`, it must succeed."""
        command = [sys.executable, "-m", "services.ctl", "lab", *_with_name(argv, self.name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=UP_WITHIN_S, check=False)
        assert done.returncode == 0 or not ok, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def ask(self, *argv: str, ok: bool = True) -> Any:
        """The same with `--json`, decoded."""
        cut = argv.index("--") if "--" in argv else len(argv)
        return json.loads(self.run(*argv[:cut], "--json", *argv[cut:], ok=ok).stdout)

    @property
    def left(self) -> list[str]:
        """What there is of it on this machine."""
        return [
            *leftovers.namespaces(self.layout),
            *leftovers.processes(self.layout),
            *leftovers.files(self.layout),
        ]


def _with_name(argv: tuple[str, ...], name: str) -> list[str]:
    """Ours go before a `--`, which ends options."""
    cut = argv.index("--") if "--" in argv else len(argv)
    return [*argv[:cut], "--name", name, *argv[cut:]]


@pytest.fixture(scope="session")
def labs() -> Iterator[Callable[[], Lab]]:
    """New names for labs; whatever is left of them at the end is removed, and must have been nothing."""
    made: list[Lab] = []

    def make() -> Lab:
        made.append(Lab(f"t{uuid.uuid4().hex[:7]}"))
        return made[-1]

    yield make
    for lab in made:
        lab.run("down")
        assert lab.left == []


@pytest.fixture(scope="session")
def lab(labs: Callable[[], Lab]) -> Lab:
    """Two nodes, pods without containers, a type of machine that takes 140 of them."""
    made = labs()
    made.run("up", "--runtime", "cni", "--instance-type", "ecs.g6.4xlarge", "--cooldown", "0.5", "--pool", "2:5")
    return made
