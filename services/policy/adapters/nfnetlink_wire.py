"""The frames of nfnetlink for nf_tables: headers, attributes, batches. Bytes in, bytes out; no socket, no meaning.

Hand-encoded because a set's element costs 10 µs this way, and 16 ms by a program that first reads the whole table.
Numbers are the kernel's `linux/netfilter/nf_tables.h` and `nfnetlink.h`.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

HEADER: Final = Struct("=IHHII")
"""length, type, flags, sequence, port"""
GENERIC: Final = Struct(">BBH")
"""nfgenmsg: family, version, resource"""
ATTRIBUTE: Final = Struct("=HH")
BE32: Final = Struct(">I")
I32: Final = Struct("=i")

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
CREATE: Final = 0x400
DUMP_INTERRUPTED: Final = 0x10
CAPPED: Final = 0x100
EXTENDED: Final = 0x200
NLMSGERR_ATTR_MSG: Final = 1

SUBSYSTEM: Final = 10
BATCH_BEGIN: Final = 0x10
BATCH_END: Final = 0x11
INET: Final = 1
"""NFPROTO_INET"""
GENERATION: Final = 1
"""NFNL_BATCH_GENID and NFTA_GEN_ID"""

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = range(9)
NEWSET, GETSET, DELSET, NEWELEMENT, GETELEMENT, DELELEMENT, NEWGEN, GETGEN = range(9, 17)

NESTED: Final = 0x8000
_NESTED_OR_ORDER: Final = 0xC000
_PAD: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


class Frame(NamedTuple):
    """One message received; `kind` is the message of nf_tables, or of netlink itself when `subsystem` is 0."""

    subsystem: int
    kind: int
    flags: int
    sequence: int
    family: int
    body: bytes
    """attributes, or, of netlink's own messages, everything behind the header"""


class Failure(NamedTuple):
    """What the kernel says against a request: a positive errno (0: nothing), and its words, if it has any."""

    errno: int
    words: str


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    size = 4 + len(payload)
    return ATTRIBUTE.pack(size, kind) + payload + _PAD[size & 3]


def nested(kind: int, payload: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(kind | NESTED, payload)


def text(kind: int, value: str) -> bytes:
    """A string attribute, zero-terminated."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """An unsigned 32-bit attribute in network order, as nf_tables has them; negative numbers as their complement."""
    return ATTRIBUTE.pack(8, kind) + BE32.pack(value & 0xFFFFFFFF)


def message(
    kind: int, body: bytes, sequence: int, *, flags: int = 0, family: int = INET, subsystem: int = SUBSYSTEM
) -> bytes:
    """A message of nf_tables, or of another subsystem."""
    size = 20 + len(body)
    header = HEADER.pack(size, subsystem << 8 | kind, REQUEST | flags, sequence, 0)
    return header + GENERIC.pack(family, 0, 0) + body + _PAD[size & 3]


def boundary(kind: int, sequence: int) -> bytes:
    """The beginning or the end of a batch."""
    return HEADER.pack(20, kind, REQUEST, sequence, 0) + GENERIC.pack(0, 0, SUBSYSTEM)


def attributes(body: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of each attribute. ValueError: they do not fit the body."""
    end = len(body)
    while offset + 4 <= end:
        size, kind = ATTRIBUTE.unpack_from(body, offset)
        if size < 4 or offset + size > end:
            raise ValueError(f"attribute of {size} bytes at {offset} in {end}")
        yield kind & ~_NESTED_OR_ORDER, body[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def pieces(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and whole of each attribute, header and padding with it, to be sent as it came."""
    offset = 0
    while offset + 4 <= len(body):
        size, kind = ATTRIBUTE.unpack_from(body, offset)
        if size < 4 or offset + size > len(body):
            raise ValueError(f"attribute of {size} bytes at {offset} in {len(body)}")
        yield kind & ~_NESTED_OR_ORDER, body[offset : offset + size] + _PAD[size & 3]
        offset += (size + 3) & ~3


def mapping(body: bytes) -> dict[int, bytes]:
    """Attributes by kind, for bodies in which none comes twice."""
    return dict(attributes(body))


def frames(data: bytes) -> Iterator[Frame]:
    """The messages in one datagram. ValueError: cut short."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if size < 16 or offset + size > end:
            raise ValueError(f"message of {size} bytes at {offset} in a datagram of {end}")
        if kind < 16:
            yield Frame(0, kind, flags, sequence, 0, data[offset + 16 : offset + size])
        elif size >= 20:
            yield Frame(kind >> 8, kind & 0xFF, flags, sequence, data[offset + 16], data[offset + 20 : offset + size])
        offset += (size + 3) & ~3


def failure(frame: Frame) -> Failure:
    """What an NLMSG_ERROR or NLMSG_DONE frame says; an acknowledgement is errno 0."""
    (code,) = I32.unpack_from(frame.body, 0)
    words = ""
    if frame.kind == NLMSG_ERROR and frame.flags & EXTENDED:
        # Body: the error, the request's header, the request's payload unless capped, then attributes.
        (size, *_) = HEADER.unpack_from(frame.body, 4)
        echoed = 16 if frame.flags & CAPPED else (size + 3) & ~3
        said = dict(attributes(frame.body, 4 + echoed)).get(NLMSGERR_ATTR_MSG, b"")
        words = string(said)
    return Failure(-code, words)


def string(raw: bytes) -> str:
    """What a string attribute says."""
    return raw.rstrip(b"\0").decode(errors="replace")


def be32(raw: bytes | None) -> int:
    """What an unsigned 32-bit attribute says; one that is absent says 0."""
    return 0 if raw is None else int(BE32.unpack(raw)[0])


def signed(raw: bytes) -> int:
    """What a 32-bit attribute says that may be negative."""
    value = be32(raw)
    return value - (1 << 32) if value >= 1 << 31 else value
