"""A lab's node as a site of the checklist: the same rules, with the real services behind the gateway."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial

import pytest

from compose.lab.layout import Layout
from shared.contracts import eni, ipam, policy
from shared.errors import Conflict, NotFound
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NAMESPACES, PODS
from shared.model import AttachmentKey, PodKey
from shared.rpc.client import Client
from shared.rpc.method import Method, Params, Result
from tests.cni.fakes import until
from tests.cni.site import Json, Outcome, Plugin, Sandbox, config, namespace

CLI = [sys.executable, "-m", "services.ctl", "lab"]
NODE = "node1"
NAMESPACE = "shop"
"""Of every sandbox's pod."""
CAPACITY = 20
"""Addresses of an ecs.g6.xlarge: (3 ENIs - 1) x 10."""
SERVICE = {"gateway": "cni_shim"}
"""What the lab calls a service that the checklist calls otherwise."""


class LabSite:
    """A lab of one node, each service a process of its own. `open` and `close` it."""

    def __init__(self) -> None:
        self.name = f"c{uuid.uuid4().hex[:8]}"
        self.node = Layout.of(self.name).node(NODE)
        self.plugin = Plugin(self.node.cni_bin / "terway", prefix=("nsenter", f"--net={self.node.netns}"))

    def open(self) -> None:
        """Bring it up, with addresses for everybody."""
        options = ["--instance-type", "ecs.g6.xlarge", "--pool", f"{CAPACITY}:{CAPACITY}", "--cooldown", "0"]
        self._lab("up", "--nodes", "1", "--runtime", "cni", "--processes", "--policy", *options)

    def close(self) -> None:
        """Take it down."""
        self._lab("down")

    def _lab(self, *arguments: str) -> str:
        done = subprocess.run([*CLI, *arguments, "--name", self.name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _ask(self, service: str, method: Method[Params, Result], params: Params) -> Result:
        async def ask() -> Result:
            async with Client(self.node.run / f"{service}.sock") as client:
                return await client.call(method, params)

        loop = asyncio.new_event_loop()  # asyncio.run would take pytest-asyncio's loop away from it
        try:
            return loop.run_until_complete(ask())
        finally:
            loop.close()

    def _kube(self, act: Callable[[KubeClient], Awaitable[None]]) -> None:
        async def ask() -> None:
            async with KubeClient(KubeAddress(f"unix://{Layout.of(self.name).kube_socket}")) as kube:
                await act(kube)

        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(ask())
        finally:
            loop.close()

    # ---- tests.cni.site.Site

    @contextmanager
    def sandbox(self, **fields: str) -> Iterator[Sandbox]:
        with namespace() as netns:
            sandbox = Sandbox(**{"netns": netns, **fields})
            yield sandbox
            self.delete(sandbox)
            self._kube(partial(_forget, sandbox.pod))

    def held(self) -> set[tuple[str, str]]:
        leases = self._ask("ipam", ipam.LEASES, ipam.ListLeases()).leases
        return {(lease.key.container_id, lease.key.ifname) for lease in leases}

    def wired(self) -> set[tuple[str, str]]:
        attachments = self._ask("eni_manager", eni.ATTACHMENTS, eni.ListAttachments()).attachments
        return {(attachment.key.container_id, attachment.key.ifname) for attachment in attachments}

    def lose_interface(self, sandbox: Sandbox) -> None:
        inside = ["nsenter", f"--net={sandbox.netns}", "ip", "link", "del", sandbox.ifname]
        subprocess.run(inside, check=True)

    def lose_reservation(self, sandbox: Sandbox) -> None:
        self._ask("ipam", ipam.RELEASE, ipam.Release(AttachmentKey("terway", sandbox.id, sandbox.ifname)))

    def lose_rules(self, sandbox: Sandbox) -> None:
        self._ask("policy", policy.DETACH, policy.Detach(AttachmentKey("terway", sandbox.id, sandbox.ifname)))

    @contextmanager
    def exhausted(self) -> Iterator[None]:
        keys = [AttachmentKey("filler", f"f{number}", "eth0") for number in range(CAPACITY - len(self.held()))]
        for number, key in enumerate(keys):
            self._ask("ipam", ipam.ACQUIRE, ipam.Acquire(key, PodKey("filler", f"f{number}"), annotations={}))
        try:
            yield
        finally:
            for key in keys:
                self._ask("ipam", ipam.RELEASE, ipam.Release(key))

    def impaired(self) -> AbstractContextManager[None]:
        pytest.skip("the lab has no switch for it")

    @contextmanager
    def away(self, service: str) -> Iterator[None]:
        name = SERVICE.get(service, service)
        self._lab("service", "stop", NODE, name)
        try:
            yield
        finally:
            self._lab("service", "start", NODE, name)
        until(lambda: self.plugin.run("STATUS", config()).exit == 0, f"the others have found {service} again")

    def add(self, sandbox: Sandbox, conf: Json | None = None, **env: str | None) -> Outcome:
        self._kube(partial(_say, sandbox))
        stdin = conf or config()
        stdin["runtimeConfig"] = {"io.kubernetes.cri.pod-annotations": {}, **stdin.get("runtimeConfig", {})}
        return self.plugin.run("ADD", stdin, {**sandbox.env, **env})

    def delete(self, sandbox: Sandbox, conf: Json | None = None, **env: str | None) -> Outcome:
        return self.plugin.run("DEL", conf or config(), {**sandbox.env, **env})


async def _say(sandbox: Sandbox, kube: KubeClient) -> None:
    """The sandbox's pod, as a static one: what its object has as a UID, the sandbox's arguments cannot know."""
    uid = sandbox.args.rpartition("K8S_POD_UID=")[2]
    metadata = {"name": sandbox.pod, "annotations": {"kubernetes.io/config.hash": uid}}
    spec = {"nodeName": NODE, "containers": [{"name": "main", "image": "localhost/tools:1"}]}
    with suppress(Conflict):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await kube.create(NAMESPACES, dict, body)
    try:
        await kube.create(PODS, dict, {"metadata": metadata, "spec": spec}, namespace=NAMESPACE)
    except Conflict:
        await kube.patch(PODS, dict, sandbox.pod, {"metadata": metadata}, namespace=NAMESPACE)


async def _forget(pod: str, kube: KubeClient) -> None:
    with suppress(NotFound):
        await kube.delete(PODS, pod, namespace=NAMESPACE, grace_s=0)
