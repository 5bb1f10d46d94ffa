"""A crash point ends the process at the named place and passage, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.crashpoint import STATUS, names

PROGRAM = """
from shared.crashpoint import crashpoint
import atexit
atexit.register(print, "said goodbye")
for number in range(3):
    crashpoint("a.before")
    print("passed", number, flush=True)
    crashpoint("a.after")
"""


def run(crash_at: str | None) -> tuple[int, list[str]]:
    env = {name: value for name, value in os.environ.items() if name != "CRASH_AT"}
    if crash_at is not None:
        env["CRASH_AT"] = crash_at
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("crash_at", "status", "lines"),
    [
        (None, 0, ["passed 0", "passed 1", "passed 2", "said goodbye"]),
        ("", 0, ["passed 0", "passed 1", "passed 2", "said goodbye"]),
        ("a.elsewhere", 0, ["passed 0", "passed 1", "passed 2", "said goodbye"]),
        ("a.before", STATUS, []),
        ("a.after", STATUS, ["passed 0"]),
        ("a.before:3", STATUS, ["passed 0", "passed 1"]),
        ("a.after:4", 0, ["passed 0", "passed 1", "passed 2", "said goodbye"]),
    ],
)
def test_dies_there_and_only_there(crash_at: str | None, status: int, lines: list[str]) -> None:
    assert run(crash_at) == (status, lines)


def test_names_are_found_in_the_source(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    one, two = tmp_path / "one.py", tmp_path / "deep" / "two.py"
    one.write_text('from shared.crashpoint import crashpoint\ncrashpoint("ipam.acquire.before_commit")\n')
    two.write_text('import shared.crashpoint as c\ndef f():\n    c.crashpoint("ipam.b")  # crashpoint("comment")\n')
    assert names(tmp_path) == {"ipam.acquire.before_commit": one, "ipam.b": two}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('crashpoint("a" + x)', "must be a literal"),
        ("crashpoint(name)", "must be a literal"),
        ("crashpoint()", "must be a literal"),
        ('crashpoint("a")\ncrashpoint("a")', r"2: crash point a is in .*one\.py too"),
    ],
)
def test_names_that_a_test_could_not_use(tmp_path: Path, source: str, problem: str) -> None:
    (tmp_path / "one.py").write_text(source)
    with pytest.raises(ValueError, match=problem):
        names(tmp_path)


def test_our_own_names_are_all_usable() -> None:
    root = Path(__file__).parents[2]
    assert all("." in name for name in names(root / "services"))
