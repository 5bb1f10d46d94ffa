"""Steps of our own for a site: its nine pods with their usual labels, and a few policies that many tests use."""

from collections.abc import Iterable
from typing import Any

from tests.conformance.site import PORTS, Probe

Json = Any


def step(*policies: Json) -> Json:
    """The nine pods with their usual labels, and these policies."""
    names = ("x", "y", "z")
    return {
        "namespaces": {name: {"ns": name, "kubernetes.io/metadata.name": name} for name in names},
        "pods": [
            {"namespace": name, "name": pod, "labels": {"pod": pod}, "ip": f"10.244.{place}.{number}0"}
            for place, name in enumerate(names, 1)
            for number, pod in enumerate("abc", 1)
        ],
        "policies": list(policies),
    }


def policy(name: str, namespace: str, **spec: Json) -> Json:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


DENY_X = policy("deny", "x", policyTypes=["Ingress"])
ONLY_B_TO_A = policy(
    "only-b",
    "x",
    podSelector={"matchLabels": {"pod": "a"}},
    policyTypes=["Ingress"],
    ingress=[{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": [{"port": 80}]}],
)


def every(destination: str, sources: Iterable[str]) -> list[Probe]:
    return [Probe(source, destination, port) for source in sources for port in PORTS if source != destination]
