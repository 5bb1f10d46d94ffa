"""A rtnetlink socket: many requests in one system call, dumps, and errors with the kernel's own words.

rtnetlink does its work inside `send`, so when that returns all answers are queued and nothing here ever waits
for long; it blocks all the same (the kernel's rtnl lock), hence never on the event loop.
"""

import errno
import os
import socket
from collections.abc import Sequence
from struct import pack
from typing import Final, Self

from services.eni_manager.adapters.netlink_wire import Request, failure, packed
from shared.netlink import ACK, DUMP, DUMP_INTERRUPTED, NLMSG_DONE, NLMSG_ERROR
from shared.netlink import Message as Frame
from shared.netlink import messages as frames

_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_GET_STRICT_CHK: Final = 12
_RECEIVE: Final = 1 << 16
_BATCH: Final = 64
"""Requests per send: their refusals must fit the socket's receive buffer."""
_DUMP_TRIES: Final = 5
_ANSWER_WITHIN: Final = pack("@ll", 10, 0)
"""A struct timeval: answers are there when `send` returns, so this only turns a lost one into an error."""


class NetlinkError(OSError):
    """The kernel refused a request; `request` is the one, `errno` says why."""

    def __init__(self, code: int, words: str, request: Request) -> None:
        super().__init__(code, words or os.strerror(code))
        self.request = request

    def __str__(self) -> str:
        return f"the kernel refused {self.request.about or f'message {self.request.type}'}: {self.strerror}"


class Outcome:
    """What a batch brought: data frames in order, and refusals by the index of the request."""

    __slots__ = ("frames", "refused")

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.refused: dict[int, NetlinkError] = {}

    def expect(self, *tolerated: int) -> Self:
        """Raise the first refusal whose errno is not among `tolerated`."""
        for index in sorted(self.refused):
            if self.refused[index].errno not in tolerated:
                raise self.refused[index]
        return self


class RouteSocket:
    """A NETLINK_ROUTE socket of the namespace that the calling thread is in. Use it from one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_WITHIN)
        # CentOS 7's kernel knows none of these and does without.
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError as refused:
                if refused.errno != errno.ENOPROTOOPT:
                    raise

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def batch(self, requests: Sequence[Request]) -> Outcome:
        """Send all requests; each is tried, whatever became of those before it."""
        outcome = Outcome()
        for start in range(0, len(requests), _BATCH):
            self._send_some(requests[start : start + _BATCH], start, outcome)
        return outcome

    def _send_some(self, requests: Sequence[Request], start: int, outcome: Outcome) -> None:
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(requests)
        # Refusals come unasked, so that one acknowledgement, of the last, tells that all are through.
        self._socket.send(
            b"".join(
                packed(request, number, flags=ACK if number == last else 0)
                for number, request in enumerate(requests, first)
            )
        )
        while True:
            for frame in frames(self._socket.recv(_RECEIVE)):
                if not first <= frame.sequence <= last:
                    continue
                if frame.type != NLMSG_ERROR:
                    outcome.frames.append(frame)
                    continue
                said = failure(frame)
                if said.errno:
                    index = frame.sequence - first
                    outcome.refused[start + index] = NetlinkError(said.errno, said.words, requests[index])
                if frame.sequence == last:
                    return

    def dump(self, request: Request) -> list[Frame]:
        """All objects that `request` asks for, tried again while the kernel says that they changed meanwhile."""
        for _ in range(_DUMP_TRIES):
            found, whole = self._dump_once(request)
            if whole:
                break
        return found

    def _dump_once(self, request: Request) -> tuple[list[Frame], bool]:
        self._sequence += 1
        self._socket.send(packed(request, self._sequence, flags=DUMP))
        found: list[Frame] = []
        whole = True
        while True:
            for frame in frames(self._socket.recv(_RECEIVE)):
                if frame.sequence != self._sequence:
                    continue
                whole = whole and not frame.flags & DUMP_INTERRUPTED
                if frame.type in (NLMSG_DONE, NLMSG_ERROR):
                    said = failure(frame)
                    if not said.errno:
                        return found, whole
                    raise NetlinkError(said.errno, said.words, request)
                found.append(frame)
