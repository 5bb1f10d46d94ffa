"""`terwayctl migrate calico --check`, on manifests and on a cluster of the lab's."""

import asyncio
import json
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml

from services.ctl import main
from services.policy.adapters.calico import DAEMON_SETS
from shared.kube.objects import Object
from shared.kube.resources import Resource
from tests.policy.adapters.world import CALICO_CLUSTER, CLUSTER, CRDS, Json, World, calico, world

SAME = [
    calico("ClusterInformation", "default", {"calicoVersion": "v3.26.1", "datastoreReady": True}),
    calico("FelixConfiguration", "default", {"logSeverityScreen": "Info", "defaultEndpointToHostAction": "Drop"}),
    calico("GlobalNetworkPolicy", "deny", {"selector": "all()", "ingress": [{"action": "Deny"}]}),
]
DIFFERS = [
    calico("FelixConfiguration", "default", {"wireguardEnabled": True}),
    calico("IPPool", "pool", {"cidr": "10.244.0.0/16"}),
    calico("GlobalNetworkPolicy", "deny", {"ingress": [{"action": "Deny", "source": {"nets": ["10.244.0.0/16"]}}]}),
]


def run(*arguments: str, code: int) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, ["migrate", "calico", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def write(path: Path, manifests: list[Json]) -> str:
    path.write_text(yaml.safe_dump_all(manifests))
    return str(path)


def test_nothing_differs(tmp_path: Path) -> None:
    file = write(tmp_path / "same.yaml", SAME)
    assert run("--check", "-f", file, code=0).stdout.splitlines() == [
        "Calico v3.26.1, judged as Felix 3.24.5",
        "",
        "section policy of the configuration:",
        '  {"endpoint_to_host_action": "DROP"}',
        "",
        "1 behave the same, 2 are replaced, 0 differ (--all lists everything)",
    ]
    lines = run("--check", "-f", file, "--all", code=0).stdout.splitlines()
    assert f"same      GlobalNetworkPolicy deny  ({file} document 3)" in lines
    assert "          same      spec.defaultEndpointToHostAction: by policy.endpoint_to_host_action" in lines


def test_what_differs_is_said_with_the_reason(tmp_path: Path) -> None:
    file = write(tmp_path / "differs.yaml", DIFFERS)
    assert run("--check", "-f", str(tmp_path), code=1).stdout.splitlines()[:6] == [
        "Calico of an unknown version, judged as Felix 3.24.5",
        f"differs   FelixConfiguration default  ({file} document 1)",
        "          spec.wireguardEnabled: nothing encrypts between nodes",
        f"differs   GlobalNetworkPolicy deny  ({file} document 3)",
        "          spec.ingress[0].source.nets[0]: 10.244.0.0/16 has to do with Calico's pool 10.244.0.0/16, "
        "from which no pod gets its address any more",
        "",
    ]
    answer = json.loads(run("--check", "-f", file, "--json", code=1).stdout)
    assert [judged["outcome"] for judged in answer["objects"][:3]] == ["differs", "replaced", "differs"]
    assert answer["unreadable"] == []


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    write(tmp_path / "same.yaml", SAME)
    result = run("--check", "-f", str(tmp_path), code=2)
    assert "bad.yaml document 1: cannot be read" in result.stderr and "0 differ" in result.stdout


async def test_a_cluster_that_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("{}")
    empty = await asyncio.to_thread(run, "--check", "--kubeconfig", str(tmp_path / "empty"), code=2)
    assert "there is no None" in empty.stderr
    away = kubeconfig(tmp_path, "http://127.0.0.1:1")
    assert "127.0.0.1:1" in (await asyncio.to_thread(run, "--check", "--kubeconfig", str(away), code=2)).stderr


def test_nothing_is_done_without_check() -> None:
    assert "--check" in run(code=2).stderr


def kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "kubeconfig"
    named = {"current-context": "here", "contexts": [{"name": "here", "context": {"cluster": "c"}}]}
    path.write_text(json.dumps({**named, "clusters": [{"name": "c", "cluster": {"server": server}}]}))
    return path


async def define(it: World, kind: str, plural: str, *bodies: Json) -> None:
    """A kind of Calico's for the whole cluster, and objects of it."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.crd.projectcalico.org"},
        "spec": {
            "group": "crd.projectcalico.org",
            "names": {"kind": kind, "plural": plural},
            "scope": "Cluster",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    await it.client.create(CRDS, Object, definition)
    resource = Resource("crd.projectcalico.org", "v1", plural, kind, namespaced=False)
    for body in bodies:
        await it.client.create(resource, Object, body)


def daemon_set(name: str) -> Json:
    """calico-node has one of Felix's parameters in its environment."""
    variable = "FELIX_LOGPREFIX" if name == "calico-node" else "LOGPREFIX"
    container = {"name": "main", "image": "node:1", "env": [{"name": variable, "value": name}]}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "ops"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


async def test_a_cluster_is_read(tmp_path: Path) -> None:
    """All of Calico's kinds, what pods ask of it, and none of its notes; nothing is written."""
    asking: dict[str, Any] = json.loads(json.dumps(CLUSTER[2]))
    asking["metadata"] |= {"name": "asks", "annotations": {"cni.projectcalico.org/ipAddrs": '["10.0.0.9"]'}}
    async with world() as it, it.serving() as server:
        await it.apply(*CLUSTER, asking, *CALICO_CLUSTER)
        await define(it, "FelixConfiguration", "felixconfigurations", SAME[1])
        await define(it, "IPPool", "ippools", DIFFERS[1])
        await define(it, "IPAMHandle", "ipamhandles", calico("IPAMHandle", "h", {}))
        await define(it, "ClusterInformation", "clusterinformations", SAME[0])
        for name in ("calico-node", "other"):
            await it.client.create(DAEMON_SETS, Object, daemon_set(name), namespace="ops")
        it.asked.clear()
        before = it.kube.store.version
        path = str(kubeconfig(tmp_path, server))
        result = await asyncio.to_thread(run, "--check", "--kubeconfig", path, "--json", code=1)
        assert it.kube.store.version == before and it.asked
    answer = json.loads(result.stdout)
    outcomes = {(judged["kind"], judged["name"]): judged["outcome"] for judged in answer["objects"]}
    assert outcomes == {
        ("ClusterInformation", "default"): "replaced",
        ("FelixConfiguration", "default"): "replaced",
        ("IPPool", "pool"): "replaced",
        ("GlobalNetworkPolicy", "no-bad"): "same",
        ("GlobalNetworkSet", "bad"): "same",
        ("NetworkSet", "near"): "same",
        ("NetworkPolicy", "out"): "same",
        ("NetworkPolicy", "web"): "same",
        ("HostEndpoint", "h1"): "same",
        ("Pod", "asks"): "differs",
        ("DaemonSet", "calico-node"): "same",
    }
    assert answer["calico"] == "v3.26.1"
    assert answer["configuration"] == {"endpoint_to_host_action": "DROP", "log_prefix": "calico-node"}
    assert not any("ipamhandles" in path for path in it.asked)


@pytest.mark.parametrize("profile", ["3.5.2", "3.24.5", "current"])
def test_a_profile_can_be_chosen(tmp_path: Path, profile: str) -> None:
    file = write(tmp_path / "same.yaml", SAME[1:])
    answer = json.loads(run("--check", "-f", file, "--profile", profile, "--json", code=0).stdout)
    assert answer["profile"] == profile
    assert answer["configuration"].get("compat", "3.24.5") == profile
