"""A lab whose nodes follow another cluster's API server, which must forget them when the lab goes."""

import socket
from pathlib import Path

import pytest
import yaml

from compose.lab import audit, lab, leftovers
from compose.lab.kubeapi import KubeApi
from compose.lab.layout import Layout
from compose.lab.pods import Pods
from compose.lab.record import Options
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NODES, PODS
from shared.model import PodKey

pytestmark = pytest.mark.lab


async def test_nodes_follow_another_api_server(tmp_path: Path) -> None:
    layout = Layout.of("tkubeconf")
    listening = socket.create_server(("127.0.0.1", 0))
    server = f"http://127.0.0.1:{listening.getsockname()[1]}"
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": server}}],
            }
        )
    )
    async with KubeApi().serving([listening]), KubeClient(KubeAddress(server)) as theirs:
        options = Options(nodes=1, runtime="cni", kubeconfig=str(path))
        async with lab.temporary(layout, options, say=lambda line: None) as made:
            assert (await theirs.get(NODES, dict, "node1"))["metadata"]["labels"]["terway-lab"] == layout.lab
            async with Pods(layout, {"node1": "cni"}) as pods:
                info = await pods.add(PodKey("default", "a"), node="node1")
                seen = await theirs.get(PODS, dict, "a", namespace="default")
                assert seen["status"]["podIP"] == info.addresses[0]
            await audit.until_clean(layout, made)
        assert [found async for found in theirs.list(NODES, dict)] == []
        assert [found async for found in theirs.list(PODS, dict)] == []
    assert leftovers.namespaces(layout) + leftovers.processes(layout) + leftovers.files(layout) == []
