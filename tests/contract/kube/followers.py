"""Two clients that keep in step with an API server: our Reflector, and list-and-watch by kubernetes_asyncio.

Both tell the same story: `+name`, `-name`, `synced`. What a list finds missing is told as gone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import aiohttp
import pytest
from kubernetes_asyncio import client, watch

from shared.kube.client import KubeClient
from shared.kube.mirror import Applied, Change, Deleted, Synced
from shared.kube.objects import Pod
from shared.kube.reflector import Reflector
from shared.kube.resources import PODS

GONE = 410
PAGE = 500


class Story:
    """What has been told, and a way to wait for it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._news = asyncio.Event()

    def tell(self, word: str) -> None:
        self.told.append(word)
        self._news.set()

    def wake(self) -> None:
        """Something has changed that is no part of the story."""
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


class Follower(Protocol):
    """What the cases ask."""

    story: Story

    @property
    def lists(self) -> int: ...
    @property
    def version(self) -> str: ...
    def labels(self, name: str) -> dict[str, str]: ...
    def names(self) -> list[str]: ...
    async def run(self) -> None: ...


class Ours:
    """The project's reflector."""

    def __init__(self, kube: KubeClient, *, fields: str, labels: str) -> None:
        self.story = Story()
        self._reflector = Reflector(
            kube,
            PODS,
            Pod,
            on_change=self._hear,
            field_selector=fields,
            label_selector=labels,
            chance=lambda: 0.0,
        )

    def _hear(self, change: Change[Pod]) -> None:
        match change:
            case Applied(obj):
                self.story.tell(f"+{obj.metadata.name}")
            case Deleted(obj):
                self.story.tell(f"-{obj.metadata.name}")
            case Synced():
                self.story.tell("synced")

    @property
    def lists(self) -> int:
        return self._reflector.state().lists

    @property
    def version(self) -> str:
        return self._reflector.state().resource_version

    def labels(self, name: str) -> dict[str, str]:
        return dict(self._reflector.objects["default", name].metadata.labels)

    def names(self) -> list[str]:
        return sorted(name for _, name in self._reflector.objects)

    async def run(self) -> None:
        await self._reflector.run()


class Theirs:
    """What the README of kubernetes_asyncio shows, for ever: its models, its pages, its watch."""

    def __init__(self, api: client.ApiClient, *, fields: str, labels: str) -> None:
        self.story = Story()
        self.lists = 0
        self.version = ""
        self._core = client.CoreV1Api(api)
        self._selection = {"field_selector": fields, "label_selector": labels}
        self._pods: dict[str, Any] = {}

    def labels(self, name: str) -> dict[str, str]:
        return dict(self._pods[name].metadata.labels or {})

    def names(self) -> list[str]:
        return sorted(self._pods)

    async def run(self) -> None:
        while True:
            await self._list()
            try:
                while True:
                    await self._watch()
            except client.ApiException as error:
                if error.status != GONE:
                    raise

    async def _list(self) -> None:
        self.lists += 1
        found: dict[str, Any] = {}
        page = await self._core.list_namespaced_pod("default", limit=PAGE, **self._selection)
        found |= {pod.metadata.name: pod for pod in page.items}
        while page.metadata._continue:
            page = await self._core.list_namespaced_pod(
                "default", limit=PAGE, _continue=page.metadata._continue, **self._selection
            )
            found |= {pod.metadata.name: pod for pod in page.items}
        before, self._pods = self._pods, found
        self.version = page.metadata.resource_version
        for name, pod in sorted(found.items()):
            old = before.get(name)
            if old is None or old.metadata.resource_version != pod.metadata.resource_version:
                self.story.tell(f"+{name}")
        for name in sorted(before.keys() - found.keys()):
            self.story.tell(f"-{name}")
        self.story.tell("synced")

    async def _watch(self) -> None:
        """One watch, until it ends or breaks."""
        watching = watch.Watch()
        try:
            events = watching.stream(
                self._core.list_namespaced_pod,
                "default",
                resource_version=self.version,
                allow_watch_bookmarks=True,
                timeout_seconds=300,
                **self._selection,
            )
            async for event in events:
                self._take(event)
                self.version = watching.resource_version
        except aiohttp.ClientError:
            return
        finally:
            await watching.close()

    def _take(self, event: dict[str, Any]) -> None:
        pod = event["object"]
        match event["type"]:
            case "ADDED" | "MODIFIED":
                self._pods[pod.metadata.name] = pod
                self.story.tell(f"+{pod.metadata.name}")
            case "DELETED":
                del self._pods[pod.metadata.name]
                self.story.tell(f"-{pod.metadata.name}")
            case "BOOKMARK":
                self.story.wake()


Follow = Callable[..., Any]


@asynccontextmanager
async def running(follower: Follower) -> AsyncIterator[Follower]:
    """The follower at work until the context ends; it must not have died before."""
    async with AsyncExitStack() as opened:
        task = asyncio.create_task(follower.run())

        async def end() -> None:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        opened.push_async_callback(end)
        yield follower
