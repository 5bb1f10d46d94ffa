"""Labs that run, driven as people drive them: by the command line."""

import json
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from compose.lab import leftovers
from compose.lab.layout import Layout
from services.ctl import main


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Lab:
    """One lab by its name."""

    name: str

    @property
    def layout(self) -> Layout:
        return Layout.of(self.name)

    def run(self, *argv: str, ok: bool = True) -> "Done":
        """`terwayctl lab ARGV`; with `ok`, it must succeed.

        Not as a process, which would be twice as slow, but in a thread: there it has an event loop of its own.
        """
        with ThreadPoolExecutor(1) as thread:
            command = ["lab", *_with_name(argv, self.name)]
            result = thread.submit(CliRunner().invoke, main, command).result()
        unexpected = result.exception if not isinstance(result.exception, SystemExit) else None
        assert unexpected is None, "".join(traceback.format_exception(unexpected))
        assert result.exit_code == 0 or not ok, f"{argv}: {result.exit_code}\n{result.stdout}\n{result.stderr}"
        return Done(result.exit_code, result.stdout, result.stderr)

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
