"""Packets that rules sent to a group of nflog: each with its prefix, and the beginning of the packet itself.

Its own socket, in the namespace of the calling thread. What nobody reads in time the kernel drops, and numbers tell how
much that was; no packet ever waits for it. Numbers are those of `linux/netfilter/nfnetlink_log.h`.
"""

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from struct import Struct
from typing import Final, NamedTuple, Self

from services.policy.adapters.nfnetlink_wire import GENERIC, be32, failure, frames, mapping, number
from shared.errors import Unavailable
from shared.netlink import ACK, HEADER, NLMSG_ERROR, REQUEST, attribute, string

_NETFILTER: Final = 12
_SUBSYSTEM: Final = 4
"""NFNL_SUBSYS_ULOG"""
_PACKET, _CONFIG = 0, 1
_CFG_COMMAND, _CFG_MODE, _CFG_TIMEOUT, _CFG_QUEUE, _CFG_FLAGS = 1, 2, 4, 5, 6
_BIND, _COPY_PACKET, _NUMBERED = 1, 2, 1
_PAYLOAD, _PREFIX, _NUMBER = 9, 10, 12
_MODE: Final = Struct(">IBx")
_SNAPLEN: Final = 128
_HELD_BACK: Final = 20
"""Hundredths of a second for which the kernel collects, and so many packets at most."""
_AT_ONCE: Final = 40
_RCVBUFFORCE: Final = 33
_BUFFER: Final = 1 << 20
_RECEIVE: Final = 1 << 17
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_WITH_PORTS: Final = frozenset((6, 17, 132))
_EXTENSIONS: Final = frozenset((0, 43, 60))
"""Headers of IPv6 that come before the packet's own, and say how long they are."""


class Logged(NamedTuple):
    """One sample. Ports are 0 where the protocol has none."""

    prefix: str
    source: str
    destination: str
    protocol: str
    source_port: int
    port: int


class Group:
    """A group that nobody else may read. A context manager. `lost` counts what the kernel dropped."""

    def __init__(self, group: int, *, buffer: int = _BUFFER) -> None:
        """`buffer`: bytes that may wait to be read."""
        self._group = group
        self._told = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        self._expected: int | None = None
        self.lost = 0
        try:
            self._socket.settimeout(10.0)
            self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, buffer)
            self._ask(attribute(_CFG_COMMAND, bytes((_BIND,))))
            self._ask(attribute(_CFG_MODE, _MODE.pack(_SNAPLEN, _COPY_PACKET)))
            self._ask(number(_CFG_TIMEOUT, _HELD_BACK) + number(_CFG_QUEUE, _AT_ONCE))
            self._ask(attribute(_CFG_FLAGS, _NUMBERED.to_bytes(2, "big")))
            self._socket.setblocking(False)
        except OSError as refused:
            self._socket.close()
            if refused.errno in (errno.EPERM, errno.EACCES):
                raise Unavailable("the flow log needs CAP_NET_ADMIN") from refused
            raise Unavailable(f"nflog does not answer: {refused.strerror or refused}") from refused
        except Unavailable:
            self._socket.close()
            raise

    def close(self) -> None:
        """From now on the kernel keeps nothing for the group."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For an event loop."""
        return self._socket.fileno()

    def read(self) -> list[Logged] | None:
        """What came in one go; None: nothing is there. What is no packet of IP is left out."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
                break
            except BlockingIOError:
                return None
            except OSError as lost:
                if lost.errno != errno.ENOBUFS:  # too much at once: the numbers tell how much
                    raise
        return list(self._logged(data))

    def newly_lost(self) -> int:
        """How much of `lost` this was not told before."""
        new, self._told = self.lost - self._told, self.lost
        return new

    def _logged(self, data: bytes) -> Iterator[Logged]:
        for frame in frames(data):
            if frame.subsystem != _SUBSYSTEM or frame.kind != _PACKET:
                continue
            shown = mapping(frame.body)
            if _NUMBER in shown:
                now = be32(shown[_NUMBER])
                if self._expected is not None:
                    self.lost += (now - self._expected) & 0xFFFFFFFF
                self._expected = (now + 1) & 0xFFFFFFFF
            read = packet(string(shown.get(_PREFIX, b"")), shown.get(_PAYLOAD, b""))
            if read is not None:
                yield read

    def _ask(self, body: bytes) -> None:
        head = HEADER.pack(20 + len(body), _SUBSYSTEM << 8 | _CONFIG, REQUEST | ACK, 1, 0)
        self._socket.send(head + GENERIC.pack(0, 0, self._group) + body)
        while True:
            for frame in frames(self._socket.recv(_RECEIVE)):
                if not frame.subsystem and frame.kind == NLMSG_ERROR:
                    said = failure(frame)
                    if said.errno in (errno.EBUSY, errno.EPERM):  # whoever may set the buffer may bind
                        raise Unavailable(f"somebody else reads the group {self._group} of nflog: set another")
                    if said.errno:
                        raise OSError(said.errno, said.words or errno.errorcode.get(said.errno, str(said.errno)))
                    return


def packet(prefix: str, data: bytes) -> Logged | None:
    """What the beginning of a packet tells; None: it is none of IP, or cut short."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        kind, at = data[9], (data[0] & 15) * 4
        source, destination = data[12:16], data[16:20]
        first = not int.from_bytes(data[6:8], "big") & 0x1FFF
    elif version == 6 and len(data) >= 40:
        kind, at, first = data[6], 40, True
        source, destination = data[8:24], data[24:40]
        while kind in _EXTENSIONS and len(data) >= at + 8:
            kind, at = data[at], at + 8 * (data[at + 1] + 1)
    else:
        return None
    ports = (0, 0)
    if first and kind in _WITH_PORTS and len(data) >= at + 4:
        ports = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
    return Logged(
        prefix, str(ip_address(source)), str(ip_address(destination)), _PROTOCOLS.get(kind, str(kind)), *ports
    )
