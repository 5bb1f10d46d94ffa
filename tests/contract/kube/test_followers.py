"""The same cases with our reflector and with kubernetes_asyncio: lists, watches, and all that can happen to them."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from kubernetes_asyncio.client import ApiClient

from shared.kube.client import KubeClient
from shared.kube.objects import Object, Pod
from shared.kube.resources import CONFIGMAPS, PODS
from tests.contract.kube.conftest import Cluster
from tests.contract.kube.followers import Follower, Ours, Theirs, running

Follow = Callable[..., AbstractAsyncContextManager[Follower]]


@pytest.fixture(params=["ours", "kubernetes_asyncio"])
def follow(request: pytest.FixtureRequest, ours: KubeClient, theirs: ApiClient) -> Follow:
    """Begins to follow the pods of the cluster."""

    def begin(*, fields: str = "", labels: str = "") -> AbstractAsyncContextManager[Follower]:
        if request.param == "ours":
            return running(Ours(ours, fields=fields, labels=labels))
        return running(Theirs(theirs, fields=fields, labels=labels))

    return begin


async def add(kube: KubeClient, *names: str, node: str = "", **labels: str) -> None:
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "tools:1"}]}
    for name in names:
        await kube.create(PODS, Pod, {"metadata": {"name": name, "labels": labels}, "spec": spec}, namespace="default")


async def label(kube: KubeClient, name: str, **labels: str | None) -> None:
    await kube.patch(PODS, Pod, name, {"metadata": {"labels": labels}}, namespace="default")


async def watched(cluster: Cluster) -> None:
    """For what nothing announces: the watch has reached the server."""
    async with asyncio.timeout(20):
        while not cluster.kube.faults.watches:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_list_then_watch(ours: KubeClient, follow: Follow) -> None:
    await add(ours, "a")
    async with follow() as seen:
        await seen.story.hears("+a", "synced")
        await add(ours, "b")
        await seen.story.hears("+b")
        await label(ours, "b", x="y")
        await seen.story.hears("+b")
        assert seen.labels("b") == {"x": "y"}
        await ours.delete(PODS, "a", namespace="default", grace_s=0)
        await seen.story.hears("-a")
        assert seen.names() == ["b"]


async def test_a_cut_connection_loses_nothing(cluster: Cluster, ours: KubeClient, follow: Follow) -> None:
    async with follow() as seen:
        await seen.story.hears("synced")
        await add(ours, "a")
        await seen.story.hears("+a")
        assert cluster.kube.faults.cut_watches() == 1
        await add(ours, "b")
        await ours.delete(PODS, "a", namespace="default")
        await seen.story.hears("+b", "-a")
        assert seen.lists == 1


async def test_compaction_while_away_shows_as_deletions(cluster: Cluster, ours: KubeClient, follow: Follow) -> None:
    await add(ours, "a", "b")
    async with follow() as seen:
        await seen.story.hears("+a", "+b", "synced")
        await add(ours, "c")
        await seen.story.hears("+c")
        assert cluster.kube.faults.cut_watches() == 1
        cluster.kube.store.remove(("", "pods"), ("default", "a"))
        cluster.kube.compact()
        await seen.story.hears("-a", "synced")
        assert seen.lists == 2


async def test_a_watcher_that_falls_behind_is_told_that_it_did(
    cluster: Cluster, ours: KubeClient, follow: Follow
) -> None:
    """More changes at once than the server remembers: 410 in the middle of a watch."""
    async with follow() as seen:
        await seen.story.hears("synced")
        await watched(cluster)
        for number in range(150):  # the history remembers 50 to 100; all of this is one step for the watcher
            body = {"metadata": {"name": f"p{number:03}"}, "spec": {"containers": [{"name": "m", "image": "i"}]}}
            cluster.kube.api.create(cluster.kube.api.kinds.built_in("", "pods"), "default", body)
        await seen.story.until(lambda: seen.story.told[-1:] == ["synced"])
        assert seen.names() == [f"p{number:03}" for number in range(150)]
        assert seen.lists == 2
        seen.story.told.clear()
        await add(ours, "after")
        await seen.story.hears("+after")


async def test_bookmarks_save_a_quiet_watch_from_compaction(cluster: Cluster, ours: KubeClient, follow: Follow) -> None:
    """Other kinds change, this one does not; the history that its last own version lies in is forgotten."""
    async with follow() as seen:
        await seen.story.hears("synced")
        for number in range(5):
            await ours.create(CONFIGMAPS, Object, {"metadata": {"name": f"c{number}"}}, namespace="default")
        async with asyncio.timeout(20):
            while seen.version != str(cluster.kube.store.version):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        cluster.kube.compact()
        cluster.kube.faults.cut_watches()
        await add(ours, "a")
        await seen.story.hears("+a")
        assert seen.lists == 1


async def test_only_what_is_selected(ours: KubeClient, follow: Follow) -> None:
    await add(ours, "here", node="n1", app="web")
    await add(ours, "elsewhere", node="n2", app="web")
    await add(ours, "other", node="n1", app="db")
    async with follow(fields="spec.nodeName=n1", labels="app in (web)") as seen:
        await seen.story.hears("+here", "synced")
        await label(ours, "other", app="web")
        await seen.story.hears("+other")
        await label(ours, "here", app=None)
        await seen.story.hears("-here")


async def test_many_pages(cluster: Cluster, follow: Follow) -> None:
    pods = cluster.kube.api.kinds.built_in("", "pods")
    body = {"metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "main", "image": "tools:1"}]}}
    made = [cluster.kube.api.create(pods, "default", body)["metadata"]["name"] for _ in range(1201)]
    async with follow() as seen:
        await seen.story.until(lambda: seen.story.told[-1:] == ["synced"])
        assert seen.names() == sorted(made)
        assert len(seen.story.told) == 1202
        assert seen.lists == 1
