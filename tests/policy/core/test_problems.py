"""Where the original passes something over in silence, somebody hears of it: what, where, and what became of it."""

from typing import Any

import pytest

from services.policy.core import objects
from services.policy.core.cluster import Cluster
from services.policy.core.profiles import PROFILES

Json = Any

KUBE = ("networking.k8s.io/v1", "NetworkPolicy")
CALICO = ("crd.projectcalico.org/v1", "NetworkPolicy")
GLOBAL = ("crd.projectcalico.org/v1", "GlobalNetworkPolicy")

OVER = "passed over"


def port_rule(**port: Json) -> Json:
    return {"podSelector": {}, "ingress": [{"ports": [port]}]}


def rule(**fields: Json) -> Json:
    return {"selector": "all()", "ingress": [{"action": "Deny", **fields}]}


CASES: list[tuple[str, tuple[str, str], Json, str, str]] = [
    # what the oldest version reads otherwise
    ("3.5.2", KUBE, port_rule(port=80, endPort=90), "spec.ingress[0].ports[0].endPort", "ignored by profile 3.5.2"),
    ("3.5.2", KUBE, port_rule(), "spec.ingress[0].ports[0]", "ignored by profile 3.5.2"),
    (
        "3.5.2", KUBE, port_rule(port=80, protocol="SCTP"),
        "spec.ingress[0].ports[0].protocol", "ignored by profile 3.5.2",
    ),
    ("3.5.2", KUBE, port_rule(port=80, protocol="SCTP"), "spec.ingress", "dropped"),
    ("3.5.2", CALICO, {"serviceAccountSelector": "has(a)"}, "spec.serviceAccountSelector", "ignored by profile 3.5.2"),
    ("3.5.2", GLOBAL, {"namespaceSelector": "has(a)"}, "spec.namespaceSelector", "ignored by profile 3.5.2"),
    ("3.5.2", GLOBAL, {"selector": "a contains 'b'"}, "spec.selector", "dropped"),
    (
        "3.5.2", CALICO, rule(source={"services": {"name": "s", "namespace": "n"}}),
        "spec.ingress[0].services", "ignored by profile 3.5.2",
    ),
    ("3.5.2", ("crd.projectcalico.org/v1", "NetworkSet"), {"nets": []}, "kind", "ignored by profile 3.5.2"),
    # tiers, before there were any
    ("3.24.5", ("crd.projectcalico.org/v1", "Tier"), {"order": 1}, "kind", "ignored by profile 3.24.5"),
    ("3.24.5", GLOBAL, {"tier": "first"}, "spec.tier", "ignored by profile 3.24.5"),
    ("3.24.5", CALICO, {"tier": "first"}, "spec.tier", "ignored by profile 3.24.5"),
    (
        "3.24.5", ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"), {"subject": {"namespaces": {}}},
        "kind", "ignored by profile 3.24.5",
    ),
    # what fails open in every version
    *(
        case
        for profile in ("3.24.5", "current")
        for case in (
            (profile, GLOBAL, {"namespaceSelector": "a ="}, "spec.namespaceSelector", OVER),
            (profile, GLOBAL, {"serviceAccountSelector": "a ="}, "spec.serviceAccountSelector", OVER),
            (profile, CALICO, {"serviceAccountSelector": "a ="}, "spec.serviceAccountSelector", OVER),
            (
                profile, CALICO, rule(source={"serviceAccounts": {"names": ["a'b"]}}),
                "spec.ingress[0].source.serviceAccounts.names", OVER,
            ),
            (profile, GLOBAL, {"doNotTrack": True, "preDNAT": True}, "spec.preDNAT", OVER),
            (profile, GLOBAL, {"types": ["Inbound"]}, "spec.types", OVER),
            (profile, CALICO, rule(action="deny"), "spec.ingress[0].action", OVER),
            (profile, CALICO, rule(icmp={"code": 1}, protocol="ICMP"), "spec.ingress[0].icmp.code", OVER),
            (profile, CALICO, rule(http={"methods": ["GET"]}), "spec.ingress[0].http", OVER),
            (profile, CALICO, rule(destination={"nets": ["10/8"]}), "spec.ingress[0].destination.nets[0]", OVER),
            (
                profile, KUBE, {"podSelector": {"matchExpressions": [{"key": "a", "operator": "in"}]}},
                "spec.podSelector.matchExpressions[0].operator", OVER,
            ),
            (
                profile, KUBE,
                {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
                "spec.ingress[0].from[0].ipBlock", OVER,
            ),
            (
                profile, CALICO, rule(source={"namespaceSelector": "a ="}),
                "spec.ingress[0].source.namespaceSelector", OVER,
            ),
            (
                profile, CALICO, rule(source={"namespaceSelector": "a ="}),
                "spec.ingress[0].source.namespaceSelector", "dropped",
            ),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "kind", "spec", "field", "effect"), CASES)
def test_is_said(profile: str, kind: tuple[str, str], spec: Json, field: str, effect: str) -> None:
    raw = {"apiVersion": kind[0], "kind": kind[1], "metadata": {"name": "a", "namespace": "n"}, "spec": spec}
    struct = objects.kind_of(raw)
    assert struct is not None
    problems = Cluster("node1", PROFILES[profile]).apply(objects.read(raw, struct))
    assert (field, effect) in [(problem.field, problem.effect) for problem in problems], problems
    assert all(problem.reason for problem in problems)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_means_what_it_says_is_passed_in_silence(profile: str) -> None:
    cluster = Cluster("node1", PROFILES[profile])
    for kind, spec in (
        (KUBE, port_rule(port=80, protocol="UDP")),
        (CALICO, {**rule(protocol="TCP", destination={"ports": [80]}), "tier": "default"}),
        (GLOBAL, {**rule(icmp={"type": 8, "code": 0}, protocol="ICMP"), "types": ["Ingress"]}),
        (("crd.projectcalico.org/v1", "Tier"), {"order": 1_000_000}),
    ):
        raw = {"apiVersion": kind[0], "kind": kind[1], "metadata": {"name": "default", "namespace": "n"}, "spec": spec}
        struct = objects.kind_of(raw)
        assert struct is not None
        assert cluster.apply(objects.read(raw, struct)) == ()
