"""Serves typed methods on a Unix socket.

Each call runs in a task of its own, under its caller's deadline and with its caller's request id in the log. A
connection has at most `MAX_RUNNING` calls at work; further ones wait in the kernel, because we stop reading. We
stop reading too while the peer does not take its answers. A peer that speaks garbage is hung up on, alone.

What a handler began it finishes, whoever hangs up meanwhile: the effect is the handler's to complete, and the
caller will ask again. Long polls (`long_poll=True`) have no effect and are cancelled instead.
"""

import asyncio
import os
import select
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, cast

import msgspec

from shared import log as logs
from shared.errors import DeadlineExceeded, Failure, Internal, Invalid, SuiteError, Unavailable
from shared.rpc.address import check_address, listen, peer_uid
from shared.rpc.method import Method, Params, Result
from shared.rpc.wire import (
    MAX_REQUEST,
    MAX_RESPONSE,
    Frames,
    Request,
    WireError,
    encode_failure,
    encode_result,
)

MAX_RUNNING: Final = 256
"""Calls at work per connection. Above the pods that a node can add at once, so it only stops floods."""

Observer = Callable[[str, str, float], None]
"""Told of each finished call: method, error code or "", seconds."""

deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))
"""When the call that this task serves is given up, on the loop's clock: a handler that waits can say why in time."""

log = logs.get(__name__)


class _Entry(NamedTuple):
    method: Method[Any, Any]
    handler: Callable[[Any], Awaitable[Any]]
    long_poll: bool


class Server:
    """An async context manager: listens from entry on; on exit stops accepting, finishes what runs, hangs up."""

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        max_frame: int = MAX_REQUEST,
        allowed_uids: frozenset[int] | None = None,
        drain_s: float = 5.0,
        observe: Observer | None = None,
    ) -> None:
        """`allowed_uids`: whose processes may call; by default root's and our own user's.

        `drain_s`: how long running calls may take to finish when the server closes.
        """
        self.name = name
        self._path = check_address(path)
        self._max_frame = max_frame
        self._allowed_uids = frozenset({0, os.getuid()}) if allowed_uids is None else allowed_uids
        self._drain_s = drain_s
        self._observe = observe
        self._methods: dict[str, _Entry] = {}
        self._connections: set[_Connection] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._inode: tuple[int, int] | None = None
        self._draining = False

    def register(
        self,
        method: Method[Params, Result],
        handler: Callable[[Params], Awaitable[Result]],
        *,
        long_poll: bool = False,
    ) -> None:
        """Serve `method` with `handler`. `long_poll`: it only waits for news, so it may be cancelled at any time."""
        if method.name in self._methods:
            raise ValueError(f"{method.name} has a handler already")
        self._methods[method.name] = _Entry(method, handler, long_poll)

    async def __aenter__(self) -> Self:
        listening = listen(self._path)
        status = os.lstat(self._path)
        self._inode = status.st_dev, status.st_ino
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=listening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._draining = True
        self._unlink()
        self._server.close()
        for connection in self._connections:
            connection.end_polls()
        try:
            if self._running:  # for callers that have hung up, too
                await asyncio.wait(tuple(self._running), timeout=self._drain_s)
        finally:
            running = tuple(self._running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.gather(*(connection.close() for connection in tuple(self._connections)))
            await self._server.wait_closed()

    def _unlink(self) -> None:
        """Remove our socket, unless a successor has put its own there."""
        try:
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _admit(self, uid: int) -> bool:
        return uid in self._allowed_uids and not self._draining

    def _long_poll(self, method: str) -> bool:
        entry = self._methods.get(method)
        return entry is not None and entry.long_poll

    async def _answer(self, request: Request) -> msgspec.Struct | Failure:
        """Run one call to its end; never raises but CancelledError."""
        logs.request_id.set(request.meta.request_id[:64] or logs.new_request_id())
        began = time.perf_counter()
        result: msgspec.Struct | Failure
        try:
            result, code = await self._dispatch(request), ""
        except SuiteError as error:
            log.info("rpc_failed", method=request.method, code=error.code, message=error.message)
            result, code = error.to_failure(), error.code
        except Exception:
            log.exception("rpc_bug", method=request.method)
            bug = Internal(f"a bug in {self.name}; its log has request {logs.request_id.get()}")
            result, code = bug.to_failure(), bug.code
        if self._observe is not None:
            self._observe(request.method, code, time.perf_counter() - began)
        return result

    async def _dispatch(self, request: Request) -> msgspec.Struct:
        if self._draining:
            raise Unavailable(f"{self.name} is stopping")
        entry = self._methods.get(request.method)
        if entry is None:
            raise Invalid(f"{self.name} has no method {request.method}")
        try:
            params = msgspec.convert(request.params, entry.method.params)
        except msgspec.ValidationError as error:
            raise Invalid(f"{request.method}: {error}") from error
        wished = request.meta.deadline_s
        seconds = entry.method.deadline_s if wished is None else wished
        deadline.set(asyncio.get_running_loop().time() + seconds)
        try:
            async with asyncio.timeout_at(deadline.get()) as limit:
                result = await entry.handler(params)
        except TimeoutError as error:
            if not limit.expired():  # the handler's own, which it should have handled
                raise
            raise DeadlineExceeded(f"{self.name} did not finish {request.method} within {seconds:g} s") from error
        if not isinstance(result, entry.method.result):
            raise TypeError(f"{request.method} answers {entry.method.result.__name__}, not {type(result).__name__}")
        return cast(msgspec.Struct, result)


class _Connection(asyncio.Protocol):
    """One caller: what it sent and we have not begun, what runs, and the way back."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._frames = Frames(server._max_frame)
        self._backlog: deque[Request] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._polls: set[asyncio.Task[None]] = set()
        self._choked = False
        self._paused = False
        self._half_closed = False
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._server._connections.add(self)
        uid = peer_uid(transport.get_extra_info("socket"))
        if not self._server._admit(uid):
            log.warning("rpc_peer_refused", uid=uid)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for message in self._frames.feed(data):
                if not isinstance(message, Request):
                    raise WireError("a server is asked, not answered")
                self._backlog.append(message)
                self._start()
        except WireError as error:
            log.warning("rpc_garbage", error=str(error))
            self._backlog.clear()
            self._transport.abort()

    def eof_received(self) -> bool:
        """The peer sends no more. It may still wait for answers, unless it is gone altogether."""
        self._half_closed = True
        if self._peer_is_gone() and self._transport is not None:
            self._transport.abort()
        else:
            self._hang_up_when_done()
        return True

    def pause_writing(self) -> None:
        self._choked = True  # and begin nothing until the peer takes what there is

    def resume_writing(self) -> None:
        self._choked = False
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self)
        self._backlog.clear()
        self.end_polls()
        self._gone.set()

    def _peer_is_gone(self) -> bool:
        """End of file comes for a closed socket and for one half of it; only poll(2) tells which (unix(7))."""
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)  # POLLHUP is always reported
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    # calls

    def _start(self) -> None:
        while self._backlog and not self._choked and len(self._running) < MAX_RUNNING:
            request = self._backlog.popleft()
            task = asyncio.create_task(self._run(request), name=f"{self._server.name}-rpc-{request.method}")
            self._running.add(task)
            self._server._running.add(task)
            if self._server._long_poll(request.method):
                self._polls.add(task)
            task.add_done_callback(self._ended)
        self._regulate()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._server._running.discard(task)
        self._polls.discard(task)
        self._start()
        self._hang_up_when_done()

    async def _run(self, request: Request) -> None:
        try:
            answer = await self._server._answer(request)
        except asyncio.CancelledError:
            self._reply(request, Unavailable(f"{self._server.name} is stopping").to_failure())
            raise
        self._reply(request, answer)

    def _reply(self, request: Request, answer: msgspec.Struct | Failure) -> None:
        if request.id is None or self._transport is None or self._transport.is_closing():
            return
        if isinstance(answer, Failure):
            frame = encode_failure(request.id, answer)
        else:
            frame = self._encode(request.id, request.method, answer)
        self._transport.write(frame)

    def _encode(self, id: int, method: str, answer: msgspec.Struct) -> bytes:
        try:
            frame = encode_result(id, answer)
        except Exception:
            log.exception("rpc_bug", method=method)
            return encode_failure(id, Failure("internal", f"the result of {method} cannot be encoded"))
        if len(frame) > MAX_RESPONSE:
            log.error("rpc_result_too_long", method=method, size=len(frame))
            return encode_failure(id, Failure("internal", f"the result of {method} has {len(frame)} bytes, too many"))
        return frame

    # the flow of bytes

    def _regulate(self) -> None:
        """Read only while all that came is at work."""
        if self._transport is None or self._transport.is_closing():
            return
        full = bool(self._backlog)
        if full != self._paused:
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _hang_up_when_done(self) -> None:
        if self._half_closed and not self._running and not self._backlog and self._transport is not None:
            self._transport.close()

    def end_polls(self) -> None:
        """Nobody will hear their news: the peer is gone, or the server closes."""
        for task in self._polls:
            task.cancel()

    async def close(self) -> None:
        """Hang up; what the peer does not take within a moment it does not get."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(1.0):
                await self._gone.wait()
        except TimeoutError:
            self._transport.abort()
            await self._gone.wait()
