"""The lab's API server as something that can end and start again while its cloud goes on.

What a process of its own would have ends with it: listeners, so that its ports are closed, and every connection, with
the watches on them. What etcd would have stays: objects and their past. A watch that comes back goes on from where it
was; `KubeApi.compact` meanwhile makes the start one after which nobody can (410).
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence

from compose.lab.kubeapi import KubeApi


class KubeServer:
    """`listen` makes the listening sockets, anew for each start."""

    def __init__(self, kube: KubeApi, listen: Callable[[], Awaitable[Sequence[socket.socket]]]) -> None:
        self.kube = kube
        self._listen = listen
        self._serving: contextlib.AsyncExitStack | None = None
        self._one = asyncio.Lock()

    async def start(self) -> None:
        """Serve. Success when it does already; OSError: an address is taken."""
        async with self._one:
            if self._serving is None:
                serving = contextlib.AsyncExitStack()
                await serving.enter_async_context(self.kube.serving(await self._listen()))
                self._serving = serving

    async def stop(self) -> None:
        """End as by kill -9: no watch is told, no request is finished. Success when it does not run."""
        async with self._one:
            if self._serving is not None:
                serving, self._serving = self._serving, None
                self.kube.hang_up()
                await serving.aclose()
