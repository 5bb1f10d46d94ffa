"""Events arrive, repeat as counts, and hold nobody up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.status import Refusal
from shared.kube.client import KubeClient
from shared.kube.objects import Meta, Pod
from shared.kube.recorder import QUEUE, Recorder, about_node, about_pod

POD = about_pod(Pod(metadata=Meta(name="a", namespace="default", uid="u-1")))


@asynccontextmanager
async def recording(client: KubeClient) -> AsyncIterator[Recorder]:
    recorder = Recorder(client, component="terway-daemon", host="node1")
    running = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def events(kube: KubeApi) -> list[dict[str, Any]]:
    return [*kube.store.all(("", "events")).values()]


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not met():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_an_event_is_what_kubectl_expects(kube: KubeApi, client: KubeClient) -> None:
    async with recording(client) as recorder:
        recorder.note(POD, "AllocIPSucceed", "Alloc IP 192.168.0.7/32 took 12ms")
        await until(lambda: len(events(kube)) == 1)
    [event] = events(kube)
    assert event["involvedObject"] == {
        "kind": "Pod", "apiVersion": "v1", "name": "a", "namespace": "default", "uid": "u-1",
    }  # fmt: skip
    assert event["source"] == {"component": "terway-daemon", "host": "node1"}
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "AllocIPSucceed", 1)
    assert event["metadata"]["namespace"] == "default"


async def test_repetition_is_counted(kube: KubeApi, client: KubeClient) -> None:
    async with recording(client) as recorder:
        for _ in range(3):
            recorder.warn(about_node("node1"), "ResourceInvalid", "sg-1 is missing")
        recorder.warn(about_node("node1"), "ResourceInvalid", "sg-2 is missing")
        await until(lambda: len(events(kube)) == 2)
    assert [event["count"] for event in events(kube)] == [3, 1]


async def test_an_event_that_was_cleared_away_is_posted_anew(kube: KubeApi, client: KubeClient) -> None:
    async with recording(client) as recorder:
        recorder.warn(POD, "AllocIPFailed", "no")
        await until(lambda: len(events(kube)) == 1)
        [name] = kube.store.all(("", "events"))
        kube.store.remove(("", "events"), name)
        recorder.warn(POD, "AllocIPFailed", "no")
        await until(lambda: len(events(kube)) == 1)
    assert events(kube)[0]["count"] == 1


async def test_what_cannot_be_posted_is_dropped_and_counted(kube: KubeApi, client: KubeClient) -> None:
    kube.faults.refuse(Refusal(500, "InternalError", "no"))
    async with recording(client) as recorder:
        recorder.warn(POD, "AllocIPFailed", "first")
        recorder.warn(POD, "AllocIPFailed", "second")
        await until(lambda: len(events(kube)) == 1)
        assert recorder.dropped == 1
    assert events(kube)[0]["message"] == "second"


async def test_a_flood_is_bounded(client: KubeClient) -> None:
    recorder = Recorder(client, component="x")
    for number in range(QUEUE + 5):
        recorder.warn(POD, "AllocIPFailed", str(number))
    assert recorder.dropped == 5


async def test_a_long_message_is_clipped_between_letters(kube: KubeApi, client: KubeClient) -> None:
    async with recording(client) as recorder:
        recorder.warn(POD, "AllocIPFailed", "é" * 2000)
        await until(lambda: len(events(kube)) == 1)
    message = events(kube)[0]["message"]
    assert len(message.encode()) <= 1024
    assert message.rstrip("…").strip("é") == ""


async def test_what_every_node_finds_is_one_event(kube: KubeApi, client: KubeClient) -> None:
    async with recording(client) as one, recording(client) as other:
        one.warn(POD, "InvalidObject", "spec.x: no", once="u-1.17")
        await until(lambda: len(events(kube)) == 1)
        other.warn(POD, "InvalidObject", "spec.x: no", once="u-1.17")
        other.warn(POD, "InvalidObject", "spec.x: still no", once="u-1.18")
        await until(lambda: len(events(kube)) == 2)
    assert other.dropped == 0
    assert {event["metadata"]["name"] for event in events(kube)} == {"a.u-1.17", "a.u-1.18"}
