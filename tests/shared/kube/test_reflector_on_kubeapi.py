"""The reflector against the lab's API server: real HTTP over a Unix socket, real faults, no sleeping."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compose.lab.kubeapi import KubeApi
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.mirror import Applied, Change, Deleted, Synced
from shared.kube.objects import Pod
from shared.kube.reflector import Reflector
from shared.kube.resources import PODS


@asynccontextmanager
async def cluster(directory: Path, **options: float) -> AsyncIterator[tuple[KubeApi, KubeClient]]:
    kube = KubeApi(**options)
    path = directory / "kube.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    async with kube.serving([listening]), KubeClient(KubeAddress(f"unix://{path}")) as client:
        yield kube, client


class Seen:
    """What a consumer was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.changes: list[Change[Pod]] = []
        self._news = asyncio.Event()

    def __call__(self, change: Change[Pod]) -> None:
        self.changes.append(change)
        self._news.set()

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not met():
                self._news.clear()
                await self._news.wait()

    def told(self) -> list[str]:
        return [_word(change) for change in self.changes]


def _word(change: Change[Pod]) -> str:
    match change:
        case Applied(obj):
            return f"+{obj.metadata.name}"
        case Deleted(obj):
            return f"-{obj.metadata.name}"
        case Synced():
            return "synced"


@asynccontextmanager
async def reflecting(client: KubeClient, **selection: str) -> AsyncIterator[tuple[Reflector[Pod], Seen]]:
    seen = Seen()
    reflector = Reflector(client, PODS, Pod, on_change=seen, chance=lambda: 0.0, **selection)
    running = asyncio.create_task(reflector.run())
    try:
        yield reflector, seen
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def pod(name: str, **labels: str) -> dict[str, object]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"containers": []}}


async def test_list_then_watch(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, client):
        await client.create(PODS, Pod, pod("a"), namespace="default")
        async with reflecting(client) as (reflector, seen):
            await seen.until(lambda: reflector.synced.is_set())
            await client.create(PODS, Pod, pod("b"), namespace="default")
            await seen.until(lambda: "+b" in seen.told())
            await client.delete(PODS, "a", namespace="default")
            await seen.until(lambda: "-a" in seen.told())
            assert seen.told() == ["+a", "synced", "+b", "-a"]
            assert [*reflector.objects] == [("default", "b")]
