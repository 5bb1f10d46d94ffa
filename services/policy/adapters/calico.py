"""What there is of Calico in a cluster, read from its API server. Nothing is changed."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from services.policy.core import objects
from services.policy.core.migrate.felix import runs_felix
from services.policy.core.migrate.findings import Written
from services.policy.core.migrate.kinds import ANNOTATIONS, BOOKKEEPING
from shared.kube.client import KubeClient
from shared.kube.errors import ApiNotFound
from shared.kube.resources import NAMESPACES, NETWORK_POLICIES, PODS, Resource

CRDS: Final = ("crd.projectcalico.org", "v1")
DAEMON_SETS: Final = Resource("apps", "v1", "daemonsets", "DaemonSet")
ADMINISTRATORS: Final = ("policy.networking.k8s.io", ("v1alpha2", "v1alpha1"))


async def cluster(client: KubeClient) -> AsyncIterator[Written]:
    """All of Calico's objects but its notes about addresses, every policy of Kubernetes, the DaemonSets that
    run Felix, and what pods and namespaces ask of Calico. Raises ApiError."""
    for resource in await client.served(*CRDS):
        if not BOOKKEEPING.fullmatch(resource.kind):
            async for one in _every(client, resource):
                yield one
    known = {kind for group, kind in objects.KINDS if group == ADMINISTRATORS[0]}
    seen: set[str] = set()
    for version in ADMINISTRATORS[1]:
        for resource in await client.served(ADMINISTRATORS[0], version):
            if resource.kind in known - seen:
                seen.add(resource.kind)
                async for one in _every(client, resource):
                    yield one
    async for one in _every(client, NETWORK_POLICIES):
        yield one
    async for one in _every(client, DAEMON_SETS):
        if runs_felix(one):
            yield one
    for resource in (NAMESPACES, PODS):
        async for head in client.list(resource, _Head):
            if not ANNOTATIONS.keys().isdisjoint(head.metadata.annotations or ()):
                metadata = msgspec.to_builtins(head.metadata)
                yield Written({"apiVersion": "v1", "kind": resource.kind, "metadata": metadata})


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    namespace: str = ""
    annotations: dict[str, str] | None = None


class _Head(msgspec.Struct, frozen=True):
    metadata: _Metadata


async def _every(client: KubeClient, resource: Resource) -> AsyncIterator[Written]:
    try:
        async for item in client.list(resource, msgspec.Raw):
            raw: dict[str, Any] = msgspec.json.decode(item)
            yield Written({**raw, "apiVersion": resource.api_version, "kind": resource.kind})
    except ApiNotFound:
        return  # gone between the two questions, or of an API that is not served
