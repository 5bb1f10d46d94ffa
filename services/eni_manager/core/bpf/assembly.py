"""An assembler for BPF: one function per instruction, labels to jump to, maps by name until the program is loaded.

    program = assemble(
        move(R0, 0),
        jump_unless(R1, 7, "end"),
        move(R0, 1),
        label("end"),
        leave(),
    )

Covers what our programs use. Encoding: Documentation/bpf/standardization/instruction-set.rst of Linux.
Numbers in packets are big-endian, registers of this machine little-endian: `wire16` turns one into the other.
"""

import hashlib
from collections.abc import Mapping
from enum import IntEnum
from struct import Struct, pack, unpack
from typing import Final

import msgspec

_SLOT: Final = Struct("<BBhi")
"""opcode, registers (destination in the low half), offset, immediate"""


class Register(IntEnum):
    """R0 is what a call returns, R1 to R5 its arguments, R6 to R9 survive it; R10 is the top of 512 bytes of stack."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register


class Helper(IntEnum):
    """The kernel's functions that a program may call (linux/bpf.h)."""

    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    STORE_BYTES = 9
    REDIRECT = 23
    LOAD_BYTES = 26
    REDIRECT_NEIGHBOUR = 152
    """Linux 5.10: out of a link, its next hop looked up and asked for as if it were sent from there."""
    REDIRECT_PEER = 155
    """Linux 5.10: as if it came in at the other end of a veth, past this end's queue."""


class Instruction(msgspec.Struct, frozen=True):
    """One instruction. `target`: the label it jumps to. `map`: the map whose descriptor it loads, in two slots."""

    opcode: int
    destination: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0
    target: str = ""
    map: str = ""

    @property
    def slots(self) -> int:
        """Its length, in slots of eight bytes."""
        return 2 if self.map else 1


class Label(msgspec.Struct, frozen=True):
    """A place in the program; it has no length."""

    name: str


class Program(msgspec.Struct, frozen=True):
    """Assembled; `maps`: the slots that take a map's descriptor when the program is loaded."""

    code: bytes
    maps: Mapping[int, str] = {}

    @property
    def digest(self) -> str:
        """Eight digits that change with the program: how a loaded one is known to be this one."""
        return hashlib.sha256(self.code).hexdigest()[:8]

    def linked(self, descriptors: Mapping[str, int]) -> bytes:
        """The code with the descriptors of its maps in place."""
        code = bytearray(self.code)
        for slot, name in self.maps.items():
            code[8 * slot + 4 : 8 * slot + 8] = pack("<i", descriptors[name])
        return bytes(code)


# ---- instructions


def move(to: Register, value: Register | int) -> Instruction:
    """to = value, all 64 bits; a number is of 32 bits, its sign extended."""
    if isinstance(value, Register):
        return Instruction(0xBF, to, value)
    return Instruction(0xB7, to, immediate=value)


def add(to: Register, number: int) -> Instruction:
    """to += number"""
    return Instruction(0x07, to, immediate=number)


def add_register(to: Register, number: Register) -> Instruction:
    """to += number"""
    return Instruction(0x0F, to, number)


def mask(to: Register, bits: int) -> Instruction:
    """to &= bits"""
    return Instruction(0x57, to, immediate=bits)


def set_bits(to: Register, bits: int) -> Instruction:
    """to |= bits"""
    return Instruction(0x47, to, immediate=bits)


def shift_left(to: Register, by: int) -> Instruction:
    """to <<= by"""
    return Instruction(0x67, to, immediate=by)


def load8(to: Register, base: Register, offset: int) -> Instruction:
    """to = the byte at base + offset, zero extended"""
    return Instruction(0x71, to, base, offset)


def load16(to: Register, base: Register, offset: int) -> Instruction:
    """to = the 16 bits at base + offset, zero extended"""
    return Instruction(0x69, to, base, offset)


def load32(to: Register, base: Register, offset: int) -> Instruction:
    """to = the 32 bits at base + offset, zero extended"""
    return Instruction(0x61, to, base, offset)


def store32(base: Register, offset: int, number: int) -> Instruction:
    """The 32 bits at base + offset = number"""
    return Instruction(0x62, base, offset=offset, immediate=_signed(number))


def keep32(base: Register, offset: int, value: Register) -> Instruction:
    """The 32 bits at base + offset = the low half of value"""
    return Instruction(0x63, base, value, offset)


def store64(base: Register, offset: int, number: int) -> Instruction:
    """The 64 bits at base + offset = number, which is of 32 bits, its sign extended"""
    return Instruction(0x7A, base, offset=offset, immediate=number)


def load_map(to: Register, name: str) -> Instruction:
    """to = the map"""
    return Instruction(0x18, to, source=1, map=name)


def call(helper: Helper) -> Instruction:
    """R0 = helper(R1, …, R5); R1 to R5 are lost"""
    return Instruction(0x85, immediate=helper)


def jump(target: str) -> Instruction:
    """Go on at the label."""
    return Instruction(0x05, target=target)


def jump_if(register: Register, number: int, target: str) -> Instruction:
    """Go on at the label if register == number."""
    return Instruction(0x15, register, immediate=number, target=target)


def jump_unless(register: Register, number: int, target: str) -> Instruction:
    """Go on at the label unless register == number."""
    return Instruction(0x55, register, immediate=number, target=target)


def jump_unless32(register: Register, number: int, target: str) -> Instruction:
    """Go on at the label unless the low half of the register is these 32 bits (Linux 5.1)."""
    return Instruction(0x56, register, immediate=_signed(number), target=target)


def leave() -> Instruction:
    """The end; R0 is the program's result."""
    return Instruction(0x95)


def label(name: str) -> Label:
    """Where jumps go on."""
    return Label(name)


def wire16(number: int) -> int:
    """What a register holds after loading these 16 bits as the wire has them."""
    return int(unpack("<H", pack(">H", number))[0])


# ---- assembling


def assemble(*lines: Instruction | Label) -> Program:
    """The program. ValueError: a label is missing, or there twice, or stands before a jump to it (a loop)."""
    places: dict[str, int] = {}
    slot = 0
    for line in lines:
        if isinstance(line, Label):
            if line.name in places:
                raise ValueError(f"label {line.name} stands twice")
            places[line.name] = slot
        else:
            slot += line.slots
    code = b""
    maps: dict[int, str] = {}
    for line in lines:
        if isinstance(line, Label):
            continue
        slot = len(code) // 8
        offset = line.offset
        if line.target:
            offset = _distance(line.target, places, slot)
        if line.map:
            maps[slot] = line.map
        code += _SLOT.pack(line.opcode, line.destination | line.source << 4, offset, line.immediate)
        code += bytes(8 * (line.slots - 1))
    return Program(code, maps)


def _distance(target: str, places: Mapping[str, int], slot: int) -> int:
    if target not in places:
        raise ValueError(f"no label {target} to jump to")
    distance = places[target] - slot - 1
    if distance < 0:
        raise ValueError(f"a jump back to {target}: older kernels refuse loops")
    return distance


def _signed(number: int) -> int:
    return int(unpack("<i", pack("<I", number & 0xFFFFFFFF))[0])
