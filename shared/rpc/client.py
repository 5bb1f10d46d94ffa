"""Calls one neighbour: one connection, many calls in flight, reconnects by itself.

A call fails at once with Unavailable when nobody listens or when the connection dies under it; whether and when to
try again is the caller's decision, since only the caller knows whether somebody still waits. Every method of ours
is idempotent on its key, so trying again is safe.
"""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import msgspec

from shared import errors
from shared.errors import DeadlineExceeded, Internal, Invalid, SuiteError, Unavailable
from shared.log import request_id
from shared.rpc.address import check_address
from shared.rpc.method import Method, Params, Result
from shared.rpc.wire import MAX_REQUEST, MAX_RESPONSE, Frames, Meta, Response, WireError, encode_request


class Client:
    """An async context manager; the connection is made by the first call, not on entry."""

    def __init__(self, path: str | Path, *, name: str = "") -> None:
        """`name` is what messages call the neighbour; by default the socket's name, `ipam` for `ipam.sock`."""
        self._path = check_address(path)
        self._name = name or Path(path).stem
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._last_id = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        if self._connection is not None:
            await self._connection.close()

    async def call(self, method: Method[Params, Result], params: Params, *, deadline_s: float | None = None) -> Result:
        """Ask and wait, at most `deadline_s` seconds (default: the method's own).

        Raises the SuiteError that the neighbour answered with; Unavailable when it cannot be reached or hangs up;
        DeadlineExceeded when the answer did not come in time, in which case the effect may have happened.
        """
        seconds = method.deadline_s if deadline_s is None else deadline_s
        ends = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(ends):
                connection = await self._connected()
                id = self._last_id = (self._last_id + 1) & 0xFFFFFFFF  # the specification's ids have 32 bits
                response = await connection.ask(id, self._encode(id, method, params, ends))
        except TimeoutError:
            raise DeadlineExceeded(f"{self._name} did not answer {method.name} within {seconds:g} s") from None
        if response.failure is not None:
            raise errors.from_failure(response.failure)
        try:
            return msgspec.convert(response.result, method.result)
        except msgspec.ValidationError as error:
            raise Internal(f"{self._name} answered {method.name} with something else: {error}") from error

    async def notify(self, method: Method[Params, Result], params: Params) -> None:
        """Tell, without waiting for an answer; raises Unavailable when there is nobody to tell."""
        try:
            async with asyncio.timeout(method.deadline_s):
                connection = await self._connected()
                await connection.send(self._encode(None, method, params, None))
        except TimeoutError:
            raise DeadlineExceeded(f"{self._name} did not take {method.name} in time") from None

    def _encode(self, id: int | None, method: Method[Params, Result], params: Params, ends: float | None) -> bytes:
        remaining = None if ends is None else max(0.0, ends - asyncio.get_running_loop().time())
        frame = encode_request(id, method.name, params, Meta(remaining, request_id.get()))
        if len(frame) > MAX_REQUEST:
            raise Invalid(f"{method.name}: a request of {len(frame)} bytes is longer than {MAX_REQUEST}")
        return frame

    async def _connected(self) -> "_Connection":
        if (connection := self._connection) is not None and connection.usable:
            return connection
        async with self._connecting:
            self._check_open()
            if (connection := self._connection) is not None and connection.usable:
                return connection
            try:
                _, connection = await asyncio.get_running_loop().create_unix_connection(
                    lambda: _Connection(self._name), self._path
                )
            except OSError as error:
                raise Unavailable(
                    f"{self._name} cannot be reached at {self._path}: {error.strerror or error}"
                ) from error
            self._connection = connection
            self._check_open()  # it may have been closed while we were connecting
            return connection

    def _check_open(self) -> None:
        if self._closed:
            if self._connection is not None:
                self._connection.abort()
            raise Unavailable(f"the client of {self._name} is closed")


class _Connection(asyncio.Protocol):
    """One connected socket and the calls that wait on it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._frames = Frames(MAX_RESPONSE)
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._why = "hung up"

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, id: int, frame: bytes) -> Response:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[id] = answer
        try:
            await self.send(frame)
            return await answer
        finally:
            self._waiting.pop(id, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even when a cancelled send keeps us from awaiting it

    async def send(self, frame: bytes) -> None:
        await self._writable.wait()
        if self._transport is None or self._transport.is_closing():
            raise self._lost()
        self._transport.write(frame)

    async def close(self) -> None:
        if self._transport is not None:
            self.abort()
            await self._gone.wait()

    def abort(self) -> None:
        if self._transport is not None:
            self._why = "was left: this client closed"
            self._transport.abort()

    def _lost(self) -> SuiteError:
        return Unavailable(f"{self._name} {self._why}")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for message in self._frames.feed(data):
                if not isinstance(message, Response):
                    raise WireError("a client is answered, not asked")
                answer = self._waiting.get(message.id)
                if answer is not None and not answer.done():  # else: it came after its caller had given up
                    answer.set_result(message)
        except WireError as error:
            self._why = f"does not speak our protocol: {error}"
            self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self._lost())
        self._writable.set()  # whoever waits to write learns that there is nobody
        self._gone.set()
