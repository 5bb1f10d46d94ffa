"""Two nodes of a lab with nine pods that stay, whose labels, namespaces and policies change from case to case; and
probes with real packets from each pod to each.

No probe waits for a time to pass before it counts as denied. A packet is on its way within the call that sends it;
when the probes of a step are out, each destination is asked by its own node, which policies never stop (felix.md §4.2),
until it answers: by then it has read what came before. What has not been answered then was dropped.
"""

import asyncio
import errno
import select
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

from compose.lab import lab, services
from compose.lab.layout import Layout
from compose.lab.netns import call_in
from compose.lab.pods import Pods
from compose.lab.record import Options, Record, Stack
from compose.lab.serve import Port
from compose.lab.waiting import until
from shared.errors import Conflict
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NAMESPACES, NETWORK_POLICIES, PODS
from shared.model import Mode, PodKey
from tests.conformance.sctp import Associations

Json = Any

PORTS = (Port(80, "tcp"), Port(81, "tcp"), Port(80, "udp"), Port(81, "udp"))
SCTP_PORTS = (Port(80, "sctp"), Port(81, "sctp"))
"""Nobody serves them; who is asked has got the packet or not (sctp.py)."""
PATIENCE_S = 60.0
_FLIGHT_S = 0.05
"""What a packet between two namespaces of one machine takes at most when nothing holds it up; what comes later than
that and the answers of all destinations counts as never."""
_LATEST_S = 0.9
"""A SYN is sent again after a second."""
_FIRST_PORT, _PORTS_PER_ROUND = 10_000, 40
_ROUNDS = 1_300
"""Source ports are used once in so many rounds: a connection that was let through must not speak for the next."""
_OTHERS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""From which the kernel takes those that nobody asks for: not from ours."""


class Probe(NamedTuple):
    source: str
    destination: str
    port: Port


@dataclass
class Site:
    """A running lab; `enter` a step, then `ask`."""

    layout: Layout
    record: Record
    pods: Pods
    kube: KubeClient
    addresses: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Path] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """Resource -> the newest version written."""
    shown: dict[str, tuple[str, Json]] = field(default_factory=dict)
    """What labels and specs the objects have."""
    steps: int = 0
    rounds: int = 0
    family: socket.AddressFamily = socket.AF_INET
    """By which probes go, and which the vectors' networks mean here."""

    def __post_init__(self) -> None:
        self.sctp = Associations(self.family, self.entries.__getitem__)

    async def run(self, pod: str, node: str) -> None:
        """One pod that stays."""
        key = PodKey(*pod.split("/"))
        await self.pods.ensure_namespace(key.namespace)
        info = await self.pods.add(key, node=node, ports=PORTS, declared=SCTP_PORTS)
        assert info.sandbox is not None
        call_in(info.sandbox.entry, lambda: _OTHERS_PORTS.write_text("62000 65535"))
        [address] = (one for one in info.addresses if (":" in one) == (self.family == socket.AF_INET6))
        self.addresses[pod], self.entries[pod], self.nodes[pod] = address, info.sandbox.entry, node

    # ---- what the API server says

    async def enter(self, step: Json) -> None:
        """Make the cluster that of the step; returns when every node enforces it."""
        for name, labels in step["namespaces"].items():
            if f"{NAMESPACES} None/{name}" not in self.shown:
                await self.pods.ensure_namespace(name)
            await self._label(NAMESPACES, name, None, labels)
        for pod in step["pods"]:
            await self._label(PODS, pod["name"], pod["namespace"], pod["labels"])
        wanted = {
            f"{policy['metadata']['namespace']}/{policy['metadata']['name']}": self._translated(policy, step)
            for policy in step["policies"] or ()
        }
        for name in [known for known in self.shown if known.startswith("policy ")]:
            if name.removeprefix("policy ") not in wanted:
                namespace, _, called = name.removeprefix("policy ").partition("/")
                await self.kube.delete(NETWORK_POLICIES, called, namespace=namespace)
                del self.shown[name]
        for name, policy in wanted.items():
            await self._policy(name, policy)
        await self._mark()
        await self.settled()

    async def _label(self, resource: Any, name: str, namespace: str | None, labels: Mapping[str, str]) -> None:
        known = f"{resource} {namespace}/{name}"
        if self.shown.get(known) == ("", labels):
            return
        patch = [{"op": "add", "path": "/metadata/labels", "value": labels}]
        self._wrote(resource, await self.kube.patch(resource, dict, name, patch, namespace=namespace))
        self.shown[known] = ("", dict(labels))

    async def _policy(self, name: str, policy: Json) -> None:
        known, namespace = f"policy {name}", policy["metadata"]["namespace"]
        if self.shown.get(known) == ("", policy["spec"]):
            return
        body = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **policy}
        try:
            made = await self.kube.create(NETWORK_POLICIES, dict, body, namespace=namespace)
        except Conflict:
            patch = [{"op": "replace", "path": "/spec", "value": policy["spec"]}]
            made = await self.kube.patch(NETWORK_POLICIES, dict, policy["metadata"]["name"], patch, namespace=namespace)
        self._wrote(NETWORK_POLICIES, made)
        self.shown[known] = ("", policy["spec"])

    async def _mark(self) -> None:
        """Write a policy that selects nothing: whoever has seen it has seen what was deleted before, too."""
        self.steps += 1
        body = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "step", "namespace": "default", "annotations": {"step": str(self.steps)}},
            "spec": {"podSelector": {"matchLabels": {"nobody": "has"}}, "policyTypes": ["Ingress"]},
        }
        try:
            made = await self.kube.create(NETWORK_POLICIES, dict, body, namespace="default")
        except Conflict:
            patch = {"metadata": body["metadata"]}
            made = await self.kube.patch(NETWORK_POLICIES, dict, "step", patch, namespace="default")
        self._wrote(NETWORK_POLICIES, made)

    def _wrote(self, resource: Any, made: Json) -> None:
        self.versions[str(resource)] = int(made["metadata"]["resourceVersion"])

    async def settled(self) -> None:
        """Every node's policy service has heard all that was written, and all of it is in the kernel."""

        async def missing() -> str:
            for fact in self.record.nodes:
                corner = self.layout.node(fact.name)
                _, state = await asyncio.to_thread(services.ask, corner, services.named("policy"), "/state")
                heard = {watch["resource"]: watch["resource_version"] for watch in state.get("watches", [])}
                for resource, version in self.versions.items():
                    if int(heard.get(resource) or 0) < version:
                        return f"{fact.name} has heard {resource} up to {heard.get(resource)}, not {version}"
                if not state.get("settled"):
                    return f"{fact.name}: {state.get('enforced')}"
            return ""

        await until(missing, what="the step is enforced", within_s=PATIENCE_S, every_s=0.005)

    def _translated(self, policy: Json, step: Json) -> Json:
        """The vectors' networks mean pods by addresses of their own: the same pods by those that they have here."""
        own = {pod["ip"]: self.addresses[f"{pod['namespace']}/{pod['name']}"] for pod in step["pods"]}
        sixth = self.family == socket.AF_INET6
        bits, nobody = (128, "::") if sixth else (32, "0.0.0.0")
        blocks = {
            "10.244.3.0/24": [self._second_node()],
            "10.244.3.16/28": [f"{own[ip]}/{bits}" for ip in ("10.244.3.20", "10.244.3.30") if ip in own],
            "0.0.0.0/0": [f"{nobody}/0"],
            "0.0.0.0/31": [f"{nobody}/{bits - 1}"],
        }

        def walk(value: Json) -> Json:
            if isinstance(value, list):
                return [walk(entry) for entry in value]
            if not isinstance(value, dict):
                return value
            if "cidr" in value:
                [cidr] = blocks[value["cidr"]]
                excepted = [net for one in value.get("except") or () for net in blocks[one]]
                return {"cidr": cidr, **({"except": excepted} if excepted else {})}
            return {key: walk(entry) for key, entry in value.items()}

        translated: Json = walk(policy)
        return translated

    def _second_node(self) -> str:
        """All z pods, and no others, are in it: the second node's vSwitch, or its part of the VPC's routes."""
        if self.record.options.mode is Mode.VPC_ROUTE:
            return self.layout.node("node2").pod_cidrs[self.family == socket.AF_INET6]
        if self.family == socket.AF_INET6:
            return str(ip_network(f"{self.addresses['z/a']}/64", strict=False))
        return _subnet(self.record.facts("node2").primary_ip)

    # ---- packets

    async def ask(self, probes: Iterable[Probe], allowed: Container[Probe] = ()) -> dict[Probe, str]:
        """`.` for each that was answered, `X` for each that was not, else what went wrong.

        Answers to those in `allowed` may be late, on a machine that has other things to do, but not so late that a
        dropped SYN has been sent again.
        """
        self.rounds += 1
        return await asyncio.to_thread(self._ask, list(probes), allowed)

    def _ask(self, probes: list[Probe], allowed: Container[Probe]) -> dict[Probe, str]:
        with Sockets() as opened:
            answer = {probe: partial(_answer, probe, opened.add(one)) for probe, one in self._send(probes)}
            answer |= self._associate(probes)
            began = time.monotonic()
            for pod in {probe.destination for probe in probes}:
                self._await_reader(pod)
            time.sleep(max(0.0, began + _FLIGHT_S - time.monotonic()))
            answers = {probe: judge() for probe, judge in answer.items()}
            while any(answers[probe] == "X" and probe in allowed for probe in answer):
                if time.monotonic() > began + _LATEST_S:
                    break
                time.sleep(0.01)
                answers |= {probe: answer[probe]() for probe in answer if answers[probe] == "X"}
            return answers

    def _associate(self, probes: list[Probe]) -> dict[Probe, Callable[[], str]]:
        """Those by SCTP are on their way; how each is answered."""
        answer: dict[Probe, Callable[[], str]] = {}
        first = _FIRST_PORT + self.rounds % _ROUNDS * _PORTS_PER_ROUND
        taken = Counter[str]()
        for probe in probes:
            if probe.port.protocol == "sctp":
                port, address = first + taken[probe.source], self.addresses[probe.destination]
                taken[probe.source] += 1
                tag = self.sctp.begin(probe.source, probe.destination, address, probe.port.number, port)
                answer[probe] = partial(self._associated, probe.destination, tag)
        return answer

    def _associated(self, destination: str, tag: int) -> str:
        return "." if self.sctp.arrived(destination, tag) else "X"

    def _send(self, probes: list[Probe]) -> Iterator[tuple[Probe, socket.socket]]:
        for source in dict.fromkeys(probe.source for probe in probes):
            own = [probe for probe in probes if probe.source == source and probe.port.protocol != "sctp"]
            first = _FIRST_PORT + self.rounds % _ROUNDS * _PORTS_PER_ROUND

            def send(own: list[Probe] = own, first: int = first) -> list[tuple[Probe, socket.socket]]:
                return [(probe, self._sent(probe, first + place)) for place, probe in enumerate(own)]

            yield from call_in(self.entries[source], send)

    def _sent(self, probe: Probe, source_port: int) -> socket.socket:
        kind = socket.SOCK_STREAM if probe.port.protocol == "tcp" else socket.SOCK_DGRAM
        one = socket.socket(self.family, kind | socket.SOCK_NONBLOCK)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", source_port))
        one.connect_ex((self.addresses[probe.destination], probe.port.number))
        if kind == socket.SOCK_DGRAM:
            # What rules in its own namespace drop, a sender is told (exclusive-eni).
            with suppress(PermissionError):
                one.send(b"probe")
        return one

    def _await_reader(self, pod: str) -> None:
        """The pod's server has read all that came before now."""
        node = self.layout.node(self.nodes[pod]).netns
        for port in (80, 81):
            one = call_in(node, lambda: socket.socket(self.family, socket.SOCK_DGRAM))
            with closing(one):
                one.settimeout(1.0)
                one.connect((self.addresses[pod], port))
                for _ in range(int(PATIENCE_S)):
                    one.send(b"are you there?")
                    try:
                        one.recv(256)
                        break
                    except TimeoutError:
                        continue
                else:
                    raise AssertionError(f"{pod} does not answer its own node")


class Sockets:
    """Sockets that are closed together."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def add(self, one: socket.socket) -> socket.socket:
        self._held.append(one)
        return one

    def __enter__(self) -> "Sockets":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._held:
            one.close()


def _answer(probe: Probe, one: socket.socket) -> str:
    ready = select.poll()
    if probe.port.protocol == "udp":
        ready.register(one, select.POLLIN)
        if not ready.poll(0):
            return "X"
        try:
            return "." if one.recv(256) else "?"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")
    ready.register(one, select.POLLOUT)
    if not ready.poll(0):
        return "X"
    error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[error] if error else "."


def _subnet(primary: str) -> str:
    """The lab's vSwitches have 20 bits."""
    parts = primary.split(".")
    return f"{parts[0]}.{parts[1]}.{int(parts[2]) & 0xF0}.0/20"


@asynccontextmanager
async def site(name: str, mode: Mode = Mode.SHARED_VETH, stack: Stack = "ipv4") -> AsyncIterator[Site]:
    """Pods a, b, c in x and y on node1 and in z on node2; all reach all. `dual`: asked by IPv6."""
    layout = Layout.of(name)
    options = Options(
        nodes=2,
        mode=mode,
        stack=stack,
        runtime="cni",
        policy=True,
        processes=True,
        delays="none",
        pool=(0, 8) if mode is Mode.EXCLUSIVE_ENI else (2, 8),
        cooldown_s=0.5,
        instance_type="ecs.g6.4xlarge",  # seven pods, where each has an ENI of its own
    )
    record = await lab.up(layout, options, say=lambda line: None)
    try:
        async with AsyncExitStack() as opened:
            pods = await opened.enter_async_context(Pods(layout, {fact.name: "cni" for fact in record.nodes}))
            kube = await opened.enter_async_context(KubeClient(KubeAddress(f"unix://{layout.kube_socket}")))
            made = Site(layout, record, pods, kube, family=socket.AF_INET6 if stack == "dual" else socket.AF_INET)
            opened.callback(made.sctp.close)
            for namespace, node in (("x", "node1"), ("y", "node1"), ("z", "node2")):
                for pod in "abc":
                    await made.run(f"{namespace}/{pod}", node)
            yield made
    finally:
        await lab.down(layout, say=lambda line: None)
