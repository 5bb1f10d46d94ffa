"""R7: the agent sees all pods of the cluster in no more than 2.5 KB of memory each."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("replicas", [10, 1])
@pytest.mark.parametrize("counted", ["resident", "traced"])
def test_a_pod_costs_little(replicas: int, counted: str) -> None:
    """Of 10,000 pods of other nodes, ten to a Deployment and with hardly a label in common."""
    traced = ["--traced"] if counted == "traced" else []
    ran = subprocess.run(
        [sys.executable, "-m", "tests.policy.memory", *traced, "10000", "500", str(replicas)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert 500 < int(ran.stdout) <= 2500
