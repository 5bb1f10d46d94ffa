"""A cluster of the lab's, served on a Unix socket, and a client of it."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from compose.lab.kubeapi import KubeApi
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient


@pytest_asyncio.fixture
async def kube() -> KubeApi:
    return KubeApi(history=50, bookmark_s=0.05, first_version=1)


@pytest_asyncio.fixture
async def client(kube: KubeApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "kube.sock"))
    async with kube.serving([listening]), KubeClient(KubeAddress(f"unix://{tmp_path}/kube.sock")) as client:
        yield client
