"""What becomes of an ENI whose network namespace ends without anybody having taken it out.

A real one is hardware: when its namespace ends, the kernel moves it to the machine's first namespace, down, stripped of
its addresses and routes, as `dev<number>` where its name is taken (`default_device_exit_net`). The fabric's ENIs are
veths, which the kernel deletes with their namespace instead. So the fabric listens for the far end's going, which comes
with it, and makes the cable again, with the near end in the node: for the node it is as if the device had come home.
What is lost beyond a real homecoming is the device's MTU, and what was on the wire.
"""

import errno
import socket
import struct
from collections.abc import Callable

from compose.lab.fabric.listening import Listening

_LINK_GROUP = 1
_DELLINK = 17
_IFNAME = 3
_HEADER = struct.Struct("=IHHII")
_LINK_HEADER = 16
_ATTRIBUTE = struct.Struct("=HH")


class Departures(Listening):
    """Tells of links that have gone from the namespace that `listen` was called in, from `open` to `close`."""

    def __init__(self, gone: Callable[[str], None], lost_count: Callable[[], None]) -> None:
        """`gone` is told a link's name; `lost_count`, that some may have gone unheard."""
        self._gone, self._lost_count = gone, lost_count

    def read(self, listening: socket.socket) -> None:
        """Datagrams of rtnetlink."""
        try:
            data = listening.recv(1 << 16)
        except OSError as lost:
            if lost.errno == errno.ENOBUFS:
                self._lost_count()
            return
        for name in departed(data):
            self._gone(name)


def listen() -> socket.socket:
    """Hears of links of the calling thread's namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.setblocking(False)
    opened.bind((0, _LINK_GROUP))
    return opened


def departed(data: bytes) -> list[str]:
    """The names of the links that a datagram of rtnetlink says have gone."""
    found = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, *_ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size:
            break
        if kind == _DELLINK:
            found += _names(data[offset + _HEADER.size + _LINK_HEADER : offset + size])
        offset += (size + 3) & ~3
    return found


def _names(attributes: bytes) -> list[str]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(attributes):
        size, kind = _ATTRIBUTE.unpack_from(attributes, offset)
        if size < _ATTRIBUTE.size:
            break
        if kind == _IFNAME:
            return [attributes[offset + _ATTRIBUTE.size : offset + size].rstrip(b"\0").decode()]
        offset += (size + 3) & ~3
    return []
