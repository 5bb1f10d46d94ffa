"""A developer's day with compose/docker-compose.yml: real engine, real containers, real packets."""

import json
import time
from typing import Any

import pytest

from tests.compose.stack import PORTS, Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(480)]

MISSED = {
    "eni_manager": {"ipam": "inventory", "gateway": "eni_manager"},
    "ipam": {"gateway": "ipam"},
    "policy": {"gateway": "policy"},
    "gateway": {},
    "cloud": {"eni_manager": "cloud"},
}
"""Who says in /readyz that a service is away, and under which name."""


def add(stack: Stack, name: str) -> str:
    """A pod that serves; its address."""
    made = json.loads(
        stack.lab_command("pod", "add", f"default/{name}", "--node", "node1", "--serve", "80/tcp", "--json")
    )
    (address,) = made["addresses"]
    return str(address)


def delete(stack: Stack, name: str) -> None:
    stack.lab_command("pod", "del", f"default/{name}")


def works(stack: Stack) -> None:
    """A pod can be added, reached from its node and through the VPC, and deleted; nothing is left of it."""
    add(stack, "probe")
    for source in ("node1", "outside"):
        stack.lab_command("probe", source, "default/probe:80/tcp")
    delete(stack, "probe")
    stack.lab_command("audit", "--within", "30")


def test_a_pod_comes_and_goes(stack: Stack) -> None:
    works(stack)


def test_the_labs_other_commands_work_from_the_node(stack: Stack) -> None:
    add(stack, "web")
    try:
        assert "1 received" in stack.lab_command("exec", "default/web", "--", "ping", "-c1", "-W2", "192.168.0.1")
        stack.lab_command("capture", "--for", "0.2", "default/web")
        assert stack.lab_command("status").count(" ready") == len(PORTS)
        assert '"ready":true' in stack.compose("exec", "-T", "ipam", "healthz", "9441", "/readyz")
    finally:
        delete(stack, "web")


@pytest.mark.parametrize("service", [*PORTS])
def test_a_service_stops_and_comes_back_while_the_others_stay(stack: Stack, service: str) -> None:
    others = {name: started(stack, name) for name in ("cloud", "node", *PORTS) if name != service}
    stack.compose("stop", service)
    try:
        for name in set(PORTS) - {service}:
            assert stack.ask(name, "/healthz")[0] == 200
            stack.wait_missing(name, MISSED[service].get(name, ""))
        assert {name: started(stack, name) for name in others} == others
    finally:
        stack.compose("start", service)
    stack.wait_ready()
    assert {name: started(stack, name) for name in others} == others
    works(stack)


DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""


def test_policies_are_enforced_from_a_container_with_two_capabilities(stack: Stack) -> None:
    """Told by the node's configuration, which changes under the running services."""
    recreate = ("up", "--detach", "--wait", "--no-build", "--no-deps", "policy")
    config = stack.compose("exec", "-T", "node", "cat", path := f"/run/terway-lab/{stack.lab}/node1/config.json")
    stack.compose(*recreate, beside="docker-compose.enforce.yml")
    try:
        configure(stack, path, json.dumps(json.loads(config) | {"policy": {"network_policy": "enforce"}}))
        stack.wait_policy("enforce")
        add(stack, "before")
        reach(stack, "outside", "default/before:80/tcp", True)
        policy_file(stack, "apply")
        add(stack, "web")
        reach(stack, "outside", "default/web:80/tcp", False)
        reach(stack, "default/before", "default/web:80/tcp", False)
        reach(stack, "node1", "default/web:80/tcp", True)
        assert "inet terway" in stack.compose("exec", "-T", "node", "nft", "list", "tables")
        policy_file(stack, "delete")
        reach(stack, "outside", "default/web:80/tcp", True)
    finally:
        for name in ("before", "web"):
            delete(stack, name)
        configure(stack, path, config)
        stack.wait_policy("off")
        stack.compose(*recreate)
    stack.wait_ready()
    assert "inet terway" not in stack.compose("exec", "-T", "node", "nft", "list", "tables")
    works(stack)


def configure(stack: Stack, path: str, config: str) -> None:
    stack.compose("exec", "-T", "node", "sh", "-c", f"cat > {path} <<'END'\n{config}\nEND")


def policy_file(stack: Stack, verb: str) -> None:
    command = f"cat > /tmp/deny.yaml <<'END'\n{DENY}\nEND\nterwayctl lab {verb} -f /tmp/deny.yaml"
    stack.compose("exec", "-T", "node", "sh", "-c", command)


def reach(stack: Stack, source: str, destination: str, wanted: bool) -> None:
    """In the end: a policy that is written is in force a moment later."""
    until = time.monotonic() + 30
    while True:
        try:
            stack.lab_command("probe", source, destination)
            reached = True
        except AssertionError:
            reached = False
        if reached is wanted:
            return
        assert time.monotonic() < until, f"{source} -> {destination}: reached is {reached}"


def started(stack: Stack, service: str) -> tuple[str, str, int]:
    """Differs once the container has stopped, died or been started again."""
    container = stack.container(service)
    return container["State"]["Status"], container["State"]["StartedAt"], container["RestartCount"]


def test_a_pod_is_deleted_while_the_gateway_is_away(stack: Stack) -> None:
    address = add(stack, "late")
    stack.compose("stop", "gateway")
    try:
        delete(stack, "late")  # the shim leaves a note
        assert leases(stack) == [address]
    finally:
        stack.compose("start", "gateway")
    stack.wait_ready()
    stack.lab_command("audit", "--within", "60")
    assert leases(stack) == []


def leases(stack: Stack) -> list[str]:
    status, state = stack.ask("ipam", "/state")
    assert status == 200
    return [lease["ipv4"] for lease in state["leases"]]


def test_the_cloud_stops_and_another_one_comes(stack: Stack) -> None:
    """Its namespaces go with it, so the node is another machine afterwards: everything on it is restarted."""
    before = {name: started(stack, name) for name in ("node", *PORTS)}
    stack.compose("stop", "cloud")
    try:
        for name in PORTS:
            assert stack.ask(name, "/healthz")[0] == 200
        stack.wait_missing("eni_manager", "cloud", within_s=120)
        assert {name: started(stack, name) for name in before} == before
    finally:
        stack.compose("restart", "cloud")
    stack.wait_ready()
    works(stack)


def test_services_have_no_more_rights_than_they_need(stack: Stack) -> None:
    """What the kernel says of the processes themselves, after everything they do to get there."""
    wanted = {
        "eni_manager": {"net_admin", "sys_admin", "sys_ptrace", "dac_read_search"},
        "gateway": {"sys_ptrace", "dac_read_search"},
        "ipam": set(),
        "policy": set(),
    }
    for service, capabilities in wanted.items():
        container = stack.container(service)
        status = status_of(container["State"]["Pid"])
        assert status["Uid"].split() == ["10001"] * 4
        assert status["NoNewPrivs"] == "1"
        for kind in ("CapEff", "CapPrm", "CapBnd"):
            assert names(int(status[kind], 16)) == capabilities, f"{service}: {kind}"
        assert container["HostConfig"]["ReadonlyRootfs"]


CAPABILITIES = {1: "dac_override", 2: "dac_read_search", 12: "net_admin", 19: "sys_ptrace", 21: "sys_admin"}
"""Numbers of linux/capability.h; any other appears as its number."""


def names(mask: int) -> set[Any]:
    return {CAPABILITIES.get(bit, bit) for bit in range(64) if mask >> bit & 1}


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


@pytest.mark.parametrize("image", ["terway-py-node:dev", "terway-py-lab:dev"])
def test_an_image_works_without_the_working_tree(stack: Stack, image: str) -> None:
    run = ("run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", image)
    assert "--config" in stack.engine.docker(*run, "python3", "-m", "services.ipam", "--help")


def test_everything_goes_within_ten_seconds(stack: Stack) -> None:
    add(stack, "left")
    took = stack.down()
    try:
        assert took < 10
        assert stack.namespaces() == []
    finally:
        stack.up()
