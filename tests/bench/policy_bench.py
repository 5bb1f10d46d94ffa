"""How long the policy calculation takes, and how much memory: `python -m tests.bench.policy_bench [--json]`.

Objects go in as JSON, as the API server sends them, decoded one by one; messages come out. 100 pods are local, the rest
are spread over as many nodes as it takes; 50 namespaces; every policy has two peers. Once the pods are as Deployments
make them, and once no two have the same labels, as with Jobs. Each size runs in a process of its own, because memory is
part of the answer; what the reflectors need besides, `python -m tests.policy.memory` says. Times of single changes are
medians of 200. Goals are held against the processor's time, which on an idle machine is the clock's: whoever else works
on this one must not decide.
"""

import gc
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.policy.core import objects
from services.policy.core.graph import Graph
from services.policy.core.intake import Intake
from services.policy.core.profiles import FELIX_3_24_5

LOCAL = 100
NAMESPACES = 50
APPS = 20
CHANGES = 200

SIZES = ((1_000, 1_000), (10_000, 1_000), (100_000, 1_000))
"""Pods and policies."""

LABELS = ("shared", "unique")

GOALS = {
    (10_000, 1_000): {"load_cpu_s": 1.5},
    (100_000, 1_000): {"load_cpu_s": 12.0, "memory_mb": 400.0},
}


def namespace(number: int) -> dict[str, Any]:
    labels = {"team": f"t{number % 10}", "kubernetes.io/metadata.name": f"ns-{number}"}
    return {"metadata": {"name": f"ns-{number}", "labels": labels}}


def pod(number: int, total: int, **labels: str) -> dict[str, Any]:
    """One of 20 applications of its namespace."""
    node = f"node-{number % max(total // LOCAL, 1)}"
    app = f"app-{number // NAMESPACES % APPS}"
    common = {"app": app, "pod-template-hash": f"{number // 500:x}", "tier": "web" if number % 3 else "db"}
    ports = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return {
        "metadata": {"name": f"pod-{number}", "namespace": f"ns-{number % NAMESPACES}", "labels": common | labels},
        "spec": {"nodeName": node, "serviceAccountName": "default", "containers": [{"ports": ports}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def unique(number: int) -> dict[str, str]:
    """Labels that no other pod has."""
    return {"job-name": f"job-{number}", "controller-uid": f"{number:08x}-1111-2222-3333-444444444444"}


def policy(number: int, port: int = 8080) -> dict[str, Any]:
    """Selects an application, allows another one of the namespace and one of other namespaces."""
    peers = [
        {"podSelector": {"matchLabels": {"app": f"app-{(number + 1) % APPS}"}}},
        {
            "namespaceSelector": {"matchLabels": {"team": f"t{number % 10}"}},
            "podSelector": {"matchLabels": {"app": f"app-{number % APPS}"}},
        },
    ]
    return {
        "metadata": {"name": f"policy-{number}", "namespace": f"ns-{number % NAMESPACES}"},
        "spec": {
            "podSelector": {"matchLabels": {"app": f"app-{number // NAMESPACES % APPS}"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers, "ports": [{"protocol": "TCP", "port": port}]}],
        },
    }


def relabelled(number: int) -> dict[str, Any]:
    """A namespace that joins another team, and with it all of its pods."""
    changed = namespace(number % NAMESPACES)
    changed["metadata"]["labels"]["team"] = f"t{(number + number // NAMESPACES + 1) % 10}"
    return changed


class Bench:
    """One calculation and the decoders in front of it."""

    def __init__(self) -> None:
        self.intake = Intake(FELIX_3_24_5)
        self.graph = Graph("node-0", FELIX_3_24_5)
        self._decoders: dict[type[objects.Object], Callable[[bytes], objects.Object]] = {}

    def give(self, kind: type[objects.Object], raw: bytes) -> None:
        decode = self._decoders.get(kind)
        if decode is None:
            decode = self._decoders[kind] = msgspec.json.Decoder(kind).decode
        for key, _, value in self.intake.apply(decode(raw)):
            self.graph.update(key, value)


def written(pods: int, policies: int, labels: str) -> Iterator[tuple[type[objects.Object], bytes]]:
    """The cluster as it comes over the wire, in no helpful order."""
    yield from ((objects.Namespace, json.dumps(namespace(i)).encode()) for i in range(NAMESPACES))
    order = list(range(pods))
    random.Random(1).shuffle(order)
    own = unique if labels == "unique" else lambda number: {}
    yield from ((objects.Pod, json.dumps(pod(i, pods, **own(i))).encode()) for i in order)
    yield from ((objects.KubePolicy, json.dumps(policy(i)).encode()) for i in range(policies))


def resident_mb() -> float:
    """What the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measured(pods: int, policies: int, labels: str) -> dict[str, Any]:
    """One size, in this process."""
    own = unique if labels == "unique" else lambda number: {}
    before = resident_mb()
    bench = Bench()
    spent = cpu = 0.0
    batch: list[tuple[type[objects.Object], bytes]] = []
    source = written(pods, policies, labels)
    while True:  # made in pieces, so that the input is not counted as the calculation's memory or time
        batch = [item for item, _ in zip(source, range(2_000), strict=False)]
        if not batch:
            break
        started, started_cpu = time.perf_counter(), time.process_time()
        for kind, raw in batch:
            bench.give(kind, raw)
        spent += time.perf_counter() - started
        cpu += time.process_time() - started_cpu
    started, started_cpu = time.perf_counter(), time.process_time()
    bench.graph.in_sync()
    said = bench.graph.flush()
    encoded = msgspec.json.encode(said)
    spent += time.perf_counter() - started
    cpu += time.process_time() - started_cpu
    result: dict[str, Any] = {"pods": pods, "policies": policies, "labels": labels, "load_s": spent, "load_cpu_s": cpu}
    result |= {"messages": len(said), "out_mb": len(encoded) / 1e6}
    del said, encoded, batch
    gc.collect()
    result["memory_mb"] = resident_mb() - before
    result["bytes_per_pod"] = result["memory_mb"] * 1e6 / pods
    added = range(pods, pods + CHANGES)
    result["pod_added_ms"] = repeated(bench, objects.Pod, (pod(i, pods, **own(i)) for i in added))
    others = [LOCAL + i * 7 % (pods - LOCAL) for i in range(CHANGES)]
    result["label_changed_ms"] = repeated(
        bench, objects.Pod, (pod(i, pods, **own(i) | {"tier": f"new-{i}"}) for i in others)
    )
    result["app_changed_ms"] = repeated(
        bench, objects.Pod, (pod(i, pods, **own(i) | {"app": f"app-{i % APPS}"}) for i in others)
    )
    result["namespace_changed_ms"] = repeated(bench, objects.Namespace, map(relabelled, range(CHANGES)))
    result["policy_changed_ms"] = repeated(
        bench, objects.KubePolicy, (policy(i * 5 % policies, 9090) for i in range(CHANGES))
    )
    return result


def repeated(bench: Bench, kind: type[objects.Object], changes: Iterator[dict[str, Any]]) -> float:
    """The median of one change after another, each with its flush."""
    times = []
    for raw in [json.dumps(change).encode() for change in changes]:
        started = time.perf_counter()
        bench.give(kind, raw)
        bench.graph.flush()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def main(arguments: list[str]) -> int:
    """Prints a table, or JSON; exits 1 when a goal is missed."""
    results = []
    for labels in LABELS:
        for pods, policies in SIZES:
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                results.append(alone.apply(measured, (pods, policies, labels)))
    if "--json" in arguments:
        print(json.dumps(results, indent=2))
    else:
        for name, first in results[0].items():
            form = "12.3f" if isinstance(first, float) else ">12"
            print(f"{name:>22}" + "".join(f"{result[name]:{form}}" for result in results))
    missed = [line for labels in LABELS for line in misses([r for r in results if r["labels"] == labels])]
    for line in missed:
        print("MISSED", line, file=sys.stderr)
    return int(bool(missed))


def misses(results: list[dict[str, Any]]) -> Iterator[str]:
    """Goals that were missed, of all sizes in their order."""
    for result in results:
        who = f"{result['pods']} pods, {result['labels']} labels"
        for name, goal in GOALS.get((result["pods"], result["policies"]), {}).items():
            if result[name] > goal:
                yield f"{who}: {name} is {result[name]:.2f}, the goal {goal}"
    smallest, largest = results[0], results[-1]
    for name in ("pod_added_ms", "label_changed_ms", "app_changed_ms"):
        if largest[name] > 1.0:
            yield f"{largest['labels']} labels: {name} is {largest[name]:.2f}, the goal 1"
        if (grown := largest[name] / smallest[name]) > 1.5:
            yield f"{largest['labels']} labels: {name} grows {grown:.1f} times, the goal 1.5"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
