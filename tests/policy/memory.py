"""What a pod of another node costs in memory, from the API server's JSON to the calculation, in a process of its own.

    python -m tests.policy.memory [--traced|--resident] [PODS] [POLICIES] [PODS_PER_DEPLOYMENT]

Prints bytes per pod: of resident memory, or of what Python says that it allocated. Each pod is said twice, as it
starts and as it runs. With one pod to a Deployment no two have more than one label's value in common, as with pods of
Jobs. Between the sockets and here nothing is kept, so pages of JSON are made up on the spot and thrown away as they
would be.
"""

import gc
import hashlib
import json
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

from services.policy.adapters.kube import Inputs
from services.policy.adapters.reading import Seen, reader
from services.policy.core import objects
from services.policy.core.profiles import FELIX_3_24_5
from services.policy.live import Live
from shared.kube.client import KubeClient
from shared.kube.mirror import Mirror, Synced
from shared.kube.recorder import Recorder
from shared.kube.resources import NAMESPACES, NETWORK_POLICIES, PODS, Resource

PAGE = 500
NAMESPACES_COUNT = 50


def pod(number: int, replicas: int, version: int = 1) -> object:
    """A pod of some Deployment, with what pods usually carry and nobody here reads."""
    deployment = number // replicas
    app, template = f"service-{deployment}", hashlib.sha1(str(deployment).encode()).hexdigest()[:10]
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return {
        "metadata": {
            "name": f"{app}-{template}-{hashlib.sha1(str(number).encode()).hexdigest()[:5]}",
            "generateName": f"{app}-{template}-",
            "namespace": f"team-{deployment % NAMESPACES_COUNT}",
            "uid": f"{number:08x}-1111-2222-3333-444444444444",
            "resourceVersion": str(10_000_000 * version + number),
            "labels": {
                "app": app,
                "tier": TIERS[deployment % 3],
                "pod-template-hash": template,
                "job-name": f"{app}-{template}",
                "controller-uid": f"{deployment:08x}-5555-6666-7777-888888888888",
            },
            "annotations": {"example.com/notes": "n" * 200},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:podIP": {}}}}],
        },
        "spec": {
            "nodeName": f"node{number % 100}",
            "serviceAccountName": "default",
            "containers": [{"name": "main", "ports": PORTS, "env": [{"name": "E", "value": "v" * 500}]}],
        },
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


PORTS = ({"name": "http", "containerPort": 8080, "protocol": "TCP"},)
TIERS = ("front", "back", "data")


def namespace(number: int) -> object:
    metadata = {"name": f"team-{number}", "uid": "u", "resourceVersion": "1", "labels": {"team": str(number)}}
    return {"metadata": metadata}


def policy(number: int, deployments: int) -> object:
    """A policy of two peers."""
    peers = [
        {"podSelector": {"matchLabels": {"app": f"service-{number * 51 % deployments}"}}},
        {"namespaceSelector": {"matchLabels": {"team": str((number + 1) % NAMESPACES_COUNT)}}},
    ]
    spec = {"podSelector": {"matchLabels": {"tier": TIERS[number % 3]}}, "ingress": [{"from": peers}]}
    name = {"namespace": f"team-{number % NAMESPACES_COUNT}", "name": f"p-{number}", "uid": "u", "resourceVersion": "1"}
    return {"metadata": name, "spec": spec | {"policyTypes": ["Ingress"]}}


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Feed:
    """Node 5's calculation, told as reflectors tell it."""

    def __init__(self) -> None:
        nobody = cast(KubeClient, None)
        self.live = Live(
            "node5",
            FELIX_3_24_5,
            recorder=Recorder(nobody, component="test"),
            updated=lambda _: None,
            flushed=lambda _: None,
            sink=lambda _: None,
        )
        self._inputs = Inputs(nobody, FELIX_3_24_5, self.live, period_s=60)
        self._mirrors: dict[type[objects.Object], Mirror[Seen]] = {}

    def tell(self, resource: Resource, kind: type[objects.Object], bodies: Iterator[object]) -> None:
        """A complete list, page by page."""
        mirror = self._mirrors.setdefault(kind, Mirror(Seen, decode=reader(kind)))
        mirror.begin_list()
        page: list[msgspec.Raw] = []
        for body in bodies:
            page.append(msgspec.Raw(json.dumps(body).encode()))
            if len(page) == PAGE:
                self._page(mirror, resource, kind, page)
                page = []
        self._page(mirror, resource, kind, page)
        assert [*mirror.end_list("1")] == [Synced()], "nothing is gone"

    def _page(
        self, mirror: Mirror[Seen], resource: Resource, kind: type[objects.Object], page: list[msgspec.Raw]
    ) -> None:
        for change in mirror.take_page(page):
            self._inputs.on_change(resource, kind, change)


def measure(pods: int, policies: int, replicas: int, *, traced: bool = False) -> float:
    """Bytes per pod."""
    feed = Feed()
    feed.tell(NAMESPACES, objects.Namespace, map(namespace, range(NAMESPACES_COUNT)))
    deployments = max(1, pods // replicas)
    feed.tell(NETWORK_POLICIES, objects.KubePolicy, (policy(i, deployments) for i in range(policies)))
    gc.collect()
    if traced:
        tracemalloc.start()
    before = resident()
    for version in (1, 2):
        feed.tell(PODS, objects.Pod, (pod(i, replicas, version) for i in range(pods)))
    feed.live.cluster.in_sync()
    feed.live.cluster.flush()
    gc.collect()
    spent = tracemalloc.get_traced_memory()[0] if traced else resident() - before
    state = feed.live.cluster.state
    assert len(state.workloads) == len(range(5, pods, 100))
    assert state.sets, "policies select, so there are sets with members"
    return spent / pods


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:] if not argument.startswith("--")]
    print(round(measure(*(given + [10_000, 500, 10][len(given) :]), traced="--traced" in sys.argv)))
