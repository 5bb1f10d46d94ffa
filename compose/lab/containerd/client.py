"""The CRI as a kubelet uses it: sandboxes, containers, exec.

Refuses to know about Kubernetes' API or the lab: names go in, ids and addresses come out.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from compose.lab.containerd.image import TOOLS
from compose.lab.containerd.proto import CRI
from compose.lab.sandbox import Executed, Sandbox
from shared.errors import DeadlineExceeded, Internal, NotFound, SuiteError, Unavailable
from shared.model import PodKey

_RUN_WITHIN_S = 150.0
"""Longer than the longest CNI ADD, so that its error is heard."""

_TRIES = 3

_ERRORS: dict[grpc.StatusCode, type[SuiteError]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
}


class Cri:
    """One containerd's CRI; an async context manager. `cgroup` is the parent cgroup of every pod.

    Raises Unavailable when nobody listens, DeadlineExceeded, NotFound, and Internal with containerd's own words.
    """

    def __init__(self, socket: Path, *, cgroup: str) -> None:
        self._cgroup = cgroup
        # Without a default authority gRPC sends the socket's path, which containerd's server refuses.
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket}",
            options=[("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", 16 << 20)],
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def missing(self) -> str:
        """Empty when containerd is ready to run pods, else what is missing."""
        try:
            answer = await self._call("Status", deadline_s=5)
        except (Unavailable, DeadlineExceeded) as error:
            return error.message
        return "; ".join(f"{c.type}: {c.reason}: {c.message}" for c in answer.status.conditions if not c.status)

    async def images(self) -> set[str]:
        """The names of the images that containers can be made from."""
        answer = await self._call("ListImages")
        return {tag for image in answer.images for tag in image.repo_tags}

    async def run(self, pod: PodKey, *, uid: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Sandbox:
        """Run a sandbox (the CNI ADD happens in it) and its one container, which sleeps."""
        config = self._config(pod, uid, labels, annotations)
        ran = await self._call("RunPodSandbox", deadline_s=_RUN_WITHIN_S, config=config)
        created = await self._call(
            "CreateContainer",
            pod_sandbox_id=ran.pod_sandbox_id,
            config={"metadata": {"name": "main"}, "image": {"image": TOOLS}},
            sandbox_config=config,
        )
        await self._call("StartContainer", container_id=created.container_id)
        return await self.inspect(ran.pod_sandbox_id)

    async def exec(self, sandbox_id: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Executed:
        """Run a command in the pod's container and wait for its end."""
        listed = await self._call("ListContainers", filter={"pod_sandbox_id": sandbox_id})
        running = [container.id for container in listed.containers if container.state == 1]
        if not running:
            raise NotFound(f"sandbox {sandbox_id[:12]} has no running container")
        done = await self._call(
            "ExecSync",
            deadline_s=timeout_s + 5,
            container_id=running[0],
            cmd=list(argv),
            timeout=max(1, round(timeout_s)),
        )
        return Executed(code=done.exit_code, stdout=done.stdout, stderr=done.stderr)

    async def find(self, pod: PodKey | None = None) -> list[str]:
        """The ids of a pod's sandboxes, or of all there are, newest first."""
        answer = await self._call("ListPodSandbox")
        return [
            str(item.id)
            for item in sorted(answer.items, key=lambda item: -item.created_at)
            if pod is None or pod == PodKey(item.metadata.namespace, item.metadata.name)
        ]

    async def inspect(self, sandbox_id: str) -> Sandbox:
        """One sandbox with its addresses, process and namespace."""
        answer = await self._call("PodSandboxStatus", pod_sandbox_id=sandbox_id, verbose=True)
        status, info = answer.status, json.loads(answer.info.get("info", "{}"))
        network = status.network
        namespaces = info.get("runtimeSpec", {}).get("linux", {}).get("namespaces", [])
        return Sandbox(
            id=status.id,
            pod=PodKey(status.metadata.namespace, status.metadata.name),
            uid=status.metadata.uid,
            ready=status.state == 0,
            addresses=[ip for ip in (network.ip, *(extra.ip for extra in network.additional_ips)) if ip],
            pid=info.get("pid", 0),
            netns=next((entry.get("path", "") for entry in namespaces if entry.get("type") == "network"), ""),
        )

    async def stop(self, sandbox_id: str) -> None:
        """End the pod's processes, at once, and its network (the CNI DEL happens in it); idempotent."""
        await self._end("StopPodSandbox", sandbox_id)

    async def remove(self, sandbox_id: str) -> None:
        """Remove a sandbox and its containers; the second CNI DEL happens in it. Unknown ids are success."""
        await self._end("RemovePodSandbox", sandbox_id)

    async def _end(self, method: str, sandbox_id: str) -> None:
        """containerd 1.6 fails when a shim ends by itself just then; a kubelet asks again, and so do we."""
        for _ in range(_TRIES - 1):
            try:
                await self._call(method, pod_sandbox_id=sandbox_id, deadline_s=60)
                return
            except Internal as error:
                if "ttrpc: closed" not in error.message:
                    raise
        await self._call(method, pod_sandbox_id=sandbox_id, deadline_s=60)

    def _config(
        self, pod: PodKey, uid: str, labels: Mapping[str, str], annotations: Mapping[str, str]
    ) -> dict[str, object]:
        kubelet_labels = {
            "io.kubernetes.pod.name": pod.name,
            "io.kubernetes.pod.namespace": pod.namespace,
            "io.kubernetes.pod.uid": uid,
        }
        return {
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": uid},
            "hostname": pod.name[:63],
            "labels": {**labels, **kubelet_labels},
            "annotations": dict(annotations),
            "linux": {"cgroup_parent": self._cgroup},
        }

    async def _call(self, method: str, *, deadline_s: float = 30.0, **fields: Any) -> Any:
        rpc = CRI.rpcs[method]
        call = self._channel.unary_unary(rpc.path, request_serializer=rpc.encode, response_deserializer=rpc.decode)
        try:
            return await call(rpc.request(**fields), timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            kind = _ERRORS.get(error.code(), Internal)
            raise kind(f"containerd {method}: {error.details()}") from error


async def import_archive(socket: Path, archive: Path) -> None:
    """Give a containerd the images of an OCI archive. The CRI has no call for that, `ctr` has."""
    importing = await asyncio.create_subprocess_exec(
        "ctr",
        f"--address={socket}",
        "--namespace=k8s.io",
        "images",
        "import",
        str(archive),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await importing.communicate()
    if importing.returncode != 0:
        raise Internal(f"ctr images import: {output.decode(errors='replace').strip()}")
