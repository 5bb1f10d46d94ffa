"""Cyclonus' cells in mode shared-ipvlan: nine pods of one node on two ENIs, real slaves and packets.

A sample of the steps without networks, whose addresses mean other pods here; TERWAY_CELLS says of how many steps, of
which there are 207. A step takes two seconds in the guest.
"""

import asyncio
import json
import os
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from services.policy.adapters.kernel import Kernel
from services.policy.core import objects
from services.policy.pods import Beside
from shared.contracts.policy import Attach
from shared.kube.resources import NETWORK_POLICIES
from shared.model import Mode, PodKey
from tests.kernel.needs import needs
from tests.kernel.site import SERVICES, Site, running, site
from tests.policy.apply.node import HOST, PlayedNode, node
from tests.policy.conftest import vectors
from tests.system.dataplane.world import NODE_IP, NODE_IP6, Memory, Sandbox, Space, plug

__all__ = ["vectors"]
pytestmark = [pytest.mark.system, needs(links=("ipvlan",))]

SAMPLE = int(os.environ.get("TERWAY_CELLS", "6"))
PORTS = (("TCP", 80), ("TCP", 81), ("UDP", 80), ("UDP", 81))
PATIENCE_S, FLIGHT_S = 20.0, 0.3

Json = Any


class Probe(NamedTuple):
    source: str
    destination: str
    protocol: str
    port: int


class Nine:
    """The pods, with servers in each, and what the API server says of them."""

    def __init__(self, made: PlayedNode, boxes: dict[str, Sandbox]) -> None:
        self.made, self.boxes = made, boxes
        self.policies: set[tuple[str, str]] = set()

    async def enter(self, step: Json) -> None:
        """Make the cluster that of the step; returns when it is in force."""
        for name, labels in step["namespaces"].items():
            self.made.says(objects.Namespace(metadata=objects.Metadata(name=name, uid=name, labels=labels)))
        for one in step["pods"]:
            self.made.says(written(f"{one['namespace']}/{one['name']}", one["labels"]))
        wanted = set()
        for policy in step["policies"] or ():
            meta = policy["metadata"]
            wanted.add((meta["namespace"], meta["name"]))
            body = {**policy, "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
            read = objects.read(body, objects.KubePolicy)
            assert isinstance(read, objects.KubePolicy), NETWORK_POLICIES
            self.made.says(read)
        for namespace, name in self.policies - wanted:
            self.made.live.delete(objects.KubePolicy, namespace, name)
        self.policies = wanted
        self.made.live.flush()
        await self.made.enforcer.in_force()

    def passed(self, probes: list[Probe], allowed: set[Probe]) -> set[Probe]:
        """Those whose packet came through."""
        with ExitStack() as opened:
            udp = {
                (name, port): opened.enter_context(inside(box, socket.SOCK_DGRAM, port))
                for name, box in self.boxes.items()
                for port in (80, 81)
            }
            for box in self.boxes.values():
                for port in (80, 81):
                    opened.enter_context(inside(box, socket.SOCK_STREAM, port)).listen(64)
            tcp: dict[int, tuple[Probe, socket.socket]] = {}
            for number, probe in enumerate(probes):
                to = (self.boxes[probe.destination].ipv4, probe.port)
                kind = socket.SOCK_STREAM if probe.protocol == "TCP" else socket.SOCK_DGRAM
                one = opened.enter_context(inside(self.boxes[probe.source], kind))
                if probe.protocol == "TCP":
                    one.connect_ex(to)
                    tcp[one.fileno()] = probe, one
                else:
                    with suppress(PermissionError):  # rules in its own namespace drop it
                        one.sendto(str(number).encode(), to)
            return self._collect(probes, allowed, tcp, list(udp.values()))

    def _collect(
        self,
        probes: list[Probe],
        allowed: set[Probe],
        tcp: dict[int, tuple[Probe, socket.socket]],
        servers: list[socket.socket],
    ) -> set[Probe]:
        poll, passed = select.poll(), set()
        by_number = {one.fileno(): one for one in servers}
        for number in by_number:
            poll.register(number, select.POLLIN)
        for number in tcp:
            poll.register(number, select.POLLOUT)
        waited = 0.0
        while waited < PATIENCE_S:
            found = poll.poll(int(FLIGHT_S * 1000))
            for number, _ in found:
                if number in tcp:
                    probe, one = tcp[number]
                    poll.unregister(number)
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        passed.add(probe)
                else:
                    passed.add(probes[int(by_number[number].recv(64))])
            if not found:
                waited += FLIGHT_S
                if allowed <= passed:  # and for as long as a packet may take nothing else came
                    break
        return passed


@contextmanager
def inside(space: Space, kind: int, port: int = 0) -> Iterator[socket.socket]:
    """A socket in the namespace."""
    with space.inside():
        one = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    with one:
        if port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", port))
        yield one


def written(name: str, labels: dict[str, str]) -> objects.Pod:
    namespace, _, called = name.partition("/")
    ports = tuple(objects.ContainerPort(port, f"serve-{port}-{word.lower()}", word) for word, port in PORTS)
    return objects.Pod(
        metadata=objects.Metadata(name=called, namespace=namespace, uid=name, labels=labels),
        spec=objects.PodSpec(node_name=HOST, containers=(objects.Container(ports),)),
    )


async def wired(world: Site, made: PlayedNode, name: str, eni: str) -> tuple[Attach, Sandbox]:
    box = world.sandbox(eni=eni)
    key, lease = PodKey(*name.split("/")), box.lease
    made.says(written(name, {}))
    attach = Attach(lease.key, key, name, Mode.SHARED_IPVLAN, lease.host_link, lease.addresses, box.path)
    return attach, box


@pytest.fixture
async def nine() -> AsyncIterator[Nine]:
    with site() as world:
        async with running(Memory()) as dataplane, Kernel() as kernel, node(bound_s=60.0, kernel=kernel) as made:
            for namespace in "xyz":
                made.says(objects.Namespace(metadata=objects.Metadata(name=namespace, uid=namespace)))
            made.begin()
            made.pods.beside(Beside((NODE_IP, NODE_IP6), tuple(SERVICES)))
            boxes: dict[str, Sandbox] = {}
            for place, name in enumerate(f"{namespace}/{pod}" for namespace in "xyz" for pod in "abc"):
                attach, boxes[name] = await wired(world, made, name, "eth1" if place % 2 else "eth2")
                await made.gate.attach(attach)
                await plug(dataplane, boxes[name])
            yield Nine(made, boxes)


def chosen(document: Json) -> list[tuple[str, Json]]:
    """Name and content of steps, evenly chosen."""
    found = [
        (f"{case['id']} step {number}: {case['description']}", step)
        for case in document["cases"]
        for number, step in enumerate(case["steps"])
        if len(step["pods"]) == 9 and '"cidr"' not in json.dumps(step["policies"])
    ]
    return [found[place * len(found) // SAMPLE] for place in range(SAMPLE)]


async def test_every_cell(vectors: Path, nine: Nine) -> None:
    steps = chosen(json.loads((vectors / "cyclonus_vectors.json").read_text()))
    asked = denied = 0
    for name, step in steps:
        await nine.enter(step)
        names = [f"{pod['namespace']}/{pod['name']}" for pod in step["pods"]]
        cells = {
            Probe(source, destination, protocol, port): cell
            for protocol, port in PORTS
            if f"{protocol}/{port}" in step["expected"]
            for source, row in zip(names, step["expected"][f"{protocol}/{port}"], strict=True)
            for destination, cell in zip(names, row, strict=True)
            if source != destination
        }
        allowed = {probe for probe, cell in cells.items() if cell == "."}
        passed = await asyncio.to_thread(nine.passed, list(cells), allowed)
        assert passed == allowed, f"{name}: wrong {sorted(passed ^ allowed)[:5]}"
        asked, denied = asked + len(cells), denied + len(cells) - len(allowed)
    assert asked >= 72 * len(steps)
    assert 0 < denied < asked
