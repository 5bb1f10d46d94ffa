"""Administrators' policies: before everybody's, behind everybody's, and closed where they cannot be understood."""

from typing import Any

import pytest

from services.policy.core.profiles import FELIX_3_24_5, FELIX_CURRENT
from services.policy.core.verdict import Flow
from tests.policy.clusters import Cluster, namespace, pod

PODS = [
    namespace("x", team="a"),
    namespace("y", team="b"),
    pod("x/web", "10.0.0.1", app="web"),
    pod("y/db", "10.0.0.2", app="db"),
]
NETWORK_POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "np", "namespace": "x"},
    "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]},
}
NINE = {"start": 1, "end": 9}
ONTO_WEB = Flow("10.0.0.2", "10.0.0.1", "tcp", 80)
EVERYBODY: Any = [{"namespaces": {}}]


def written(kind: str, *rules: Any, **spec: Any) -> Any:
    subject = {"namespaces": {"matchLabels": {"team": "a"}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "p"},
        "spec": {"priority": 5, "subject": subject, "ingress": list(rules), **spec},
    }


def admin(*rules: Any, **spec: Any) -> Any:
    return written("AdminNetworkPolicy", *rules, **spec)


def rule(action: str, **fields: Any) -> Any:
    return {"name": "r", "action": action, "from": EVERYBODY, **fields}


@pytest.mark.parametrize(
    ("policies", "allowed"),
    [
        ([], True),
        ([NETWORK_POLICY], True),
        ([admin(rule("Deny"))], False),
        ([admin(rule("Deny")), NETWORK_POLICY], False),
        ([admin(rule("Pass"), rule("Deny")), NETWORK_POLICY], True),
        ([admin(rule("Deny", ports=[{"portNumber": {"protocol": "TCP", "port": 81}}]))], True),
        ([admin(rule("Deny", ports=[{"portRange": {"protocol": "TCP", "start": 80, "end": 90}}]))], False),
        ([admin(rule("Deny", ports=[{"namedPort": "http"}]))], False),
        ([admin(rule("Deny", **{"from": [{"pods": {"podSelector": {"matchLabels": {"app": "db"}}}}]}))], False),
        ([admin(rule("Deny", **{"from": [{"namespaces": {"matchLabels": {"team": "a"}}}]}))], True),
        ([written("BaselineAdminNetworkPolicy", rule("Deny"))], False),
        ([written("BaselineAdminNetworkPolicy", rule("Deny")), NETWORK_POLICY], True),
        ([admin(rule("Allow")), written("BaselineAdminNetworkPolicy", rule("Deny"))], True),
        ([written("ClusterNetworkPolicy", rule("Deny"), tier="Admin")], False),
        ([written("ClusterNetworkPolicy", rule("Accept"), tier="Admin")], True),
        ([written("ClusterNetworkPolicy", rule("Deny"), tier="Baseline"), NETWORK_POLICY], True),
        (
            [
                written(
                    "ClusterNetworkPolicy",
                    rule("Deny", protocols=[{"tcp": {"destinationPort": {"number": 80}}}]),
                    tier="Admin",
                )
            ],
            False,
        ),
        (
            [
                written(
                    "ClusterNetworkPolicy",
                    rule(
                        "Deny", protocols=[{"udp": {}}, {"tcp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]
                    ),
                    tier="Admin",
                )
            ],
            True,
        ),
    ],
)
def test_who_decides(policies: list[Any], allowed: bool) -> None:
    cluster = Cluster([*PODS, *policies], FELIX_CURRENT)
    assert cluster.judge("x/web", "ingress", ONTO_WEB).allowed is allowed
    assert cluster.problems == []


def test_lower_priority_numbers_come_first() -> None:
    late = {**admin(rule("Deny"), priority=9), "metadata": {"name": "a-late"}}
    cluster = Cluster([*PODS, admin(rule("Allow"), priority=3), late], FELIX_CURRENT)
    verdict = cluster.judge("x/web", "ingress", ONTO_WEB)
    assert verdict.allowed and verdict.owner.endswith("kanp.adminnetworkpolicy.p")


NAMES = {"name": "n", "to": [{"domainNames": ["example.org"]}]}


@pytest.mark.parametrize(
    ("odd", "allowed"),
    [({**NAMES, "action": "Deny"}, False), ({**NAMES, "action": "Pass"}, False), ({**NAMES, "action": "Allow"}, True)],
)
def test_what_cannot_be_converted_fails_closed(odd: Any, allowed: bool) -> None:
    """A rule that allows is left out; one that denies or passes denies everything."""
    policy = admin(egress=[odd])
    cluster = Cluster([*PODS, policy], FELIX_CURRENT)
    outward = Flow("10.0.0.1", "192.0.2.1", "tcp", 443)
    assert cluster.judge("x/web", "egress", outward).allowed is allowed
    assert [problem.field for problem in cluster.problems] == ["spec.egress[0] peer 0"]


def test_networks() -> None:
    policy = admin(egress=[{"action": "Deny", "to": [{"networks": ["192.0.2.0/24"]}]}])
    cluster = Cluster([*PODS, policy], FELIX_CURRENT)
    assert not cluster.judge("x/web", "egress", Flow("10.0.0.1", "192.0.2.1", "tcp", 443)).allowed
    assert cluster.judge("x/web", "egress", Flow("10.0.0.1", "198.51.100.1", "tcp", 443)).allowed


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"subject": {}}, "spec.subject"),
        ({"ingress": [rule("Shrug")]}, "spec.ingress[0].action"),
        ({"ingress": [rule("Deny", ports=[{"portNumber": {"port": 0}}])]}, "spec.ingress[0].ports[0]"),
        ({"ingress": [rule("Deny", ports=[{"portRange": {"start": 9, "end": 1}}])]}, "spec.ingress[0].ports[0]"),
        ({"ingress": [rule("Deny", ports=[{}])]}, "spec.ingress[0].ports[0]"),
        ({"ingress": [rule("Deny", protocols=[{}])]}, "spec.ingress[0].protocols[0]"),
        ({"ingress": [rule("Deny", **{"from": []})]}, "spec.ingress[0]"),
        ({"egress": [{"action": "Deny", "to": [{"networks": ["x"]}]}]}, "spec.egress[0].to[0].networks[0]"),
    ],
)
def test_flaws_are_reported_with_their_field(spec: Any, field: str) -> None:
    cluster = Cluster([*PODS, admin(**spec)], FELIX_CURRENT)
    assert [problem.field for problem in cluster.problems] == [field]


def test_an_unknown_tier_is_reported() -> None:
    cluster = Cluster([*PODS, written("ClusterNetworkPolicy", tier="Middle")], FELIX_CURRENT)
    assert [problem.field for problem in cluster.problems] == ["spec.tier"]


def test_older_versions_do_not_know_them_and_it_is_said() -> None:
    cluster = Cluster([*PODS, admin(rule("Deny"))], FELIX_3_24_5)
    assert cluster.judge("x/web", "ingress", ONTO_WEB).allowed
    assert [str(problem) for problem in cluster.problems] == [
        "AdminNetworkPolicy p: kind Felix 3.24.5 does not know it (ignored by profile 3.24.5)"
    ]


def test_calico_s_own_tiers() -> None:
    tier = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Tier",
        "metadata": {"name": "security"},
        "spec": {"order": 10, "defaultAction": "Pass"},
    }
    policy = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "security.p"},
        "spec": {
            "tier": "security",
            "selector": "app == 'web'",
            "types": ["Ingress"],
            "ingress": [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [81]}}],
        },
    }
    cluster = Cluster([*PODS, tier, policy, NETWORK_POLICY], FELIX_CURRENT)
    assert cluster.judge("x/web", "ingress", ONTO_WEB).owner == "policy KubernetesNetworkPolicy/x/np"
    assert cluster.judge("x/web", "ingress", Flow("10.0.0.2", "10.0.0.1", "tcp", 81)).tier == "security"
    denying = Cluster([*PODS, {**tier, "spec": {"order": 10}}, policy, NETWORK_POLICY], FELIX_CURRENT)
    assert denying.judge("x/web", "ingress", ONTO_WEB).tier == "security"
