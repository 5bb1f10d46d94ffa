"""Labs come up, stand side by side, are killed, and leave nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compose.lab import leftovers, process
from compose.lab.layout import Layout
from tests.lab.running.conftest import Lab

pytestmark = pytest.mark.lab


def test_status_says_where_everything_is(lab: Lab) -> None:
    there = lab.ask("status")
    for name in there["namespaces"].values():
        assert Path("/run/netns", name).exists()
    assert Path(there["cloud"]["control_socket"]).is_socket()
    assert Path(there["kubernetes"]["socket"]).is_socket()
    for node in there["nodes"]:
        for name, service in node["services"].items():
            assert service["ready"], (name, service)
            assert Path(service["socket"]).is_socket()
            assert Path("/proc", str(service["pid"])).exists()
    assert lab.name in lab.run("status").stdout


def test_up_again_is_the_same_lab_or_a_refusal(lab: Lab) -> None:
    options = ("--runtime", "cni", "--instance-type", "ecs.g6.4xlarge", "--cooldown", "0.5", "--pool", "2:5")
    before = lab.ask("status")["processes"]
    assert lab.ask("up", *options)["name"] == lab.name
    assert lab.ask("status")["processes"] == before
    refused = lab.run("up", *options, "--nodes", "1", ok=False)
    assert refused.returncode == 1 and "other options" in refused.stderr


def test_logs_of_one_service(lab: Lab) -> None:
    everything = lab.ask("logs", "--lines", "100000")
    assert {"cloud", "node1/services", "node2/services"} <= everything.keys()
    only = lab.ask("logs", "ipam", "--node", "node1")
    assert only.keys() == {"node1/services"}
    assert all('"service":"ipam"' in line for line in only["node1/services"])


def test_labs_with_other_names_are_not_disturbed(labs: Callable[[], Lab], lab: Lab) -> None:
    lab.run("pod", "add", "default/a", "--node", "node1", "--serve", "80/tcp")
    try:
        other = labs()
        other.run("up", "--runtime", "cni", "--nodes", "1")
        other.run("pod", "add", "default/a", "--node", "node1")
        other.run("down")
        assert other.left == []
        assert lab.ask("probe", "node2", "default/a:80/tcp")["by"] == "default/a"
    finally:
        lab.run("pod", "del", "default/a")
    assert lab.ask("audit", "--within", "20")["problems"] == []


@pytest.mark.parametrize("runtime", ["cni", "containerd"])
def test_what_a_killed_lab_left_is_removed(labs: Callable[[], Lab], runtime: str) -> None:
    killed = labs()
    killed.run("up", "--runtime", runtime, "--nodes", "1")
    made = killed.ask("pod", "add", "default/a", "--node", "node1", "--serve", "80/tcp")
    netns = Path(made["sandbox"]["netns"])
    assert netns.exists()
    node = killed.layout.node("node1")
    for entry in [*process.recorded(killed.layout.processes), *process.recorded(node.processes)]:
        if not entry.name.startswith("serve"):
            os.kill(entry.pid, signal.SIGKILL)
    assert killed.left != []
    killed.run("down")
    assert killed.left == [] and not netns.exists()


@pytest.mark.parametrize("moment", ["cloud:", "containerd answers"])
def test_what_a_killed_up_left_is_removed(labs: Callable[[], Lab], moment: str) -> None:
    halfway = labs()
    argv = [sys.executable, "-m", "services.ctl", "lab", "up", "--name", halfway.name]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if moment in line:
                running.kill()
                break
        running.stderr.read()
    assert running.returncode == -signal.SIGKILL and halfway.left != []
    assert "left half-way" in halfway.run("status", ok=False).stderr
    halfway.run("down")
    assert halfway.left == []


def test_a_lab_that_cannot_come_up_takes_itself_back(labs: Callable[[], Lab]) -> None:
    hopeless = labs()
    failed = hopeless.run("up", "--runtime", "cni", "--instance-type", "ecs.unknown.large", ok=False)
    assert failed.returncode == 1 and "ecs.unknown.large" in failed.stderr
    assert hopeless.left == []


def test_a_pod_whose_namespaces_are_seen_by_containerd_alone(labs: Callable[[], Lab]) -> None:
    hidden = labs()
    hidden.run("up", "--netns-in-state-dir")
    made = {
        name: hidden.ask("pod", "add", name, "--node", node, "--serve", "80/tcp")
        for name, node in (("default/a", "node1"), ("default/b", "node2"))
    }
    assert hidden.ask("probe", "default/a", "default/b:80/tcp")["by"] == "default/b"
    assert hidden.run("exec", "default/a", "--", "ping", "-c1", "-W2", "203.0.113.10").returncode == 0
    os.kill(made["default/a"]["sandbox"]["pid"], signal.SIGKILL)  # its namespace ends with it, or before
    for name in made:
        hidden.run("pod", "del", name)
    assert hidden.ask("audit", "--within", "20")["problems"] == []


DEMO = ["env", "--default-signal=INT", sys.executable, "-m", "compose.demo"]
"""Whoever runs us in the background has told us to ignore Ctrl-C, and a child would inherit that."""


@pytest.mark.parametrize("mode", ["shared-veth", "vpc-route"])
def test_the_demo_passes(mode: str) -> None:
    done = subprocess.run([*DEMO, "--mode", mode], capture_output=True, text=True, timeout=110, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    total = len(lines) - 1
    assert total > 20 and lines[-1] == f"demo: {total} of {total} checks passed"


def test_ctrl_c_in_the_demo_leaves_nothing() -> None:
    layout = Layout.of("demo")
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("ok    3"):
                running.send_signal(signal.SIGINT)
                break
        running.stdout.read()
    assert running.returncode == 130
    assert leftovers.namespaces(layout) + leftovers.processes(layout) + leftovers.files(layout) == []
