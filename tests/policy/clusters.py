"""Clusters of a few pods, as Kubernetes objects, and what the calculation makes of them."""

from collections.abc import Iterable
from typing import Any

import yaml

from services.policy.core import messages, objects
from services.policy.core.convert.kubernetes import DEFAULT_ALLOW
from services.policy.core.graph import Graph
from services.policy.core.intake import Intake
from services.policy.core.problems import Problem
from services.policy.core.profiles import FELIX_3_24_5, Compat
from services.policy.core.state import State
from services.policy.core.verdict import Direction, Flow, Verdict, judge

Json = Any

LEGEND = {"allow": ".", "ingress": "I", "egress": "E", "both": "B"}
"""A cell of the matrix -> cyclonus' letter."""


class Cluster:
    """Everything on one node, flushed once; `text` is YAML of many documents."""

    def __init__(self, objects_or_text: Iterable[Json] | str, compat: Compat = FELIX_3_24_5) -> None:
        self.state = State()
        self.problems: list[Problem] = []
        intake, graph = Intake(compat), Graph(None, compat)
        raws = yaml.safe_load_all(objects_or_text) if isinstance(objects_or_text, str) else objects_or_text
        read = [DEFAULT_ALLOW] if compat.profile_resources else []
        for written in (*read, *map(_read, raws)):
            for key, _, value in intake.apply(written):
                graph.update(key, value)
        for problems in intake.problems.values():
            self.problems += problems
        self.invalid = {key.path: error for key, error in graph.invalid.items()}
        graph.in_sync()
        self.state.apply(graph.flush())

    def judge(self, pod: str, direction: Direction, flow: Flow) -> Verdict:
        """One pod's word."""
        return judge(self.state, self.state.workloads[workload(pod)], direction, flow)


def _read(raw: Json) -> objects.Object:
    kind = objects.kind_of(raw)
    assert kind is not None, raw
    return objects.read(raw, kind)


def workload(pod: str) -> messages.WorkloadEndpointID:
    """The endpoint of `namespace/name`."""
    return messages.WorkloadEndpointID("k8s", pod, "eth0")


def pod(name: str, address: str, **labels: str) -> Json:
    """A running pod `namespace/name` that serves http on 80."""
    namespace, _, short = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": short, "labels": labels},
        "spec": {"nodeName": "node1", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"podIP": address},
    }


def namespace(name: str, **labels: str) -> Json:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
