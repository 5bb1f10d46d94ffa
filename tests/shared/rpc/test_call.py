"""Client and server over a real socket, on both event loops: answers, errors, deadlines, floods, deaths, farewells."""

import asyncio
import contextlib
import functools
import inspect
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
import uvloop
from blockbuster import blockbuster_ctx

from shared import errors, log
from shared.errors import (
    DeadlineExceeded,
    Internal,
    Invalid,
    Refused,
    SuiteError,
    Unavailable,
)
from shared.rpc.client import Client
from shared.rpc.method import Method
from shared.rpc.server import MAX_RUNNING, Server


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Services run on uvloop, tests and tools on the standard loop. Afterwards: no task left, nothing complained of."""

    async def checked(given: dict[str, Any]) -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(10):
            await test(**given)
        for _ in range(10):  # the standard loop's server ends its last accept a few turns late
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert complaints == []

    @functools.wraps(test)
    def run(loop: Callable[[], asyncio.AbstractEventLoop], **given: Any) -> None:
        with blockbuster_ctx("shared") as blocker:
            blocker.functions["os.unlink"].deactivate()  # start and stop may touch the socket's file
            blocker.functions["os.mkdir"].deactivate()
            blocker.functions["os.stat"].deactivate()
            # Not asyncio.run: it would drop, unclosed, the loop that the looptime plugin makes for every test.
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(checked(given))

    own = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([own, *inspect.signature(test).parameters.values()])  # type: ignore[attr-defined]
    on_each = pytest.mark.parametrize(
        "loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"]
    )
    return cast(Callable[..., None], on_each(run))


class Say(msgspec.Struct):
    text: str
    times: int = 1


class Said(msgspec.Struct):
    text: str


class Other(msgspec.Struct):
    text: str


SAY = Method("echo.say", Say, Said)
HOLD = Method("echo.hold", Say, Said, deadline_s=20.0)
POLL = Method("echo.poll", Say, Said, deadline_s=20.0)


class Echo:
    """A service whose calls can be held: `entered` counts those at work, `gate` lets them go."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.server = Server(path, name="echo", **options)
        self.gate = asyncio.Event()
        self.entered = 0
        self.finished = 0
        self.most = 0
        self.changed = asyncio.Condition()
        self.server.register(SAY, self.say)
        self.server.register(HOLD, self.hold)
        self.server.register(POLL, self.hold, long_poll=True)

    async def say(self, params: Say) -> Said:
        return Said(params.text * params.times)

    async def hold(self, params: Say) -> Said:
        await self._count(+1)
        try:
            await self.gate.wait()
            self.finished += 1
            return Said(params.text)
        finally:
            await self._count(-1)

    async def _count(self, step: int) -> None:
        async with self.changed:
            self.entered += step
            self.most = max(self.most, self.entered)
            self.changed.notify_all()

    async def at_work(self, number: int) -> None:
        """Wait until exactly so many calls are held."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.entered == number)


@asynccontextmanager
async def echo(path: Path, **options: Any) -> AsyncIterator[Echo]:
    service = Echo(path, **options)
    async with service.server:
        yield service


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    return tmp_path / "echo.sock"


async def eventually(holds: Callable[[], bool]) -> None:
    """Let the loop turn until something holds that nothing announces; the test's own timeout bounds it."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0)


# ---- answers and errors


@on_both_loops
async def test_answers(sock: Path) -> None:
    async with echo(sock), Client(sock) as client:
        assert await client.call(SAY, Say("a", 3)) == Said("aaa")


@on_both_loops
async def test_many_calls_in_flight_are_told_apart(sock: Path) -> None:
    async with echo(sock) as service, Client(sock) as client, asyncio.TaskGroup() as calls:
        held = [calls.create_task(client.call(HOLD, Say(str(number)))) for number in range(100)]
        await service.at_work(100)
        assert await client.call(SAY, Say("past them all")) == Said("past them all")
        service.gate.set()
        assert [(await call).text for call in held] == [str(number) for number in range(100)]


@pytest.mark.parametrize("kind", errors.BY_CODE.values())
@on_both_loops
async def test_every_error_of_the_tree_arrives_as_itself(sock: Path, kind: type[SuiteError]) -> None:
    failing = Method("echo.fail", Say, Said)

    async def fail(params: Say) -> Said:
        raise kind("no pod has it", retry_after=2.5)

    async with echo(sock) as service, Client(sock) as client:
        service.server.register(failing, fail)
        with pytest.raises(kind, match="no pod has it") as caught:
            await client.call(failing, Say(""))
        assert type(caught.value) is kind
        assert caught.value.retry_after == 2.5


@on_both_loops
async def test_a_bug_is_logged_and_stays_inside(sock: Path, caplog: pytest.LogCaptureFixture) -> None:
    failing = Method("echo.fail", Say, Said)

    async def fail(params: Say) -> Said:
        return Said(os.environ["the password"])

    async with echo(sock) as service, Client(sock) as client:
        service.server.register(failing, fail)
        with pytest.raises(Internal, match="a bug in echo") as caught:
            await client.call(failing, Say(""))
        assert "password" not in str(caught.value)
        assert await client.call(SAY, Say("still here")) == Said("still here")
    [record] = [record for record in caplog.records if record.getMessage() == "rpc_bug"]
    assert record.exc_info is not None and record.exc_info[0] is KeyError


@on_both_loops
async def test_a_result_of_the_wrong_type_is_our_bug(sock: Path) -> None:
    async def wrong(params: Say) -> Any:
        return Other("x")

    method = Method("echo.wrong", Say, Said)
    async with echo(sock) as service, Client(sock) as client:
        service.server.register(method, wrong)
        with pytest.raises(Internal, match="a bug in echo"):
            await client.call(method, Say(""))


@on_both_loops
async def test_a_result_that_cannot_be_encoded_is_our_bug(sock: Path) -> None:
    class Odd(msgspec.Struct):
        value: Any

    async def odd(params: Say) -> Odd:
        return Odd(object())

    method = Method("echo.odd", Say, Odd)
    async with echo(sock) as service, Client(sock) as client:
        service.server.register(method, odd)
        with pytest.raises(Internal, match="cannot be encoded"):
            await client.call(method, Say(""))


@on_both_loops
async def test_wrong_params_are_refused_with_their_path(sock: Path) -> None:
    loose = Method("echo.say", Other, Said)
    missing = Method("echo.say", msgspec.defstruct("Nothing", []), Said)
    wrong = Method("echo.say", msgspec.defstruct("Wrong", [("text", str), ("times", str)]), Said)
    async with echo(sock), Client(sock) as client:
        assert await client.call(loose, Other("fits")) == Said("fits")
        with pytest.raises(Invalid, match=r"echo.say: Object missing required field `text`"):
            await client.call(missing, missing.params())
        with pytest.raises(Invalid, match=r"echo.say: Expected `int`, got `str` - at `\$.times`"):
            await client.call(wrong, wrong.params("x", "many"))


@on_both_loops
async def test_an_unknown_method_is_not_a_missing_thing(sock: Path) -> None:
    """NotFound is success to whoever deletes; a neighbour of another version must not look like that."""
    async with echo(sock), Client(sock) as client:
        with pytest.raises(Invalid, match=r"echo has no method echo\.sing"):
            await client.call(Method("echo.sing", Say, Said), Say(""))


@on_both_loops
async def test_an_answer_of_another_shape_is_internal(sock: Path) -> None:
    expecting = Method("echo.say", Say, msgspec.defstruct("Much", [("text", str), ("volume", int)]))
    async with echo(sock), Client(sock) as client:
        with pytest.raises(Internal, match=r"echo answered echo\.say with something else: .*volume"):
            await client.call(expecting, Say("a"))


@on_both_loops
async def test_a_method_has_one_handler(sock: Path) -> None:
    service = Echo(sock)
    with pytest.raises(ValueError, match=r"echo\.say has a handler already"):
        service.server.register(SAY, service.say)


@on_both_loops
async def test_notifications_arrive_and_are_not_answered(sock: Path) -> None:
    async with echo(sock) as service, Client(sock) as client:
        await client.notify(HOLD, Say("psst"))
        await service.at_work(1)
        service.gate.set()
        await service.at_work(0)
        assert await client.call(SAY, Say("a")) == Said("a")
        await client.notify(Method("echo.sing", Say, Said), Say("nobody hears"))
        assert await client.call(SAY, Say("b")) == Said("b")


@on_both_loops
async def test_any_messagepack_rpc_client_can_call(sock: Path) -> None:
    async with echo(sock):
        reader, writer = await asyncio.open_unix_connection(sock)
        writer.write(msgpack.packb([0, 7, "echo.say", [{"text": "a"}]]))
        assert await unpacked(reader) == [1, 7, None, {"text": "a"}]
        await hang_up(writer)


@asynccontextmanager
async def stranger(
    path: Path, greet: Callable[[asyncio.StreamWriter], None]
) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """A server that is not ours; gives the list of connections that it has accepted."""
    accepted: list[asyncio.StreamWriter] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        greet(writer)

    listener = await asyncio.start_unix_server(accept, path)
    try:
        yield accepted
    finally:
        for writer in accepted:
            writer.transport.abort()
        listener.close()
        await listener.wait_closed()
        await asyncio.sleep(0)


async def unpacked(reader: asyncio.StreamReader) -> Any:
    """The next message, as a client that is not ours would read it."""
    unpacker = msgpack.Unpacker()
    while True:
        unpacker.feed(await reader.read(4096))
        for message in unpacker:
            return message


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


# ---- request ids and observation


@on_both_loops
async def test_the_request_id_goes_with_the_call(sock: Path, tmp_path: Path) -> None:
    whose = Method("echo.whose", Say, Said)

    async def tell(params: Say) -> Said:
        return Said(log.request_id.get())

    async with echo(sock) as far, echo(tmp_path / "near.sock") as near:
        async with Client(sock) as to_far, Client(tmp_path / "near.sock") as to_near:
            far.server.register(whose, tell)
            near.server.register(whose, functools.partial(to_far.call, whose))
            log.request_id.set("pod-1")
            assert await to_near.call(whose, Say("")) == Said("pod-1"), "through two services"
            log.request_id.set("")
            first, second = await to_near.call(whose, Say("")), await to_near.call(whose, Say(""))
            assert len(first.text) == len(second.text) == 12 and first != second, "made where there is none"


@on_both_loops
async def test_calls_are_observed(sock: Path) -> None:
    seen: list[tuple[str, str]] = []
    async with echo(sock, observe=lambda method, code, seconds: seen.append((method, code))), Client(sock) as client:
        await client.call(SAY, Say("a"))
        with pytest.raises(Invalid):
            await client.call(Method("echo.sing", Say, Said), Say(""))
    assert seen == [("echo.say", ""), ("echo.sing", "invalid")]


# ---- deadlines and cancellation


@on_both_loops
async def test_the_callers_deadline_ends_the_wait_and_the_work(sock: Path) -> None:
    async with echo(sock) as service, Client(sock) as client:
        with pytest.raises(DeadlineExceeded, match=r"echo.* echo.hold within 0\.05 s"):
            await client.call(HOLD, Say(""), deadline_s=0.05)
        await service.at_work(0)
        assert service.finished == 0
        assert await client.call(SAY, Say("next")) == Said("next"), "a late answer confuses nobody"


@on_both_loops
async def test_the_methods_deadline_counts_for_callers_that_state_none(sock: Path) -> None:
    brief = Method("echo.brief", Say, Said, deadline_s=0.05)
    async with echo(sock) as service:
        service.server.register(brief, service.hold)
        reader, writer = await asyncio.open_unix_connection(sock)
        writer.write(msgpack.packb([0, 1, "echo.brief", [{"text": ""}]]))
        [_, _, failure, _] = await unpacked(reader)
        assert failure["code"] == "deadline_exceeded" and failure["retry_after"] == 1.0
        await hang_up(writer)


@on_both_loops
async def test_a_handlers_own_timeout_is_not_the_callers(sock: Path) -> None:
    async def impatient(params: Say) -> Said:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        raise AssertionError("unreachable")

    method = Method("echo.impatient", Say, Said)
    async with echo(sock) as service, Client(sock) as client:
        service.server.register(method, impatient)
        with pytest.raises(Internal, match="a bug in echo"):
            await client.call(method, Say(""))


@on_both_loops
async def test_a_cancelled_caller_leaves_the_work_alone(sock: Path) -> None:
    async with echo(sock) as service, Client(sock) as client:
        call = asyncio.create_task(client.call(HOLD, Say("a")))
        await service.at_work(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        service.gate.set()
        await service.at_work(0)
        assert service.finished == 1
        assert await client.call(SAY, Say("b")) == Said("b")


@on_both_loops
async def test_a_silent_neighbour_costs_the_deadline_and_no_more(sock: Path) -> None:
    """It accepts, and then nothing: the process is stopped, or its loop is stuck."""
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(os.fspath(sock))
        stuck.listen()
        async with Client(sock) as client:
            with pytest.raises(DeadlineExceeded):
                await client.call(SAY, Say(""), deadline_s=0.05)


# ---- neighbours that are not there, die, or come back


@on_both_loops
async def test_nobody_there_is_unavailable_at_once(sock: Path) -> None:
    async with Client(sock, name="ipam") as client:
        with pytest.raises(Unavailable, match=f"ipam cannot be reached at {sock}: No such file") as caught:
            await client.call(HOLD, Say(""))
        assert caught.value.retry_after is not None
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(sock))
        with pytest.raises(Unavailable, match="refused"):
            await client.call(HOLD, Say(""))
        with pytest.raises(Unavailable):
            await client.notify(SAY, Say(""))


@on_both_loops
async def test_all_calls_in_flight_fail_when_the_connection_dies(sock: Path) -> None:
    async with stranger(sock, lambda writer: writer.transport.abort()), Client(sock) as client:
        outcomes = await asyncio.gather(*(client.call(HOLD, Say("")) for _ in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 10


@on_both_loops
async def test_a_client_finds_the_restarted_neighbour(sock: Path) -> None:
    async with Client(sock) as client:
        for life in range(3):
            async with echo(sock):
                assert await client.call(SAY, Say(str(life))) == Said(str(life))
            with pytest.raises(Unavailable):
                await client.call(SAY, Say(""))


@on_both_loops
async def test_first_calls_at_once_make_one_connection(sock: Path) -> None:
    async with stranger(sock, lambda writer: None) as connections, Client(sock) as client:
        outcomes = await asyncio.gather(
            *(client.call(SAY, Say(""), deadline_s=0.5) for _ in range(20)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {DeadlineExceeded}
        assert len(connections) == 1


@on_both_loops
async def test_a_closed_client_says_so(sock: Path) -> None:
    async with echo(sock) as service:
        async with Client(sock) as client:
            call = asyncio.create_task(client.call(HOLD, Say("")))
            await service.at_work(1)
        with pytest.raises(Unavailable, match="this client closed"):
            await call
        with pytest.raises(Unavailable, match="is closed"):
            await client.call(SAY, Say(""))
        service.gate.set()


@on_both_loops
async def test_a_server_that_talks_garbage_is_unavailable(sock: Path) -> None:
    async with stranger(sock, lambda writer: writer.write(b"HTTP/1.1 200 OK\r\n\r\n")), Client(sock) as client:
        with pytest.raises(Unavailable, match="does not speak our protocol"):
            await client.call(SAY, Say(""))


@on_both_loops
async def test_a_server_that_asks_is_unavailable(sock: Path) -> None:
    question = msgpack.packb([0, 1, "echo.say", [{"text": "who are you?"}]])
    async with stranger(sock, lambda writer: writer.write(question)), Client(sock) as client:
        with pytest.raises(Unavailable, match="a client is answered, not asked"):
            await client.call(SAY, Say(""))


@on_both_loops
async def test_a_server_that_does_not_read_is_not_sent_without_end(sock: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(os.fspath(sock))
        stuck.listen()
        async with Client(sock) as client:
            telling = [asyncio.create_task(client.notify(SAY, Say("x" * 500_000))) for _ in range(20)]
            await asyncio.wait(telling, timeout=0.1)
            assert sum(task.done() for task in telling) < 5, "the others wait for room, in their callers' hands"
            stuck.close()
            outcomes = await asyncio.gather(*telling, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {type(None), Unavailable}


@on_both_loops
async def test_closing_a_client_that_is_connecting(sock: Path) -> None:
    async with echo(sock) as service:
        async with Client(sock) as client:
            call = asyncio.create_task(client.call(HOLD, Say("")))
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="is closed"):
            await call
        assert service.entered == 0


@on_both_loops
async def test_an_oversized_request_hurts_nobody_else(sock: Path) -> None:
    async with echo(sock) as service, Client(sock) as client, asyncio.TaskGroup() as calls:
        neighbour = calls.create_task(client.call(HOLD, Say("neighbour")))
        await service.at_work(1)
        with pytest.raises(Invalid, match=r"a request of \d+ bytes is longer than 1048576"):
            await client.call(SAY, Say("x" * (1 << 20)))
        service.gate.set()
        assert await neighbour == Said("neighbour")


@on_both_loops
async def test_large_answers_pass_and_too_large_ones_are_our_bug(sock: Path) -> None:
    async with echo(sock), Client(sock) as client:
        assert len((await client.call(SAY, Say("x" * 1000, 10_000))).text) == 10_000_000
        with pytest.raises(Internal, match="bytes, too many"):
            await client.call(SAY, Say("x" * 1000, 20_000))


# ---- peers that misbehave


@on_both_loops
async def test_garbage_costs_the_peer_its_own_connection(sock: Path) -> None:
    async with echo(sock, max_frame=1000), Client(sock) as client:
        for garbage in (
            b"\xc1",
            b"GET / HTTP/1.1\r\n\r\n",
            msgpack.packb([0, 1]),
            b"\x00" * 9,
        ):
            reader, writer = await asyncio.open_unix_connection(sock)
            writer.write(garbage)
            assert await ended(reader), garbage
            await hang_up(writer)
            assert await client.call(SAY, Say("fine")) == Said("fine")


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@on_both_loops
async def test_a_frame_beyond_the_limit_is_refused_before_it_is_complete(sock: Path) -> None:
    async with echo(sock, max_frame=1000):
        reader, writer = await asyncio.open_unix_connection(sock)
        writer.write(b"\x94\x00\x01\xa8echo.say\x91\x81\xa4text\xdb\x00\x10\x00\x00" + b"x" * 1100)
        assert await ended(reader)
        await hang_up(writer)


@on_both_loops
async def test_a_slow_writer_holds_up_nobody(sock: Path) -> None:
    frame = msgpack.packb([0, 1, "echo.say", [{"text": "slow"}]])
    async with echo(sock), Client(sock) as client:
        reader, writer = await asyncio.open_unix_connection(sock)
        for byte in frame:
            writer.write(bytes([byte]))
            assert await client.call(SAY, Say("fast")) == Said("fast")
        assert await unpacked(reader) == [1, 1, None, {"text": "slow"}]
        await hang_up(writer)


@on_both_loops
async def test_a_half_closed_caller_gets_its_answer(sock: Path) -> None:
    async with echo(sock) as service:
        reader, writer = await asyncio.open_unix_connection(sock)
        writer.write(msgpack.packb([0, 1, "echo.hold", [{"text": "a"}]]))
        writer.write_eof()
        await service.at_work(1)
        service.gate.set()
        assert await unpacked(reader) == [1, 1, None, {"text": "a"}]
        assert await reader.read() == b"", "and then the server hangs up too"
        await hang_up(writer)


@on_both_loops
async def test_who_does_not_read_is_not_served_without_end(sock: Path) -> None:
    """Answers pile up for a peer that does not take them: the server must stop reading its questions."""
    answered: Counter[str] = Counter()
    question = msgpack.packb([0, 1, "echo.glut", [{"text": "x" * 1000, "times": 100}]])

    def count(method: str, code: str, seconds: float) -> None:
        answered[method] += 1

    async with echo(sock, observe=count) as service, Client(sock) as client:
        service.server.register(Method("echo.glut", Say, Said), service.say)
        glutton = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        glutton.connect(os.fspath(sock))
        stalled = 0
        while stalled < 50 and answered["echo.glut"] < 100:  # turns in which the server took nothing more
            try:
                glutton.send(question)
                stalled = 0
            except BlockingIOError:
                stalled += 1
            await client.call(SAY, Say("others are served"))
        assert answered["echo.glut"] < 20, "so many answers of 100 kB wait for the peer to take them"
        assert answered["echo.say"] >= 50
        glutton.close()


@on_both_loops
async def test_one_connection_has_bounded_calls_at_work(sock: Path) -> None:
    async with echo(sock) as service, Client(sock) as client, asyncio.TaskGroup() as calls:
        flood = [calls.create_task(client.call(HOLD, Say(str(number)))) for number in range(MAX_RUNNING + 100)]
        await service.at_work(MAX_RUNNING)
        service.gate.set()
        assert [(await call).text for call in flood] == [str(number) for number in range(MAX_RUNNING + 100)]
        assert service.most == MAX_RUNNING


@on_both_loops
async def test_work_goes_on_when_the_caller_dies_but_a_poll_ends(sock: Path) -> None:
    async with echo(sock) as service:
        for number, method in enumerate(("echo.hold", "echo.poll"), start=1):
            _, writer = await asyncio.open_unix_connection(sock)
            writer.write(msgpack.packb([0, 1, method, [{"text": ""}]]))
            await service.at_work(number)
            await hang_up(writer)
        await service.at_work(1)
        service.gate.set()
        await service.at_work(0)
        assert service.finished == 1, "the held one, not the poll"


# ---- who may call


@on_both_loops
async def test_other_users_are_refused(sock: Path) -> None:
    async with echo(sock, allowed_uids=frozenset({os.getuid() + 1})), Client(sock) as client:
        with pytest.raises(Unavailable, match="hung up"):
            await client.call(SAY, Say("let me in"))


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
@on_both_loops
async def test_a_process_of_another_user_is_refused(sock: Path) -> None:
    """Even when the file's mode would let it in."""
    async with echo(sock):
        sock.chmod(0o666)
        assert await as_user(0, sock) == b"served"
        assert await as_user(65534, sock) == b"refused"


CALLER = """
import os, socket, sys
os.chdir(os.path.dirname(sys.argv[2]))  # while we may: its parents are closed to others
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
with socket.socket(socket.AF_UNIX) as caller:
    caller.settimeout(10)
    caller.connect(os.path.basename(sys.argv[2]))
    try:
        caller.send(bytes.fromhex(sys.argv[3]))
        print("served" if caller.recv(100) else "refused", end="")
    except (ConnectionResetError, BrokenPipeError):
        print("refused", end="")
"""


async def as_user(uid: int, sock: Path) -> bytes:
    """What a process of user `uid` gets for a well-formed call."""
    sock.parent.chmod(0o711)
    call = msgpack.packb([0, 1, "echo.say", [{"text": "a"}]]).hex()
    process = await asyncio.create_subprocess_exec(
        "/usr/bin/python3", "-ISE", "-c", CALLER, str(uid), os.fspath(sock), call, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out


# ---- farewells


@on_both_loops
async def test_closing_finishes_what_runs(sock: Path) -> None:
    async with Client(sock) as client:
        async with echo(sock) as service:
            call = asyncio.create_task(client.call(HOLD, Say("last words")))
            await service.at_work(1)
            asyncio.get_running_loop().call_soon(service.gate.set)
        assert await call == Said("last words")
    assert not sock.exists()


@on_both_loops
async def test_closing_finishes_what_runs_for_those_who_hung_up(sock: Path) -> None:
    async with echo(sock) as service:
        async with Client(sock) as client:
            call = asyncio.create_task(client.call(HOLD, Say("")))
            await service.at_work(1)
        with pytest.raises(Unavailable):
            await call
        asyncio.get_running_loop().call_later(0.05, service.gate.set)
    assert service.finished == 1


@on_both_loops
async def test_closing_does_not_wait_for_ever(sock: Path) -> None:
    async with Client(sock) as client:
        async with echo(sock, drain_s=0.1) as service:
            call = asyncio.create_task(client.call(HOLD, Say("")))
            await service.at_work(1)
        with pytest.raises(Unavailable, match="echo is stopping"):
            await call


@on_both_loops
async def test_closing_does_not_wait_for_polls(sock: Path) -> None:
    async with Client(sock) as client:
        async with echo(sock, drain_s=3600.0) as service:
            call = asyncio.create_task(client.call(POLL, Say("")))
            await service.at_work(1)
        with pytest.raises(Unavailable, match="echo is stopping"):
            await call


@on_both_loops
async def test_calls_that_come_while_closing_are_told(sock: Path) -> None:
    async with Client(sock) as client:
        async with echo(sock) as service:
            first = asyncio.create_task(client.call(HOLD, Say("first")))
            await service.at_work(1)
            closing = asyncio.create_task(service.server.__aexit__(None, None, None))
            await eventually(lambda: not sock.exists())
            with pytest.raises(Unavailable, match="echo is stopping"):
                await client.call(SAY, Say("too late"))
            service.gate.set()
            assert await first == Said("first")
            await closing


@on_both_loops
async def test_closing_leaves_a_successors_socket(sock: Path) -> None:
    async with contextlib.AsyncExitStack() as outliving:
        async with echo(sock):
            sock.unlink()
            await outliving.enter_async_context(stranger(sock, lambda writer: None))
        assert sock.exists()


@on_both_loops
async def test_a_second_server_is_refused_and_the_first_goes_on(sock: Path) -> None:
    async with echo(sock), Client(sock) as client:
        with pytest.raises(Refused, match="another process listens"):
            async with echo(sock):
                raise AssertionError("unreachable")
        assert await client.call(SAY, Say("a")) == Said("a")


@on_both_loops
async def test_a_reader_that_never_reads_does_not_keep_the_server_from_closing(sock: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        async with echo(sock) as service:
            deaf.connect(os.fspath(sock))
            deaf.send(msgpack.packb([0, 1, "echo.say", [{"text": "x" * 1000, "times": 1000}]]))
            deaf.send(msgpack.packb([2, "echo.hold", [{"text": ""}]]))
            await service.at_work(1)
            service.gate.set()
