"""Connections of an address that changes hands.

What belongs to a connection is accepted before any policy is asked. So the connections of a pod that ends must be
forgotten before its address is given away: else a peer that goes on sending would be let through to the next owner.
"""

import errno
import socket
import sys
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from services.policy.adapters.nfnetlink import NfSocket, Rejected
from services.policy.adapters.nfnetlink_wire import mapping, nested, number, pieces
from shared.netlink import attribute

_SUBSYSTEM: Final = 1
"""NFNL_SUBSYS_CTNETLINK"""
_GET, _DELETE = 1, 2
_ORIGINAL, _REPLY, _ZONE, _ID, _FILTER = 1, 2, 18, 12, 25
_ADDRESSES: Final = 1
_SOURCE: Final = {4: 1, 6: 3}
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_BY_SOURCE: Final = 1
"""CTA_FILTER_F_CTA_IP_SRC"""


def forget(connections: NfSocket, addresses: Iterable[str]) -> int:
    """Forget every connection that one of the addresses began or answers; how many there were."""
    return sum(
        _forget(connections, ip_address(address).packed, direction)
        for address in addresses
        for direction in (_ORIGINAL, _REPLY)
    )


def _forget(connections: NfSocket, address: bytes, direction: int) -> int:
    version = 4 if len(address) == 4 else 6
    kind = _SOURCE[version]
    # Kernels before 5.8 know no filter and show all. The one for IPv6 shows all but what is asked for (seen on 6.18).
    flags = number(1, _BY_SOURCE * (direction == _ORIGINAL)) + number(2, _BY_SOURCE * (direction == _REPLY))
    wanted = b""
    if version == 4:
        wanted = nested(direction, nested(_ADDRESSES, attribute(kind, address))) + nested(_FILTER, _host_order(flags))
    found = connections.dump(_GET, wanted, subsystem=_SUBSYSTEM, family=_FAMILY[version])
    gone = 0
    for frame in found:
        shown = mapping(frame.body)
        source = mapping(mapping(shown[direction])[_ADDRESSES]).get(kind)
        if source != address:
            continue
        which = b"".join(raw for one, raw in pieces(frame.body) if one in (_ORIGINAL, _ZONE, _ID))
        try:
            connections.ask(_DELETE, which, subsystem=_SUBSYSTEM, family=_FAMILY[version])
            gone += 1
        except Rejected as refused:
            if refused.errno != errno.ENOENT:  # it ended meanwhile
                raise
    return gone


def _host_order(flags: bytes) -> bytes:
    """The filter's two words are in the machine's order, unlike all else here."""
    return b"".join(raw[:4] + int.from_bytes(raw[4:8], "big").to_bytes(4, sys.byteorder) for _, raw in pieces(flags))
