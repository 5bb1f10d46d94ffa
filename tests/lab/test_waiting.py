"""The lab's patience."""

import os
import subprocess
import sys

import pytest

from compose.lab.waiting import PATIENCE, until
from shared.errors import DeadlineExceeded

SHOWN = "from compose.lab.waiting import patient; print(patient(2))"


def shown(factor: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != PATIENCE}
    environment |= {} if factor is None else {PATIENCE: factor}
    return subprocess.run([sys.executable, "-c", SHOWN], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("factor", "seconds"), [(None, "2"), ("1", "2.0"), ("12.5", "25.0")])
def test_limits_grow_by_the_factor(factor: str | None, seconds: str) -> None:
    assert float(shown(factor).stdout) == float(seconds)


@pytest.mark.parametrize("factor", ["", "soon", "0.5", "-1", "nan", "inf"])
def test_what_is_no_factor_is_refused_by_name(factor: str) -> None:
    done = shown(factor)
    assert done.returncode == 1 and f"{PATIENCE}: expected a number from 1 to 1000, got {factor!r}" in done.stderr


async def test_what_never_becomes_true_is_named_with_the_last_answer() -> None:
    async def missing() -> str:
        return "two of three"

    with pytest.raises(DeadlineExceeded, match=r"three pods: not so after .*two of three"):
        await until(missing, what="three pods", within_s=0.01, every_s=0.001)
