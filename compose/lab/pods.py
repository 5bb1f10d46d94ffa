"""Pods of a running lab: what a scheduler, a kubelet and kubectl would do for them, in one call each.

A pod is an object of the Kubernetes API, a sandbox of its node's runtime, and, when asked for, servers in its
namespace. `add` makes them in this order and takes back what it made when a later one fails.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import msgspec

from compose.lab import process, serve
from compose.lab.layout import Layout, NodeLayout
from compose.lab.runtime_cni.pods import BarePods
from compose.lab.sandbox import Executed, PodRuntime, Sandbox
from compose.lab.serve import Port
from shared.errors import Conflict, NotFound, SuiteError
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NAMESPACES, PODS
from shared.model import PodKey

CONTAINER = {"name": "main", "image": "localhost/tools:1"}
"""The one that every pod has."""


class PodInfo(msgspec.Struct, frozen=True):
    """A pod as the API shows it, and its sandboxes as the node's runtime does."""

    pod: str
    node: str
    uid: str
    phase: str = ""
    addresses: list[str] = []
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    serves: list[str] = []
    sandbox: Sandbox | None = None


@asynccontextmanager
async def runtime_of(node: NodeLayout, kind: str) -> AsyncIterator[PodRuntime]:
    """The runtime of a node, `containerd` or `cni`."""
    if kind == "containerd":
        from compose.lab.containerd.client import Cri  # gRPC costs 160 ms, and the other kind does not need it

        async with Cri(node.containerd / "c.sock", cgroup=node.cgroup) as cri:
            yield cri
    else:
        yield BarePods(
            conflist=next(iter(sorted(node.cni_conf.glob("*.conflist")))),
            bin_dir=node.cni_bin,
            folder=node.cni_state,
            node_netns=node.netns,
            netns_prefix=node.netns_name,
        )


class Pods:
    """The pods of one lab; an async context manager. `nodes` maps each node to the kind of its runtime."""

    def __init__(self, layout: Layout, nodes: Mapping[str, str]) -> None:
        self._layout = layout
        self._kinds = nodes
        self._opened = AsyncExitStack()
        self._runtimes: dict[str, PodRuntime] = {}

    async def __aenter__(self) -> Self:
        address = KubeAddress(f"unix://{self._layout.kube_socket}")
        self._kube = await self._opened.enter_async_context(KubeClient(address))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def add(
        self,
        pod: PodKey,
        *,
        node: str,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        ports: Sequence[Port] = (),
        declared: Sequence[Port] = (),
    ) -> PodInfo:
        """Make the pod and wait until it runs. Conflict: the name is taken. NotFound: node or namespace.

        It serves `ports`; its object says that it has those that are `declared`, too.
        """
        runtime = await self._runtime(node)
        labels, annotations = dict(labels or {}), dict(annotations or {})
        container = CONTAINER | {"ports": _container_ports([*ports, *declared])}
        made = await self._kube.create(
            PODS,
            dict,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod.name, "labels": labels, "annotations": annotations},
                "spec": {"nodeName": node, "containers": [container]},
            },
            namespace=pod.namespace,
        )
        uid = made["metadata"]["uid"]
        try:
            sandbox = await runtime.run(pod, uid=uid, labels=labels, annotations=annotations)
            if ports:
                self._serve(pod, node, ports, sandbox)
            await self._kube.patch(
                PODS, dict, pod.name, {"status": _running(sandbox)}, namespace=pod.namespace, subresource="status"
            )
        except BaseException as error:
            try:
                await self._end(pod, node)
                await self._forget(pod, uid)
            except SuiteError as left:
                error.add_note(f"and taking it back failed too, `lab pod del {pod}` tries again: {left}")
            raise
        return await self.get(pod)

    async def ensure_namespace(self, name: str) -> None:
        """Make the namespace when it does not exist."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        with suppress(Conflict):  # it is there
            await self._kube.create(NAMESPACES, dict, body)

    async def delete(self, pod: PodKey) -> bool:
        """End the pod and everything of it; False when there was none. Repeating after a failure goes on."""
        try:
            found = await self._kube.get(PODS, dict, pod.name, namespace=pod.namespace)
        except NotFound:
            return False
        uid = found["metadata"]["uid"]
        await self._forget(pod, uid, grace_s=None)  # the pod's own: the object says that it is going
        await self._end(pod, found["spec"]["nodeName"])
        await self._forget(pod, uid)
        return True

    async def get(self, pod: PodKey) -> PodInfo:
        """One pod with its sandbox; NotFound."""
        found = _info(await self._kube.get(PODS, dict, pod.name, namespace=pod.namespace))
        if found.node not in self._kinds:
            return found
        runtime = await self._runtime(found.node)
        for sandbox_id in await runtime.find(pod):
            return msgspec.structs.replace(found, sandbox=await runtime.inspect(sandbox_id))
        return found

    async def list(self) -> list[PodInfo]:
        """All pods of the API, without their sandboxes."""
        return sorted([_info(item) async for item in self._kube.list(PODS, dict)], key=lambda info: info.pod)

    async def sandbox(self, pod: PodKey) -> Sandbox:
        """The sandbox that runs for the pod; NotFound says what is missing."""
        info = await self.get(pod)
        if info.sandbox is None or not info.sandbox.ready:
            raise NotFound(f"pod {pod} has no sandbox that runs")
        return info.sandbox

    async def exec(self, pod: PodKey, argv: Sequence[str], *, timeout_s: float = 60.0) -> Executed:
        """Run a command in the pod: by containerd in its container, else one of the machine's in its namespace."""
        info = await self.get(pod)
        if info.sandbox is None:
            raise NotFound(f"pod {pod} has no sandbox")
        runtime = await self._runtime(info.node)
        return await runtime.exec(info.sandbox.id, argv, timeout_s=timeout_s)

    # ---- the parts

    def _serve(self, pod: PodKey, node: str, ports: Sequence[Port], sandbox: Sandbox) -> None:
        corner = self._layout.node(node)
        name = f"serve-{pod.namespace}-{pod.name}"
        serve.start(
            name, ports, greeting=str(pod), netns=sandbox.entry, records=corner.processes, log=corner.log("serve")
        )

    async def _forget(self, pod: PodKey, uid: str, *, grace_s: int | None = 0) -> None:
        with suppress(NotFound):
            await self._kube.delete(PODS, pod.name, namespace=pod.namespace, uid=uid, grace_s=grace_s)

    async def _end(self, pod: PodKey, node: str) -> None:
        corner = self._layout.node(node)
        # First the servers: their sockets would keep the namespace and its links alive.
        server = process.find(corner.processes, f"serve-{pod.namespace}-{pod.name}")
        if server is not None:
            await process.stop(server, grace_s=0)
            process.forget(corner.processes, server.name)
        runtime = await self._runtime(node)
        for sandbox_id in await runtime.find(pod):
            await runtime.stop(sandbox_id)
            await runtime.remove(sandbox_id)

    async def _runtime(self, node: str) -> PodRuntime:
        if node not in self._runtimes:
            if node not in self._kinds:
                raise NotFound(f"no node {node!r}; there are {', '.join(sorted(self._kinds))}")
            opening = runtime_of(self._layout.node(node), self._kinds[node])
            self._runtimes[node] = await self._opened.enter_async_context(opening)
        return self._runtimes[node]


def parse_pod(text: str) -> PodKey:
    """`NS/NAME`, or a NAME in `default`. The API judges the names themselves."""
    namespace, slash, name = text.partition("/")
    return PodKey(namespace, name) if slash else PodKey("default", namespace)


def _container_ports(ports: Sequence[Port]) -> list[dict[str, object]]:
    """With names, for policies that go by them; a name may come once, and has at most 15 characters."""
    listed: list[dict[str, object]] = []
    for place, port in enumerate(ports):
        entry: dict[str, object] = {"containerPort": port.number, "protocol": port.protocol.upper()}
        name = f"serve-{port.number}-{port.protocol}"
        if len(name) <= 15 and port not in ports[:place]:
            entry["name"] = name
        listed.append(entry)
    return listed


def _running(sandbox: Sandbox) -> dict[str, object]:
    """A pod's status as a kubelet reports it once the sandbox runs."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "podIP": sandbox.addresses[0] if sandbox.addresses else "",
        "podIPs": [{"ip": address} for address in sandbox.addresses],
        "startTime": now,
        "containerStatuses": [
            {**CONTAINER, "ready": True, "started": True, "restartCount": 0, "state": {"running": {"startedAt": now}}}
        ],
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in conditions],
    }


def _info(item: dict[str, Any]) -> PodInfo:
    metadata, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    ports = [port for container in spec.get("containers", []) for port in container.get("ports", [])]
    return PodInfo(
        pod=f"{metadata['namespace']}/{metadata['name']}",
        node=spec.get("nodeName", ""),
        uid=metadata["uid"],
        phase="Terminating" if metadata.get("deletionTimestamp") else status.get("phase", ""),
        addresses=[entry["ip"] for entry in status.get("podIPs", [])],
        labels=metadata.get("labels", {}),
        annotations=metadata.get("annotations", {}),
        serves=[f"{port['containerPort']}/{port['protocol'].lower()}" for port in ports],
    )
