"""Pods' namespaces: found by what is in them, entered without being held, listened to from outside."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from services.policy.adapters import sandboxes
from services.policy.adapters.kernel import UNKNOWN, take_away_inside
from services.policy.adapters.netns import inside
from services.policy.adapters.nft_pods_monitor import EVERYBODY, PodsMonitor
from services.policy.adapters.sandboxes import Sought
from services.policy.core.nft.model import difference
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
        living = subprocess.Popen(["nsenter", f"--net=/run/netns/{name}", "sleep", "1000"])
        try:
            subprocess.run(["umount", f"/run/netns/{name}"], check=True)

            def enter() -> str:
                with sandboxes.inside(where) as (_, there):
                    return there.path

            assert node.do(enter) == f"/proc/{living.pid}/ns/net"
        finally:
            living.kill()
            living.wait()
        with pytest.raises(NotFound, match="has ended"):
            node.do(enter)


def test_nothing_that_was_done_keeps_a_namespace_alive(node: Bench) -> None:
    name = f"{node.name}-pod"
    subprocess.run(["ip", "netns", "add", name], check=True)
    wire(node.name, name, "cali1")
    where = node.do(lambda: sandboxes.at(f"/run/netns/{name}"))
    where, done = node.do(lambda: node.workshop.keep(where, table(), None, UNKNOWN))
    assert done.steps
    subprocess.run(["ip", "netns", "del", name], check=True)
    for _ in range(1000):  # the kernel takes its time over it
        if "cali1" not in links(node.name):
            break
        subprocess.run(["sleep", "0.02"], check=True)
    assert "cali1" not in links(node.name), "the link ends with its namespace"
    with pytest.raises(NotFound):
        node.do(lambda: node.workshop.keep(where, table(), None, done.generation))


def test_what_is_no_namespace_is_said(node: Bench) -> None:
    with pytest.raises(NotFound):
        node.do(lambda: sandboxes.at("/run/netns/nobody"))
    with pytest.raises(Invalid):
        node.do(lambda: sandboxes.at("/etc/hostname"))


def test_a_table_follows_by_changes_and_is_mended_after_others(node: Bench) -> None:
    with bench() as pod:
        where = node.do(lambda: sandboxes.at(f"/run/netns/{pod.name}"))
        before, after = table(2), table(3, port=8080)
        where, done = node.do(lambda: node.workshop.keep(where, before, None, UNKNOWN))
        assert done.alone
        where, done = node.do(lambda: node.workshop.keep(where, after, difference(before, after), done.generation))
        assert done.alone
        assert pod.reconcile(after) == "", "the change made what is wanted"
        where, again = node.do(lambda: node.workshop.keep(where, after, None, done.generation))
        assert again.steps == 0
        pod.nft("flush ruleset")
        assert node.do(lambda: node.workshop.pod_differences(where, after)) != ""
        where, mended = node.do(lambda: node.workshop.keep(where, after, None, done.generation))
        assert mended.steps
        assert pod.reconcile(after) == ""
        assert node.nft("list", "tables") == "", "nothing of it is on the node"


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
        with _monitor(node, heard):
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
        self._monitor = PodsMonitor("terway", heard.append)

    def __enter__(self) -> None:
        with inside(self._path):
            self._monitor.__enter__()

    def __exit__(self, *_: object) -> None:
        self._monitor.__exit__()
