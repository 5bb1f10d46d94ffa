"""The lab's Kubernetes API from the machine: manifests, labels, and the kubeconfig that ordinary clients use."""

from collections.abc import Callable
from pathlib import Path

import pytest
from kubernetes_asyncio import client, config

from compose.lab import record
from tests.lab.running.conftest import Lab

pytestmark = pytest.mark.lab

MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}}
"""


def test_manifests(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(MANIFEST)
    assert lab.run("apply", "-f", str(path)).stdout.splitlines() == [
        "namespace/shop created",
        "networkpolicy.networking.k8s.io/closed created",
    ]
    assert lab.ask("apply", "-f", str(path))[1]["did"] == "unchanged"
    lab.run("pod", "add", "shop/web", "--node", "node1")
    assert lab.run("delete", "-f", str(path)).stdout.splitlines()[-1] == "namespace/shop deleted"
    assert [pod["pod"] for pod in lab.ask("pod", "list") if pod["pod"].startswith("shop/")] == []
    lab.run("audit", "--within", "20")


def test_what_the_api_server_refuses_is_said_and_the_rest_is_done(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "mixed.yaml"
    path.write_text(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: bad}, spec: {policyTypes: [x]}}\n"
        "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}\n"
    )
    done = lab.run("apply", "-f", str(path), ok=False)
    assert done.returncode == 1
    assert done.stdout == "configmap/good created\n"
    assert 'spec.policyTypes[0]: Unsupported value: "x"' in done.stderr
    lab.run("delete", "-f", str(path))


def test_labels(lab: Lab) -> None:
    lab.run("pod", "add", "labelled", "--node", "node1", "--label", "a=1")
    assert lab.ask("label", "pod", "default/labelled", "b=2", "a-") == {"b": "2"}
    assert lab.ask("label", "ns", "default", "tier=front")["tier"] == "front"
    assert lab.run("label", "pod", "labelled", "b=not valid", ok=False).returncode == 1
    assert lab.run("label", "pod", "labelled", "b", ok=False).returncode == 2
    assert lab.run("label", "ns", "nowhere", "a=b", ok=False).returncode == 1
    lab.run("label", "ns", "default", "tier-")
    lab.run("pod", "del", "labelled")


async def test_a_kubeconfig_for_everybody(lab: Lab) -> None:
    path = lab.ask("status")["kubernetes"]["kubeconfig"]
    assert Path(path) == lab.layout.kubeconfig
    configuration = client.Configuration()
    await config.load_kube_config(path, client_configuration=configuration)
    assert configuration.host.startswith("http://127.0.0.1:")
    async with client.ApiClient(configuration) as api:
        nodes = await client.CoreV1Api(api).list_node()
    assert [node.metadata.name for node in nodes.items] == [facts.name for facts in record.read(lab.layout).nodes]


def test_the_kubeconfig_goes_with_the_lab(labs: Callable[[], Lab]) -> None:
    made = labs()
    made.run("up", "--runtime", "cni", "--nodes", "1")
    assert made.layout.kubeconfig.exists()
    made.run("down")
    assert made.left == []
