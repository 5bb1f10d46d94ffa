"""Offers the node's ENIs to kubelet as devices, and registers again whenever kubelet has started anew (terway.md §3.3).

    kubelet.sock there ─► our socket serves ─► Register ─► ListAndWatch … ─► kubelet.sock is another, or ours is gone ─┐
        ▲                                                                                                             │
        └─────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

gRPC is imported only when kubelet's folder shows that there is a kubelet: nothing else here needs it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from services.eni_manager.core import devices
from shared import log as logs

LIST_EVERY_S: Final = 5.0
"""How often the list is sent again."""
LOOK_EVERY_S: Final = 5.0
"""How often the sockets are looked at; Terway does so every 30 s."""
REGISTER_WITHIN_S: Final = 10.0
_LARGEST: Final = 1 << 20
"""Bytes of a message from kubelet."""

log = logs.get(__name__)


class DevicePlugin:
    """One resource. `count`: how many devices there are now. `said` is told what is wrong, or "" when nothing is."""

    def __init__(
        self,
        folder: Path,
        count: Callable[[], int],
        *,
        resource: str = devices.ENI,
        kind: str = "eni",
        look_every_s: float = LOOK_EVERY_S,
        list_every_s: float = LIST_EVERY_S,
        said: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._folder, self._count, self._resource, self._kind = folder, count, resource, kind
        self._look_every_s, self._list_every_s, self._said = look_every_s, list_every_s, said
        self._kubelet = folder / "kubelet.sock"
        self._stopping = asyncio.Event()
        self._why = ""

    async def run(self) -> None:
        """Offer them for ever. What fails is said, and tried again."""
        while True:
            if self._kubelet.exists():
                try:
                    await self._serve()
                except ImportError as missing:
                    self._say(f"pods cannot ask for {self._resource}: Python package {missing.name} is not installed")
                except (
                    Exception
                ) as error:  # gRPC's own errors have no common base that could be named before its import
                    self._say(f"{self._resource} is not offered to kubelet: {_said(error)}")
            await asyncio.sleep(self._look_every_s)

    def _say(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._said(why)
            if why:
                log.warning("device_plugin", because=why)

    async def _serve(self) -> None:
        """Serve one kubelet, until another one is there."""
        from grpc import aio

        for stale in self._folder.glob(f"*-{self._kind}.sock"):
            if stale.name.removesuffix(f"-{self._kind}.sock").isdigit():
                stale.unlink(missing_ok=True)
        socket = self._folder / f"{time.time_ns() // 1_000_000_000}-{self._kind}.sock"
        registered_at = self._identity(self._kubelet)
        server = aio.server(options=[("grpc.max_receive_message_length", _LARGEST)])
        server.add_generic_rpc_handlers((self._handlers(),))
        server.add_insecure_port(f"unix:{socket}")
        self._stopping.clear()
        await server.start()
        try:
            socket.chmod(0o600)
            own = self._identity(socket)
            await self._register(socket.name)
            await self._until_changed({self._kubelet: registered_at, socket: own})
            log.info("kubelet_changed", resource=self._resource)
        finally:
            self._stopping.set()
            await server.stop(1.0)
            with suppress(OSError):
                socket.unlink(missing_ok=True)

    async def _until_changed(self, before: dict[Path, tuple[int, int] | None]) -> None:
        while all(self._identity(path) == seen for path, seen in before.items()):  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(self._look_every_s)

    async def _register(self, endpoint: str) -> None:
        from grpc import aio

        # Else the socket's path would be the authority, which kubelet's server refuses.
        options = [("grpc.default_authority", "localhost")]
        async with aio.insecure_channel(f"unix:{self._kubelet}", options=options) as channel:
            call = channel.unary_unary(devices.REGISTER)
            await call(devices.registration(endpoint, self._resource), timeout=REGISTER_WITHIN_S)
        self._say("")
        log.info("registered_with_kubelet", resource=self._resource, endpoint=endpoint, devices=self._count())

    def _handlers(self) -> Any:
        import grpc

        methods = {
            "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(_nothing),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._list_and_watch),
            "GetPreferredAllocation": grpc.unary_unary_rpc_method_handler(_nothing),
            "Allocate": grpc.unary_unary_rpc_method_handler(_allocate),
            "PreStartContainer": grpc.unary_unary_rpc_method_handler(_nothing),
        }
        return grpc.method_handlers_generic_handler(devices.SERVICE, methods)

    async def _list_and_watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        while not self._stopping.is_set():
            yield devices.device_list(self._kind, self._count())
            with suppress(TimeoutError):
                async with asyncio.timeout(self._list_every_s):
                    await self._stopping.wait()

    @staticmethod
    def _identity(path: Path) -> tuple[int, int] | None:
        """Which file is there; a socket that was made again is another."""
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_ctime_ns


async def _nothing(request: bytes, context: Any) -> bytes:
    return devices.NOTHING


async def _allocate(request: bytes, context: Any) -> bytes:
    return devices.allocation(request)


def _said(error: Exception) -> str:
    details: Callable[[], str] | None = getattr(error, "details", None)
    return str(details() if callable(details) else error) or type(error).__name__
