"""Hears when somebody else writes to our table.

The kernel tells everybody of every object, so our own batches are not listened to: a hundred thousand elements would
fill the socket. What others write in that moment shows in the generation, which then goes up by more than our one.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final, Self

from services.policy.adapters.nfnetlink_wire import (
    GENERATION,
    INET,
    NEWGEN,
    SUBSYSTEM,
    be32,
    frames,
    mapping,
    pieces,
)
from shared.netlink import string

_NETFILTER: Final = 12
_GROUP: Final = 7
"""NFNLGRP_NFTABLES"""
_SOL_NETLINK: Final = 270
_JOIN, _LEAVE = 1, 2
_RECEIVE: Final = 1 << 16
_BUFFER: Final = 1 << 20
_RCVBUFFORCE: Final = 33


class Monitor:
    """Of the calling thread's namespace. A context manager; `written` is called on the loop."""

    def __init__(self, table: str, written: Callable[[], None]) -> None:
        self._table = table
        self._written = written

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        self._socket.bind((0, 0))  # one without a number of its own would be told nothing
        self.listen()
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def listen(self) -> None:
        """From now on. May be called from any thread."""
        self._socket.setsockopt(_SOL_NETLINK, _JOIN, _GROUP)

    def pause(self) -> None:
        """Until `listen`. May be called from any thread."""
        self._socket.setsockopt(_SOL_NETLINK, _LEAVE, _GROUP)

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as lost:
                if lost.errno != errno.ENOBUFS:
                    raise
                self._written()  # too much at once: nobody knows what
                continue
            if names_table(data, self._table):
                self._written()


def names_table(data: bytes, table: str) -> bool:
    """Whether a datagram speaks of that table: every object names its table in its first attribute."""
    for frame in frames(data):
        if frame.subsystem == SUBSYSTEM and frame.family == INET:
            for kind, raw in pieces(frame.body):
                if kind == 1:
                    if string(raw[4:]) == table:
                        return True
                    break
    return False


def ends_with(data: bytes) -> int | None:
    """The generation that a transaction made, if a datagram tells its end; of several the last."""
    found = None
    for frame in frames(data):
        if frame.subsystem == SUBSYSTEM and frame.kind == NEWGEN:
            found = be32(mapping(frame.body)[GENERATION])
    return found
