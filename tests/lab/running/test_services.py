"""Services of a running lab: killed, started, crashed at a named point, and what the next command sees."""

from collections.abc import Callable

import pytest

from tests.lab.running.conftest import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def apart(labs: Callable[[], Lab]) -> Lab:
    """One node whose services are processes of their own."""
    made = labs()
    made.run("up", "--runtime", "cni", "--nodes", "1", "--processes", "--cooldown", "0.5")
    return made


@pytest.mark.parametrize("service", ["ipam", "eni_manager", "policy", "cni_shim"])
def test_a_service_is_stopped_and_started_again(apart: Lab, service: str) -> None:
    before = apart.ask("status")["nodes"][0]["services"][service]["pid"]
    assert apart.ask("service", "stop", "node1", service)["pid"] is None
    assert apart.ask("status")["nodes"][0]["services"][service]["ready"] is False
    after = apart.ask("service", "start", "node1", service)["pid"]
    assert after not in (None, before)
    assert apart.run("service", "start", "node1", service, ok=False).returncode == 1, "it runs already"
    restarted = apart.ask("service", "restart", "node1", service)["pid"]
    assert restarted not in (None, after)


def test_a_service_dies_at_the_crash_point_it_was_started_with(apart: Lab) -> None:
    apart.run("service", "stop", "node1", "ipam")
    apart.run("service", "start", "node1", "ipam", "--crash-at", "ipam.acquire.after_commit")
    failed = apart.run("pod", "add", "default/a", "--node", "node1", ok=False)
    assert failed.returncode == 1
    assert apart.ask("status")["nodes"][0]["services"]["ipam"]["pid"] is None
    assert apart.ask("service", "kill", "node1", "ipam")["pid"] is None, "it is dead, and that is no error"
    assert "crashpoint ipam.acquire.after_commit" in apart.run("logs", "ipam").stdout

    apart.run("service", "start", "node1", "ipam")
    assert apart.ask("audit", "--within", "20")["problems"] == []
    apart.run("pod", "add", "default/a", "--node", "node1")
    apart.run("pod", "del", "default/a")
    assert apart.ask("audit", "--within", "20")["problems"] == []


def test_without_processes_the_supervisor_starts_what_was_killed(lab: Lab) -> None:
    before = lab.ask("status")["nodes"][0]["services"]["policy"]["pid"]
    assert lab.run("service", "stop", "node1", "policy", ok=False).returncode == 1
    lab.run("service", "kill", "node1", "policy")
    after = lab.ask("service", "restart", "node1", "policy")["pid"]
    assert after not in (None, before)
    assert lab.ask("audit", "--within", "20")["problems"] == []
