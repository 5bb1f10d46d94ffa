"""What the original passes over in silence is passed over here too, and said."""

from typing import Any

import pytest

from services.policy.core.profiles import FELIX_3_5_2, FELIX_3_24_5, Compat
from tests.policy.clusters import Cluster

LIMITS_NOTHING = "limits nothing"


def global_policy(**spec: Any) -> Any:
    return {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "g"},
        "spec": spec,
    }


def rule(**fields: Any) -> Any:
    return {"ingress": [{"action": "Allow", **fields}]}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"namespaceSelector": "a = b"}, "spec.namespaceSelector"),
        ({"serviceAccountSelector": "a = b"}, "spec.serviceAccountSelector"),
        (rule(source={"serviceAccounts": {"names": ["a'b"]}}), "spec.ingress[0].source.serviceAccounts.names"),
        (rule(source={"nets": ["x"]}), "spec.ingress[0].source.nets[0]"),
        (rule(destination={"nets": ["10.0.0.0/8", "x"]}), "spec.ingress[0].destination.nets[1]"),
        ({"ingress": [{"action": "Shrug"}]}, "spec.ingress[0].action"),
        ({"ingress": [{}]}, "spec.ingress[0].action"),
    ],
)
def test_what_is_passed_over_is_said(spec: Any, field: str) -> None:
    cluster = Cluster([global_policy(**spec)])
    assert [problem.field for problem in cluster.problems] == [field]
    assert not cluster.invalid


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"namespaceSelector": "has(a)"}, "spec.namespaceSelector"),
        ({"serviceAccountSelector": "has(a)"}, "spec.serviceAccountSelector"),
        (rule(source={"services": {"name": "s", "namespace": "n"}}), "spec.ingress[0].services"),
    ],
)
def test_what_an_old_version_does_not_know_is_said(spec: Any, field: str) -> None:
    assert Cluster([global_policy(**spec)], FELIX_3_24_5).problems == []
    (problem,) = Cluster([global_policy(**spec)], FELIX_3_5_2).problems
    assert problem.field == field and LIMITS_NOTHING in problem.reason


@pytest.mark.parametrize(("compat", "said"), [(FELIX_3_24_5, 0), (FELIX_3_5_2, 1)])
def test_network_sets_of_namespaces_are_new(compat: Compat, said: int) -> None:
    written = {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "NetworkSet",
        "metadata": {"name": "s", "namespace": "n"},
        "spec": {"nets": ["10.0.0.0/8"]},
    }
    assert len(Cluster([written], compat).problems) == said


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (rule(protocol="TCP", destination={"ports": ["9:1"]}), "spec.ingress[0].destination.ports[0]"),
        (rule(protocol="TCP", destination={"ports": [70_000]}), "spec.ingress[0].destination.ports[0]"),
        (rule(protocol="TCP", destination={"ports": ["é"]}), "spec.ingress[0].destination.ports[0]"),
        (rule(protocol=256), "spec.ingress[0].protocol"),
        ({"order": float("nan")}, "spec.order"),
    ],
)
def test_values_that_no_version_can_decode_drop_the_object(spec: Any, field: str) -> None:
    (problem,) = Cluster([global_policy(**spec)]).problems
    assert (problem.field, problem.effect) == (field, "dropped")


def test_host_endpoints_need_a_node_and_addresses_that_are_some() -> None:
    def written(**spec: Any) -> Any:
        meta = {"name": "h"}
        return {"apiVersion": "crd.projectcalico.org/v1", "kind": "HostEndpoint", "metadata": meta, "spec": spec}

    assert Cluster([written(interfaceName="eth0")]).problems[0].field == "spec.node"
    assert Cluster([written(node="n", expectedIPs=["x"])]).problems[0].field == "spec.expectedIPs[0]"
