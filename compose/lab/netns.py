"""Sockets in other network namespaces, without leaving our own.

A socket belongs to the namespace of the thread that made it, whatever that thread does later. So a thread of its
own enters, makes the socket, and ends: nothing has to be entered back, and no other code ever runs elsewhere.
"""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar

from compose.lab.fabric.netns import enter
from compose.lab.waiting import patient
from shared.errors import NotFound

T = TypeVar("T")


def call_in(netns: Path, function: Callable[[], T]) -> T:
    """Run a short function in a namespace and return what it returns. NotFound when the namespace is gone."""
    returned: list[T] = []
    raised: list[Exception] = []

    def body() -> None:
        try:
            enter(netns)
            returned.append(function())
        except Exception as error:  # handed to the caller's thread, whatever it is
            raised.append(error)

    thread = threading.Thread(target=body, name="lab-netns")
    thread.start()
    thread.join()
    if raised:
        if isinstance(raised[0], FileNotFoundError) and raised[0].filename == os.fspath(netns):
            raise NotFound(f"network namespace {netns} does not exist") from raised[0]
        raise raised[0]
    return returned[0]


def socket_in(netns: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A new socket that lives in the namespace."""
    return call_in(netns, lambda: socket.socket(family, kind, protocol))


class _Connection(HTTPConnection):
    """An HTTP connection that is made in a namespace."""

    def __init__(self, netns: Path, host: str, port: int, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._netns = netns
        self._timeout_s = patient(timeout_s)

    def connect(self) -> None:
        """Called by http.client when it first needs the connection."""
        self.sock = socket_in(self._netns, socket.AF_INET, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect((self.host, self.port))


def http_get(
    netns: Path, port: int, path: str, *, host: str = "127.0.0.1", timeout_s: float = 5.0
) -> tuple[int, bytes]:
    """GET from a server that only the namespace reaches; status and body. OSError when nobody answers."""
    with closing(_Connection(netns, host, port, timeout_s)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
