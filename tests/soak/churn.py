"""Pods that come and go on a lab's nodes, as kubelets and their runtimes make them come and go.

A kubelet's patience: an ADD that fails is followed by DELs until one succeeds, then by an ADD of a new sandbox. Some
pods are of a StatefulSet and come again under their name; some lose their DEL, as when a machine is reset.
"""

import asyncio
import random
import time
from contextlib import suppress
from pathlib import Path

from compose.lab.layout import Layout
from compose.lab.pods import Pods, runtime_of
from compose.lab.runtime_cni.invoke import PluginFailed
from compose.lab.runtime_cni.pods import BarePods
from shared.errors import NotFound, SuiteError
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import PODS
from shared.model import PodKey
from tests.soak.tally import Tally

NAMESPACE = "default"
STICKY = {"k8s.aliyun.com/pod-ip-reservation": "true"}
PAUSES_S = (0.0, 0.1, 0.5, 2.0, 6.0)
LIVES_S = (0.0, 0.2, 1.0, 3.0, 8.0, 20.0)


class Churn:
    """Makes and ends pods. `node_worker` is one stream of them; several run side by side on each node."""

    def __init__(self, layout: Layout, pods: Pods, tally: Tally, chance: random.Random) -> None:
        self._layout, self._pods, self._tally, self._chance = layout, pods, tally, chance
        self._made = 0
        self.closing = asyncio.Event()
        """No more pods; those that are there stay."""

    async def stream(self, node: str, number: int) -> PodKey | None:
        """One pod after the other until `closing`; the last one lives on."""
        while True:
            if self.closing.is_set():
                return None
            pod, annotations = self._next(node, number)
            await self.add(pod, node, annotations)
            if await self._closes_within(self._chance.choice(LIVES_S)):
                return pod
            if self._chance.random() < 0.05:
                await self._lose(pod, node)
            else:
                await self.delete(pod)
            await self._closes_within(self._chance.choice(PAUSES_S))

    def _next(self, node: str, number: int) -> tuple[PodKey, dict[str, str]]:
        self._made += 1
        if self._chance.random() < 0.3:
            return PodKey(NAMESPACE, f"db-{node}-{number}"), STICKY
        return PodKey(NAMESPACE, f"pod-{self._made}"), {}

    async def _closes_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()
        return self.closing.is_set()

    async def add(self, pod: PodKey, node: str, annotations: dict[str, str]) -> None:
        """Until it runs."""
        began = time.monotonic()
        while True:
            tried = time.monotonic()
            try:
                await self._pods.add(pod, node=node, annotations=annotations)
            except SuiteError as error:
                self._tally.adds[_code(error)] += 1
                await self.delete(pod)
                await asyncio.sleep(0.2)
            else:
                self._tally.adds["ok"] += 1
                self._tally.took_s.append(time.monotonic() - began)
                return
            finally:
                self._tally.longest_attempt_s = max(self._tally.longest_attempt_s, time.monotonic() - tried)

    async def delete(self, pod: PodKey) -> None:
        """Until it is gone."""
        while True:
            try:
                await self._pods.delete(pod)
            except SuiteError as error:
                self._tally.deletes[_code(error)] += 1
                await asyncio.sleep(0.2)
            else:
                self._tally.deletes["ok"] += 1
                self._tally.lives["ended by DEL"] += 1
                return

    async def _lose(self, pod: PodKey, node: str) -> None:
        """The sandbox and the pod's object are gone, and nobody has said DEL."""
        sandbox = await self._known(pod)
        corner = self._layout.node(node)
        await _ip("netns", "del", Path(sandbox).name)
        (corner.cni_state / "sandboxes" / f"{await self._only_sandbox(pod, node)}.json").unlink(missing_ok=True)
        async with KubeClient(KubeAddress(f"unix://{self._layout.kube_socket}")) as kube:
            while True:
                try:
                    await kube.delete(PODS, pod.name, namespace=pod.namespace, grace_s=0)
                except NotFound:
                    break
                except SuiteError:
                    await asyncio.sleep(0.2)
                else:
                    break
        self._tally.lives["ended without DEL"] += 1

    async def _known(self, pod: PodKey) -> str:
        while True:
            try:
                return str((await self._pods.sandbox(pod)).entry)
            except NotFound:
                raise
            except SuiteError:
                await asyncio.sleep(0.2)

    async def _only_sandbox(self, pod: PodKey, node: str) -> str:
        async with runtime_of(self._layout.node(node), "cni") as runtime:
            assert isinstance(runtime, BarePods)
            [found] = await runtime.find(pod)
            return found


def _code(error: SuiteError) -> str:
    return f"cni {error.cni_code}" if isinstance(error, PluginFailed) else error.code


async def _ip(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *argv)
    assert await process.wait() == 0, argv
