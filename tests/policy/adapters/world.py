"""A cluster of the lab's on loopback, and a live calculation that watches it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from compose.lab.kubeapi import KubeApi
from services.policy.adapters.kube import Inputs
from services.policy.core import objects
from services.policy.core.graph import Graph
from services.policy.core.intake import Intake
from services.policy.core.messages import Message
from services.policy.core.profiles import FELIX_3_24_5, Compat
from services.policy.core.state import State
from services.policy.live import Live
from shared.health import Health
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.objects import Object
from shared.kube.recorder import Recorder
from shared.kube.resources import Resource
from tests.policy.dataplane import Dataplane

Json = dict[str, Any]

CALICO = {
    "NetworkPolicy": "networkpolicies",
    "GlobalNetworkPolicy": "globalnetworkpolicies",
    "NetworkSet": "networksets",
    "GlobalNetworkSet": "globalnetworksets",
    "HostEndpoint": "hostendpoints",
}
ADMIN = {
    "AdminNetworkPolicy": "adminnetworkpolicies",
    "BaselineAdminNetworkPolicy": "baselineadminnetworkpolicies",
    "ClusterNetworkPolicy": "clusternetworkpolicies",
}
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)


def crd(kind: str) -> Json:
    """The definition of one of Calico's or the administrators' kinds, which has no schema to speak of."""
    admin = kind in ADMIN
    group, plural = ("policy.networking.k8s.io", ADMIN[kind]) if admin else ("crd.projectcalico.org", CALICO[kind])
    version = "v1" if not admin else "v1alpha2" if kind.startswith("Cluster") else "v1alpha1"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "scope": "Cluster" if kind.startswith(CLUSTER_WIDE) else "Namespaced",
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


def resource_of(body: Json) -> Resource:
    """Where an object goes."""
    group, _, version = body["apiVersion"].rpartition("/")
    kind = body["kind"]
    if kind == "CustomResourceDefinition":
        return CRDS
    plural = CALICO.get(kind) or ADMIN.get(kind) or f"{kind.lower()}s".replace("policys", "policies")
    namespaced = kind != "Namespace" and not kind.startswith(CLUSTER_WIDE)
    return Resource(group, version, plural, kind, namespaced)


CLUSTER_WIDE = ("Global", "Host", "Admin", "Baseline", "Cluster")


class World:
    """`asked` are the paths that were asked for; those in `blocked` are answered by 503."""

    def __init__(self, compat: Compat) -> None:
        self.compat = compat
        self.kube = KubeApi(bookmark_s=0.05)
        self.asked: list[str] = []
        self.blocked: set[str] = set()
        self.said: list[Message] = []
        self.dataplane = Dataplane()
        self.client: KubeClient
        self.live: Live
        self.inputs: Inputs

    # ---- the cluster

    async def apply(self, *bodies: Json) -> None:
        """Create objects, or replace them; pods get the status that they carry."""
        for body in bodies:
            resource, namespace = resource_of(body), body["metadata"].get("namespace")
            existing = self.kube.store.all((resource.group, resource.plural))
            if (namespace or "", body["metadata"]["name"]) in existing:
                await self.client.replace(resource, Object, body, namespace=namespace)
            else:
                await self.client.create(resource, Object, body, namespace=namespace)
            if "status" in body and resource.plural == "pods":
                name, patch = body["metadata"]["name"], {"status": body["status"]}
                await self.client.patch(resource, Object, name, patch, namespace=namespace, subresource="status")

    async def delete(self, body: Json) -> None:
        """The object goes at once."""
        namespace, name = body["metadata"].get("namespace"), body["metadata"]["name"]
        await self.client.delete(resource_of(body), name, namespace=namespace, grace_s=0)

    def objects(self) -> Iterator[Json]:
        """What the API server has of the calculation's inputs."""
        for group, kind in objects.KINDS:
            served = {"v1": "", "projectcalico.org": "crd.projectcalico.org"}.get(group, group)
            for known in self.kube.api.kinds:
                if (known.group, known.kind) == (served, kind):
                    for found in self.kube.store.all(known.collection).values():
                        yield {"apiVersion": known.api_version, "kind": kind, **found}

    # ---- the calculation

    def offline(self) -> Json:
        """The state that the same objects make when they are given all at once."""
        intake, graph, state = Intake(self.compat), Graph("node1", self.compat), State()
        allow = (objects.Rule(action="Allow"),)
        written: list[objects.Object] = [
            objects.Profile(
                metadata=objects.Metadata(name="projectcalico-default-allow"),
                spec=objects.ProfileSpec(ingress=allow, egress=allow),
            )
        ]
        for raw in self.objects():
            kind = objects.kind_of(raw)
            assert kind is not None
            try:
                written.append(objects.read(raw, kind))
            except ValueError:
                continue  # no object at all
        for one in written:
            for key, _, value in intake.apply(one):
                graph.update(key, value)
        graph.in_sync()
        state.apply(graph.flush())
        return state.dump()

    def online(self) -> Json:
        """The state that was told."""
        return self.live.cluster.state.dump()

    async def agrees(self) -> None:
        """Soon the state is the one that the objects make at once; a dataplane could follow all the way."""
        await until(lambda: self.inputs.synced and plain(self.online()) == plain(self.offline()))

    def events(self) -> list[Json]:
        return list(self.kube.store.all(("", "events")).values())

    def _sink(self, said: list[Message]) -> None:
        self.said.extend(said)
        self.dataplane.apply(said)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The API server; its address."""
        app = self.kube.application()
        app.middlewares.append(self._watch_over())
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            async with KubeClient(KubeAddress(f"http://127.0.0.1:{runner.addresses[0][1]}")) as self.client:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def _watch_over(self) -> Any:
        @web.middleware
        async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
            self.asked.append(request.path)
            if request.path in self.blocked:
                return web.Response(status=503)
            answer: web.StreamResponse = await handler(request)
            return answer

        return middleware

    @asynccontextmanager
    async def calculating(self, *, period_s: float = 0.05) -> AsyncIterator[None]:
        """The live calculation of node1."""
        recorder = Recorder(self.client, component="terway-policy", host="node1")
        self.live = Live(
            "node1",
            self.compat,
            recorder=recorder,
            updated=lambda _: None,
            flushed=lambda _: None,
            sink=self._sink,
        )
        self.inputs = Inputs(self.client, self.compat, self.live, period_s=period_s, chance=lambda: 0.0)
        reporter = Health().reporter("flush", 60.0)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(recorder.run()),
                tasks.create_task(self.inputs.run()),
                tasks.create_task(self.live.flushing.run(reporter)),
            ]
            yield
            for task in running:
                task.cancel()


@asynccontextmanager
async def world(compat: Compat = FELIX_3_24_5, *bodies: Json) -> AsyncIterator[World]:
    """A served cluster with some objects."""
    made = World(compat)
    async with made.serving():
        await made.apply(*bodies)
        yield made


async def until(met: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(20):
        while not met():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def plain(value: Any) -> Any:
    """Comparable whatever the order of what was told."""
    return msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))


# ---- objects


def namespace(name: str, **labels: str) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(namespace: str, name: str, ip: str, node: str = "node1", **labels: str) -> Json:
    ports = [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "default",
            "containers": [{"name": "main", "image": "tools:1", "ports": ports}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def policy(namespace: str, name: str, spec: Json) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def calico(kind: str, name: str, spec: Json, *, namespace: str = "", **labels: str) -> Json:
    metadata: Json = {"name": name, "labels": labels}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": metadata, "spec": spec}


WEB_FROM_SHOP = policy(
    "shop",
    "web",
    {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "front"}}}], "ports": [{"port": "web"}]},
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "ops"}}}]},
        ],
    },
)
CLUSTER = (
    namespace("shop", team="shop"),
    namespace("ops", team="ops"),
    pod("shop", "web-1", "10.0.0.1", app="web"),
    pod("shop", "web-2", "10.0.1.1", "node2", app="web"),
    pod("shop", "front", "10.0.1.2", "node2", app="front"),
    pod("ops", "probe", "10.0.1.3", "node2"),
    WEB_FROM_SHOP,
)
CALICO_CLUSTER = (
    *(crd(kind) for kind in CALICO),
    calico("GlobalNetworkSet", "bad", {"nets": ["203.0.113.0/24", "198.51.100.7"]}, bad="yes"),
    calico(
        "GlobalNetworkPolicy",
        "no-bad",
        {"order": 10, "ingress": [{"action": "Deny", "source": {"selector": "bad == 'yes'"}}], "types": ["Ingress"]},
    ),
    calico("NetworkPolicy", "out", {"selector": "app == 'web'", "egress": [{"action": "Allow"}]}, namespace="shop"),
    calico("NetworkSet", "near", {"nets": ["192.0.2.0/24"]}, namespace="shop", near="yes"),
    calico("HostEndpoint", "h1", {"node": "node1", "interfaceName": "eth0", "expectedIPs": ["10.9.0.1"]}),
)
