"""Peers that flood addresses from before pods have them until after they run, and what the pods ever got of it."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

from compose.lab.netns import call_in
from compose.lab.pods import PodInfo
from compose.lab.serve import Port
from compose.lab.waiting import until
from shared.errors import SuiteError
from shared.model import Mode, PodKey
from tests.conformance import flood
from tests.conformance.cases import policy, step
from tests.conformance.site import PATIENCE_S, Site

Count = Callable[[], tuple[int, int]]
"""Packets by IPv4 and by IPv6 that the calling thread's namespace has ever received."""

NAMESPACE = "flooded"
CLOSED = policy("closed", NAMESPACE, podSelector={"matchLabels": {"closed": "yes"}})


class Flood:
    """A flood that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self._said = process.stdout

    async def goes_on(self) -> None:
        """Thousands more are on their way."""
        await asyncio.to_thread(self._thousands)

    def _thousands(self) -> None:
        for _ in range(2):
            assert self._said.readline(), "the flood has ended"


@contextmanager
def flooding(cluster: Site, pod: str, addresses: list[str]) -> Iterator[Flood]:
    """The pod sends to all of them, all the time."""
    argv = ["nsenter", f"--net={cluster.entries[pod]}", sys.executable, "-ISE", flood.__file__, "80", *addresses]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        yield Flood(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def received_by_closed_pods(
    cluster: Site, starts: int, at_once: int, count: Count, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> list[tuple[int, int]]:
    """What each of so many new pods of node2, closed by a policy, got from a pod of its node and one of another.

    `meanwhile` is done with each pod that got through; then one that fails to start is started again, as by kubelet.
    """
    await cluster.pods.ensure_namespace(NAMESPACE)
    await cluster.enter(step(CLOSED))
    wanted = targets(cluster)
    numbers = itertools.count()
    with flooding(cluster, "x/a", wanted) as far, flooding(cluster, "z/a", wanted) as near:
        came = await received(cluster, f"open{next(numbers)}", {}, (far, near), count)
        dual = cluster.record.options.stack == "dual"
        assert all(came if dual else came[:1]), f"of the flood {came} packets reach what is open"
        waiting, patient = asyncio.Semaphore(at_once), meanwhile is not None
        got: list[tuple[int, int]] = []
        through = asyncio.Event()

        async def started() -> None:
            name = f"closed{next(numbers)}"
            async with waiting:
                got.append(await received(cluster, name, {"closed": "yes"}, (far, near), count, patient=patient))
                through.set()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(starts):
                tasks.create_task(started())
            while meanwhile is not None and len(got) < starts:
                await meanwhile()
                await through.wait()
                through.clear()
        return got


async def received(
    cluster: Site, name: str, labels: dict[str, str], floods: Iterable[Flood], count: Count, *, patient: bool = False
) -> tuple[int, int]:
    """How many packets a new pod of node2 has received when it has run for a while, by the kernel's counters."""
    key = PodKey(NAMESPACE, name)
    info = await _run(cluster, key, labels, patient=patient)
    assert info.sandbox is not None
    assert set(info.addresses) <= set(targets(cluster)), f"nobody floods {info.addresses}"
    try:
        for one in floods:
            await one.goes_on()
        return await asyncio.to_thread(call_in, info.sandbox.entry, count)
    finally:
        await _end(cluster, key, patient=patient)


async def _run(cluster: Site, key: PodKey, labels: dict[str, str], *, patient: bool) -> PodInfo:
    made: list[PodInfo] = []

    async def missing() -> str:
        try:
            made.append(await cluster.pods.add(key, node="node2", labels=labels, ports=[Port(80, "udp")]))
        except SuiteError as error:
            if not patient:
                raise
            await _end(cluster, key, patient=True)
            return error.message
        return ""

    await until(missing, what=f"{key} runs", within_s=PATIENCE_S, every_s=0.05)
    return made[0]


async def _end(cluster: Site, key: PodKey, *, patient: bool) -> None:
    async def missing() -> str:
        try:
            await cluster.pods.delete(key)
        except SuiteError as error:
            if not patient:
                raise
            return error.message
        return ""

    await until(missing, what=f"{key} has ended", within_s=PATIENCE_S, every_s=0.05)


def targets(cluster: Site) -> list[str]:
    """What new pods of node2 may get: the first addresses of its vSwitch, or all of its part of the VPC's routes."""
    own, ranges = cluster.record.facts("node2"), cluster.layout.node("node2").pod_cidrs
    if cluster.record.options.mode is Mode.VPC_ROUTE:
        networks, last = ranges, 254
    else:
        networks, last = [f"{own.primary_ip}/24", f"{own.primary_ipv6}/64" if own.primary_ipv6 else ""], 60
    if cluster.record.options.stack != "dual":
        networks = networks[:1]
    found = [str(ip_network(net, strict=False)[place]) for net in networks for place in range(2, last)]
    return [address for address in found if address not in cluster.addresses.values()]


def at_the_link() -> tuple[int, int]:
    """What its links gave it, but for what neighbours need to find each other."""
    return _fourth("InReceives"), _sixth()


def behind_the_rules() -> tuple[int, int]:
    """What got through to its sockets, where rules are inside."""
    return _fourth("InDelivers"), _sixth()


def _fourth(counter: str) -> int:
    names, numbers = (line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()[:2])
    return int(numbers[names.index(counter)])


def _sixth() -> int:
    """Datagrams that came to anybody or to nobody, and what came before there was a way for it. ICMPv6 is how
    neighbours find each other, and is let in; what they say to all may come before there is a way, too."""
    path = Path("/proc/thread-self/net/snmp6")
    if not path.exists():
        return 0
    counters = {name: int(number) for name, number in map(str.split, path.read_text().splitlines())}
    astray = counters["Ip6InAddrErrors"] + counters["Ip6InNoRoutes"] - counters["Ip6InMcastPkts"]
    return sum(counters[f"Udp6{name}"] for name in ("InDatagrams", "NoPorts", "InErrors")) + max(0, astray)
