"""SCTP without sockets for it: the first packet of an association, made by hand, and who gets it.

Most kernels' rules and connection tracking judge SCTP also where it cannot be spoken (CONFIG_IP_SCTP off). A raw socket
sends an INIT, with the checksum that connection tracking looks at (RFC 9260, section 6.8), and one in the destination
hears what was let in.
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from compose.lab.netns import call_in

_HEADER = struct.Struct("!HHII")
_INIT = struct.Struct("!BBHIIHHI")
_POLYNOMIAL = 0x82F63B78


def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))


_TABLE = _table()


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum of the bytes."""
    value = 0xFFFFFFFF
    for byte in content:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def init(source_port: int, port: int, tag: int) -> bytes:
    """An INIT chunk alone, as it must be; `tag` is the sender's own, not 0."""
    chunk = _INIT.pack(1, 0, _INIT.size, tag, 1 << 16, 1, 1, tag)
    checksum = crc32c(_HEADER.pack(source_port, port, 0, 0) + chunk)
    return struct.pack("!HHI", source_port, port, 0) + struct.pack("<I", checksum) + chunk


class Associations:
    """Raw sockets of pods, made when first needed: `entry` says where a pod's namespace is."""

    def __init__(self, family: socket.AddressFamily, entry: Callable[[str], Path]) -> None:
        self._family, self._entry = family, entry
        self._sockets: dict[str, socket.socket] = {}
        self._tag = 0
        self._arrived: set[tuple[str, int]] = set()

    def begin(self, source: str, destination: str, address: str, port: int, source_port: int) -> int:
        """Send an INIT; the tag that it has."""
        self._of(destination)  # whoever listens is there first
        self._tag += 1
        # What rules in its own namespace drop, a sender is told (exclusive-eni).
        with suppress(PermissionError):
            self._of(source).sendto(init(source_port, port, self._tag), (address, 0))
        return self._tag

    def arrived(self, destination: str, tag: int) -> bool:
        """Whether the destination has got it."""
        with suppress(BlockingIOError):
            while True:
                packet = self._of(destination).recv(256)
                header = (packet[0] & 0x0F) * 4 if self._family == socket.AF_INET else 0
                self._arrived.add((destination, _INIT.unpack_from(packet, header + _HEADER.size)[3]))
        return (destination, tag) in self._arrived

    def close(self) -> None:
        """Nobody listens any more."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _of(self, pod: str) -> socket.socket:
        if pod not in self._sockets:
            made = call_in(self._entry(pod), lambda: socket.socket(self._family, socket.SOCK_RAW, socket.IPPROTO_SCTP))
            made.setblocking(False)
            self._sockets[pod] = made
        return self._sockets[pod]
