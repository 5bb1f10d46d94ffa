"""What `lab apply` makes of text, and of an API server."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from compose.lab import manifests
from compose.lab.kubeapi import KubeApi
from compose.lab.manifests import LAST_APPLIED, Manifests, read, three_way
from shared.errors import Invalid
from shared.kube.resources import CONFIGMAPS, NETWORK_POLICIES, SERVICES


def test_documents_and_lists() -> None:
    text = """
apiVersion: v1
kind: ConfigMap
metadata: {name: a, annotations: {at: 2026-01-01T00:00:00Z}}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
"""
    found = read(text, source="x")
    assert [obj["metadata"]["name"] for obj in found] == ["a", "b", "c"]
    assert found[0]["metadata"]["annotations"] == {"at": "2026-01-01T00:00:00Z"}, "times are text"
    assert read(json.dumps(found[0]), source="x") == found[:1]
    assert read("# nothing\n---\n", source="x") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "x: not YAML"),
        ("just text", "without apiVersion"),
        ("{kind: Pod, metadata: {name: a}}", "without apiVersion"),
        ("{apiVersion: v1, kind: Pod}", "metadata"),
        ("{apiVersion: v1, kind: Pod, metadata: {generateName: a-}}", "a Pod without a name"),
        ("{apiVersion: v1, kind: List, items: [1]}", "without apiVersion"),
    ],
)
def test_what_is_no_manifest(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        read(text, source="x")


@pytest.mark.parametrize(
    ("last", "new", "live", "patch"),
    [
        ({}, {"a": 1}, {"a": 1, "b": 2}, {}),
        ({}, {"a": 1}, {"b": 2}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"b": None}),
        ({"b": 2}, {}, {}, {}),
        ({"m": {"x": 1, "y": 1}}, {"m": {"x": 2}}, {"m": {"x": 1, "y": 1, "z": 1}}, {"m": {"x": 2, "y": None}}),
        ({"m": {"x": 1}}, {}, {"m": {"x": 1, "z": 1}}, {"m": None}),
        ({}, {"l": [1]}, {"l": [1, 2]}, {"l": [1]}),
        ({}, {"m": {}}, {}, {"m": {}}),
    ],
)
def test_three_ways(last: dict[str, Any], new: dict[str, Any], live: dict[str, Any], patch: dict[str, Any]) -> None:
    assert three_way(last, new, live) == patch


# ---- on an API server


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Manifests]:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "kube.sock"))
    async with KubeApi().serving([listening]), manifests.connect(tmp_path / "kube.sock") as connected:
        yield connected


async def did(cluster: Manifests, obj: dict[str, Any], *, namespace: str = "default") -> str:
    return str(await cluster.apply(obj, namespace=namespace))


def policy(**spec: Any) -> dict[str, Any]:
    about = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}}
    return about | {"spec": {"podSelector": {}, **spec}}


async def test_apply_is_kubectl_s(cluster: Manifests) -> None:
    called = "networkpolicy.networking.k8s.io/p"
    assert (
        await did(cluster, policy(ingress=[{"ports": [{"port": 80}]}], policyTypes=["Ingress"])) == f"{called} created"
    )
    again = policy(ingress=[{"ports": [{"port": 80}]}], policyTypes=["Ingress"])
    assert await did(cluster, again) == f"{called} unchanged", "what the server filled in is no difference"
    assert await did(cluster, policy(egress=[])) == f"{called} configured"
    live = await cluster.kube.get(NETWORK_POLICIES, dict, "p", namespace="default")
    assert live["spec"] == {"podSelector": {}, "egress": [], "policyTypes": ["Ingress"]}
    assert json.loads(live["metadata"]["annotations"][LAST_APPLIED]) == policy(egress=[])
    assert str(await cluster.delete(policy(), namespace="default")) == f"{called} deleted"
    assert str(await cluster.delete(policy(), namespace="default")) == f"{called} was not there"


async def test_what_others_wrote_stays(cluster: Manifests) -> None:
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    await did(cluster, body)
    await cluster.kube.patch(CONFIGMAPS, dict, "c", {"data": {"theirs": "1"}}, namespace="default")
    assert await did(cluster, body | {"data": {"b": "2"}}) == "configmap/c configured"
    assert (await cluster.kube.get(CONFIGMAPS, dict, "c", namespace="default"))["data"] == {"b": "2", "theirs": "1"}


async def test_a_service_keeps_its_address(cluster: Manifests) -> None:
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    await did(cluster, body)
    given = (await cluster.kube.get(SERVICES, dict, "s", namespace="default"))["spec"]["clusterIP"]
    assert await did(cluster, body | {"spec": {"ports": [{"port": 81}]}}) == "service/s configured"
    assert (await cluster.kube.get(SERVICES, dict, "s", namespace="default"))["spec"]["clusterIP"] == given


async def test_namespaces_and_new_kinds(cluster: Manifests) -> None:
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gnus.x.org"},
        "spec": {
            "group": "x.org",
            "scope": "Namespaced",
            "names": {"plural": "gnus", "kind": "Gnu"},
            "versions": [{"name": "v1", "served": True, "storage": True}],
        },
    }
    gnu = {"apiVersion": "x.org/v1", "kind": "Gnu", "metadata": {"name": "g"}, "spec": {"horns": 2}}
    with pytest.raises(Invalid, match="no such kind on this API server"):
        await did(cluster, gnu)
    await did(cluster, crd)
    assert await did(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}}) == (
        "namespace/web created"
    )
    assert await did(cluster, gnu, namespace="web") == "gnu.x.org/g created"
    with pytest.raises(Invalid, match=r"spec.policyTypes\[0\]"):
        await did(cluster, policy(policyTypes=["x"]))
