"""The reflector against the lab's API server: real HTTP, real faults. Waits for what it is told, never for time."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.kinds import Kind
from shared.kube.client import KubeClient
from shared.kube.mirror import Applied, Change, Deleted, Synced
from shared.kube.objects import Object, Pod
from shared.kube.reflector import Reflector
from shared.kube.resources import CONFIGMAPS, PODS

CONTAINER = {"name": "main", "image": "tools:1"}


class Seen:
    """What a consumer was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, change: Change[Pod]) -> None:
        match change:
            case Applied(obj):
                self.told.append(f"+{obj.metadata.name}")
            case Deleted(obj):
                self.told.append(f"-{obj.metadata.name}")
            case Synced():
                self.told.append("synced")
        self._news.set()

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not met():
                self._news.clear()
                await self._news.wait()

    async def hears(self, *words: str) -> None:
        """Takes exactly these words off the front."""
        await self.until(lambda: len(self.told) >= len(words))
        assert self.told == [*words]
        self.told.clear()


@asynccontextmanager
async def reflecting(
    client: KubeClient, *, field_selector: str = "", label_selector: str = ""
) -> AsyncIterator[tuple[Reflector[Pod], Seen]]:
    seen = Seen()
    reflector = Reflector(
        client,
        PODS,
        Pod,
        on_change=seen,
        field_selector=field_selector,
        label_selector=label_selector,
        chance=lambda: 0.0,
    )
    running = asyncio.create_task(reflector.run())
    try:
        yield reflector, seen
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def pod(name: str, *, node: str = "", **labels: str) -> dict[str, object]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node, "containers": [CONTAINER]}}


async def add(client: KubeClient, *names: str, node: str = "", **labels: str) -> None:
    for name in names:
        await client.create(PODS, Pod, pod(name, node=node, **labels), namespace="default")


async def test_list_then_watch(client: KubeClient) -> None:
    await add(client, "a")
    async with reflecting(client) as (reflector, seen):
        await seen.hears("+a", "synced")
        await add(client, "b")
        await seen.hears("+b")
        await client.patch(PODS, Pod, "b", {"metadata": {"labels": {"x": "y"}}}, namespace="default")
        await seen.hears("+b")
        assert reflector.objects["default", "b"].metadata.labels == {"x": "y"}
        await client.delete(PODS, "a", namespace="default", grace_s=0)
        await seen.hears("-a")
        assert [*reflector.objects] == [("default", "b")]


async def test_a_cut_connection_loses_nothing(kube: KubeApi, client: KubeClient) -> None:
    async with reflecting(client) as (reflector, seen):
        await seen.hears("synced")
        await add(client, "a")
        await seen.hears("+a")
        assert kube.faults.cut_watches() == 1
        await add(client, "b")
        await client.delete(PODS, "a", namespace="default")
        await seen.hears("+b", "-a")
        assert reflector.state().lists == 1


async def test_compaction_while_away_shows_as_deletions(kube: KubeApi, client: KubeClient) -> None:
    await add(client, "a", "b")
    async with reflecting(client) as (reflector, seen):
        await seen.hears("+a", "+b", "synced")
        await add(client, "c")
        await seen.hears("+c")
        assert kube.faults.cut_watches() == 1
        kube.store.remove(("", "pods"), ("default", "a"))
        kube.compact()
        await seen.hears("-a", "synced")
        assert reflector.state().lists == 2


async def test_bookmarks_save_a_quiet_watch_from_compaction(kube: KubeApi, client: KubeClient) -> None:
    """Other kinds change, this one does not; the history that its last own version lies in is forgotten."""
    async with reflecting(client) as (reflector, seen):
        await seen.hears("synced")
        for number in range(5):
            body = {"metadata": {"name": f"c{number}"}}
            await client.create(CONFIGMAPS, Object, body, namespace="default")
        await until(lambda: reflector.state().resource_version == str(kube.store.version))
        kube.compact()
        kube.faults.cut_watches()
        await add(client, "a")
        await seen.hears("+a")
        assert reflector.state().lists == 1


async def test_only_what_is_selected(client: KubeClient) -> None:
    await add(client, "here", node="n1", app="web")
    await add(client, "elsewhere", node="n2", app="web")
    await add(client, "other", node="n1", app="db")
    async with reflecting(client, field_selector="spec.nodeName=n1", label_selector="app in (web)") as (_, seen):
        await seen.hears("+here", "synced")
        await client.patch(PODS, Pod, "other", {"metadata": {"labels": {"app": "web"}}}, namespace="default")
        await seen.hears("+other")
        await client.patch(PODS, Pod, "here", {"metadata": {"labels": {"app": None}}}, namespace="default")
        await seen.hears("-here")


async def test_objects_larger_than_any_line_buffer(kube: KubeApi, client: KubeClient) -> None:
    """512 KiB is where aiohttp's readline gives up."""
    spec = {"containers": [CONTAINER | {"args": ["x" * 1_500_000]}]}
    async with reflecting(client) as (reflector, seen):
        await seen.hears("synced")
        kube.api.create(pods(kube), "default", {"metadata": {"name": "big"}, "spec": spec})
        await seen.hears("+big")
        assert reflector.state().watches == 1


async def test_many_pages_while_everything_changes(kube: KubeApi, client: KubeClient) -> None:
    """More objects than a page holds and more changes than the history holds: the end result is the same."""
    chance = random.Random(7)
    body = {"metadata": {"generateName": "p-"}, "spec": {"containers": [CONTAINER]}}
    for _ in range(1200):
        kube.api.create(pods(kube), "default", body)

    def disturb(_: Change[Pod]) -> None:
        names = sorted(kube.store.all(("", "pods")))
        if chance.random() < 0.2:
            kube.store.remove(("", "pods"), chance.choice(names))
            kube.api.create(pods(kube), "default", body)

    reflector = Reflector(client, PODS, Pod, on_change=disturb, chance=lambda: 0.0)
    running = asyncio.create_task(reflector.run())
    await until(lambda: running.done() or (reflector.synced.is_set() and in_step(reflector, kube)))
    running.cancel()
    assert reflector.state().lists >= 2, "the first list's pages expired under it"


async def until(met: Callable[[], bool]) -> None:
    """For what nothing announces."""
    async with asyncio.timeout(30):
        while not met():  # noqa: ASYNC110
            await asyncio.sleep(0)


def pods(kube: KubeApi) -> Kind:
    return kube.api.kinds.built_in("", "pods")


def in_step(reflector: Reflector[Pod], kube: KubeApi) -> bool:
    held = {key: obj.metadata.resource_version for key, obj in reflector.objects.items()}
    return held == {name: obj["metadata"]["resourceVersion"] for name, obj in kube.store.all(("", "pods")).items()}
