"""Calico's namespaced policies, order, Pass and tiers, ranges of ports, and SCTP, live, with the profile of current
Felix, to which and from which the services change while packets flow."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from compose.lab.serve import Port
from tests.conformance.calico import changed, define, local, policy, rule, tier, to, written
from tests.conformance.cases import DENY_X, ONLY_B_TO_A, step
from tests.conformance.cases import policy as kube_policy
from tests.conformance.site import PORTS, SCTP_PORTS, Probe, Site
from tests.conformance.streams import POLICIES, streaming
from tests.conformance.test_enforced_live import judged_all_the_time, more
from tests.conformance.test_functional_live import A_OF_X, NODES, open_of, reconfigured

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="session")]

TCP80, TCP81, UDP80, UDP81 = PORTS
SCTP80, SCTP81 = SCTP_PORTS
SOURCES = ("x/b", "x/c", "y/a", "z/a", "z/b")


def asked(ports: tuple[Port, ...] = (TCP80, TCP81)) -> list[Probe]:
    """What is asked of x/a, from its own namespace and others, its own node and another."""
    return [Probe(source, "x/a", port) for source in SOURCES for port in ports]


def expected(*open_ones: tuple[str, Port]) -> set[Probe]:
    return {Probe(source, "x/a", port) for source, port in open_ones}


async def judged(cluster: Site, *open_ones: tuple[str, Port], ports: tuple[Port, ...] = (TCP80, TCP81)) -> None:
    """These, and no others, are let in to x/a."""
    wanted = expected(*open_ones)
    assert await open_of(cluster, asked(ports), wanted) == wanted


@pytest_asyncio.fixture(scope="module", loop_scope="session", autouse=True)
async def current(cluster: Site) -> AsyncIterator[None]:
    """The services serve by the current profile, in which tiers count; all connections have their right fate while they
    change to it and back."""
    await define(cluster)
    before = {node: json.loads(cluster.layout.node(node).config.read_text()) for node in NODES}
    await turned(cluster, before, {"network_policy": "enforce", "discovery_s": 1.0, "compat": "current"})
    try:
        yield
    finally:
        await turned(cluster, before, {})


async def turned(cluster: Site, before: dict[str, dict[str, object]], wanted: dict[str, object]) -> None:
    await cluster.enter(step(DENY_X, ONLY_B_TO_A, *POLICIES))
    async with judged_all_the_time(cluster) as rounds, streaming(cluster) as flowing:
        for node in NODES:
            flowing.note(f"{node} gets {wanted or 'its first configuration'}")
            await reconfigured(cluster.layout.node(node), before[node] | ({"policy": wanted} if wanted else {}))
            await more(rounds, len(rounds))
    await cluster.settled()


async def test_a_namespaced_policy_selects_in_its_namespace_alone(cluster: Site) -> None:
    from_c = rule("Allow", source={"selector": "pod == 'a' || pod == 'c'"})
    only = local("only-c", "x", "pod == 'a'", order=10, types=["Ingress"], ingress=[from_c])
    await cluster.enter(step())
    async with written(cluster, only):
        await judged(cluster, ("x/c", TCP80), ("x/c", TCP81))
        assert await open_of(cluster, [Probe("z/b", "y/a", TCP80)], {Probe("z/b", "y/a", TCP80)})
        from_z = rule("Allow", source={"namespaceSelector": "ns == 'z'", "selector": "pod == 'a'"}) | to(81)
        await changed(cluster, only, ingress=[from_z])
        await judged(cluster, ("z/a", TCP81))
        not_x = rule("Allow", source={"namespaceSelector": "ns != 'x'", "notSelector": "pod == 'b'"}) | to(80)
        await changed(cluster, only, ingress=[not_x])
        await judged(cluster, ("y/a", TCP80), ("z/a", TCP80))


async def test_the_lower_order_decides_also_when_it_changes(cluster: Site) -> None:
    deny = local("deny", "x", "pod == 'a'", order=10, types=["Ingress"], ingress=[rule("Deny", **to(80))])
    allow = policy("allow", A_OF_X, order=20, types=["Ingress"], ingress=[rule("Allow")])
    await cluster.enter(step())
    async with written(cluster, deny, allow):
        second = [(source, TCP81) for source in SOURCES]
        await judged(cluster, *second)
        await changed(cluster, allow, order=5)
        await judged(cluster, *second, *((source, TCP80) for source in SOURCES))
        await changed(cluster, deny, order=1)
        await judged(cluster, *second)


async def test_pass_leaves_it_to_the_profiles(cluster: Site) -> None:
    rules = [
        rule("Pass", source={"namespaceSelector": "ns == 'z'"}, **to(80)),
        rule("Deny"),
    ]
    await cluster.enter(step())
    async with written(cluster, local("passing", "x", "pod == 'a'", order=10, types=["Ingress"], ingress=rules)):
        await judged(cluster, ("z/a", TCP80), ("z/b", TCP80))


async def test_tiers(cluster: Site) -> None:
    """What the first tier passes, the second decides, and Kubernetes' own policies with it; what it does not speak of
    ends there, until the tier says that it passes."""
    first = tier("first", 100)
    rules = [
        rule("Pass", source={"selector": "pod == 'b'"}),
        rule("Allow", source={"namespaceSelector": "ns == 'y'"}) | to(81),
    ]
    passing = policy("first.passing", A_OF_X, tier="first", order=1, types=["Ingress"], ingress=rules)
    only_80 = kube_policy(
        "only-80", "x", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"],
        ingress=[{"ports": [{"port": 80}], "from": [{"namespaceSelector": {}}]}],
    )  # fmt: skip
    await cluster.enter(step(only_80))
    async with written(cluster, tier("default", 1_000_000), first, passing):
        await judged(cluster, ("x/b", TCP80), ("z/b", TCP80), ("y/a", TCP81))
        await changed(cluster, first, defaultAction="Pass")
        await judged(cluster, *((source, TCP80) for source in SOURCES), ("y/a", TCP81))
        await changed(cluster, first, defaultAction="Deny")
        await judged(cluster, ("x/b", TCP80), ("z/b", TCP80), ("y/a", TCP81))
    await judged(cluster, *((source, TCP80) for source in SOURCES))


@pytest.mark.parametrize(
    ("low", "high", "protocol", "allowed"),
    [
        (80, 81, "TCP", (TCP80, TCP81)),
        (81, 65535, "TCP", (TCP81,)),
        (1, 80, "UDP", (UDP80,)),
        (80, 81, "SCTP", (SCTP80, SCTP81)),
        (81, 90, "SCTP", (SCTP81,)),
        (82, 90, "TCP", ()),
    ],
)
async def test_end_port(low: int, high: int, protocol: str, allowed: tuple[Port, ...], cluster: Site) -> None:
    ports = [{"port": low, "endPort": high, "protocol": protocol}]
    await cluster.enter(step(kube_policy("ranges", "x", policyTypes=["Ingress"], ingress=[{"ports": ports}])))
    every_port = (*PORTS, *SCTP_PORTS)
    await judged(cluster, *((source, port) for source in SOURCES for port in allowed), ports=every_port)


async def test_sctp_by_number_by_name_and_by_what_it_is_not(cluster: Site) -> None:
    """Of the first packets of associations; a rule without ports is about all, and one of TCP about none."""
    await cluster.enter(step())
    by_number = rule("Allow", **to(80)) | {"protocol": "SCTP"}
    only = local("sctp", "x", "pod == 'a'", order=10, types=["Ingress"], ingress=[by_number])
    every_port = (TCP80, SCTP80, SCTP81)
    async with written(cluster, only):
        for now, allowed in (
            (by_number, {SCTP80}),
            ({"action": "Allow", "protocol": "SCTP", **to("serve-81-sctp")}, {SCTP81}),
            ({"action": "Allow", "protocol": "SCTP", "destination": {"notPorts": [80]}}, {SCTP81}),
            ({"action": "Allow", "protocol": "SCTP"}, {SCTP80, SCTP81}),
            ({"action": "Allow", "notProtocol": "SCTP"}, {TCP80}),
            ({"action": "Allow", "protocol": "TCP"}, {TCP80}),
        ):
            await changed(cluster, only, ingress=[now])
            await judged(cluster, *((source, port) for source in SOURCES for port in allowed), ports=every_port)
