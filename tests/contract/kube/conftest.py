"""A cluster of the lab's on a loopback port, and the clients that judge it: our own, and kubernetes_asyncio."""

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from kubernetes_asyncio import client

from compose.lab.kubeapi import KubeApi
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient


@dataclass(frozen=True)
class Cluster:
    """A running API server."""

    kube: KubeApi
    server: str


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    kube = KubeApi(history=50, bookmark_s=0.05, first_version=1)
    listening = socket.create_server(("127.0.0.1", 0))
    async with kube.serving([listening]):
        yield Cluster(kube, f"http://127.0.0.1:{listening.getsockname()[1]}")


@pytest.fixture
async def ours(cluster: Cluster) -> AsyncIterator[KubeClient]:
    async with KubeClient(KubeAddress(cluster.server)) as connected:
        yield connected


@pytest.fixture
async def theirs(cluster: Cluster) -> AsyncIterator[client.ApiClient]:
    configuration = client.Configuration()
    configuration.host = cluster.server
    async with client.ApiClient(configuration) as connected:
        yield connected
