"""The services get over what goes wrong with their cloud: pods come up, late, and nothing leaks."""

from collections.abc import Callable

import pytest

from tests.lab.running.conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

PODS = 14
"""More than one interface of the node's type holds."""


@pytest.fixture(scope="module")
def troubled(labs: Callable[[], Lab]) -> Lab:
    made = labs()
    made.run("up", "--runtime", "cni", "--nodes", "1", "--cooldown", "0.5", "--pool", "0:5")
    return made


def test_pods_come_up_whatever_the_cloud_does(troubled: Lab) -> None:
    throttled = ("--code", "Throttling.User", "--status", "400")
    troubled.run("fault", "add", "AssignPrivateIpAddresses", *throttled, "--times", "1")
    troubled.run("fault", "add", "AssignPrivateIpAddresses", "lost_answer", "--times", "1")
    troubled.run("fault", "add", "CreateNetworkInterface", "lost_answer", "--times", "1", "--node", "node1")
    troubled.run("fault", "add", "AttachNetworkInterface", "--times", "1")
    troubled.run("fault", "add", "device", "late", "--delay", "1", "--times", "1")
    troubled.run("fault", "add", "metadata", "empty", "--times", "2")
    for i in range(PODS):
        troubled.run("pod", "add", f"default/p{i}", "--node", "node1")
    left = [f"{f['action']} {f['kind']}" for f in troubled.ask("fault", "list")]
    assert left == [], "each of them has happened"
    pods = troubled.ask("pod", "list")
    addresses = [address for pod in pods for address in pod["addresses"]]
    assert len(set(addresses)) == len(addresses) == PODS
    assert troubled.ask("audit", "--within", "30")["problems"] == []

    captured = troubled.ask("capture", "default/p0", "--for", "0.2")
    assert captured["eni"].startswith("eni-")
    for i in range(PODS):
        troubled.run("pod", "del", f"default/p{i}")
    assert troubled.ask("audit", "--within", "30")["problems"] == []
