"""R7: the agent sees all pods of the cluster in no more than 2.5 KB of memory each."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("counted", "pods", "replicas"), [("--resident", 10_000, 10), ("--resident", 10_000, 1), ("--traced", 4_000, 1)]
)
def test_a_pod_costs_little(counted: str, pods: int, replicas: int) -> None:
    """Pods of other nodes: ten to a Deployment, or with hardly a label in common. Traced means without what the
    process has to spare, and takes longer."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.policy.memory", counted, str(pods), "500", str(replicas)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert 500 < int(ran.stdout) <= 2500
