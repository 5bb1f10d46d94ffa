"""IPvlan: what pods send to Services goes through the node's own stack, and out by their ENI with their own address.

    pod ─► ENI, egress ─ to a Service: its frame's MACs are noted, by the pod's address ─► the node's own slave
                                                                                              │ translated, marked
    backend ◄─ ENI, egress ◄─ marked: the MACs that the pod's frame had; its flow is noted ◄──┘ routed by that ENI
    backend ─► ENI, ingress ─ of a flow that was noted (own_address.py, Part.BACK) ─► the node's own slave ─► pod

On egress this is host_path.py's program and more. The node cannot ask for the gateway's MAC: slaves of an ENI take all
answers. The pod has asked, so its frame has it. Learned by the pod's address: what one pod forges harms no other.
"""

from struct import Struct
from typing import Final

from services.eni_manager.core.bpf import host_path
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
    keep32,
    label,
    leave,
    load32,
    load_map,
    mask,
    move,
    store32,
)
from services.eni_manager.core.bpf.flows import (
    ETHERNET,
    FOUR,
    HEADER,
    INGRESS_IFINDEX,
    IPV6,
    LOCAL,
    PROTOCOL,
    REMOTE,
    TO_INGRESS,
    Lines,
    addresses_of_four,
    begin,
    give_way,
    load,
    note_flow,
    ports_of_four,
    ports_of_six,
)

MACS: Final = "macs"
MACS_KEY: Final = Struct("=16s")
"""A pod's address, IPv4 as ::ffff:a.b.c.d."""
MACS_VALUE: Final = Struct("=6s6s")
"""Destination and source of its frames to elsewhere."""
MARK: Final = 0x20
"""What the node's rules put on what goes out by the ENI for a pod."""

_MARK: Final = 8
"""of struct __sk_buff"""
_RANGE, _RANGE_ADDRESS, _MACS = -120, -116, -136
"""On the stack: the key of the destinations' map, and a frame's MACs."""


def _range_of_the_destination() -> Lines:
    words = ((load32(R1, R10, REMOTE + at), keep32(R10, _RANGE_ADDRESS + at, R1)) for at in range(0, 16, 4))
    return (store32(R10, _RANGE, 128), *(line for pair in words for line in pair))


PROGRAM: Final[Program] = assemble(
    *begin(),
    # IPv4
    *load(ETHERNET, HEADER, FOUR, "pass"),
    *addresses_of_four(local=12, remote=16),
    jump("destination"),
    label("ipv6"),
    *load(ETHERNET + 8, LOCAL, 32, "pass"),
    label("destination"),
    *_range_of_the_destination(),
    load_map(R1, host_path.MAP),
    move(R2, R10),
    add(R2, _RANGE),
    call(Helper.MAP_LOOKUP),
    jump_if(R0, 0, "leaves"),
    # to a Service
    load32(R7, R0, 0),
    *load(0, _MACS, MACS_VALUE.size, "pass"),
    load_map(R1, MACS),
    move(R2, R10),
    add(R2, LOCAL),
    move(R3, R10),
    add(R3, _MACS),
    move(R4, 0),
    call(Helper.MAP_UPDATE),
    # its source MAC becomes its destination
    move(R1, R6),
    move(R2, 0),
    move(R3, R10),
    add(R3, _MACS + 6),
    move(R4, 6),
    move(R5, 0),
    call(Helper.STORE_BYTES),
    jump_unless(R0, 0, "pass"),
    move(R1, R7),
    move(R2, TO_INGRESS),
    call(Helper.REDIRECT),
    leave(),
    # from the node for a pod? A pod that marks its own packets has not come in anywhere.
    label("leaves"),
    load32(R1, R6, _MARK),
    mask(R1, MARK),
    jump_if(R1, 0, "pass"),
    load32(R1, R6, INGRESS_IFINDEX),
    jump_if(R1, 0, "pass"),
    load_map(R1, MACS),
    move(R2, R10),
    add(R2, LOCAL),
    call(Helper.MAP_LOOKUP),
    jump_if(R0, 0, "pass"),
    move(R1, R6),
    move(R2, 0),
    move(R3, R0),
    move(R4, MACS_VALUE.size),
    move(R5, 0),
    call(Helper.STORE_BYTES),
    jump_unless(R0, 0, "pass"),
    load32(R7, R6, PROTOCOL),
    jump_if(R7, IPV6, "ports of ipv6"),
    *ports_of_four("pass"),
    label("ports of ipv6"),
    *ports_of_six("pass"),
    *note_flow("pass"),
    *give_way(),
)
