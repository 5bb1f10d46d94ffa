"""NetworkPolicy in mode shared-ipvlan: rules inside pods, and on the node for what passes it; real packets."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.eni_manager.dataplane import Dataplane
from services.policy.adapters.kernel import Kernel
from services.policy.adapters.nft_pods_monitor import PodsMonitor
from services.policy.adapters.sandboxes import Sought
from services.policy.core import objects
from services.policy.core.nft.model import TABLE
from services.policy.pods import Beside
from shared.contracts.policy import Attach, Detach
from shared.model import Mode, PodKey
from tests.conformance import flood
from tests.kernel.needs import needs
from tests.kernel.site import SERVICES, VIP, Site, asked, echo, nft, running, running_on_node2, service, site
from tests.policy.apply.node import PlayedNode, node, pod
from tests.system.dataplane.world import NODE_IP, NODE_IP6, Memory, Sandbox, Space, inhabited, plug, until

pytestmark = [pytest.mark.system, needs(links=("ipvlan",))]


class Case:
    """Pods a and b on the node's first ENI, c on its second, far on another node; a policy of a at a time."""

    def __init__(
        self, world: Site, dataplane: Dataplane, kernel: Kernel, made: PlayedNode, boxes: dict[str, Sandbox]
    ) -> None:
        self.world, self.dataplane, self.kernel, self.made, self.boxes = world, dataplane, kernel, made, boxes

    async def only(self, **spec: Any) -> None:
        """This is the only policy."""
        written = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "one", "namespace": "shop", "uid": "p1"},
            "spec": {"podSelector": {"matchLabels": {"app": "a"}}, **spec},
        }
        read = objects.read(written, objects.KubePolicy)
        assert isinstance(read, objects.KubePolicy)
        self.made.says(read)
        self.made.live.flush()
        await self.made.enforcer.in_force()

    def reached(self, sources: dict[str, Space], to: str, port: int = 7000) -> set[str]:
        """Who is answered."""
        return {name for name, source in sources.items() if asked(source, to, port, within=3)}


def from_app(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    with site() as world:
        async with running(Memory()) as dataplane, running_on_node2(world, Memory()) as second, Kernel() as kernel:
            async with node(bound_s=60.0, kernel=kernel) as made:
                made.begin()
                made.pods.beside(Beside((NODE_IP, NODE_IP6), tuple(SERVICES)))
                boxes = {}
                with ExitStack() as opened:
                    opened.enter_context(PodsMonitor(TABLE, made.pods.heard))
                    for app, eni in (("a", "eth1"), ("b", "eth1"), ("c", "eth2"), ("far", "far")):
                        box = boxes[app] = world.sandbox(eni=eni)
                        host = "node2" if app == "far" else "node1"
                        made.says(pod(f"shop/{app}", uid=app, address=box.ipv4, host=host, app=app))
                        if app != "far":
                            await made.gate.attach(attach(app, box))
                        await plug(second if app == "far" else dataplane, box)
                    yield Case(world, dataplane, kernel, made, boxes)


def attach(app: str, box: Sandbox) -> Attach:
    lease = box.lease
    return Attach(lease.key, PodKey("shop", app), app, Mode.SHARED_IPVLAN, lease.host_link, lease.addresses, box.path)


async def test_what_pods_may_and_what_the_node_judges_for_them(case: Case) -> None:
    world, boxes = case.world, case.boxes
    a = boxes["a"].ipv4
    others: dict[str, Space] = {name: boxes[name] for name in ("b", "c", "far")}
    nodes: dict[str, Space] = {"node": world.node, "node2": world.node2}
    with echo(boxes["a"]), echo(boxes["b"]), echo(boxes["c"]):
        assert case.reached(others | nodes, a) == {"b", "c", "far", "node", "node2"}

        await case.only(policyTypes=["Ingress"])
        assert case.reached(others | nodes, a) == {"node"}, "its own node reaches it, and nobody else"

        await case.only(policyTypes=["Ingress"], ingress=[{"from": [from_app("c"), from_app("far")]}])
        assert case.reached(others | nodes, a) == {"c", "far", "node"}
        # By a Service: the node puts its own address on what it passes on, and judges before.
        service(world.node, a)
        assert case.reached({name: boxes[name] for name in ("b", "c")}, VIP, 80) == {"c"}

        # What a pod sends to a Service is judged by its backend.
        await case.only(policyTypes=["Egress"], egress=[{"to": [from_app("b")]}])
        sender: dict[str, Space] = {"a": boxes["a"]}
        for backend, reached in (("b", {"a"}), ("c", set())):
            service(world.node, boxes[backend].ipv4)
            assert case.reached(sender, VIP, 80) == reached
            # Rules in the sender's own namespace drop it, and say nothing: an error would end this.
            assert case.reached(sender, boxes[backend].ipv4) == reached


async def test_rules_that_are_removed_come_back_and_nothing_outlives_a_pod(case: Case) -> None:
    a = case.boxes["a"]
    others: dict[str, Space] = {name: case.boxes[name] for name in ("b", "c")}
    await case.only(policyTypes=["Ingress"])
    with echo(a):
        assert case.reached(others, a.ipv4) == set()
        nft(a, "flush ruleset")
        await until(lambda: case.made.restored == ["shop/a"])
        assert case.reached(others, a.ipv4) == set()
    with inhabited(a):  # after a restart
        found = await case.kernel.search(
            {"a": Sought("eth0", tuple(a.lease.addresses)), "b": Sought("eth1", (a.ipv4,))}
        )
    assert {name: where.inode[1] for name, where in found.items()} == {"a": os.fstat(a.fd).st_ino}
    await case.made.gate.detach(Detach(a.lease.key))
    assert len(case.made.pods) == 2
    await not_one_packet(case)


async def not_one_packet(case: Case) -> None:
    """A neighbour floods the addresses from before the pods are wired until after: nothing gets in."""
    boxes = [case.world.sandbox(eni="eth1") for _ in range(3)]
    with flooding(case.boxes["b"], [box.ipv4 for box in boxes]):
        for number, box in enumerate(boxes):
            name = f"new{number}"
            case.made.says(pod(f"shop/{name}", uid=name, app="a"))
            await case.made.gate.attach(attach(name, box))
            await plug(case.dataplane, box)
            await until(partial(is_flooded, box), within_s=60)
        assert [came(box, "InDelivers") for box in boxes] == [0, 0, 0]


@contextmanager
def flooding(source: Space, addresses: Sequence[str]) -> Iterator[None]:
    with source.inside():
        argv = [sys.executable, "-ISE", flood.__file__, "7000", *addresses]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def is_flooded(box: Sandbox) -> bool:
    return came(box, "InReceives") > 100


def came(box: Sandbox, counter: str) -> int:
    """What the pod's stack was ever given by IPv4: before its rules (InReceives), and behind them (InDelivers)."""
    with box.inside():
        return packets(counter)


def packets(counter: str) -> int:
    names, numbers = (line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()[:2])
    return int(numbers[names.index(counter)])
