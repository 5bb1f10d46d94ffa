"""What a pod sends to a Service leaves by the pod's own ENI, with the pod's address, after the node has translated it.

    pod  app ─► veth1 ─► node: Service's address ─► backend's, marked, routed to `terway-turn`
                           │ turn: back to the link that it came in by
    pod  veth1, coming in ◄┘
           │ onward: from the pod's own address, so it was turned round: its flow is noted ─► out by the ENI
           ▼
         eth0 ─► backend, which sees the pod and answers it
         eth0, coming in ◄─ answer
           │ answers: of a flow that was noted, or an ICMP error about one ─► the node, as if the pod had sent it
           ▼
         node: translated back ─► veth1 ─► app

Three classifiers with direct action: one on the node, two in each pod, which share a map of flows. Nothing here has to
know whether the backend is a pod, of which node, or elsewhere. The node's connection tracking sees both directions.
Needs Linux 5.10 (`bpf_redirect_neigh`, `bpf_redirect_peer`).

A flow's key is what the pod sees after translation. Fragments of answers have no ports but the first: with that one the
datagram's number is noted beside the flows, under `protocol | FRAGMENT`, and the others are looked up by it. (What the
node sends out was put together before it was translated, and its first fragment is enough to note the flow.)
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from struct import Struct, unpack
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
    Program,
    Register,
    add,
    add_register,
    assemble,
    call,
    jump,
    jump_if,
    jump_unless,
    jump_unless32,
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
_ICMP, _ICMPV6, _FRAGMENT_HEADER = 1, 58, 44
_ERRORS: Final = {_ICMP: (3, 11, 12), _ICMPV6: (1, 2, 3, 4)}
"""Types of messages that quote the packet that they are about."""

_PROTOCOL, _INGRESS_IFINDEX = 16, 36
"""of struct __sk_buff"""
_IPV4, _IPV6 = wire16(0x0800), wire16(0x86DD)
_MAPPED: Final = 0xFFFF0000
_ETHERNET, _FOUR, _SIX = 14, 20, 40
"""Lengths of headers."""
_OFFSET4, _MORE4 = wire16(0x1FFF), wire16(0x3FFF)
_OFFSET6, _MORE6 = wire16(0xFFF8), wire16(0xFFF9)
"""Where a fragment lies in its datagram, without and with whether more follow."""

# The stack, from its top down: the key; a value; the number of a datagram; room for a header.
_KEY, _VALUE, _NUMBER, _HEADER = -40, -48, -56, -96
_LOCAL, _REMOTE, _PORTS, _KIND = _KEY, _KEY + 16, _KEY + 32, _KEY + 36

Lines = tuple[Instruction | Label, ...]


class Part(StrEnum):
    """The three programs."""

    TURN = "turn"
    ONWARD = "onward"
    ANSWERS = "answers"


def program(part: Part, to: int = 0, own: tuple[Ip, ...] = ()) -> Program:
    """One of them. `to`: the ifindex of the link it sends to; `own`: the pod's addresses."""
    match part:
        case Part.TURN:
            return turn()
        case Part.ONWARD:
            return onward(to, own)
        case Part.ANSWERS:
            return answers(to)


def turn() -> Program:
    """On the node, what leaves by `terway-turn` leaves by the link that it came in by. MACs do not matter there."""
    return assemble(
        move(R6, R1),
        load32(R1, R6, _INGRESS_IFINDEX),
        jump_if(R1, 0, "drop"),  # the node's own, such as multicast
        move(R2, 0),
        call(Helper.REDIRECT),
        leave(),
        label("drop"),
        move(R0, DROPPED),
        leave(),
    )


def onward(to: int, own: tuple[Ip, ...]) -> Program:
    """In the pod, where the node's packets come in: those from the pod's own address leave by the ENI, `to`."""
    four = next((ip for ip in own if ":" not in ip), None)
    six = next((ip for ip in own if ":" in ip), None)
    return assemble(
        *_begin(),
        # IPv4
        *(_only_from_four(four) if four else (jump("pass"),)),
        label("ipv6"),
        *(_only_from_six(six) if six else (jump("pass"),)),
        label("protocol"),
        *_unless_known_protocol("send"),
        *_load(R8, _PORTS, 4, "send"),
        keep32(R10, _KIND, R9),
        *_look_up(),
        jump_unless(R0, 0, "send"),
        *_note(),
        label("send"),
        move(R1, to),
        move(R2, 0),
        move(R3, 0),
        move(R4, 0),
        call(Helper.REDIRECT_NEIGHBOUR),
        leave(),
        *_pass(),
    )


def _only_from_four(own: Ip) -> Lines:
    """R8 = where the ports are, R9 = the protocol. What has no ports, a later fragment, is sent."""
    return (
        *_load(_ETHERNET, _HEADER, _FOUR, "pass"),
        load32(R7, R10, _HEADER + 12),
        jump_unless32(R7, _words(own)[0], "pass"),
        *_addresses_of_four(local=12, remote=16),
        load16(R7, R10, _HEADER + 6),
        mask(R7, _OFFSET4),
        *_behind_four(_ETHERNET),
        load8(R9, R10, _HEADER + 9),
        jump_unless(R7, 0, "send"),
        jump("protocol"),
    )


def _only_from_six(own: Ip) -> Lines:
    lines: list[Instruction | Label] = [*_load(_ETHERNET + 8, _LOCAL, 32, "pass")]
    for place, word in enumerate(_words(own)):
        lines += [load32(R7, R10, _LOCAL + 4 * place), jump_unless32(R7, word, "pass")]
    lines += _next_header(_ETHERNET, "pass")
    lines += [
        move(R8, _ETHERNET + _SIX),
        jump_unless(R9, _FRAGMENT_HEADER, "protocol"),
        *_load(R8, _HEADER, 8, "send"),
        load16(R7, R10, _HEADER + 2),
        mask(R7, _OFFSET6),
        jump_unless(R7, 0, "send"),
        load8(R9, R10, _HEADER),
        add(R8, 8),
    ]
    return tuple(lines)


def answers(to: int) -> Program:
    """In the pod, where the ENI's packets come in: answers to what was sent onward go to the node, by veth1, `to`."""
    return assemble(
        *_begin(),
        # IPv4. R7: fragment? R8: where the ports are; R9: the protocol
        *_load(_ETHERNET, _HEADER, _FOUR, "pass"),
        *_addresses_of_four(local=16, remote=12),
        *_behind_four(_ETHERNET),
        load8(R9, R10, _HEADER + 9),
        load16(R7, R10, _HEADER + 4),
        keep32(R10, _NUMBER, R7),
        load16(R7, R10, _HEADER + 6),
        mask(R7, _OFFSET4),
        jump_unless(R7, 0, "later fragment"),
        load16(R7, R10, _HEADER + 6),
        mask(R7, _MORE4),
        jump_if(R9, _ICMP, "icmp"),
        jump("protocol"),
        label("ipv6"),
        *_load(_ETHERNET + 8, _REMOTE, 16, "pass"),
        *_load(_ETHERNET + 24, _LOCAL, 16, "pass"),
        *_next_header(_ETHERNET, "pass"),
        move(R8, _ETHERNET + _SIX),
        move(R7, 0),
        jump_if(R9, _ICMPV6, "icmpv6"),
        jump_unless(R9, _FRAGMENT_HEADER, "protocol"),
        *_load(R8, _HEADER, 8, "pass"),
        add(R8, 8),
        load8(R9, R10, _HEADER),
        load32(R7, R10, _HEADER + 4),
        keep32(R10, _NUMBER, R7),
        load16(R7, R10, _HEADER + 2),
        mask(R7, _OFFSET6),
        jump_unless(R7, 0, "later fragment"),
        load16(R7, R10, _HEADER + 2),
        mask(R7, _MORE6),
        label("protocol"),
        *_unless_known_protocol("pass"),
        *_load(R8, _PORTS + 2, 2, "pass"),
        add(R8, 2),
        *_load(R8, _PORTS, 2, "pass"),
        keep32(R10, _KIND, R9),
        *_look_up(),
        jump_if(R0, 0, "pass"),
        jump_if(R7, 0, "send"),
        *_named_by_number(),
        *_note(),
        jump("send"),
        label("later fragment"),
        *_named_by_number(),
        *_look_up(),
        jump_if(R0, 0, "pass"),
        jump("send"),
        label("icmp"),
        *_quoting(_ICMP),
        *_load(R8, _HEADER, _FOUR, "pass"),
        load16(R9, R10, _HEADER + 6),
        mask(R9, _OFFSET4),
        jump_unless(R9, 0, "pass"),
        *_addresses_of_four(local=12, remote=16),
        move(R9, R8),
        *_behind_four(0),
        add_register(R8, R9),
        load8(R9, R10, _HEADER + 9),
        jump("quoted"),
        label("icmpv6"),
        *_quoting(_ICMPV6),
        *_next_header(R8, "pass"),
        add(R8, 8),
        *_load(R8, _LOCAL, 32, "pass"),
        add(R8, _SIX - 8),
        label("quoted"),
        *_unless_known_protocol("pass", "quoted ports"),
        *_load(R8, _PORTS, 4, "pass"),
        keep32(R10, _KIND, R9),
        *_look_up(),
        jump_if(R0, 0, "pass"),
        label("send"),
        move(R1, to),
        move(R2, 0),
        call(Helper.REDIRECT_PEER),
        leave(),
        *_pass(),
    )


# ---- steps; R6 is the packet throughout


def _begin() -> Lines:
    """Go on for IPv4, and at `ipv6`; what is neither passes. The key and all else on the stack is zero."""
    return (
        move(R6, R1),
        *(store64(R10, at, 0) for at in range(_HEADER, 0, 8)),
        store32(R10, _VALUE, 1),
        load32(R7, R6, _PROTOCOL),
        jump_if(R7, _IPV6, "ipv6"),
        jump_unless(R7, _IPV4, "pass"),
    )


def _pass() -> Lines:
    return (label("pass"), move(R0, PASS), leave())


def _load(offset: int | Register, at: int, size: int, otherwise: str) -> Lines:
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


def _addresses_of_four(*, local: int, remote: int) -> Lines:
    """The key's addresses from the IPv4 header on the stack, where they are at these offsets. R1 is lost."""
    return (
        store32(R10, _LOCAL + 8, _MAPPED),
        store32(R10, _REMOTE + 8, _MAPPED),
        load32(R1, R10, _HEADER + local),
        keep32(R10, _LOCAL + 12, R1),
        load32(R1, R10, _HEADER + remote),
        keep32(R10, _REMOTE + 12, R1),
    )


def _behind_four(start: int) -> Lines:
    """R8 = where the IPv4 header on the stack ends, if it starts at `start`."""
    return (load8(R8, R10, _HEADER), mask(R8, 0x0F), shift_left(R8, 2), add(R8, start))


def _next_header(start: int | Register, otherwise: str) -> Lines:
    """R9 = what follows the IPv6 header at `start`; a register is moved on by six."""
    if isinstance(start, Register):
        found: Lines = (add(start, 6), *_load(start, _HEADER, 1, otherwise), add(start, -6))
    else:
        found = _load(start + 6, _HEADER, 1, otherwise)
    return (*found, load8(R9, R10, _HEADER))


def _unless_known_protocol(target: str, known: str = "ports") -> Lines:
    return (*(jump_if(R9, each, known) for each in PROTOCOLS), jump(target), label(known))


def _quoting(protocol: int) -> Lines:
    """Pass what is no error of ICMP; R8 = where the packet starts that it quotes."""
    quotes = f"{protocol} quotes"
    return (
        *_load(R8, _HEADER, 1, "pass"),
        load8(R9, R10, _HEADER),
        *(jump_if(R9, each, quotes) for each in _ERRORS[protocol]),
        jump("pass"),
        label(quotes),
        add(R8, 8),
    )


def _named_by_number() -> Lines:
    """The key of a datagram in pieces, R9 its protocol."""
    return (
        load32(R1, R10, _NUMBER),
        keep32(R10, _PORTS, R1),
        set_bits(R9, FRAGMENT),
        keep32(R10, _KIND, R9),
    )


def _look_up() -> Lines:
    return (load_map(R1, MAP), move(R2, R10), add(R2, _KEY), call(Helper.MAP_LOOKUP))


def _note() -> Lines:
    return (
        load_map(R1, MAP),
        move(R2, R10),
        add(R2, _KEY),
        move(R3, R10),
        add(R3, _VALUE),
        move(R4, 0),
        call(Helper.MAP_UPDATE),
    )


def _words(ip: Ip) -> tuple[int, ...]:
    """An address as the 32-bit words that registers hold of it."""
    raw = (IPv6Address if ":" in ip else IPv4Address)(ip).packed
    return unpack(f"<{len(raw) // 4}I", raw)


def key(own: Ip, remote: Ip, own_port: int, remote_port: int, protocol: int) -> bytes:
    """A flow as the map's key."""
    ports = (number.to_bytes(2, "big") for number in (own_port, remote_port))
    return KEY.pack(_sixteen(own), _sixteen(remote), *ports, protocol)


def _sixteen(ip: Ip) -> bytes:
    return IPv6Address(ip if ":" in ip else f"::ffff:{ip}").packed
