"""The three services that do the work, behind one call that never abandons what it has begun."""

import asyncio
import errno
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from shared.errors import DeadlineExceeded
from shared.rpc.client import Client
from shared.rpc.method import Method, Params, Result

T = TypeVar("T")


class Peer:
    """One neighbour."""

    def __init__(self, client: Client, path: Path) -> None:
        self.name = path.stem
        self._client = client
        self._path = path

    async def ask(self, method: Method[Params, Result], params: Params, ends: float) -> Result:
        """Call, and wait for the answer even when cancelled: an effect that comes after its own undo would stay.

        `ends` is on the event loop's clock; the neighbour is told what is left of it and stops by then.
        """
        left = ends - asyncio.get_running_loop().time()
        if left <= 0:
            raise DeadlineExceeded(f"no time is left for {method.name}")
        return await to_the_end(self._client.call(method, params, deadline_s=min(left, method.deadline_s)))

    def reachable(self) -> str:
        """Empty when something listens, else a clause that says what is wrong."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            problem = probe.connect_ex(str(self._path))
        # EAGAIN: its queue is full, so it lives. Connecting to a Unix socket never waits.
        return "" if problem in (0, errno.EAGAIN) else f"{self.name} does not listen at {self._path}"


async def to_the_end(work: Awaitable[T]) -> T:
    """The result of `work`. When we are cancelled, wait until it has ended, then raise CancelledError."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
