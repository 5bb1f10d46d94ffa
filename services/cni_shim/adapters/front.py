"""Where shims call: one connection per exec, one request, one reply.

A shim that goes away while its call runs (the runtime killed it, or lost patience) cancels the call; the pipeline
decides what that means.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from services.cni_shim.core.frame import BadFrame, Call, read_call, write_reply
from services.cni_shim.core.reply import Reply
from shared import log as logs
from shared.rpc.address import listen

BACKLOG: Final = 1024
"""Shims that wait to be accepted: more than pods fit on a node."""

Answer = Callable[[Call, int], Awaitable[Reply]]
"""A call and its process id -> what the shim prints. Never raises but CancelledError."""

log = logs.get(__name__)


class Front:
    """An async context manager: listens from entry on; on exit stops accepting and lets running calls finish."""

    def __init__(self, path: Path, answer: Answer, *, drain_s: float) -> None:
        self._path = path
        self._answer = answer
        self._drain_s = drain_s
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None

    @property
    def running(self) -> int:
        """Calls at work."""
        return len(self._running)

    async def __aenter__(self) -> Self:
        listening = listen(self._path, backlog=BACKLOG)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Shim(self), sock=listening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._path.unlink(missing_ok=True)  # nobody else listens there: our instance lock is still held
        if self._running:
            await asyncio.wait(self._running, timeout=self._drain_s)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def start(self, call: Call, pid: int, transport: asyncio.Transport) -> asyncio.Task[None]:
        """Begin to answer one shim."""
        task = asyncio.create_task(self._serve(call, pid, transport), name=f"gateway-{call.env.get('CNI_COMMAND')}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _serve(self, call: Call, pid: int, transport: asyncio.Transport) -> None:
        logs.request_id.set(logs.new_request_id())
        try:
            transport.write(write_reply(await self._answer(call, pid)))
        finally:
            transport.close()


class _Shim(asyncio.Protocol):
    def __init__(self, front: Front) -> None:
        self._front = front
        self._received = bytearray()
        self._pid = 0
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        credentials = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self._pid, uid, _gid = struct.unpack("3i", credentials)
        if uid not in (0, os.getuid()):
            log.warning("shim_refused", uid=uid, pid=self._pid)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._task is not None or self._transport.is_closing():
            return
        self._received += data
        try:
            call = read_call(self._received)
        except BadFrame as error:
            log.warning("shim_garbage", error=str(error), pid=self._pid)
            self._transport.abort()
            return
        if call is not None:
            self._received.clear()
            self._task = self._front.start(call, self._pid, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
