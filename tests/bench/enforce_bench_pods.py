"""What enforcing inside pods costs: `python -m tests.bench.enforce_bench_pods [--json]`; needs root.

As `enforce_bench`, in the form of exclusive-eni and shared-ipvlan: 1,000 policies, each in force on this node, 10,000
pods of other nodes, and 100 pods of the node, each with a namespace and a table of its own beside the node's. In one
run: single changes while there is only the node's table; then the tables of all pods; then the same changes, each from
the object's JSON until the node and all pods concerned have it: a pod more, a policy of two pods, a pod of another
node, a policy of all 100. Then packets between two pods whose only rules are their own, in turns with connections that
are only followed, and with nothing. Medians. Goals are those of the node's table; a policy of all pods has none of its
own, and is said. In such a pod nobody else follows connections: the ratio to nothing is what a pod loses.
"""

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from services.policy.adapters.kernel import Kernel
from services.policy.adapters.netns import inside
from services.policy.config import PolicyConfig
from services.policy.core import objects
from services.policy.core.local_pods import LocalPods
from services.policy.core.messages import WorkloadEndpointID
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment
from services.policy.counters import Counters
from services.policy.enforce import Enforcer
from services.policy.pods import Inside, PodTables
from shared.health import Reporter
from shared.model import AttachmentKey, PodKey, host_link_name
from tests.bench.enforce_bench import (
    FOLLOWED,
    GOALS,
    NOTHING,
    PODS,
    POLICIES,
    TRIES,
    TURNS,
    TWO,
    WITH,
    is_local,
    kernel_mb,
    missed,
    placed,
    rate,
    round_trip_us,
    run,
    selecting_all,
    two_pods,
)
from tests.bench.policy_bench import NAMESPACES, Bench
from tests.bench.policy_bench import namespace as a_namespace
from tests.system.policy.bench import bench, namespace

CHANGES = 20
FOLLOWING = "add table inet following { chain c { type filter hook input priority -1; ct state new counter; }; }"
REFRESH_S = 3600.0


class Node:
    """The calculation, and who keeps the kernel: as the service puts them together."""

    def __init__(self, kernel: Kernel, spaces: Iterator[str]) -> None:
        settings = PolicyConfig().settings()
        self.calculation = Bench()
        self.pods = PodTables(settings, kernel)
        self.enforcer = Enforcer(Renderer(settings), kernel, refresh_s=REFRESH_S, pods=self.pods)
        self.inside: list[Inside] = []
        """Who gets a table of its own when it is time."""
        self._spaces = spaces

    def give(self, kind: type[objects.Object], content: Any) -> None:
        self.calculation.give(kind, json.dumps(content).encode())

    def attach(self, name: str, address: str, space: str = "") -> Inside:
        pod, workload = PodKey(*name.split("/")), WorkloadEndpointID("k8s", name, "eth0")
        self.enforcer.attach(Attachment(host_link_name(pod, "eth0"), (address,), workload))
        key = AttachmentKey("bench", name, "eth0")
        return Inside(key, pod, "", (address,), workload, f"/run/netns/{space or next(self._spaces)}")

    def local(self, number: int) -> Inside:
        """A pod of this node."""
        made = placed(number, local=True)
        self.give(objects.Pod, made)
        return self.attach(f"{made['metadata']['namespace']}/{made['metadata']['name']}", made["status"]["podIP"])

    def added(self, number: int) -> None:
        """One more, with a table of its own."""
        self.pods.attach(self.local(number))
        self.enforcer.again()

    def policy(self, number: int, port: int) -> None:
        """A policy of two pods changes."""
        self.give(objects.KubePolicy, selecting_all(number * 5 % POLICIES, port))

    async def applied(self) -> None:
        """All that was said is in force."""
        self.enforcer.take(self.calculation.graph.flush())
        await self.enforcer.in_force()


def everywhere(port: int) -> dict[str, Any]:
    """A policy of all pods."""
    rule = {"action": "Deny", "protocol": "TCP", "destination": {"ports": [port]}}
    return {"metadata": {"name": "everywhere"}, "spec": {"selector": "all()", "types": ["Ingress"], "ingress": [rule]}}


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[None]:
    reporter = Reporter("bench", 60.0, lambda: 0.0)
    tasks = [asyncio.create_task(one.run(reporter)) for one in (node.enforcer, node.pods)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def measured() -> dict[str, float]:
    """All of it."""
    async with AsyncExitStack() as opened:
        spaces = [opened.enter_context(namespace()) for _ in range(100 + CHANGES)]
        pair = opened.enter_context(namespace()), opened.enter_context(namespace())
        here = opened.enter_context(bench())
        with inside(f"/run/netns/{here.name}"):
            kernel = await opened.enter_async_context(Kernel())
        node = Node(kernel, iter(spaces))
        told(node, pair)
        await opened.enter_async_context(running(node))
        node.enforcer.begin()
        await node.applied()
        alone = await repeated("node_only_policy_changed", node, lambda n: node.policy(n, 9091))
        result = await first(node) | alone
        result |= await repeated("pod_added", node, lambda n: node.added(PODS + n))
        result |= await repeated(
            "remote_pod_added", node, lambda n: node.give(objects.Pod, placed(PODS + CHANGES + n, local=False))
        )
        result |= await repeated("policy_changed", node, lambda n: node.policy(n, 9090))
        result |= await repeated(
            "policy_of_all_changed", node, lambda n: node.give(objects.GlobalNetworkPolicy, everywhere(2 + n))
        )
        result |= await counted(node, here.name)
        began = time.perf_counter()
        for held in node.pods._held.values():
            assert held.where is not None
            assert await kernel.pod_differences(held.where, held.table.table) == "", held.inside.pod
        result["look_s"] = time.perf_counter() - began
        return result | await packets(node, pair)


def told(node: Node, pair: tuple[str, str]) -> None:
    """All objects, and who will have a table."""
    for number in range(NAMESPACES):
        node.give(objects.Namespace, a_namespace(number))
    for number in range(POLICIES):
        node.give(objects.KubePolicy, selecting_all(number))
    node.give(objects.GlobalNetworkPolicy, everywhere(1))
    for number in range(PODS):
        if is_local(number):
            node.inside.append(node.local(number))
        else:
            node.give(objects.Pod, placed(number, local=False))
    for content in two_pods():
        node.give(objects.KubePolicy if content.get("kind") == "NetworkPolicy" else objects.Pod, content)
    for (name, address), space in zip(TWO.items(), pair, strict=True):
        node.inside.append(node.attach(name, address, space))
    node.calculation.graph.in_sync()


async def first(node: Node) -> dict[str, float]:
    """The tables of all pods, beside the node's, which is there."""
    gc.collect()
    before, began, worked = kernel_mb(), time.perf_counter(), time.process_time()
    for one in node.inside:
        node.pods.attach(one)
    node.enforcer.again()
    await node.enforcer.in_force()
    took, busy = time.perf_counter() - began, time.process_time() - worked
    assert not node.enforcer.trouble and not list(node.pods.troubles())
    table = node.pods._held[node.inside[0].key].table.table
    return {
        "policies": POLICIES,
        "pods_with_tables": len(node.pods),
        "remote_pods": PODS - len(node.pods) + len(TWO),
        "chains_of_a_pod": len(table.chains),
        "sets_of_a_pod": len(table.sets),
        "elements_of_a_pod": sum(map(len, table.elements.values())),
        "first_apply_s": took,
        "first_apply_cpu_s": busy,
        "kernel_mb": kernel_mb() - before,
    }


async def repeated(what: str, node: Node, change: Callable[[int], None]) -> dict[str, float]:
    """The medians of single changes, until all have it: by the clock, and of the processor."""
    times, busy = [], []
    for number in range(CHANGES):
        began, worked = time.perf_counter(), time.process_time()
        change(number)
        await node.applied()
        times.append((time.perf_counter() - began) * 1e3)
        busy.append((time.process_time() - worked) * 1e3)
    return {f"{what}_ms": statistics.median(times), f"{what}_cpu_ms": statistics.median(busy)}


async def counted(node: Node, here: str) -> dict[str, float]:
    """A look at all counters, the node's and the pods'."""
    counters = Counters(node.enforcer, LocalPods("node-0"), prefixes=("cali",))
    for key, where in node.pods.where().items():
        await counters.inside.made(node.pods._held[key].inside, where)
    with inside(f"/run/netns/{here}"):
        await counters.__aenter__()
    try:
        await counters.refresh()
        assert not counters.trouble
        return {"counters_s": counters.took_s}
    finally:
        await counters.__aexit__(None, None, None)


# ---- packets


async def packets(node: Node, pair: tuple[str, str]) -> dict[str, float]:
    """In turns, so that what else happens on the machine happens to all."""
    rates: dict[str, list[float]] = {WITH: [], FOLLOWED: [], NOTHING: []}
    trips: dict[str, list[float]] = {WITH: [], FOLLOWED: [], NOTHING: []}
    wire(pair)
    for _ in range(TURNS):
        for what in rates:
            await ruled(node, pair, what)
            rates[what].append(await asyncio.to_thread(rate, *pair))
            trips[what].append(await asyncio.to_thread(round_trip_us, *pair))
    middle = statistics.median
    return {
        "gbit_s": middle(rates[WITH]),
        "gbit_s_followed": middle(rates[FOLLOWED]),
        "gbit_s_nothing": middle(rates[NOTHING]),
        "throughput_ratio": middle(rates[WITH]) / middle(rates[FOLLOWED]),
        "ratio_to_nothing": middle(rates[WITH]) / middle(rates[NOTHING]),
        "round_trip_us": middle(trips[WITH]),
        "round_trip_us_followed": middle(trips[FOLLOWED]),
        "round_trip_us_nothing": middle(trips[NOTHING]),
        "added_round_trip_us": middle(trips[WITH]) - middle(trips[NOTHING]),
    }


def wire(pair: tuple[str, str]) -> None:
    """Each has what stands for an ENI of its own; the node has no link of theirs."""
    run(f"ip -n {pair[0]} link add eth0 type veth peer name eth0 netns {pair[1]}")
    for space, address in zip(pair, TWO.values(), strict=True):
        run(f"ip -n {space} addr add {address}/24 dev eth0")
        for link in ("lo", "eth0"):
            run(f"ip -n {space} link set {link} up")


async def ruled(node: Node, pair: tuple[str, str], what: str) -> None:
    """What the packets meet."""
    for space in pair:
        run(f"ip netns exec {space} nft flush ruleset")
        if what == FOLLOWED:
            run(f"ip netns exec {space} nft {FOLLOWING}")
    if what == WITH:
        node.pods.look()
        await node.enforcer.in_force()
        for space in pair:
            assert "fw-bench/" in run(f"ip netns exec {space} nft list table inet terway")


def main(arguments: list[str]) -> int:
    """Prints a table, or JSON; exits 1 when a goal is missed, and missed again by a second and a third measurement."""
    for _ in range(TRIES):
        result: dict[str, Any] = asyncio.run(measured())
        if not (missing := list(missed(result))):
            break
    if "--json" in arguments:
        print(json.dumps(result, indent=2))
    else:
        for name, value in result.items():
            goal = " ".join(map(str, GOALS.get(name, ())))
            print(f"{name:>32} {value:12.3f}" if isinstance(value, float) else f"{name:>32} {value:12}", goal)
    for line in missing:
        print("MISSED", line, file=sys.stderr)
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
