"""Wait for a link to appear: a hot-plugged ENI shows up when the cloud and the driver are done with it (§13 R7)."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from services.eni_manager.adapters.netlink_links import seen_link
from services.eni_manager.core.wiring.standing import SeenLink
from shared.errors import Unavailable
from shared.model import Mac
from shared.netlink import messages as frames

_LINK_GROUP: Final = 1
_RECEIVE: Final = 1 << 16


async def wait_for_link(mac: Mac, look: Callable[[], Awaitable[SeenLink | None]], timeout_s: float) -> SeenLink:
    """What `look` finds, asked now and whenever the kernel announces something of this MAC. Raises Unavailable."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as news:
        news.setblocking(False)
        # Listening comes before looking, so that nothing appears unseen between the two.
        news.bind((0, _LINK_GROUP))
        try:
            async with asyncio.timeout(timeout_s):
                while (seen := await look()) is None:
                    await _news_of(mac, news)
                return seen
        except TimeoutError:
            raise Unavailable(f"no link with MAC {mac} appeared within {timeout_s:g} s") from None


async def _news_of(mac: Mac, news: socket.socket) -> None:
    """Return when something about this MAC was announced, or announcements were lost."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(news.fileno(), readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                data = news.recv(_RECEIVE)
            except BlockingIOError:
                continue
            except OSError as lost:
                if lost.errno == errno.ENOBUFS:
                    return
                raise
            if any((link := seen_link(frame)) is not None and link.mac == mac for frame in frames(data)):
                return
    finally:
        loop.remove_reader(news.fileno())
