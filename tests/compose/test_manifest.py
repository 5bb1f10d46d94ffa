"""The DaemonSet's containers are those that `make test-compose` runs: same commands, users and capabilities."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from compose.lab import manifests
from compose.lab.kubeapi import KubeApi

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
SERVICES = {"eni-manager": "eni_manager", "ipam": "ipam", "policy": "policy", "gateway": "gateway"}


def daemonset() -> dict[str, Any]:
    [found] = [obj for obj in yaml.safe_load_all((FOLDER / "terway.yaml").read_text()) if obj["kind"] == "DaemonSet"]
    return dict(found["spec"]["template"]["spec"])


@pytest.fixture(params=SERVICES)
def pair(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """A container of the DaemonSet, and its counterpart."""
    [container] = [entry for entry in daemonset()["containers"] if entry["name"] == request.param]
    composed = yaml.safe_load((ROOT / "compose" / "docker-compose.yml").read_text())["services"]
    return container, composed[SERVICES[request.param]]


def test_a_container_has_the_rights_that_are_tested(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    container, composed = pair
    security = container["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["capabilities"].get("add", []) == composed.get("cap_add", [])
    assert security["readOnlyRootFilesystem"] and not security.get("privileged")
    assert security["runAsUser"] == (0 if "entrypoint" in composed else 10001)


def test_a_container_runs_what_is_tested(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    container, composed = pair
    command, args = container["command"], container.get("args", [])
    assert command == composed["entrypoint"] if "entrypoint" in composed else not args
    assert (args or command)[:3] == composed["command"][:3]
    port = composed["healthcheck"]["test"][2]
    assert container["livenessProbe"]["exec"]["command"] == ["healthz", port, "/healthz"]
    assert container["readinessProbe"]["exec"]["command"] == ["healthz", port, "/readyz"]


def test_every_mount_has_a_volume() -> None:
    pod = daemonset()
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounted = {
        mount["name"] for entry in (*pod["initContainers"], *pod["containers"]) for mount in entry["volumeMounts"]
    }
    assert mounted == volumes


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[manifests.Manifests]:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "kube.sock"))
    async with KubeApi().serving([listening]), manifests.connect(tmp_path / "kube.sock") as cluster:
        yield cluster


@pytest.mark.parametrize("name", ["rbac.yaml", "terway.yaml"])
async def test_an_api_server_takes_it(cluster: manifests.Manifests, name: str) -> None:
    for obj in manifests.read((FOLDER / name).read_text(), source=name):
        assert (await cluster.apply(obj, namespace="kube-system")).did == "created"


def test_its_configuration_is_one(tmp_path: Path) -> None:
    from services.eni_manager.config import read as read_eni_manager
    from services.ipam.config import read as read_ipam
    from shared.config import load_node

    [data] = [
        obj["data"]
        for obj in yaml.safe_load_all((FOLDER / "terway.yaml").read_text())
        if obj["metadata"]["name"] == "eni-config"
    ]
    for key, text in data.items():
        (tmp_path / key).write_text(text.replace("/etc/eni/", f"{tmp_path}/"))
    env = {
        entry["name"]: entry["value"].replace("$(KUBERNETES_SERVICE_HOST)", "10.0.0.1")
        for entry in daemonset()["containers"][0]["env"]
        if "value" in entry
    }
    file = tmp_path / "config.json"
    assert load_node(file, env).kube.token_file == Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    assert read_ipam(file, env).eni_conf == read_eni_manager(file, env).eni
