"""Calico's own objects in a lab that runs: written, heard by every node, and gone again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from compose.lab import services
from compose.lab.waiting import until
from shared.errors import Conflict
from shared.kube.resources import Resource
from tests.conformance.site import PATIENCE_S, Site

Json = Any

GROUP: Final = "crd.projectcalico.org"
CRDS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
KINDS: Final = {
    kind: Resource(GROUP, "v1", plural, kind, namespaced=kind == "NetworkPolicy")
    for kind, plural in (
        ("GlobalNetworkPolicy", "globalnetworkpolicies"),
        ("GlobalNetworkSet", "globalnetworksets"),
        ("HostEndpoint", "hostendpoints"),
        ("NetworkPolicy", "networkpolicies"),
        ("Tier", "tiers"),
    )
}


async def define(cluster: Site) -> None:
    """The kinds of Calico's that these tests use."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    for kind, resource in KINDS.items():
        definition = {
            "apiVersion": CRDS.api_version,
            "kind": CRDS.kind,
            "metadata": {"name": f"{resource.plural}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "names": {"kind": kind, "plural": resource.plural},
                "scope": "Namespaced" if resource.namespaced else "Cluster",
                "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
            },
        }
        try:
            await cluster.kube.create(CRDS, dict, definition)
        except Conflict:
            continue  # of an earlier test


def rule(action: str, **fields: Json) -> Json:
    """A rule about TCP, or another `protocol`."""
    return {"action": action, "protocol": "TCP", **fields}


def to(*ports: int | str, **fields: Json) -> Json:
    """What a rule says of its destination."""
    return {"destination": {"ports": list(ports), **fields}}


def policy(name: str, selector: str, **spec: Json) -> Json:
    return {"kind": "GlobalNetworkPolicy", "metadata": {"name": name}, "spec": {"selector": selector, **spec}}


def local(name: str, namespace: str, selector: str, **spec: Json) -> Json:
    """A namespaced policy of Calico's."""
    metadata = {"name": name, "namespace": namespace}
    return {"kind": "NetworkPolicy", "metadata": metadata, "spec": {"selector": selector, **spec}}


def tier(name: str, order: int, **spec: Json) -> Json:
    return {"kind": "Tier", "metadata": {"name": name}, "spec": {"order": order, **spec}}


def network_set(name: str, *nets: str) -> Json:
    return {"kind": "GlobalNetworkSet", "metadata": {"name": name, "labels": {"set": name}}, "spec": {"nets": [*nets]}}


def host(node: str) -> Json:
    """All interfaces of a node that have no endpoint of their own."""
    spec = {"node": node, "interfaceName": "*"}
    return {"kind": "HostEndpoint", "metadata": {"name": f"{node}-all", "labels": {"host": node}}, "spec": spec}


@asynccontextmanager
async def written(cluster: Site, *bodies: Json) -> AsyncIterator[None]:
    """These objects are in force while the context lasts, and then no more."""
    try:
        for body in bodies:
            resource = KINDS[body["kind"]]
            whole = {"apiVersion": resource.api_version, **body}
            made = await cluster.kube.create(resource, dict, whole, namespace=body["metadata"].get("namespace"))
            cluster.versions[str(resource)] = int(made["metadata"]["resourceVersion"])
        await cluster.settled()
        yield
    finally:
        for body in reversed(bodies):
            name, namespace = body["metadata"]["name"], body["metadata"].get("namespace")
            await cluster.kube.delete(KINDS[body["kind"]], name, namespace=namespace)
            cluster.versions.pop(str(KINDS[body["kind"]]), None)
        names = {body["metadata"]["name"] for body in bodies}
        await until(lambda: _left(cluster, names), what="they are gone", within_s=PATIENCE_S, every_s=0.02)
        await cluster.settled()


async def changed(cluster: Site, body: Json, **spec: Json) -> None:
    """An object that is written already says this now; returns when every node enforces it."""
    resource, metadata = KINDS[body["kind"]], body["metadata"]
    made = await cluster.kube.patch(
        resource, dict, metadata["name"], {"spec": spec}, namespace=metadata.get("namespace")
    )
    cluster.versions[str(resource)] = int(made["metadata"]["resourceVersion"])
    await cluster.settled()


async def _left(cluster: Site, names: set[str]) -> str:
    for fact in cluster.record.nodes:
        corner = cluster.layout.node(fact.name)
        _, dump = await asyncio.to_thread(services.ask, corner, services.named("policy"), "/policy/dump")
        held = {name.rpartition("/")[2] for name in (*dump.get("policies", ()), *dump.get("heps", ()))}
        if held & names:
            return f"{fact.name} has {held & names}"
    return ""
