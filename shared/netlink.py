"""What all netlink families have in common: headers, attributes, answers. Bytes in, bytes out; no socket, no meaning.

Hand-encoded because it is on a pod's way: a message costs 5 to 20 µs so, and 130 to 250 by a general library. Numbers
are those of the kernel's `linux/netlink.h`.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

HEADER: Final = Struct("=IHHII")
"""length, type, flags, sequence, port"""
ATTRIBUTE: Final = Struct("=HH")
"""length, type"""
I32: Final = Struct("=i")

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
CREATE: Final = 0x400
DUMP_INTERRUPTED: Final = 0x10
CAPPED: Final = 0x100
"""On an error: the request is not echoed in whole, only its header."""
EXTENDED: Final = 0x200
"""On an error: attributes follow."""
NLMSGERR_ATTR_MSG: Final = 1

NESTED: Final = 0x8000
_NESTED_OR_ORDER: Final = 0xC000
PAD: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
"""What fills a size up to a multiple of 4, by the size's remainder."""


class Message(NamedTuple):
    """One message received, headers of its family still in `body`."""

    type: int
    flags: int
    sequence: int
    body: bytes


class Failure(NamedTuple):
    """What the kernel says against a request: a positive errno (0: nothing), and its words, if it has any."""

    errno: int
    words: str


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    size = 4 + len(payload)
    return ATTRIBUTE.pack(size, kind) + payload + PAD[size & 3]


def text(kind: int, value: str) -> bytes:
    """A string attribute, zero-terminated as the kernel expects names to be."""
    return attribute(kind, value.encode() + b"\0")


def attributes(body: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of each attribute from `offset` on. ValueError: they do not fit the body."""
    end = len(body)
    while offset + 4 <= end:
        size, kind = ATTRIBUTE.unpack_from(body, offset)
        if size < 4 or offset + size > end:
            raise ValueError(f"attribute of {size} bytes at {offset} in a message of {end}")
        yield kind & ~_NESTED_OR_ORDER, body[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def messages(data: bytes) -> Iterator[Message]:
    """The messages in one datagram. ValueError: cut short."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if size < 16 or offset + size > end:
            raise ValueError(f"message of {size} bytes at {offset} in a datagram of {end}")
        yield Message(kind, flags, sequence, data[offset + 16 : offset + size])
        offset += (size + 3) & ~3


def failure(kind: int, flags: int, body: bytes) -> Failure:
    """What the body of an NLMSG_ERROR or NLMSG_DONE says; an acknowledgement is errno 0."""
    (code,) = I32.unpack_from(body, 0)
    words = ""
    if kind == NLMSG_ERROR and flags & EXTENDED:
        # Body: the error, the request's header, the request's payload unless capped, then attributes.
        (size, *_) = HEADER.unpack_from(body, 4)
        echoed = 16 if flags & CAPPED else (size + 3) & ~3
        words = string(dict(attributes(body, 4 + echoed)).get(NLMSGERR_ATTR_MSG, b""))
    return Failure(-code, words)


def string(raw: bytes) -> str:
    """What a string attribute says."""
    return raw.rstrip(b"\0").decode(errors="replace")
