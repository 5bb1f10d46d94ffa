"""Hears when somebody writes to our table in a pod's namespace, from outside: nothing of it is held.

One socket in the node's namespace hears all that have a number there (NETLINK_LISTEN_ALL_NSID), and each message bears
its namespace's. Our own writes are heard, too: whoever is told compares generations.
"""

import array
import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final, Self

from services.policy.adapters.nft_monitor import ends_with, names_table
from shared.errors import Unavailable

_NETFILTER: Final = 12
_GROUP: Final = 7
"""NFNLGRP_NFTABLES"""
_SOL_NETLINK: Final = 270
_JOIN, _LISTEN_ALL_NSID = 1, 8
_RECEIVE: Final = 1 << 16
_BUFFER: Final = 1 << 20
_RCVBUFFORCE: Final = 33
_AT_ONCE: Final = 64
"""Datagrams read before others have their turn."""

EVERYBODY: Final = -1


class PodsMonitor:
    """Of the calling thread's namespace. A context manager; `written` is called on the loop with a namespace's number
    and the generation that it has with that; EVERYBODY and None when too much came at once to know."""

    def __init__(self, table: str, written: Callable[[int, int | None], None]) -> None:
        self._table = table
        self._written = written
        self._touched: set[int] = set()
        """Namespaces of which our table was spoken, and the transaction's end not yet."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
            self._socket.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _JOIN, _GROUP)
        except OSError as refused:
            self._socket.close()
            if refused.errno != errno.EPERM:
                raise
            raise Unavailable("pods' namespaces cannot be listened to: it needs CAP_NET_BROADCAST") from refused
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, about, _, _ = self._socket.recvmsg(_RECEIVE, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return
            except OSError as lost:
                if lost.errno != errno.ENOBUFS:
                    raise
                self._touched.clear()
                self._written(EVERYBODY, None)
                continue
            number = _number(about)
            if number is not None:
                self._hear(number, data)

    def _hear(self, number: int, data: bytes) -> None:
        """The kernel tells the objects of a transaction, and at its end the generation."""
        if names_table(data, self._table):
            self._touched.add(number)
        if number in self._touched and (generation := ends_with(data)) is not None:
            self._touched.discard(number)
            self._written(number, generation)


def _number(about: list[tuple[int, int, bytes]]) -> int | None:
    """Whose a datagram is; None: the node's own."""
    for level, kind, raw in about:
        if (level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID):
            return array.array("i", raw[:4])[0]
    return None
