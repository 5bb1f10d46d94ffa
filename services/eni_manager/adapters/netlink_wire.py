"""The frames of rtnetlink, on top of what all netlink has in common (shared.netlink)."""

from collections.abc import Container
from struct import Struct
from typing import Final, NamedTuple

from shared import netlink
from shared.netlink import ATTRIBUTE, HEADER, I32, PAD, REQUEST, Failure
from shared.netlink import Message as Frame

U8: Final = Struct("=B")
U32: Final = Struct("=I")

REPLACE: Final = 0x100
EXCL: Final = 0x200


class Request(NamedTuple):
    """One message to send, without what the socket adds (length, sequence)."""

    type: int
    flags: int
    body: bytes
    about: object = ""
    """what it is for, in words, should the kernel refuse it"""


def number(kind: int, value: int) -> bytes:
    """An unsigned 32-bit attribute."""
    return ATTRIBUTE.pack(8, kind) + U32.pack(value)


def attributes(body: bytes, offset: int, only: Container[int] | None = None) -> dict[int, bytes]:
    """The attributes of a message from `offset` on, or those of the kinds given. ValueError: they do not fit it."""
    found = netlink.attributes(body, offset)
    return {kind: payload for kind, payload in found if only is None or kind in only}


def packed(request: Request, sequence: int, *, flags: int = 0) -> bytes:
    """A request as it goes on the socket; `flags` come on top of its own."""
    header = HEADER.pack(16 + len(request.body), request.type, REQUEST | request.flags | flags, sequence, 0)
    return header + request.body + PAD[len(request.body) & 3]


def failure(frame: Frame) -> Failure:
    """What an NLMSG_ERROR frame says; an acknowledgement is errno 0."""
    return netlink.failure(frame.type, frame.flags, frame.body)


def u32(raw: bytes | None) -> int:
    """What an unsigned 32-bit attribute says; one that is absent says 0."""
    return 0 if raw is None else int(U32.unpack(raw)[0])


def i32(raw: bytes) -> int:
    """What a signed 32-bit attribute says."""
    return int(I32.unpack(raw)[0])


def mac_bytes(mac: str) -> bytes:
    """A colon-separated MAC as the wire has it."""
    return bytes.fromhex(mac.replace(":", ""))
