"""kubectl, the client that everybody knows: whatever this machine has, from 1.20 (Debian 12's) on.

`KUBECTL=/path/to/another` judges by that one. CI never skips: there it must be installed.
"""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from compose.lab import kubeconfig
from compose.lab.kubeapi import KubeApi

PROGRAM = os.environ.get("KUBECTL") or shutil.which("kubectl")
pytestmark = pytest.mark.skipif(PROGRAM is None and not os.environ.get("CI"), reason="no kubectl on this machine")

MANIFEST = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers: [{name: main, image: "tools:1", ports: [{name: http, containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {color: red}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guard, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
    ports: [{port: 80, endPort: 90}]
  egress: []
  policyTypes: [Ingress, Egress]
"""

CUSTOM = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podnetworkings.network.alibabacloud.com}
spec:
  group: network.alibabacloud.com
  scope: Cluster
  names: {plural: podnetworkings, singular: podnetworking, kind: PodNetworking, shortNames: [pn]}
  versions: [{name: v1beta1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
"""

Process = asyncio.subprocess.Process


class Kubectl:
    """The program, with a home of its own for its caches, and a cluster by kubeconfig."""

    def __init__(self, home: Path, kube: KubeApi) -> None:
        self.home = home
        self.kube = kube

    async def start(self, *words: str) -> Process:
        assert PROGRAM is not None, "CI has a kubectl: deploy/debian-setup.sh installs one"
        environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "KUBECONFIG": str(self.home / "kubeconfig")}
        return await asyncio.create_subprocess_exec(
            PROGRAM, *words, stdin=asyncio.subprocess.DEVNULL, stdout=-1, stderr=-2, env=environment
        )

    async def run(self, *words: str, ok: bool = True) -> str:
        """What it says."""
        process = await self.start(*words)
        out, _ = await process.communicate()
        assert (process.returncode == 0) == ok, f"kubectl {' '.join(words)}: {out.decode()}"
        return out.decode()

    async def read(self, *words: str) -> Any:
        """The same, as JSON."""
        return json.loads(await self.run(*words, "-o", "json"))

    def file(self, text: str) -> str:
        path = self.home / "manifest.yaml"
        path.write_text(f"# what begins with a brace, kubectl would read as JSON\n{text}")
        return str(path)


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    kube = KubeApi()
    listening = socket.create_server(("127.0.0.1", 0))
    server = f"http://127.0.0.1:{listening.getsockname()[1]}"
    kubeconfig.write(tmp_path / "kubeconfig", lab="test", server=server)
    async with kube.serving([listening]):
        yield Kubectl(tmp_path, kube)


async def test_apply_get_describe_delete(kubectl: Kubectl) -> None:
    path = kubectl.file(MANIFEST)
    said = (await kubectl.run("apply", "-f", path)).splitlines()
    assert [line.rsplit(" ", 1) for line in said] == [
        ["namespace/shop", "created"],
        ["pod/web", "created"],
        ["service/web", "created"],
        ["configmap/settings", "created"],
        ["networkpolicy.networking.k8s.io/guard", "created"],
    ]
    version = kubectl.kube.store.version
    assert "pod/web unchanged" in await kubectl.run("apply", "-f", path)
    assert kubectl.kube.store.version == version, "applying it again changes nothing"

    wide = (await kubectl.run("get", "pods", "-n", "shop", "-o", "wide")).splitlines()
    assert wide[0].split()[:5] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert wide[1].split()[:4] == ["web", "0/1", "Pending", "0"]
    every = await kubectl.run("get", "pods,services,networkpolicies", "-A")
    assert "networkpolicy.networking.k8s.io/guard" in every and "pod/web" in every
    assert (await kubectl.run("get", "pod", "-n", "shop", "-l", "app=web", "-o", "name")).split() == ["pod/web"]
    assert (await kubectl.run("get", "pod", "-n", "shop", "-l", "app!=web", "-o", "name")).split() == []
    assert await kubectl.run("get", "svc/web", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}")

    policy = await kubectl.run("describe", "networkpolicy", "guard", "-n", "shop")
    for line in ("app=web", ": 80", "CIDR: 10.0.0.0/8", "Except: 10.1.0.0/16", "Policy Types: Ingress, Egress"):
        assert line in policy
    assert "Image:" in await kubectl.run("describe", "pod", "web", "-n", "shop")
    assert "Labels:" in await kubectl.run("describe", "namespace", "shop")

    # The namespace is named first and takes all the others with it.
    assert 'namespace "shop" deleted' in await kubectl.run("delete", "-f", path, "--ignore-not-found")
    assert "NotFound" in await kubectl.run("get", "namespace", "shop", ok=False)


async def test_apply_removes_what_the_manifest_drops(kubectl: Kubectl) -> None:
    body = "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}, data: {}}}"
    await kubectl.run("apply", "-f", kubectl.file(body.format("{a: '1', b: '1'}")))
    await kubectl.run("patch", "configmap", "c", "--type=merge", "-p", '{"data": {"theirs": "1"}}')
    assert "configured" in await kubectl.run("apply", "-f", kubectl.file(body.format("{a: '2'}")))
    assert (await kubectl.read("get", "configmap", "c"))["data"] == {"a": "2", "theirs": "1"}


async def test_label_annotate_patch(kubectl: Kubectl) -> None:
    await kubectl.run("apply", "-f", kubectl.file(MANIFEST))
    at = ("-n", "shop")
    assert "labeled" in await kubectl.run("label", "pod", "web", "tier=front", *at)
    assert "--overwrite" in await kubectl.run("label", "pod", "web", "tier=back", *at, ok=False)
    await kubectl.run("label", "pod", "web", "tier=back", "app-", "--overwrite", *at)
    assert (await kubectl.read("get", "pod", "web", *at))["metadata"]["labels"] == {"tier": "back"}
    assert "labeled" in await kubectl.run("label", "namespace", "shop", "team=a")
    assert "annotated" in await kubectl.run("annotate", "pod", "web", "k8s.aliyun.com/ingress-bandwidth=1M", *at)
    for kind, patch in (
        ("strategic", '{"spec": {"containers": [{"name": "main", "image": "tools:2"}]}}'),
        ("merge", '{"metadata": {"labels": {"tier": null}}}'),
        ("json", '[{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}]'),
    ):
        assert "patched" in await kubectl.run("patch", "pod", "web", f"--type={kind}", "-p", patch, *at)
    found = await kubectl.read("get", "pod", "web", *at)
    assert found["metadata"]["labels"] == {"x": "y"}
    assert found["metadata"]["annotations"]["k8s.aliyun.com/ingress-bandwidth"] == "1M"
    [container] = found["spec"]["containers"]
    assert (container["image"], container["ports"][0]["containerPort"]) == ("tools:2", 80)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{podSelector: {}, policyTypes: [x]}", 'spec.policyTypes[0]: Unsupported value: "x"'),
        ("{podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}", "must be greater than or equal to `port`"),
        ("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/40}}]}]}", "must be a valid CIDR value"),
        ("{podSelector: [], ingress: []}", "cannot unmarshal array"),
    ],
)
async def test_what_the_server_refuses(kubectl: Kubectl, spec: str, said: str) -> None:
    body = f"{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
    assert said in await kubectl.run("apply", "-f", kubectl.file(body), ok=False)
    assert "No resources found" in await kubectl.run("get", "networkpolicies")


async def test_server_side_apply_and_dry_run(kubectl: Kubectl) -> None:
    path = kubectl.file(MANIFEST.partition("---\n")[2].replace("namespace: shop", "namespace: default"))
    assert "created (server dry run)" in await kubectl.run("apply", "--dry-run=server", "-f", path)
    assert "No resources found" in await kubectl.run("get", "pods")
    assert (await kubectl.run("apply", "--server-side", "-f", path)).count("serverside-applied") == 4
    assert (await kubectl.run("apply", "--server-side", "-f", path)).count("serverside-applied") == 4
    assert "pod/web" in await kubectl.run("get", "pods", "-o", "name")


async def test_custom_kinds(kubectl: Kubectl) -> None:
    await kubectl.run("apply", "-f", kubectl.file(CUSTOM))
    body = "{apiVersion: network.alibabacloud.com/v1beta1, kind: PodNetworking, metadata: {name: a}, spec: {x: 1}}"
    await kubectl.run("apply", "-f", kubectl.file(body))
    assert (await kubectl.run("get", "pn", "-o", "name")).split() == ["podnetworking.network.alibabacloud.com/a"]
    assert "Kind:         PodNetworking" in await kubectl.run("describe", "podnetworking", "a")
    assert "PodNetworking" in await kubectl.run("api-resources", "--api-group=network.alibabacloud.com")


@asynccontextmanager
async def watching(kubectl: Kubectl, *words: str) -> AsyncIterator[Callable[[], Any]]:
    """Lines of a command that goes on; it is ended with the context."""
    process = await kubectl.start(*words)
    assert process.stdout is not None
    lines = process.stdout

    async def line() -> str:
        async with asyncio.timeout(20):
            return (await lines.readline()).decode().strip()

    try:
        yield line
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            process.terminate()
        await process.communicate()


async def test_watch(kubectl: Kubectl) -> None:
    pods = kubectl.kube.api.kinds.built_in("", "pods")
    body = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "main", "image": "tools:1"}]}}
    kubectl.kube.api.create(pods, "default", body)
    async with watching(kubectl, "get", "pods", "--watch", "--no-headers") as line:
        assert (await line()).split()[:3] == ["a", "0/1", "Pending"]
        running = {"status": {"phase": "Running"}}
        kubectl.kube.api.patch(pods, ("default", "a"), "application/merge-patch+json", running, part="status")
        assert (await line()).split()[:3] == ["a", "0/1", "Running"]
        kubectl.kube.api.create(pods, "default", body | {"metadata": {"name": "b"}})
        assert (await line()).split()[:1] == ["b"]


async def test_wait_for_the_end(kubectl: Kubectl) -> None:
    """`delete` waits until finalizers are gone."""
    maps = kubectl.kube.api.kinds.built_in("", "configmaps")
    kubectl.kube.api.create(maps, "default", {"metadata": {"name": "c", "finalizers": ["terway.io/x"]}})
    async with watching(kubectl, "delete", "configmap", "c", "--timeout=20s") as line:
        assert await line() == 'configmap "c" deleted'
        await marked(kubectl)
        patch = {"metadata": {"finalizers": None}}
        kubectl.kube.api.patch(maps, ("default", "c"), "application/merge-patch+json", patch)
        assert await line() == "", "and then it ends"


async def marked(kubectl: Kubectl) -> None:
    """For what nothing announces: the deletion has reached the server."""
    async with asyncio.timeout(20):
        while not kubectl.kube.store.all(("", "configmaps"))["default", "c"]["metadata"].get("deletionTimestamp"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
