"""A cluster of 5,000 pods on 100 nodes: cheap enough that tests of such clusters are possible.

Limits are in CPU seconds, so that a busy machine changes nothing, and five times what was measured.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.api import ListOptions
from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.watching import Watch

PODS, NODES = 5000, 100


@pytest.fixture(scope="module")
def kube() -> KubeApi:
    kube = KubeApi(history=PODS)
    for number in range(PODS):
        spec = {"nodeName": f"n{number % NODES}", "containers": [{"name": "main", "image": "tools:1"}]}
        kube.api.create(pods(kube), "default", {"metadata": {"name": f"p{number}"}, "spec": spec})
    return kube


def pods(kube: KubeApi) -> Kind:
    return kube.api.kinds.built_in("", "pods")


def cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize(
    ("options", "found", "limit_s"),
    [
        (ListOptions(), PODS, 0.1),
        (ListOptions(limit=500), 500, 0.05),
        (ListOptions(fields="spec.nodeName=n7"), PODS // NODES, 0.05),
    ],
)
def test_lists(kube: KubeApi, options: ListOptions, found: int, limit_s: float) -> None:
    assert len(kube.api.list(pods(kube), options)["items"]) == found
    spent = min(cpu_seconds(lambda: msgspec.json.encode(kube.api.list(pods(kube), options))) for _ in range(5))
    assert spent < limit_s


def test_a_watch_of_each_node_hears_of_every_change(kube: KubeApi) -> None:
    """500 changes to 100 watchers, who look at each: 50,000 looks."""
    kind, version = pods(kube), kube.store.version
    watches = [
        Watch(
            kube.store,
            kind,
            kube.api.matcher(kind, ListOptions(fields=f"spec.nodeName=n{node}")),
            lambda obj: obj,
            version,
        )
        for node in range(NODES)
    ]
    patch = {"metadata": {"labels": {"x": "y"}}}
    for number in range(500):
        kube.api.patch(kind, ("default", f"p{number}"), "application/merge-patch+json", patch)
    heard: list[bytes] = []
    spent = cpu_seconds(lambda: heard.extend(watch.news() for watch in watches))
    assert [lines.count(b"\n") for lines in heard] == [5] * NODES
    assert spent < 0.5
