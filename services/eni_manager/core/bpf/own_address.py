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

Three classifiers with direct action: one on the node, two in each pod, which share a map of flows (flows.py). Nothing
here has to know whether the backend is a pod, of which node, or elsewhere. The node's connection tracking sees both
directions.
Needs Linux 5.10 (`bpf_redirect_neigh`, `bpf_redirect_peer`).

A flow's key is what the pod sees after translation. Fragments of answers have no ports but the first: with that one the
datagram's number is noted beside the flows, under `protocol | FRAGMENT`, and the others are looked up by it. (What the
node sends out was put together before it was translated, and its first fragment is enough to note the flow.)
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from struct import unpack

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
    mask,
    move,
)
from services.eni_manager.core.bpf.flows import (
    DROPPED,
    ETHERNET,
    FOUR,
    FRAGMENT_HEADER,
    HEADER,
    ICMP,
    ICMPV6,
    INGRESS_IFINDEX,
    KIND,
    LOCAL,
    MORE4,
    MORE6,
    NUMBER,
    OFFSET4,
    OFFSET6,
    PORTS,
    REMOTE,
    SIX,
    TO_INGRESS,
    Lines,
    addresses_of_four,
    begin,
    behind_four,
    give_way,
    load,
    look_up,
    named_by_number,
    next_header,
    note,
    note_flow,
    ports_of_four,
    ports_of_six,
    quoting,
    unless_known_protocol,
)
from shared.model import Ip


class Part(StrEnum):
    """The three programs."""

    TURN = "turn"
    ONWARD = "onward"
    ANSWERS = "answers"
    BACK = "back"
    """What ANSWERS is in a pod, on an ENI whose slaves pods are: to the node's own slave (eni_path.py)."""


def program(part: Part, to: int = 0, own: tuple[Ip, ...] = ()) -> Program:
    """One of them. `to`: the ifindex of the link it sends to; `own`: the pod's addresses."""
    match part:
        case Part.TURN:
            return turn()
        case Part.ONWARD:
            return onward(to, own)
        case Part.ANSWERS:
            return answers(to, (move(R2, 0), call(Helper.REDIRECT_PEER)))
        case Part.BACK:
            return answers(to, (move(R2, TO_INGRESS), call(Helper.REDIRECT)))


def turn() -> Program:
    """On the node, what leaves by `terway-turn` leaves by the link that it came in by. MACs do not matter there."""
    return assemble(
        move(R6, R1),
        load32(R1, R6, INGRESS_IFINDEX),
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
        *begin(),
        # IPv4
        *((*_only_from_four(four), *ports_of_four("send")) if four else (jump("pass"),)),
        label("ipv6"),
        *((*_only_from_six(six), *ports_of_six("send")) if six else (jump("pass"),)),
        *note_flow("send"),
        label("send"),
        move(R1, to),
        move(R2, 0),
        move(R3, 0),
        move(R4, 0),
        call(Helper.REDIRECT_NEIGHBOUR),
        leave(),
        *give_way(),
    )


def _only_from_four(own: Ip) -> Lines:
    return (
        *load(ETHERNET, HEADER, FOUR, "pass"),
        load32(R7, R10, HEADER + 12),
        jump_unless32(R7, _words(own)[0], "pass"),
        *addresses_of_four(local=12, remote=16),
    )


def _only_from_six(own: Ip) -> Lines:
    lines: list[Instruction | Label] = [*load(ETHERNET + 8, LOCAL, 32, "pass")]
    for place, word in enumerate(_words(own)):
        lines += [load32(R7, R10, LOCAL + 4 * place), jump_unless32(R7, word, "pass")]
    return tuple(lines)


def answers(to: int, redirect: Lines) -> Program:
    """Where the ENI's packets come in: answers to what was sent onward go to the node, by veth1 or its slave, `to`."""
    return assemble(
        *begin(),
        # IPv4. R7: fragment? R8: where the ports are; R9: the protocol
        *load(ETHERNET, HEADER, FOUR, "pass"),
        *addresses_of_four(local=16, remote=12),
        *behind_four(ETHERNET),
        load8(R9, R10, HEADER + 9),
        load16(R7, R10, HEADER + 4),
        keep32(R10, NUMBER, R7),
        load16(R7, R10, HEADER + 6),
        mask(R7, OFFSET4),
        jump_unless(R7, 0, "later fragment"),
        load16(R7, R10, HEADER + 6),
        mask(R7, MORE4),
        jump_if(R9, ICMP, "icmp"),
        jump("protocol"),
        label("ipv6"),
        *load(ETHERNET + 8, REMOTE, 16, "pass"),
        *load(ETHERNET + 24, LOCAL, 16, "pass"),
        *next_header(ETHERNET, "pass"),
        move(R8, ETHERNET + SIX),
        move(R7, 0),
        jump_if(R9, ICMPV6, "icmpv6"),
        jump_unless(R9, FRAGMENT_HEADER, "protocol"),
        *load(R8, HEADER, 8, "pass"),
        add(R8, 8),
        load8(R9, R10, HEADER),
        load32(R7, R10, HEADER + 4),
        keep32(R10, NUMBER, R7),
        load16(R7, R10, HEADER + 2),
        mask(R7, OFFSET6),
        jump_unless(R7, 0, "later fragment"),
        load16(R7, R10, HEADER + 2),
        mask(R7, MORE6),
        label("protocol"),
        *unless_known_protocol("pass"),
        *load(R8, PORTS + 2, 2, "pass"),
        add(R8, 2),
        *load(R8, PORTS, 2, "pass"),
        keep32(R10, KIND, R9),
        *look_up(),
        jump_if(R0, 0, "pass"),
        jump_if(R7, 0, "send"),
        *named_by_number(),
        *note(),
        jump("send"),
        label("later fragment"),
        *named_by_number(),
        *look_up(),
        jump_if(R0, 0, "pass"),
        jump("send"),
        label("icmp"),
        *quoting(ICMP),
        *load(R8, HEADER, FOUR, "pass"),
        load16(R9, R10, HEADER + 6),
        mask(R9, OFFSET4),
        jump_unless(R9, 0, "pass"),
        *addresses_of_four(local=12, remote=16),
        move(R9, R8),
        *behind_four(0),
        add_register(R8, R9),
        load8(R9, R10, HEADER + 9),
        jump("quoted"),
        label("icmpv6"),
        *quoting(ICMPV6),
        *next_header(R8, "pass"),
        add(R8, 8),
        *load(R8, LOCAL, 32, "pass"),
        add(R8, SIX - 8),
        label("quoted"),
        *unless_known_protocol("pass", "quoted ports"),
        *load(R8, PORTS, 4, "pass"),
        keep32(R10, KIND, R9),
        *look_up(),
        jump_if(R0, 0, "pass"),
        label("send"),
        move(R1, to),
        *redirect,
        leave(),
        *give_way(),
    )


def _words(ip: Ip) -> tuple[int, ...]:
    """An address as the 32-bit words that registers hold of it."""
    raw = (IPv6Address if ":" in ip else IPv4Address)(ip).packed
    return unpack(f"<{len(raw) // 4}I", raw)
