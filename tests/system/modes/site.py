"""A lab in one mode, and what the tests of every mode do with it."""

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from compose.lab import process, serve, services
from compose.lab.layout import NETNS, Layout, NodeLayout
from compose.lab.pods import Pods, runtime_of
from compose.lab.probe import Answer, ask
from compose.lab.reach import reach
from compose.lab.record import Record
from compose.lab.runtime_cni.invoke import Container, PluginFailed
from compose.lab.runtime_cni.pods import BarePods
from compose.lab.sandbox import Sandbox
from compose.lab.serve import parse_ports
from compose.lab.waiting import patient
from shared.model import Mode, PodKey

NODES = ("node1", "node2")
SERVES = "80/tcp,81/udp"
ENI_MACS = "00:16:3e:"
"""How the MACs of the lab's ENIs begin."""


@dataclass(frozen=True)
class Site:
    """One lab of two nodes."""

    mode: Mode
    layout: Layout
    record: Record
    pods: Pods

    def node(self, name: str) -> NodeLayout:
        return self.layout.node(name)

    def address(self, node: str) -> str:
        return self.record.facts(node).primary_ip

    # ---- pods

    @asynccontextmanager
    async def pod(self, name: str, node: str, **annotations: str) -> AsyncIterator[Sandbox]:
        """A pod in `default` that serves, for as long as the body runs."""
        pod = PodKey("default", name)
        await self.pods.add(pod, node=node, annotations=annotations, ports=parse_ports(SERVES))
        try:
            yield await self.pods.sandbox(pod)
        finally:
            await self.pods.delete(pod)

    @asynccontextmanager
    async def pod_with_host_port(self, name: str, node: str, *, host_port: int) -> AsyncIterator[str]:
        """A sandbox that a runtime gave a hostPort to; its address."""
        corner = self.node(node)
        netns = f"{corner.netns_name}-{secrets.token_hex(6)}"
        ip("netns", "add", netns)
        container = Container(
            id=netns.rpartition("-")[2],
            netns=str(NETNS / netns),
            args={"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": name},
        )
        capabilities = {
            "io.kubernetes.cri.pod-annotations": {},
            "portMappings": [{"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}],
        }
        async with self.runtime(node) as runtime:
            try:
                made = await runtime.network.add(container, capabilities=capabilities)
                log = corner.log("serve")
                ports = parse_ports(SERVES)
                server = serve.start(
                    f"serve-{name}", ports, greeting=name, netns=NETNS / netns, records=corner.processes, log=log
                )
                try:
                    yield str(made["ips"][0]["address"]).partition("/")[0]
                finally:
                    await process.stop(server, grace_s=0)
                    process.forget(corner.processes, server.name)
            finally:
                await runtime.network.delete(container, capabilities=capabilities)
                ip("netns", "del", netns)

    @asynccontextmanager
    async def runtime(self, node: str) -> AsyncIterator[BarePods]:
        async with runtime_of(self.node(node), "cni") as runtime:
            assert isinstance(runtime, BarePods)
            yield runtime

    async def check(self, node: str, sandbox: Sandbox) -> str:
        """What CNI CHECK says against a pod; empty: nothing."""
        async with self.runtime(node) as runtime:
            container = Container(
                id=sandbox.id,
                netns=sandbox.netns,
                args={"K8S_POD_NAMESPACE": sandbox.pod.namespace, "K8S_POD_NAME": sandbox.pod.name},
            )
            try:
                await runtime.network.check(container)
            except PluginFailed as failed:
                return f"{failed.message}"
            return ""

    async def repair(self, node: str) -> None:
        """What eni_manager does at its start, and now and then."""
        await services.restart(self.node(node), services.named("eni_manager"))
        await services.wait_ready(self.node(node))

    # ---- questions

    async def by(self, source: str, target: str) -> str:
        """Who answers `source` (a pod, a node, `outside`) at a target of `lab probe`; else why nobody does."""
        return _said(await reach(self.layout, self.record, self.pods, source=source, target=target))

    async def by_address(self, source: Path, address: str, port: str) -> str:
        """The same for a namespace and an address."""
        [wanted] = parse_ports(port)
        return _said(await ask(source, address, wanted, timeout_s=2.0))

    def state(self, node: str) -> list[str]:
        """Everything that pods could leave on a node, a line each."""
        entry = self.node(node).netns
        found: list[str] = []
        for command in (
            "ip -o link",
            "ip -o -4 addr",
            "ip -4 rule",
            "ip -4 route show table all",
            "ip neigh show nud permanent",
            "tc qdisc",
            "nft list ruleset",
        ):
            found += inside(entry, *command.split()).splitlines()
        if self.mode is Mode.EXCLUSIVE_ENI:  # ENIs that are no pod's: the audit knows them by MAC, whatever their names
            found = [line for line in found if not (f"link/ether {ENI_MACS}" in line and " state DOWN " in line)]
        return sorted(found)


def _said(answer: Answer) -> str:
    return answer.by if answer.reached else f"nobody: {answer.reason}"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def inside(netns: Path, *command: str, stdin: str = "") -> str:
    """Run one of the machine's programs in a namespace; what it prints."""
    done = subprocess.run(
        ["nsenter", f"--net={netns}", *command], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _difference(expected: Sequence[str] | str, found: Sequence[str] | str) -> str:
    if isinstance(expected, str) or isinstance(found, str):
        return f"expected {expected!r}, found {found!r}"
    return "\n".join(unified_diff(expected, found, "expected", "found", n=0, lineterm=""))


async def eventually(question: Any, expected: Sequence[str] | str, *, within_s: float = 30.0) -> None:
    """Ask again until the answer is as expected; after that time, as `patient` says, fail with what it is."""
    within_s = patient(within_s)
    async with asyncio.timeout(within_s + 5):
        ends = asyncio.get_running_loop().time() + within_s
        while (found := await question()) != expected:  # the kernel offers no event for it
            if asyncio.get_running_loop().time() >= ends:
                raise AssertionError(_difference(expected, found))
            await asyncio.sleep(0.05)
