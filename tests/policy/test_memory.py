"""R7: the agent sees all pods of the cluster in no more than 2.5 KB of memory each."""

import subprocess
import sys


def test_a_pod_costs_little() -> None:
    """Of 10,000 pods, ten to a Deployment. One that shares its labels with nobody costs 3.5 KB."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.policy.memory", "10000", "500", "10"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert 500 < int(ran.stdout) <= 2500
