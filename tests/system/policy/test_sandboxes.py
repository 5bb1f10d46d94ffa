"""Pods' namespaces: found by what is in them, entered without being held, listened to from outside."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

import pytest

from services.policy.adapters import sandboxes
from services.policy.adapters.kernel import Kernel, take_away_inside
from services.policy.adapters.netns import inside
from services.policy.adapters.nfnetlink import NfSocket, Rejected
from services.policy.adapters.nft_mending import UNKNOWN
from services.policy.adapters.nft_pods_monitor import EVERYBODY, PodsMonitor
from services.policy.adapters.sandboxes import Sought, Where
from services.policy.core.nft.model import Change, difference
from shared.errors import Invalid, NotFound
from tests.system.policy.bench import Bench, bench, namespace, table

pytestmark = pytest.mark.system

ADDRESS = "10.77.0.5"
SOUGHT = {"pod": Sought("eth0", (ADDRESS,))}

T = TypeVar("T")


@pytest.fixture
def node() -> Iterator[Bench]:
    with bench() as made:
        yield made


def wire(node: str, pod: str, link: str, *, address: str = ADDRESS) -> None:
    """A pod with an eth0 whose other end is the node's."""
    for command in (
        f"-n {node} link add {link} type veth peer name eth0 netns {pod}",
        f"-n {pod} addr add {address}/32 dev eth0",
        f"-n {pod} link set eth0 up",
    ):
        run(command)


def run(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def links(netns: str) -> str:
    return subprocess.run(["ip", "-n", netns, "-o", "link"], capture_output=True, text=True, check=True).stdout


def test_a_pod_is_found_by_its_address_and_only_the_nodes_own(node: Bench) -> None:
    with namespace() as pod, namespace() as other_node, namespace() as other_pod:
        wire(other_node, other_pod, "cali1")  # another node, or another lab, has the same address
        assert node.do(lambda: sandboxes.search(SOUGHT)) == {}
        wire(node.name, pod, "cali1")
        found = node.do(lambda: sandboxes.search({**SOUGHT, "nobody": Sought("eth0", ("10.77.0.6",))}))
        assert found.keys() == {"pod"}
        assert found["pod"] == node.do(lambda: sandboxes.at(f"/run/netns/{pod}"))
        assert node.do(lambda: sandboxes.search({"pod": Sought("eth1", (ADDRESS,))})) == {}


def test_a_namespace_is_found_again_when_the_path_has_gone(node: Bench) -> None:
    """As after an ADD, whose path was a descriptor of the runtime's: a process in it is enough."""
    with namespace() as name:
        where = node.do(lambda: sandboxes.at(f"/run/netns/{name}"))
        living = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{name}", "sh", "-c", "echo in; exec sleep 1000"], stdout=subprocess.PIPE
        )
        try:
            assert living.stdout is not None and living.stdout.readline() == b"in\n"
            subprocess.run(["umount", f"/run/netns/{name}"], check=True)

            def enter() -> str:
                with sandboxes.inside(where) as (_, there):
                    return there.path

            assert node.do(enter) == f"/proc/{living.pid}/ns/net"
        finally:
            living.kill()
            living.communicate()
        with pytest.raises(NotFound, match="has ended"):
            node.do(enter)


async def test_nothing_that_was_done_keeps_a_namespace_alive(node: Bench) -> None:
    name = f"{node.name}-pod"
    run(f"netns add {name}")
    wire(node.name, name, "cali1")
    async with kernel_of(node) as kernel:
        where, done = await kernel.keep(await kernel.where(f"/run/netns/{name}"), table(), Change(), UNKNOWN)
        assert done.steps
        change = difference(table(), table(3))
        where, done = await kernel.keep(where, table(3), change, done.generation)
        assert done.steps and done.alone
        run(f"netns del {name}")
        await _until(lambda: "cali1" not in links(node.name))
        with pytest.raises(NotFound):
            await kernel.keep(where, table(), Change(), done.generation)


def test_what_is_no_namespace_is_said(node: Bench) -> None:
    with pytest.raises(NotFound):
        node.do(lambda: sandboxes.at("/run/netns/nobody"))
    with pytest.raises(Invalid):
        node.do(lambda: sandboxes.at("/etc/hostname"))


async def test_a_table_follows_by_changes_and_is_mended_after_others(node: Bench) -> None:
    with bench() as pod:
        async with kernel_of(node) as kernel:
            where = await kernel.where(f"/run/netns/{pod.name}")
            before, after = table(2), table(3, port=8080)
            where, done = await kernel.keep(where, before, Change(), UNKNOWN)
            assert done.alone
            where, done = await kernel.keep(where, after, difference(before, after), done.generation)
            assert done.alone and not done.foreign
            assert pod.reconcile(after) == "", "the change made what is wanted"
            where, again = await kernel.keep(where, after, Change(), done.generation)
            assert again.steps == 0
            pod.nft("flush ruleset")
            assert await kernel.pod_differences(where, after) != ""
            where, mended = await kernel.keep(where, after, Change(), done.generation)
            assert mended.steps and mended.foreign
            assert pod.reconcile(after) == ""
        assert node.nft("list", "tables") == "", "nothing of it is on the node"


@pytest.mark.parametrize(
    ("command", "foreign"),
    [
        ("flush ruleset", True),
        ("delete table inet terway", True),
        ("insert rule inet terway raw accept", True),
        ("delete element inet terway hosts { 10.0.0.2 }", True),
        ("add table inet own", False),
    ],
)
async def test_what_others_did_while_a_policy_changed_is_told_from_the_change(
    command: str, foreign: bool, node: Bench
) -> None:
    with bench() as pod:
        async with kernel_of(node) as kernel:
            where = await kernel.where(f"/run/netns/{pod.name}")
            before = table(2)
            after = table(2, port=8080)
            where, done = await kernel.keep(where, before, Change(), UNKNOWN)
            pod.nft(command)
            where, done = await kernel.keep(where, after, difference(before, after), done.generation)
            assert done.steps and done.foreign is foreign
            assert pod.reconcile(after) == ""


async def test_a_table_that_vanishes_under_a_change_refuses_it_and_is_told_from_it(node: Bench) -> None:
    """Removed after the generation was asked for and before the batch: as with the number that it has then."""
    with bench() as pod:
        async with kernel_of(node) as kernel:
            where = await kernel.where(f"/run/netns/{pod.name}")
            before, after = table(2), table(2, port=8080)
            change = difference(before, after)
            where, done = await kernel.keep(where, before, Change(), UNKNOWN)
            pod.nft("delete table inet terway")
            with inside(f"/run/netns/{pod.name}"), NfSocket() as asked:
                now = asked.generation()
            with pytest.raises(Rejected):
                await kernel.keep(where, after, change, now)
            assert pod.nft("list", "tables") == "", "all of it or nothing"
            where, done = await kernel.keep(where, after, change, UNKNOWN)
            assert done.foreign
            assert pod.reconcile(after) == ""


async def test_many_pods_are_written_side_by_side_with_one_compilation(node: Bench) -> None:
    with ExitStack() as opened:
        names = [opened.enter_context(namespace()) for _ in range(10)]
        async with kernel_of(node) as kernel:
            before, after = table(2), table(2, port=8080)

            async def follow(name: str) -> tuple[Where, str]:
                where = await kernel.where(f"/run/netns/{name}")
                where, done = await kernel.keep(where, before, Change(), UNKNOWN)
                where, done = await kernel.keep(where, after, difference(before, after), done.generation)
                assert done.alone
                return where, await kernel.pod_differences(where, after)

            found = await asyncio.gather(*map(follow, names))
            assert [wrong for _, wrong in found] == [""] * 10
            assert len({where.cookie for where, _ in found}) == 10


def test_off_takes_ours_away_and_nothing_else(node: Bench) -> None:
    with bench() as pod, bench() as stranger:
        wire(node.name, pod.name, "cali1")
        for one in (pod, stranger):
            one.reconcile(table())
            one.nft("add table inet own")
        assert node.do(lambda: take_away_inside(SOUGHT, "terway")) == ["pod"]
        assert node.do(lambda: take_away_inside(SOUGHT, "terway")) == []
        assert pod.nft("list", "tables") == "table inet own\n"
        assert "inet terway" in stranger.nft("list", "tables"), "not a pod of this node's"


async def test_what_others_write_in_a_pod_is_heard_on_the_node() -> None:
    with bench() as node, bench() as pod, bench() as stranger:
        here = await on(node, lambda: sandboxes.at(f"/run/netns/{pod.name}"))
        heard: list[int] = []
        # The socket is of the namespace in which it is made; the loop reads it from anywhere.
        with _monitor(node, heard) as generations:
            for one in (stranger, node):
                await asyncio.to_thread(one.nft, "add table inet terway")
            await asyncio.to_thread(pod.nft, "add table inet own")
            await asyncio.to_thread(pod.nft, "add table inet terway")
            await _until(lambda: heard)
            assert set(heard) == {here.number}
            heard.clear()
            await asyncio.to_thread(pod.nft, "flush ruleset")
            await _until(lambda: heard)
            assert set(heard) == {here.number}
            assert here.number != EVERYBODY
            with inside(f"/run/netns/{pod.name}"), NfSocket() as asked:
                assert generations[-1] == asked.generation()


@asynccontextmanager
async def kernel_of(node: Bench) -> AsyncIterator[Kernel]:
    """Whose threads are born in the node's namespace."""
    kernel = Kernel()
    with inside(f"/run/netns/{node.name}"):
        await kernel.__aenter__()
    try:
        yield kernel
    finally:
        await kernel.__aexit__(None, None, None)


async def on(bench: Bench, act: Callable[[], T]) -> T:
    return await asyncio.to_thread(bench.do, act)


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  the socket is read by the loop
            await asyncio.sleep(0.01)


class _monitor:
    """A monitor that was made in a node's namespace, and is read by this loop."""

    def __init__(self, node: Bench, heard: list[int]) -> None:
        self._path = f"/run/netns/{node.name}"
        self._heard, self._generations = heard, list[int | None]()
        self._monitor = PodsMonitor("terway", self._hear)

    def _hear(self, number: int, generation: int | None) -> None:
        self._heard.append(number)
        self._generations.append(generation)

    def __enter__(self) -> list[int | None]:
        with inside(self._path):
            self._monitor.__enter__()
        return self._generations

    def __exit__(self, *_: object) -> None:
        self._monitor.__exit__()
