"""Deferred DELs beside ADDs of the same attachment, with neighbours that are RPC servers."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.cni_shim.adapters.peers import Peer, to_the_end
from services.cni_shim.adapters.spool import MARGIN_NS, Spool
from services.cni_shim.core.frame import Call
from services.cni_shim.core.request import Add, parse
from services.cni_shim.loops import honour_notes
from services.cni_shim.pipeline import Budget, Peers, Pipeline
from services.cni_shim.turns import Turns
from shared.contracts import eni, ipam, policy
from shared.errors import Exhausted, Unavailable
from shared.model import AttachmentKey, EniId, Ip, Mac, Mode, PodKey
from shared.rpc.client import Client
from shared.rpc.method import Method
from shared.rpc.server import Server

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
}
CALL = Call(3, 60, ENV, b'{"cniVersion": "1.1.0", "name": "terway", "type": "terway"}')
KEY = AttachmentKey("terway", "c1", "eth0")
LEASE = ipam.Lease(
    KEY, PodKey("shop", "web-0"), "", Mode.SHARED_VETH, "cali0", EniId("eni-1"), Mac("m"), ipv4=Ip("192.168.0.5")
)


class Node:
    """Three servers that write down what they are asked, and a pipeline."""

    def __init__(self, directory: Path) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.before: dict[str, Callable[[], object]] = {}
        self.spool = Spool(directory / "spool")
        self._directory = directory

    async def open(self, stack: AsyncExitStack) -> None:
        answers: dict[str, list[tuple[Method[Any, Any], msgspec.Struct]]] = {
            "ipam": [(ipam.ACQUIRE, LEASE), (ipam.RELEASE, ipam.Released())],
            "eni": [(eni.PLUG, eni.Plugged(Mac("m"), Mac("h"), 1500)), (eni.UNPLUG, eni.Unplugged())],
            "policy": [(policy.ATTACH, policy.Attached(True)), (policy.DETACH, policy.Detached())],
        }
        peers = {}
        for name, methods in answers.items():
            path = self._directory / f"{name}.sock"
            server = Server(path, name=name)
            for method, answer in methods:
                self._register(server, method, answer)
            await stack.enter_async_context(server)
            peers[name] = Peer(await stack.enter_async_context(Client(path)), path)
        self.pipeline = Pipeline(Peers(**peers), self.spool, Turns())

    def _register(self, server: Server, method: Method[Any, Any], answer: msgspec.Struct) -> None:
        async def handle(params: msgspec.Struct) -> msgspec.Struct:
            self.calls.append(method.name)
            self.before.get(method.name, lambda: None)()
            if (failure := self.fails.get(method.name)) is not None:
                raise failure
            return answer

        server.register(method, handle)

    async def add(self) -> None:
        request = parse(CALL.env, CALL.stdin)
        assert isinstance(request, Add)
        await self.pipeline.add(request, "/proc/1/fd/3", CALL, Budget.within(5))

    def took(self) -> list[str]:
        """What has been asked since the last look."""
        taken, self.calls[:] = list(self.calls), []
        return taken


DISCONNECTED = ["policy.detach", "eni.unplug", "ipam.release"]
CONNECTED = ["ipam.acquire", "eni.plug", "policy.attach"]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    async with AsyncExitStack() as stack:
        await node.open(stack)
        yield node


async def test_a_note_is_honoured_before_an_add_of_its_attachment(node: Node) -> None:
    await node.spool.leave(CALL)
    await node.add()
    assert node.took() == DISCONNECTED + CONNECTED
    assert await node.spool.notes() == []


async def test_a_note_does_not_undo_a_later_add(node: Node) -> None:
    await node.spool.leave(CALL)
    (read_before,) = await node.spool.notes()
    await node.add()
    node.took()
    await node.pipeline.honour(read_before, asyncio.get_running_loop().time() + 5)
    assert node.took() == []


async def test_notes_of_others_do_not_concern_an_add(node: Node) -> None:
    await node.spool.leave(msgspec.structs.replace(CALL, env={**ENV, "CNI_CONTAINERID": "c2"}))
    await node.add()
    assert node.took() == CONNECTED
    assert len(await node.spool.notes()) == 1


async def test_notes_wait_while_a_neighbour_is_away_and_then_go(node: Node) -> None:
    for container in ("c1", "c2", "c3"):
        await node.spool.leave(msgspec.structs.replace(CALL, env={**ENV, "CNI_CONTAINERID": container}))
    node.fails["eni.unplug"] = Unavailable("away")
    await honour_notes(node.spool, node.pipeline)
    assert node.took() == ["policy.detach", "eni.unplug"], "the others would find it away as well"
    node.fails.clear()
    await honour_notes(node.spool, node.pipeline)
    assert node.took() == DISCONNECTED * 3
    assert await node.spool.notes() == []


async def test_a_note_that_fails_does_not_keep_the_others(node: Node) -> None:
    for container in ("c1", "c2"):
        await node.spool.leave(msgspec.structs.replace(CALL, env={**ENV, "CNI_CONTAINERID": container}))
    node.fails["eni.unplug"] = Exhausted("strange")
    await honour_notes(node.spool, node.pipeline)
    assert node.took() == ["policy.detach", "eni.unplug"] * 2
    assert len(await node.spool.notes()) == 2


@pytest.mark.parametrize("step", CONNECTED)
async def test_a_failed_add_is_taken_back_whole(node: Node, step: str) -> None:
    node.fails[step] = Exhausted("no")
    with pytest.raises(Exhausted):
        await node.add()
    begun = CONNECTED[: CONNECTED.index(step) + 1]
    assert node.took() == begun + DISCONNECTED


async def test_an_undo_that_cannot_be_done_is_noted_and_the_first_error_told(node: Node) -> None:
    node.fails |= {"eni.plug": Exhausted("the first"), "eni.unplug": Unavailable("the second")}
    with pytest.raises(Exhausted, match="the first"):
        await node.add()
    assert "ipam.release" not in node.took(), "what may be wired is not released"
    assert [note.request.key for note in await node.spool.notes()] == [KEY]


async def test_an_undo_that_can_neither_be_done_nor_noted_does_not_hide_the_error(node: Node) -> None:
    node.before["eni.plug"] = lambda: node.spool.directory.write_text("a file is in the way")
    node.fails |= {"eni.plug": Exhausted("the first"), "eni.unplug": Unavailable("the second")}
    with pytest.raises(Exhausted, match="the first"):
        await node.add()


async def test_a_spool_that_cannot_be_read_holds_adds_up(node: Node) -> None:
    node.spool.directory.write_text("a file is in the way")
    with pytest.raises(Unavailable, match="spool"):
        await node.add()
    assert node.took() == []


async def test_to_the_end() -> None:
    event = asyncio.Event()
    ended = []

    async def work() -> None:
        await event.wait()
        ended.append(True)

    waiting = asyncio.create_task(to_the_end(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    event.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


async def test_a_note_is_seen_at_once_however_the_clock_ticks(node: Node) -> None:
    """The look costs one stat when nothing changed; it must never miss what came in the tick of the last look."""
    assert await node.spool.notes() == []
    for count in range(1, 30):
        await node.spool.leave(msgspec.structs.replace(CALL, env={**ENV, "CNI_CONTAINERID": f"c{count}"}))
        assert len(await node.spool.notes()) == count
    aged = time.time_ns() - 10 * MARGIN_NS
    os.utime(node.spool.directory, ns=(aged, aged))
    assert len(await node.spool.notes()) == len(await node.spool.notes()) == 29
    await node.spool.leave(CALL)
    assert len(await node.spool.notes()) == 30
