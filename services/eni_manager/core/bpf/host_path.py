"""What pods on IPvlan send to Services goes by the node's own stack, where kube-proxy's rules are (terway.md §5.3).

A classifier on the ENI's egress: packets whose destination is in the map arrive on the link that the map names, as if
they had come in there; all others leave as before. Direct action, so its result is what happens to the packet.

    frame ─► IPv4 or IPv6? ─► destination in the map? ─► the link's MAC on it ─► redirected to the link's ingress
                 no: leaves        no: leaves

A frame that arrives for another MAC than the link's is for nobody. All links of an ENI have its MAC, and a pod's frame
bears it as its source: so the source is copied to the destination.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_network
from struct import Struct
from typing import Final

from services.eni_manager.core.bpf.assembly import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R10,
    Helper,
    Program,
    add,
    assemble,
    call,
    jump,
    jump_if,
    jump_unless,
    label,
    leave,
    load32,
    load_map,
    move,
    store32,
    store64,
    wire16,
)
from shared.model import Cidr

MAP: Final = "destinations"
KEY: Final = Struct("=I16s")
"""Prefix length and address, as a map of longest prefixes wants them; IPv4 is ::ffff:a.b.c.d, its prefixes + 96."""
VALUE: Final = Struct("=I")
"""The ifindex of the link on which packets for the key arrive."""

PASS: Final = -1
"""TC_ACT_UNSPEC: the next classifier decides, and where there is none the packet leaves."""
REDIRECTED: Final = 7
"""TC_ACT_REDIRECT"""

_PROTOCOL: Final = 16
"""of struct __sk_buff: the Ethernet type as the wire has it"""
_IPV4, _IPV6 = wire16(0x0800), wire16(0x86DD)
_IPV4_DESTINATION, _IPV6_DESTINATION = 14 + 16, 14 + 24
_MAC_DESTINATION, _MAC_SOURCE = 0, 6
_TO_INGRESS: Final = 1
_MAPPED: Final = 0xFFFF0000
"""Two zero bytes and two of ff, as they lie in memory."""

# The stack, from its top down: the key, 20 bytes; once it has been looked up, the MAC, in the same place.
_KEY, _ADDRESS, _MAC = -20, -16, -8


PROGRAM: Final[Program] = assemble(
    move(R6, R1),
    store32(R10, _KEY, 128),
    load32(R7, R6, _PROTOCOL),
    jump_if(R7, _IPV6, "ipv6"),
    jump_unless(R7, _IPV4, "pass"),
    # IPv4: ten zero bytes, two of ff, the destination
    store64(R10, _ADDRESS, 0),
    store32(R10, _ADDRESS + 8, _MAPPED),
    move(R1, R6),
    move(R2, _IPV4_DESTINATION),
    move(R3, R10),
    add(R3, _ADDRESS + 12),
    move(R4, 4),
    call(Helper.LOAD_BYTES),
    jump_unless(R0, 0, "pass"),
    jump("look up"),
    label("ipv6"),
    move(R1, R6),
    move(R2, _IPV6_DESTINATION),
    move(R3, R10),
    add(R3, _ADDRESS),
    move(R4, 16),
    call(Helper.LOAD_BYTES),
    jump_unless(R0, 0, "pass"),
    label("look up"),
    load_map(R1, MAP),
    move(R2, R10),
    add(R2, _KEY),
    call(Helper.MAP_LOOKUP),
    jump_if(R0, 0, "pass"),
    load32(R7, R0, 0),
    # its source MAC becomes its destination
    move(R1, R6),
    move(R2, _MAC_SOURCE),
    move(R3, R10),
    add(R3, _MAC),
    move(R4, 6),
    call(Helper.LOAD_BYTES),
    jump_unless(R0, 0, "pass"),
    move(R1, R6),
    move(R2, _MAC_DESTINATION),
    move(R3, R10),
    add(R3, _MAC),
    move(R4, 6),
    move(R5, 0),
    call(Helper.STORE_BYTES),
    jump_unless(R0, 0, "pass"),
    move(R1, R7),
    move(R2, _TO_INGRESS),
    call(Helper.REDIRECT),
    leave(),
    label("pass"),
    move(R0, PASS),
    leave(),
)


def key(cidr: Cidr) -> bytes:
    """A range as the map's key."""
    network = ip_network(cidr)
    if network.version == 4:
        return KEY.pack(96 + network.prefixlen, b"\0" * 10 + b"\xff\xff" + network.network_address.packed)
    return KEY.pack(network.prefixlen, network.network_address.packed)


def cidr(raw: bytes) -> Cidr:
    """The range that a key of the map is."""
    prefix, address = KEY.unpack(raw)
    found = IPv6Address(address)
    if found.ipv4_mapped is not None and prefix >= 96:
        return Cidr(f"{found.ipv4_mapped}/{prefix - 96}")
    return Cidr(f"{found}/{prefix}")


def entries(cidrs: Iterable[Cidr], ifindex: int) -> Mapping[bytes, bytes]:
    """What the map holds so that packets for these ranges arrive on that link."""
    return {key(each): VALUE.pack(ifindex) for each in cidrs}
