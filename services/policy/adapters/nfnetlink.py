"""A nfnetlink socket for nf_tables: batches that the kernel takes as a whole or not at all, and dumps.

nf_tables does its work inside `send`; when that returns all answers are queued. It blocks all the same (the kernel
takes a lock per namespace), hence never on the event loop.
"""

import errno
import os
import socket
from collections.abc import Sequence
from struct import pack
from typing import Final, NamedTuple, Self

from services.policy.adapters.nfnetlink_wire import (
    BATCH_BEGIN,
    BATCH_END,
    GENERATION,
    GETGEN,
    GETTABLE,
    INET,
    NEWGEN,
    SUBSYSTEM,
    Frame,
    be32,
    boundary,
    failure,
    frames,
    mapping,
    message,
)
from shared.errors import Internal, Unavailable
from shared.netlink import ACK, DUMP, DUMP_INTERRUPTED, NLMSG_DONE, NLMSG_ERROR, Failure, string

_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_SNDBUFFORCE: Final = 32
_RCVBUFFORCE: Final = 33
_RECEIVE: Final = 1 << 20
_RECEIVE_BUFFER: Final = 8 << 20
_SEND_BUFFER: Final = 1 << 20
_DUMP_TRIES: Final = 20
_ANSWER_WITHIN: Final = pack("@ll", 60, 0)
"""A struct timeval: answers are there when `send` returns, so this only turns a lost one into an error."""


class Request(NamedTuple):
    """One message of a batch. `about` says in words what it is for, should the kernel refuse it."""

    kind: int
    body: bytes
    flags: int = 0
    about: str = ""


class Batch:
    """Requests in the kernel's form, for as many sockets as need them."""

    FIRST: Final = 1 << 30
    """Numbers of a batch of its own: no socket gets so far otherwise."""

    def __init__(self, requests: Sequence[Request], first: int = FIRST) -> None:
        self.first, self.last = first, first + len(requests) - 1
        self.about = [one.about for one in requests]
        parts = [boundary(BATCH_BEGIN, first - 1)]
        # Refusals come unasked, so one acknowledgement, of the last, tells that all are through.
        parts += [
            message(one.kind, one.body, number, flags=one.flags | (ACK if number == self.last else 0))
            for number, one in enumerate(requests, first)
        ]
        parts.append(boundary(BATCH_END, self.last + 1))
        self.data = b"".join(parts)


class Rejected(Internal):
    """The kernel refused a batch, all of it; `errno` says why."""

    def __init__(self, said: Failure, about: str) -> None:
        words = said.words or os.strerror(said.errno)
        super().__init__(f"the kernel refused {about or 'a message'}: {words}")
        self.errno = said.errno


class NfSocket:
    """Of the namespace that the calling thread is in when it is made. Use it from one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        self._sequence = 0
        self._send_buffer = 0
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_WITHIN)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError as refused:
            self._socket.close()
            raise Unavailable("nftables is not for this process to change: it needs CAP_NET_ADMIN") from refused

    def close(self) -> None:
        """Give it back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transact(self, requests: Sequence[Request] | Batch) -> None:
        """Carry out all requests at one moment, or none of them. Raises Rejected."""
        batch = requests
        if not isinstance(batch, Batch):
            batch = Batch(batch, self._sequence + 1)
            self._sequence = batch.last + 1
        self._make_room(len(batch.data))
        self._socket.send(batch.data)
        refused = self._answers(batch.first, batch.last)
        if refused is not None:
            at, said = refused
            raise Rejected(said, batch.about[at] if 0 <= at < len(batch.about) else "a transaction")

    def _make_room(self, size: int) -> None:
        """A batch is one datagram, and the socket must be allowed one of that size."""
        wanted = max(2 * size, _SEND_BUFFER)
        if wanted > self._send_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, wanted)
            self._send_buffer = wanted

    def _answers(self, first: int, last: int) -> tuple[int, Failure] | None:
        """The first refusal with its place in the batch (-1: of all of it), when all answers have come."""
        refused: tuple[int, Failure] | None = None
        while True:
            for frame in frames(self._receive()):
                if not first - 1 <= frame.sequence <= last + 1 or frame.subsystem or frame.kind != NLMSG_ERROR:
                    continue
                said = failure(frame)
                if said.errno and refused is None:
                    refused = frame.sequence - first, said
                # An answer to the beginning is about the whole batch, and the only one.
                if frame.sequence in (first - 1, last):
                    return refused

    def ask(self, kind: int, body: bytes, *, subsystem: int = SUBSYSTEM, family: int = INET) -> None:
        """One message on its own, acknowledged. Raises Rejected."""
        self._sequence += 1
        self._socket.send(message(kind, body, self._sequence, flags=ACK, family=family, subsystem=subsystem))
        while True:
            for frame in frames(self._receive()):
                if frame.sequence == self._sequence and not frame.subsystem and frame.kind == NLMSG_ERROR:
                    said = failure(frame)
                    if said.errno:
                        raise Rejected(said, "a request")
                    return

    def dump(self, kind: int, body: bytes = b"", *, subsystem: int = SUBSYSTEM, family: int = INET) -> list[Frame]:
        """All objects asked for, as of one moment: asked again while they change. Raises Rejected, Unavailable."""
        for _ in range(_DUMP_TRIES):
            found, whole = self._dump_once(kind, body, subsystem, family)
            if whole:
                return found
        raise Unavailable("nftables changes all the time: no whole list of what there is")

    def _dump_once(self, kind: int, body: bytes, subsystem: int, family: int) -> tuple[list[Frame], bool]:
        self._sequence += 1
        self._socket.send(message(kind, body, self._sequence, flags=DUMP, family=family, subsystem=subsystem))
        found: list[Frame] = []
        whole = True
        while True:
            for frame in frames(self._receive()):
                if frame.sequence != self._sequence:
                    continue
                whole = whole and not frame.flags & DUMP_INTERRUPTED
                if frame.subsystem:
                    found.append(frame)
                elif frame.kind in (NLMSG_DONE, NLMSG_ERROR):
                    said = failure(frame)
                    if said.errno == errno.EINTR:
                        return found, False
                    if said.errno:
                        raise Rejected(said, "a look at what there is")
                    return found, whole

    def generation(self) -> int:
        """Goes up by one with every transaction of anybody in this namespace."""
        self._sequence += 1
        self._socket.send(message(GETGEN, b"", self._sequence, family=0))
        while True:
            for frame in frames(self._receive()):
                if frame.sequence == self._sequence and frame.subsystem and frame.kind == NEWGEN:
                    return be32(mapping(frame.body)[GENERATION])
                if frame.sequence == self._sequence and not frame.subsystem and failure(frame).errno:
                    raise Rejected(failure(frame), "the question for the generation")

    def tables(self) -> list[str]:
        """The names of all tables of the family inet."""
        return [string(mapping(frame.body)[1]) for frame in self.dump(GETTABLE)]

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except BlockingIOError as silent:
            raise Unavailable("nftables does not answer") from silent
