"""Felix's functional cases (felix.md §6.1) on running policies, end to end; what each means is told beside it. And what
the service shows of them, and its own configuration, which changes while packets flow."""

import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from compose.lab import services
from compose.lab.control import connect
from compose.lab.layout import NodeLayout
from compose.lab.netns import call_in, http_get
from compose.lab.probe import ask
from compose.lab.serve import Port
from compose.lab.waiting import until
from shared.model import PodKey
from tests.conformance.calico import define, host, network_set, policy, rule, to, written
from tests.conformance.cases import DENY_X, ONLY_B_TO_A, every, step
from tests.conformance.site import PORTS, Probe, Site
from tests.conformance.test_enforced_live import POLICY, judged_all_the_time, more, run

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="session")]

NODES = ("node1", "node2")
TCP80, TCP81, UDP80, UDP81 = PORTS
A_OF_X = "projectcalico.org/namespace == 'x' && pod == 'a'"
GROUP = 4242
REACHED_S, DENIED_S = 20.0, 1.0

Json = Any


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def observed(cluster: Site, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The services look for new kinds each second, count by rule and log flows, each node to its file there. They are
    told so while connections are judged, and to forget it again in the end."""
    folder = tmp_path_factory.mktemp("flows")
    before = {node: json.loads(cluster.layout.node(node).config.read_text()) for node in NODES}
    await cluster.enter(step(DENY_X, ONLY_B_TO_A))
    async with judged_all_the_time(cluster) as rounds:
        for node in NODES:
            wanted = {
                "network_policy": "enforce",
                "discovery_s": 1.0,
                "counters": "rule",
                "flow_log_group": GROUP,
                "flow_log_rate": 1000,
                "flow_log_file": str(folder / node),
            }
            await reconfigured(cluster.layout.node(node), before[node] | {"policy": wanted})
            await more(rounds, len(rounds))
    await cluster.settled()
    try:
        yield folder
    finally:
        for node in NODES:
            await reconfigured(cluster.layout.node(node), before[node])
        await cluster.settled()


async def test_a_bad_configuration_changes_nothing(cluster: Site, observed: Path) -> None:
    await cluster.enter(step(DENY_X, ONLY_B_TO_A))
    corner = cluster.layout.node("node1")
    config = json.loads(corner.config.read_text())
    async with judged_all_the_time(cluster) as rounds:
        bad = config | {"policy": config["policy"] | {"flow_log_rate": 0, "counters_most": 0}}
        services.write_config(corner, bad)
        try:
            hup(corner)

            async def missing() -> str:
                _, state = services.ask(corner, POLICY, "/state")
                said = str(state.get("configuration", {}).get("problems"))
                return "" if "flow_log_rate" in said and "counters_most" in said else said

            await until(missing, what="both problems are said", within_s=60, every_s=0.05)
            await more(rounds, len(rounds))
        finally:
            services.write_config(corner, config)
            hup(corner)


async def test_packets_are_counted_by_rule_and_drops_by_who_decided(cluster: Site, observed: Path) -> None:
    corner = cluster.layout.node("node1")
    none = rule("Deny", **to(81))
    async with calico(cluster, policy("no81", A_OF_X, order=10, types=["Ingress"], ingress=[none])):
        await cluster.enter(step(ONLY_B_TO_A))
        before = await counts(corner)
        probes = every("x/a", ("x/b", "y/a", "z/a"))
        allowed = {Probe("x/b", "x/a", TCP80)}
        for _ in range(2):
            assert await open_of(cluster, probes, allowed) == allowed
        after = await counts(corner)
        key = "no81", "ingress", 0, "deny"
        assert after[key] - before.get(key, 0) >= 6, "two rounds of three, and what TCP repeats"
        key = "knp.default.only-b", "ingress", 0, "allow"
        assert after["x/" + key[0], *key[1:]] - before.get(("x/" + key[0], *key[1:]), 0) == 2
        [standing] = shown(corner, "/policy/status?pod=x/a")
        drops = {(drop["direction"], drop["by"], drop["why"]): drop["packets"] for drop in standing["dropped"]}
        assert drops["ingress", "default/no81", "a rule denies it"] >= 6
        ended = next(number for (_, by, why), number in drops.items() if not by and "no rule of the tier" in why)
        assert ended >= 2 * 8, "of each round eight are asked of no rule: all by UDP, and TCP 80 of the two others"
        assert any(one["name"].endswith("no81") for one in standing["counted"])
        _, body = http_get(corner.netns, POLICY.http_port, "/metrics")
        lines = [line for line in body.decode().splitlines() if "no81" in line]
        matched, dropped = "terway_policy_matched_packets_total{", "terway_policy_dropped_packets_total{"
        assert any(line.startswith(matched) and 'rule="0"' in line for line in lines)
        assert any(line.startswith(dropped) and 'pod="a"' in line for line in lines)
        assert b"\nterway_policy_ip_set_largest " in body


async def test_counters_go_on_while_the_policy_changes(cluster: Site, observed: Path) -> None:
    corner = cluster.layout.node("node1")
    probe = Probe("x/b", "x/a", TCP80)
    key = "x/knp.default.only-b", "ingress", 0, "allow"
    await cluster.enter(step(ONLY_B_TO_A))
    begun = (await counts(corner))[key]
    wider = json.loads(json.dumps(ONLY_B_TO_A))
    wider["spec"]["ingress"].append({"ports": [{"port": 81}]})
    for number, now in enumerate((wider, ONLY_B_TO_A, wider), 1):
        assert await open_of(cluster, [probe], {probe}) == {probe}
        await cluster.enter(step(now))  # its chain is filled anew
        assert (await counts(corner))[key] == begun + number


async def test_flows_are_logged_with_names(cluster: Site, observed: Path) -> None:
    await cluster.enter(step(ONLY_B_TO_A))
    assert await open_of(cluster, [Probe("x/b", "x/a", TCP80), Probe("z/a", "x/a", TCP80)], set()) == {
        Probe("x/b", "x/a", TCP80)
    }
    wanted = {
        ("allow", "ingress", "x/b", "x/a", 80, "x/knp.default.only-b"),
        ("deny", "ingress", "z/a", "x/a", 80, ""),
    }

    async def missing() -> str:
        # Names of other nodes' pods are found in the background, once such an address was seen.
        await cluster.ask([Probe("z/a", "x/a", TCP80)])
        lines = [json.loads(line) for line in (observed / "node1").read_text().splitlines()]
        names = ("verdict", "direction", "source", "destination", "dport", "policy")
        found = {tuple(line.get(name, "") for name in names) for line in lines}
        return "" if wanted <= found else f"{len(lines)} lines, without {wanted - found}"

    await until(missing, what="both are logged", within_s=60, every_s=0.2)


async def test_a_link_that_is_gone_is_not_counted_for_ever(cluster: Site, observed: Path) -> None:
    corner = cluster.layout.node("node1")
    deny = policy(
        "deny-all-of-x", "projectcalico.org/namespace == 'x'", order=5, types=["Ingress"], ingress=[rule("Deny")]
    )
    async with calico(cluster, deny):
        await cluster.enter(step())
        key = PodKey("x", "short")
        info = await cluster.pods.add(key, node="node1", ports=[TCP80])
        answer = await ask(cluster.entries["y/a"], str(info.addresses[0]), TCP80, timeout_s=DENIED_S)
        assert not answer.reached
        found = shown(corner, "/policy/counters?pod=x/short")["endpoints"]
        assert [one["endpoint"] for one in found] == ["x/short"]
        await cluster.pods.delete(key)

        async def left() -> str:
            listed = [one["endpoint"] for one in shown(corner, "/policy/counters")["endpoints"]]
            return str(listed) if "x/short" in listed or any(name.startswith("host:cali") for name in listed) else ""

        await until(left, what="its counts are gone", within_s=60, every_s=0.3)
        assert services.ask(corner, POLICY, "/state")[1]["enforced"]["repairs"] == 0


# ---- kinds of policies


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ([rule("Allow", **to("serve-80-tcp"))], {TCP80}),
        ([rule("Allow", destination={"notPorts": ["serve-81-tcp"]})], {TCP80}),
        ([rule("Allow", **to(*range(1000, 1020), "serve-81-tcp", "2000:2010"))], {TCP81}),
        ([rule("Allow", destination={"notPorts": [*range(1000, 1020), "serve-81-tcp"]})], {TCP80}),
        ([rule("Deny", **to("serve-80-udp")) | {"protocol": "UDP"}, {"action": "Allow"}], {TCP80, TCP81, UDP81}),
    ],
    ids=["named", "not named", "more than 15", "none of more than 15", "named denied"],
)
async def test_named_ports(rules: list[Json], allowed: set[Port], cluster: Site, observed: Path) -> None:
    async with calico(cluster, policy("named", A_OF_X, order=10, types=["Ingress"], ingress=rules)):
        await cluster.enter(step())
        expected = {Probe(source, "x/a", port) for source in ("x/b", "z/a") for port in allowed}
        assert await open_of(cluster, every("x/a", ("x/b", "z/a")), expected) == expected


@pytest.mark.parametrize("name", ["all", "overlapping", "not all", "not one"])
async def test_network_sets(name: str, cluster: Site, observed: Path) -> None:
    """Networks that lie in each other, and that of all addresses, which no kernel's set takes as it is."""
    b = cluster.addresses["x/b"]
    wide = ".".join(b.split(".")[:2]) + ".0.0/16"
    nets, selector, sources = {
        "all": (("0.0.0.0/0",), "selector", {"x/b", "y/a", "z/a"}),
        "overlapping": ((f"{b}/32", wide, "0.0.0.0/0", f"{b}/31"), "selector", {"x/b", "y/a", "z/a"}),
        "not all": (("0.0.0.0/0", f"{b}/32"), "notSelector", set[str]()),
        "not one": ((f"{b}/32", f"{b}/32"), "notSelector", {"y/a", "z/a"}),
    }[name]
    only = policy(
        "by-set", A_OF_X, order=10, types=["Ingress"], ingress=[rule("Allow", source={selector: "set == 'nets'"})]
    )
    async with calico(cluster, network_set("nets", *nets), only):
        await cluster.enter(step())
        expected = {Probe(source, "x/a", port) for source in sources for port in (TCP80, TCP81)}
        assert await open_of(cluster, every("x/a", ("x/b", "y/a", "z/a")), expected) == expected


@pytest.mark.parametrize(
    ("spec", "inward", "outward"),
    [
        ({"types": ["Egress"]}, True, False),
        ({"types": ["Ingress"]}, False, True),
        ({"types": ["Ingress", "Egress"]}, False, False),
        ({}, False, False),
        ({"egress": [{"action": "Allow"}]}, False, True),
        ({"egress": [{"action": "Allow"}], "ingress": [{"action": "Allow"}]}, True, True),
    ],
    ids=["egress", "ingress", "both", "none is both", "rules do not tell", "open"],
)
async def test_types(spec: Mapping[str, Json], inward: bool, outward: bool, cluster: Site, observed: Path) -> None:
    async with calico(cluster, policy("typed", A_OF_X, order=10, **spec)):
        await cluster.enter(step())
        probes = every("x/a", ("y/a", "z/a")) + every("y/a", ("x/a",)) + every("z/a", ("x/a",))
        expected = {probe for probe in probes if (inward if probe.destination == "x/a" else outward)}
        assert await open_of(cluster, probes, expected) == expected


# ---- hosts

REST = policy(
    "rest",
    "has(host)",
    order=1000,
    types=["Ingress", "Egress"],
    ingress=[{"action": "Allow"}],
    egress=[{"action": "Allow"}],
)
"""What no other policy speaks of passes: this is a node that works."""


async def test_host_endpoints(cluster: Site, observed: Path) -> None:
    """Policies of the host itself, failsafe ports, before connection tracking, before DNAT, and of what it forwards."""
    await cluster.enter(step())
    corner, far = cluster.layout.node("node1"), cluster.layout.node("node2").netns
    own = cluster.record.facts("node1").primary_ip
    backend = cluster.addresses["x/a"]

    async def which(wanted: Mapping[int, bool], address: str = own) -> dict[int, bool]:
        found = {}
        for port, expected in wanted.items():
            answer = await ask(far, address, Port(port, "tcp"), timeout_s=REACHED_S if expected else DENIED_S)
            found[port] = answer.reached
        return found

    with listening(corner, 22, 8081, 8082, 8083), translated(corner, 8091, backend), translated(corner, 8092, backend):
        everything = dict.fromkeys((22, 8081, 8082, 8083, 8091, 8092), True)
        assert await which(everything) == everything
        denied = {"order": 10, "types": ["Ingress"]}
        before_dnat = {"order": 10, "types": ["Ingress"], "preDNAT": True, "applyOnForward": True}
        untracked = {"order": 10, "types": ["Ingress"], "doNotTrack": True, "applyOnForward": True}
        bodies = (
            REST,
            policy("host", "has(host)", ingress=[rule("Deny", **to(22, 8081))], **denied),
            policy("dnat", "has(host)", ingress=[rule("Deny", **to(8091))], **before_dnat),
            policy("raw", "has(host)", ingress=[rule("Deny", **to(8082))], **untracked),
            host("node1"),
        )
        async with calico(cluster, *bodies):
            wanted = {22: True, 8081: False, 8082: False, 8083: True, 8091: False, 8092: True}
            assert await which(wanted) == wanted, "22 is a failsafe port; 8091 and 8092 are one port of the pod"
            assert (await ask(far, backend, TCP80, timeout_s=REACHED_S)).reached, "what is forwarded is not asked"
        forward = policy(
            "forward", "has(host)", order=10, types=["Ingress"], applyOnForward=True,
            ingress=[rule("Deny", **to(81)), {"action": "Allow"}],
        )  # fmt: skip
        async with calico(cluster, REST, forward, host("node1")):
            wanted = {80: True, 81: False}
            assert await which(wanted, backend) == wanted
            assert await which({8081: True}) == {8081: True}
        assert await which(everything) == everything, "with the endpoint all that it asked is gone"


async def test_policies_see_pods_and_not_services(cluster: Site, observed: Path) -> None:
    """What a node translates is judged by the pod's address and port."""
    await cluster.enter(step(ONLY_B_TO_A))
    corner = cluster.layout.node("node1")
    chain = "chain c { type nat hook prerouting priority dstnat; "
    run(
        corner,
        f"add table ip svc {{ {chain} ip daddr 172.21.0.9 tcp dport 8000 dnat to {cluster.addresses['x/a']}:80; }}; }}",
    )
    try:
        service = Port(8000, "tcp")
        assert (await ask(cluster.entries["x/b"], "172.21.0.9", service, timeout_s=REACHED_S)).reached
        assert not (await ask(cluster.entries["x/c"], "172.21.0.9", service, timeout_s=DENIED_S)).reached
        assert not (await ask(cluster.entries["y/a"], "172.21.0.9", service, timeout_s=DENIED_S)).reached
    finally:
        run(corner, "delete table ip svc")


# ---- the API server


async def test_policies_hold_while_the_api_server_dies_and_forgets_its_past(cluster: Site, observed: Path) -> None:
    """Every connection to it breaks and none is taken; when it is back, nobody can go on from where he was (410)."""
    await cluster.enter(step(DENY_X, ONLY_B_TO_A))
    async with connect(cluster.layout.cloud_socket) as cloud, judged_all_the_time(cluster) as rounds:
        for _ in range(2):
            fault = await cloud.send("POST", "/faults", {"action": "kubernetes", "kind": "cut_off"})
            await more(rounds, len(rounds) + 2)
            await cloud.send("POST", "/faults", {"action": "kubernetes", "kind": "compacted"})
            await cloud.send("DELETE", f"/faults?id={fault['id']}")
            await more(rounds, len(rounds) + 2)
            await cluster._mark()
            await cluster.settled()
    await cluster.enter(step(DENY_X))
    assert await open_of(cluster, [Probe("x/b", "x/a", TCP80)], set()) == set()


# ---- parts


def calico(cluster: Site, *bodies: Json) -> Any:
    """Calico's objects while the context lasts."""
    return written(cluster, *bodies)


@pytest_asyncio.fixture(scope="module", loop_scope="session", autouse=True)
async def kinds(cluster: Site) -> None:
    await define(cluster)


async def open_of(cluster: Site, probes: list[Probe], allowed: set[Probe]) -> set[Probe]:
    """Those that were answered."""
    answers = await cluster.ask(probes, allowed)
    assert set(answers.values()) <= {".", "X"}, answers
    return {probe for probe, answer in answers.items() if answer == "."}


def shown(corner: NodeLayout, page: str) -> Any:
    status, found = services.ask(corner, POLICY, page)
    assert status == 200, found
    return found["value"] if set(found) == {"value"} else found


async def counts(corner: NodeLayout) -> dict[tuple[str, str, int, str], int]:
    """As the kernel has them now: a moment old is what the page may be."""
    asked, found = time.time(), dict[str, Any]()

    async def missing() -> str:
        found.update(shown(corner, "/policy/counters"))
        return "" if found["read_at"] >= asked else "it was read before"

    await until(missing, what="counters are read", within_s=30, every_s=0.1)
    return {
        (one["name"], rule["direction"], rule["rule"], rule["action"]): rule["packets"]
        for one in found["policies"]
        for rule in one["rules"]
    }


def hup(corner: NodeLayout) -> None:
    process = services.running_process(corner, POLICY)
    assert process is not None
    os.kill(process.pid, signal.SIGHUP)


async def reconfigured(corner: NodeLayout, config: Mapping[str, Json]) -> None:
    """The service serves by another file, in the same process."""
    process = services.running_process(corner, POLICY)
    assert process is not None
    _, state = services.ask(corner, POLICY, "/state")
    since = state["configuration"]["since"]
    services.write_config(corner, config)
    hup(corner)

    async def missing() -> str:
        status, state = services.ask(corner, POLICY, "/state")
        now = state.get("configuration", {}) if status == 200 else {}
        return "" if now.get("since", since) != since and not now.get("problems") else str(now)

    await until(missing, what="the other configuration is in force", within_s=60, every_s=0.05)
    await services.wait_ready(corner, [POLICY])
    again = services.running_process(corner, POLICY)
    assert again is not None
    assert again.pid == process.pid


@contextmanager
def listening(corner: NodeLayout, *ports: int) -> Iterator[None]:
    """Somebody on the node itself."""

    def listen(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", port))
        made.listen(64)
        return made

    held = [call_in(corner.netns, lambda port=port: listen(port)) for port in ports]  # type: ignore[misc]
    try:
        yield
    finally:
        for one in held:
            one.close()


@contextmanager
def translated(corner: NodeLayout, port: int, backend: str) -> Iterator[None]:
    """A port of the node that leads to a pod's port 80, as a NodePort does."""
    chain = f"chain c {{ type nat hook prerouting priority dstnat; tcp dport {port} dnat to {backend}:80; }};"
    run(corner, f"add table ip port{port} {{ {chain} }}")
    try:
        yield
    finally:
        run(corner, f"delete table ip port{port}")
