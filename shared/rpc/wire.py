"""MessagePack-RPC without I/O: bytes in, messages out, and back.

    request       [0, id, method, [params, meta]]
    response      [1, id, error or nil, result]
    notification  [2, method, [params, meta]]

`params` is one map (the method's Struct); `meta`, which may be left out, holds `deadline_s` and `request_id`.
`error` is a Failure as a map. Any client of the MessagePack-RPC specification can call us.
"""

from collections.abc import Iterator
from math import isfinite
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types
import msgspec

from shared.errors import Failure

MAX_REQUEST: Final = 1 << 20
"""Bytes of the longest request that a server reads, unless it is told otherwise."""
MAX_RESPONSE: Final = 16 << 20
"""Bytes of the longest answer: a list of everything on a node is larger than any question."""

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2


class WireError(Exception):
    """The peer does not speak our protocol; after this the stream has no known frame border and must be closed."""


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes with a call: how long the caller still waits, and whose request it is part of."""

    deadline_s: float | None = None
    request_id: str = ""


class Request(msgspec.Struct, frozen=True):
    """A call; `id` is the caller's, None for a notification, which is not answered."""

    id: int | None
    method: str
    params: Any
    meta: Meta


class Response(msgspec.Struct, frozen=True):
    """The answer to the call `id`: a failure, or `result` not yet checked against the method's type."""

    id: int
    failure: Failure | None
    result: Any


_encoder = msgspec.msgpack.Encoder()


def encode_request(id: int | None, method: str, params: msgspec.Struct, meta: Meta) -> bytes:
    """A request, or with `id` None a notification."""
    arguments = (params, meta)
    if id is None:
        return _encoder.encode((NOTIFICATION, method, arguments))
    return _encoder.encode((REQUEST, id, method, arguments))


def encode_result(id: int, result: msgspec.Struct) -> bytes:
    """A successful answer."""
    return _encoder.encode((RESPONSE, id, None, result))


def encode_failure(id: int, failure: Failure) -> bytes:
    """An answer that says why not."""
    return _encoder.encode((RESPONSE, id, failure, None))


class Frames:
    """Cuts a byte stream into messages, wherever the stream itself was cut.

    Unpacker's own `max_buffer_size` does not bound a message: it takes elements out of its buffer while their
    array is still incomplete, so nested arrays could grow for ever. Hence the count of bytes since the last border.
    """

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._fed = 0
        self._border = 0
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=True, max_buffer_size=2 * max_frame)

    @property
    def pending(self) -> int:
        """Bytes received of a message that is not complete."""
        return self._fed - self._border

    def feed(self, data: bytes) -> Iterator[Request | Response]:
        """Take bytes, give each message that they complete. Exhaust the iterator before feeding again.

        Raises WireError at the first message that is malformed or longer than `max_frame`.
        """
        for start in range(0, len(data), self._max_frame):
            piece = data[start : start + self._max_frame]
            self._fed += len(piece)
            self._unpacker.feed(piece)
            while (message := self._next()) is not None:
                yield _parse(message)

    def _next(self) -> list[Any] | None:
        try:
            message = self._unpacker.unpack()
        except msgpack.OutOfData:
            self._limit(self.pending)
            return None
        except Exception as error:  # FormatError, StackError, BufferFull, ValueError, UnicodeDecodeError, TypeError, …
            raise WireError(f"not MessagePack: {type(error).__name__} {error}") from error
        end = self._unpacker.tell()
        size, self._border = end - self._border, end
        self._limit(size)
        if not isinstance(message, list):
            raise WireError(f"a message is an array, not {type(message).__name__}")
        return message

    def _limit(self, size: int) -> None:
        if size > self._max_frame:
            raise WireError(f"message longer than {self._max_frame} bytes")


def _parse(message: list[Any]) -> Request | Response:
    match message:
        case [int(kind), int(id), str(method), list(arguments)] if kind == REQUEST and _is_id(kind, id):
            return Request(id, method, *_arguments(arguments))
        case [int(kind), str(method), list(arguments)] if kind == NOTIFICATION:
            return Request(None, method, *_arguments(arguments))
        case [int(kind), int(id), error, result] if kind == RESPONSE and _is_id(kind, id):
            return Response(id, None if error is None else _failure(error), result)
        case _:
            raise WireError("neither request, response nor notification")


def _is_id(*values: int) -> bool:
    return not any(isinstance(value, bool) for value in values)


def _arguments(arguments: list[Any]) -> tuple[Any, Meta]:
    match arguments:
        case []:
            return {}, Meta()
        case [params]:
            return params, Meta()
        case [params, meta]:
            try:
                checked = msgspec.convert(meta, Meta)
            except msgspec.ValidationError as error:
                raise WireError(f"meta: {error}") from error
            if checked.deadline_s is not None and not isfinite(checked.deadline_s):
                raise WireError("meta: deadline_s is not a finite number")
            return params, checked
        case _:
            raise WireError(f"a call has at most two arguments, params and meta, not {len(arguments)}")


def _failure(error: object) -> Failure:
    """A server that is not ours may send any value as its error."""
    try:
        return msgspec.convert(error, Failure)
    except msgspec.ValidationError:
        return Failure("internal", str(error))
