"""A flow of a pod to a Service's backend, as our programs know it: its key, and the steps that make it of a packet.

Stack and registers are shared by all steps: R6 is the packet, R8 where its ports are, R9 its protocol.
"""

from ipaddress import IPv6Address
from struct import Struct
from typing import Final

from services.eni_manager.core.bpf.assembly import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    R9,
    R10,
    Helper,
    Instruction,
    Label,
    Register,
    add,
    call,
    jump,
    jump_if,
    jump_unless,
    keep32,
    label,
    leave,
    load8,
    load16,
    load32,
    load_map,
    mask,
    move,
    set_bits,
    shift_left,
    store32,
    store64,
    wire16,
)
from shared.model import Ip

MAP: Final = "flows"
KEY: Final = Struct("=16s16s2s2sI")
"""The pod's address, the backend's (IPv4 as ::ffff:a.b.c.d), the pod's port, the backend's, protocol."""
VALUE: Final = Struct("=I")
"""Always 1: that the key is there says all."""
LAYOUT: Final = 1
"""Of the map. A program of the same layout leaves its flows to the one that takes its place."""
FRAGMENT: Final = 0x100
"""In a key's protocol: the ports are the number of a datagram in pieces."""

PASS: Final = -1
"""TC_ACT_UNSPEC: the next classifier decides, and where there is none the packet goes on."""
DROPPED: Final = 2
"""TC_ACT_SHOT"""
REDIRECTED: Final = 7
"""TC_ACT_REDIRECT"""

PROTOCOLS: Final = (6, 17, 132)
"""TCP, UDP, SCTP: what Services are of. Their ports are the first four bytes."""
ICMP, ICMPV6, FRAGMENT_HEADER = 1, 58, 44
_ERRORS: Final = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}
"""Types of messages that quote the packet that they are about."""

TO_INGRESS: Final = 1

PROTOCOL, INGRESS_IFINDEX = 16, 36
"""of struct __sk_buff"""
IPV4, IPV6 = wire16(0x0800), wire16(0x86DD)
_MAPPED: Final = 0xFFFF0000
ETHERNET, FOUR, SIX = 14, 20, 40
"""Lengths of headers."""
OFFSET4, MORE4 = wire16(0x1FFF), wire16(0x3FFF)
OFFSET6, MORE6 = wire16(0xFFF8), wire16(0xFFF9)
"""Where a fragment lies in its datagram, without and with whether more follow."""

# The stack, from its top down: the key; a value; the number of a datagram; room for a header.
KEY_AT, VALUE_AT, NUMBER, HEADER = -40, -48, -56, -96
LOCAL, REMOTE, PORTS, KIND = KEY_AT, KEY_AT + 16, KEY_AT + 32, KEY_AT + 36

Lines = tuple[Instruction | Label, ...]


def ports_of_four(without: str) -> Lines:
    """R8 = where the ports are, R9 = the protocol; on at `protocol`, with a later fragment, which has none, there."""
    return (
        load16(R7, R10, HEADER + 6),
        mask(R7, OFFSET4),
        *behind_four(ETHERNET),
        load8(R9, R10, HEADER + 9),
        jump_unless(R7, 0, without),
        jump("protocol"),
    )


def ports_of_six(without: str) -> Lines:
    """The same; it ends where `protocol` is to be."""
    return (
        *next_header(ETHERNET, "pass"),
        move(R8, ETHERNET + SIX),
        jump_unless(R9, FRAGMENT_HEADER, "protocol"),
        *load(R8, HEADER, 8, without),
        load16(R7, R10, HEADER + 2),
        mask(R7, OFFSET6),
        jump_unless(R7, 0, without),
        load8(R9, R10, HEADER),
        add(R8, 8),
    )


def note_flow(then: str) -> Lines:
    """From `protocol` on: note the flow of the ports at R8, unless it is known."""
    return (
        label("protocol"),
        *unless_known_protocol(then),
        *load(R8, PORTS, 4, then),
        keep32(R10, KIND, R9),
        *look_up(),
        jump_unless(R0, 0, then),
        *note(),
    )


# ---- steps; R6 is the packet throughout


def begin() -> Lines:
    """Go on for IPv4, and at `ipv6`; what is neither passes. The key and all else on the stack is zero."""
    return (
        move(R6, R1),
        *(store64(R10, at, 0) for at in range(HEADER, 0, 8)),
        store32(R10, VALUE_AT, 1),
        load32(R7, R6, PROTOCOL),
        jump_if(R7, IPV6, "ipv6"),
        jump_unless(R7, IPV4, "pass"),
    )


def give_way() -> Lines:
    return (label("pass"), move(R0, PASS), leave())


def load(offset: int | Register, at: int, size: int, otherwise: str) -> Lines:
    """So many bytes of the packet to the stack; a packet that is too short goes on at `otherwise`."""
    return (
        move(R1, R6),
        move(R2, offset),
        move(R3, R10),
        add(R3, at),
        move(R4, size),
        call(Helper.LOAD_BYTES),
        jump_unless(R0, 0, otherwise),
    )


def addresses_of_four(*, local: int, remote: int) -> Lines:
    """The key's addresses from the IPv4 header on the stack, where they are at these offsets. R1 is lost."""
    return (
        store32(R10, LOCAL + 8, _MAPPED),
        store32(R10, REMOTE + 8, _MAPPED),
        load32(R1, R10, HEADER + local),
        keep32(R10, LOCAL + 12, R1),
        load32(R1, R10, HEADER + remote),
        keep32(R10, REMOTE + 12, R1),
    )


def behind_four(start: int) -> Lines:
    """R8 = where the IPv4 header on the stack ends, if it starts at `start`."""
    return (load8(R8, R10, HEADER), mask(R8, 0x0F), shift_left(R8, 2), add(R8, start))


def next_header(start: int | Register, otherwise: str) -> Lines:
    """R9 = what follows the IPv6 header at `start`; a register is moved on by six."""
    if isinstance(start, Register):
        found: Lines = (add(start, 6), *load(start, HEADER, 1, otherwise), add(start, -6))
    else:
        found = load(start + 6, HEADER, 1, otherwise)
    return (*found, load8(R9, R10, HEADER))


def unless_known_protocol(target: str, known: str = "ports") -> Lines:
    return (*(jump_if(R9, each, known) for each in PROTOCOLS), jump(target), label(known))


def quoting(protocol: int) -> Lines:
    """Pass what is no error of ICMP; R8 = where the packet starts that it quotes."""
    quotes = f"{protocol} quotes"
    return (
        *load(R8, HEADER, 1, "pass"),
        load8(R9, R10, HEADER),
        *(jump_if(R9, each, quotes) for each in _ERRORS[protocol]),
        jump("pass"),
        label(quotes),
        add(R8, 8),
    )


def named_by_number() -> Lines:
    """The key of a datagram in pieces, R9 its protocol."""
    return (
        load32(R1, R10, NUMBER),
        keep32(R10, PORTS, R1),
        set_bits(R9, FRAGMENT),
        keep32(R10, KIND, R9),
    )


def look_up() -> Lines:
    return (load_map(R1, MAP), move(R2, R10), add(R2, KEY_AT), call(Helper.MAP_LOOKUP))


def note() -> Lines:
    return (
        load_map(R1, MAP),
        move(R2, R10),
        add(R2, KEY_AT),
        move(R3, R10),
        add(R3, VALUE_AT),
        move(R4, 0),
        call(Helper.MAP_UPDATE),
    )


def key(own: Ip, remote: Ip, own_port: int, remote_port: int, protocol: int) -> bytes:
    """A flow as the map's key."""
    ports = (number.to_bytes(2, "big") for number in (own_port, remote_port))
    return KEY.pack(_sixteen(own), _sixteen(remote), *ports, protocol)


def _sixteen(ip: Ip) -> bytes:
    return IPv6Address(ip if ":" in ip else f"::ffff:{ip}").packed
