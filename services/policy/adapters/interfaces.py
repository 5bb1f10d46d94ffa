"""The node's interfaces and their addresses: which host endpoint is meant by an address."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from struct import Struct
from typing import Final

from shared.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR, REQUEST, attributes

_ROUTE: Final = 0
_GETADDR, _NEWADDR = 22, 20
_DUMP: Final = 0x300
_ADDRESS: Final = Struct("=BBBBI")
"""ifaddrmsg: family, length, flags, scope, index"""
_ANY, _LOCAL = 1, 2
_RECEIVE: Final = 1 << 16


def interfaces() -> dict[str, list[str]]:
    """Every interface of the calling thread's namespace with its addresses, canonical, without lengths."""
    names = dict(socket.if_nameindex())
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for index, address in _addresses():
        if index in names:  # else it has gone meanwhile
            found[names[index]].append(address)
    return found


def _addresses() -> Iterator[tuple[int, str]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE) as route:
        route.settimeout(10.0)
        route.send(HEADER.pack(24, _GETADDR, REQUEST | _DUMP, 1, 0) + _ADDRESS.pack(0, 0, 0, 0, 0))
        while True:
            data = route.recv(_RECEIVE)
            offset = 0
            while offset + 16 <= len(data):
                size, kind, *_ = HEADER.unpack_from(data, offset)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return
                if kind == _NEWADDR:
                    index = _ADDRESS.unpack_from(data, offset + 16)[4]
                    said = dict(attributes(data[offset + 24 : offset + size]))
                    # On a point-to-point link the address proper is the other end's.
                    raw = said.get(_LOCAL) or said.get(_ANY)
                    if raw is not None:
                        yield index, str(ip_address(raw))
                offset += (size + 3) & ~3
