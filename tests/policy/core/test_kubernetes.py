"""Pods and policies of Kubernetes where the recordings do not look: annotations, errors, differences by version."""

from typing import Any

import msgspec
import pytest

from services.policy.core import objects
from services.policy.core.convert import kubernetes
from services.policy.core.problems import Invalid
from services.policy.core.profiles import FELIX_3_5_2, FELIX_3_24_5, FELIX_CURRENT, Compat


def pod(status: Any = None, annotations: Any = None, **metadata: Any) -> objects.Pod:
    raw = {
        "metadata": {"name": "a", "namespace": "n", "annotations": annotations or {}, **metadata},
        "spec": {
            "nodeName": "node1",
            "containers": [{"ports": [{"name": "http", "containerPort": 80}]}],
            "initContainers": [{"ports": [{"name": "early", "containerPort": 81}]}],
        },
        "status": status or {},
    }
    return msgspec.convert(raw, objects.Pod)


def nets_of(written: objects.Pod, compat: Compat = FELIX_3_24_5) -> tuple[str, ...] | None:
    endpoint = kubernetes.workload_endpoint(written, compat)
    return None if endpoint is None else endpoint.ipv4_nets + endpoint.ipv6_nets


CALICO = {"cni.projectcalico.org/podIP": "10.0.0.2/32"}
TERWAY = {"k8s.aliyun.com/pod-ips": "10.0.0.3,fd00::3"}


@pytest.mark.parametrize(
    ("status", "annotations", "nets"),
    [
        ({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, {}, ("10.0.0.1/32", "fd00::1/128")),
        ({"podIP": "10.0.0.1"}, TERWAY, ("10.0.0.1/32",)),
        ({}, CALICO | TERWAY, ("10.0.0.2/32",)),
        ({}, TERWAY, ("10.0.0.3/32", "fd00::3/128")),
        ({}, {}, None),
    ],
)
def test_where_addresses_come_from(status: Any, annotations: Any, nets: tuple[str, ...] | None) -> None:
    assert nets_of(pod(status, annotations)) == nets


def test_the_oldest_version_knows_one_address() -> None:
    status = {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}
    assert nets_of(pod(status), FELIX_3_5_2) == ("10.0.0.1/32",)
    assert nets_of(pod({}, TERWAY), FELIX_3_5_2) is None


@pytest.mark.parametrize("phase", ["Failed", "Succeeded", "Completed"])
def test_a_finished_pod_gives_its_address_back(phase: str) -> None:
    status = {"podIP": "10.0.0.1", "phase": phase}
    assert nets_of(pod(status)) is None
    assert nets_of(pod(status), FELIX_3_5_2) == ("10.0.0.1/32",)


def test_an_ending_pod_has_its_address_until_the_plugin_says_otherwise() -> None:
    ending = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    status = {"podIP": "10.0.0.1"}
    assert nets_of(pod(status, **ending)) == ("10.0.0.1/32",)
    assert nets_of(pod(status, {"cni.projectcalico.org/podIP": ""}, **ending)) is None
    assert nets_of(pod(status, {"cni.projectcalico.org/podIP": ""})) == ("10.0.0.1/32",)


def test_ports_of_init_containers_count_in_current_versions_only() -> None:
    written = pod({"podIP": "10.0.0.1"})
    names = {}
    for compat in (FELIX_3_24_5, FELIX_CURRENT):
        endpoint = kubernetes.workload_endpoint(written, compat)
        assert endpoint is not None
        names[compat.name] = [port.name for port in endpoint.ports]
    assert names == {"3.24.5": ["http"], "current": ["http", "early"]}


@pytest.mark.parametrize(
    ("status", "annotations", "field"),
    [
        ({"podIP": "10.0.0.999"}, {}, "status.podIP"),
        ({"podIPs": [{"ip": "fe80::1%eth0"}]}, {}, "status.podIPs"),
        ({}, {"k8s.aliyun.com/pod-ips": "x"}, "metadata.annotations[k8s.aliyun.com/pod-ips]"),
        ({}, {"cni.projectcalico.org/floatingIPs": "["}, "metadata.annotations[cni.projectcalico.org/floatingIPs]"),
        (
            {},
            {"cni.projectcalico.org/floatingIPs": "[" * 100_000},
            "metadata.annotations[cni.projectcalico.org/floatingIPs]",
        ),
        ({}, {"cni.projectcalico.org/floatingIPs": "[1]"}, "metadata.annotations[cni.projectcalico.org/floatingIPs]"),
        ({}, {"cni.projectcalico.org/floatingIPs": '["x"]'}, "metadata.annotations[cni.projectcalico.org/floatingIPs]"),
        (
            {},
            {"cni.projectcalico.org/allowedSourcePrefixes": '["x"]'},
            "metadata.annotations[cni.projectcalico.org/allowedSourcePrefixes]",
        ),
    ],
)
def test_bad_values_are_named(status: Any, annotations: Any, field: str) -> None:
    with pytest.raises(Invalid) as raised:
        kubernetes.workload_endpoint(pod(status, annotations), FELIX_3_24_5)
    assert raised.value.field == field


def test_a_list_that_is_null_is_empty() -> None:
    assert nets_of(pod({"podIP": "10.0.0.1"}, {"cni.projectcalico.org/floatingIPs": "null"})) == ("10.0.0.1/32",)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"ports": [{"port": "http", "endPort": 90}]}, "spec.ingress[0].ports[0]"),
        ({"ports": [{"port": 90, "endPort": 80}]}, "spec.ingress[0].ports[0]"),
        ({"ports": [{"port": 70_000}]}, "spec.ingress[0].ports[0]"),
        ({"from": [{"ipBlock": {"cidr": "x"}}]}, "spec.ingress[0].from[0].ipBlock.cidr"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}, "spec.ingress[0].from[0].ipBlock.cidr"),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/99"]}}]},
            "spec.ingress[0].from[0].ipBlock.except[0]",
        ),
    ],
)
def test_a_rule_that_cannot_be_converted_is_dropped_and_noted(rule: Any, field: str) -> None:
    """The others stay: an unreadable network must never come to mean everybody."""
    raw = {"metadata": {"name": "p", "namespace": "n"}, "spec": {"ingress": [rule, {"ports": [{"port": 80}]}]}}
    notes: list[str] = []

    def note(field: str, reason: str, effect: str = "") -> None:
        notes.append(field)

    converted = kubernetes.network_policy(msgspec.convert(raw, objects.KubePolicy), FELIX_3_24_5, note)
    assert notes == [field]
    assert [rule.destination.ports for rule in converted.spec.ingress] == [(80,)]


def test_interface_names_are_the_original_s() -> None:
    assert kubernetes.interface_name("namespace", "podname") == "cali82111e10a96"
    assert kubernetes.interface_name("default", "podA") == "cali7f94ce7c295"
