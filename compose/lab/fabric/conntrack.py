"""Forgetting connections: an address that changes hands takes none along.

Security groups let pass what belongs to a connection that conntrack knows, and conntrack knows addresses, not ENIs.
So whatever is no longer delivered to an ENI is forgotten. By netlink, without a library: a dump and deletions, for
which the kernel's own bytes of a connection's first tuple are sent back as they came.
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x0101, 0x0102
"""NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_GET and _DELETE."""
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_FAMILY_HEADER = 4
"""Length of struct nfgenmsg, between the header and the attributes."""
_ADDRESS = {socket.AF_INET: 4, socket.AF_INET6: 16}


def forget(ranges: Iterable[str]) -> None:
    """Every connection from or to these addresses and CIDRs, in the calling thread's namespace."""
    if not (networks := [ip_network(each) for each in ranges]):
        return
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        for family, first in list(_tuples(netlink)):
            if any(end in network for end in _ends(family, first) for network in networks):
                for _ in _ask(netlink, _DELETE, _ACK, family, first):
                    pass


def _tuples(netlink: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Family, and the attribute CTA_TUPLE_ORIG, of every connection."""
    for body in _ask(netlink, _GET, _DUMP, socket.AF_UNSPEC):
        length, _ = _ATTRIBUTE.unpack_from(body, _FAMILY_HEADER)
        yield body[0], body[_FAMILY_HEADER : _FAMILY_HEADER + length]


def _ends(family: int, first: bytes) -> list[object]:
    """Source and destination: CTA_TUPLE_ORIG begins with CTA_TUPLE_IP, which holds one attribute for each."""
    size, offset = _ADDRESS[socket.AddressFamily(family)], 3 * _ATTRIBUTE.size
    ends = (first[offset : offset + size], first[offset + size + 4 : offset + 2 * size + 4])
    return [ip_address(end) for end in ends]


def _ask(netlink: socket.socket, kind: int, flags: int, family: int, attributes: bytes = b"") -> Iterator[bytes]:
    """The bodies of all answers. A connection that has ended by itself meanwhile is none."""
    length = _HEADER.size + _FAMILY_HEADER + len(attributes)
    head = _HEADER.pack(length, kind, _REQUEST | flags, 0, 0) + struct.pack("=BBH", family, 0, 0)
    netlink.send(head + attributes)
    while True:
        received = netlink.recv(1 << 16)
        while received:
            size, answer, *_ = _HEADER.unpack_from(received)
            body, received = received[_HEADER.size : size], received[(size + 3) & ~3 :]
            if answer == _ERROR and (errno := -struct.unpack_from("=i", body)[0]) not in (0, 2):
                raise OSError(errno, "conntrack")
            if answer in (_ERROR, _DONE):
                return
            yield body
