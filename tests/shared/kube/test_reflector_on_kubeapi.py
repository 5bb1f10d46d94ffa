"""The reflector against the lab's API server, where it does more than others: tests/contract/kube has what all do."""

import asyncio
import random
from collections.abc import Callable

from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.kinds import Kind
from shared.kube.client import KubeClient
from shared.kube.mirror import Change
from shared.kube.objects import Pod
from shared.kube.reflector import Reflector
from shared.kube.resources import PODS

CONTAINER = {"name": "main", "image": "tools:1"}


async def test_objects_larger_than_any_line_buffer(kube: KubeApi, client: KubeClient) -> None:
    """512 KiB is where aiohttp's readline gives up, and kubernetes_asyncio with it."""
    reflector = Reflector(client, PODS, Pod, on_change=lambda change: None)
    running = asyncio.create_task(reflector.run())
    await until(lambda: kube.faults.watches == 1)
    spec = {"containers": [CONTAINER | {"args": ["x" * 1_500_000]}]}
    kube.api.create(pods(kube), "default", {"metadata": {"name": "big"}, "spec": spec})
    await until(lambda: running.done() or in_step(reflector, kube))
    running.cancel()
    assert (reflector.state().lists, reflector.state().watches) == (1, 1)


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
