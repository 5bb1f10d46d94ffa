"""Numbered datagrams at a steady rate between namespaces, counted at both ends."""

import socket
import struct
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Self

import msgspec

from compose.lab.netns import socket_in

PORT = 7000
EVERY_S = 0.005
_NUMBER = struct.Struct("!Q")
RECEIVE_BUFFER = 4 << 20
GRACE_S = 1.0
"""What is under way arrives within this long."""


class Counted(msgspec.Struct, frozen=True):
    """What came of a flow."""

    sent: int
    lost: list[int]
    doubled: int
    longest_gap_s: float


class Flow:
    """One direction between two pods. A context manager; `count` ends it."""

    def __init__(self, name: str, source: Path, target: Path, address: str, port: int) -> None:
        self.name, self._to = name, (address, port)
        self._in = socket_in(target, socket.AF_INET, socket.SOCK_DGRAM)
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._in.bind(("", port))
        self._in.settimeout(0.2)
        self._out = socket_in(source, socket.AF_INET, socket.SOCK_DGRAM)
        self._sending, self._receiving = threading.Event(), threading.Event()
        self._sent = 0
        self._arrived: list[tuple[int, float]] = []
        self._threads = [
            threading.Thread(target=self._send, name=f"send-{name}"),
            threading.Thread(target=self._receive, name=f"receive-{name}"),
        ]

    def __enter__(self) -> Self:
        self._sending.set()
        self._receiving.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sending.clear()
        self._receiving.clear()
        for thread in self._threads:
            thread.join()
        self._in.close()
        self._out.close()

    @property
    def sent(self) -> int:
        """How many were, until now."""
        return self._sent

    @property
    def arrived(self) -> int:
        """How many have, until now."""
        return len(self._arrived)

    def count(self) -> Counted:
        """Stop sending, wait for what is under way, and compare."""
        self._sending.clear()
        self._threads[0].join()
        ends = time.monotonic() + GRACE_S
        while len(self._arrived) < self._sent and time.monotonic() < ends:
            time.sleep(0.01)
        numbers = [number for number, _ in self._arrived]
        times = [at for _, at in self._arrived]
        gaps = [after - before for before, after in pairwise(times)]
        lost = sorted(set(range(self._sent)) - set(numbers))
        return Counted(self._sent, lost, len(numbers) - len(set(numbers)), max(gaps, default=0.0))

    def _send(self) -> None:
        due = time.monotonic()
        while self._sending.is_set():
            with suppress(OSError):  # no route, say: what cannot be sent is lost
                self._out.sendto(_NUMBER.pack(self._sent), self._to)
            self._sent += 1
            due += EVERY_S
            time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        while self._receiving.is_set():
            try:
                number = _NUMBER.unpack(self._in.recv(64))[0]
            except TimeoutError:
                continue
            self._arrived.append((number, time.monotonic()))
