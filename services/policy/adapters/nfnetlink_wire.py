"""The frames of nfnetlink for nf_tables, on top of what all netlink has in common (shared.netlink).

Hand-encoded because a set's element costs 10 µs this way, and 16 ms by a program that first reads the whole table.
Numbers are the kernel's `linux/netfilter/nf_tables.h` and `nfnetlink.h`.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from shared import netlink
from shared.netlink import ATTRIBUTE, HEADER, NESTED, PAD, REQUEST, Failure, attribute, attributes

GENERIC: Final = Struct(">BBH")
"""nfgenmsg: family, version, resource"""
BE32: Final = Struct(">I")

SUBSYSTEM: Final = 10
BATCH_BEGIN: Final = 0x10
BATCH_END: Final = 0x11
INET: Final = 1
"""NFPROTO_INET"""
GENERATION: Final = 1
"""NFNL_BATCH_GENID and NFTA_GEN_ID"""

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = range(9)
NEWSET, GETSET, DELSET, NEWELEMENT, GETELEMENT, DELELEMENT, NEWGEN, GETGEN = range(9, 17)


class Frame(NamedTuple):
    """One message received; `kind` is the message of nf_tables, or of netlink itself when `subsystem` is 0."""

    subsystem: int
    kind: int
    flags: int
    sequence: int
    family: int
    body: bytes
    """attributes, or, of netlink's own messages, everything behind the header"""


def nested(kind: int, payload: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(kind | NESTED, payload)


def number(kind: int, value: int) -> bytes:
    """An unsigned 32-bit attribute in network order, as nf_tables has them; negative numbers as their complement."""
    return ATTRIBUTE.pack(8, kind) + BE32.pack(value & 0xFFFFFFFF)


def message(
    kind: int, body: bytes, sequence: int, *, flags: int = 0, family: int = INET, subsystem: int = SUBSYSTEM
) -> bytes:
    """A message of nf_tables, or of another subsystem."""
    size = 20 + len(body)
    header = HEADER.pack(size, subsystem << 8 | kind, REQUEST | flags, sequence, 0)
    return header + GENERIC.pack(family, 0, 0) + body + PAD[size & 3]


def boundary(kind: int, sequence: int) -> bytes:
    """The beginning or the end of a batch."""
    return HEADER.pack(20, kind, REQUEST, sequence, 0) + GENERIC.pack(0, 0, SUBSYSTEM)


def pieces(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and whole of each attribute, header and padding with it, to be sent as it came."""
    offset = 0
    for kind, payload in attributes(body):
        size = 4 + len(payload)
        yield kind, body[offset : offset + size] + PAD[size & 3]
        offset += (size + 3) & ~3


def mapping(body: bytes) -> dict[int, bytes]:
    """Attributes by kind, for bodies in which none comes twice."""
    return dict(attributes(body))


def frames(data: bytes) -> Iterator[Frame]:
    """The messages in one datagram. ValueError: cut short."""
    for kind, flags, sequence, body in netlink.messages(data):
        if kind < 16:
            yield Frame(0, kind, flags, sequence, 0, body)
        elif len(body) >= 4:
            yield Frame(kind >> 8, kind & 0xFF, flags, sequence, body[0], body[4:])


def failure(frame: Frame) -> Failure:
    """What an NLMSG_ERROR or NLMSG_DONE frame says; an acknowledgement is errno 0."""
    return netlink.failure(frame.kind, frame.flags, frame.body)


def be32(raw: bytes | None) -> int:
    """What an unsigned 32-bit attribute says; one that is absent says 0."""
    return 0 if raw is None else int(BE32.unpack(raw)[0])


def signed(raw: bytes) -> int:
    """What a 32-bit attribute says that may be negative."""
    value = be32(raw)
    return value - (1 << 32) if value >= 1 << 31 else value
