"""Instructions as the kernel's documentation encodes them; labels; maps."""

import pytest

from services.eni_manager.core.bpf.assembly import (
    R0,
    R1,
    R2,
    R6,
    R10,
    Helper,
    Instruction,
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

ENCODED = [
    (move(R6, R1), "bf16000000000000"),
    (move(R0, -1), "b7000000ffffffff"),
    (add(R2, -20), "07020000ecffffff"),
    (load32(R2, R6, 16), "6162100000000000"),
    (store32(R10, -8, 0xFFFF0000), "620af8ff0000ffff"),
    (store64(R10, -16, 0), "7a0af0ff00000000"),
    (call(Helper.REDIRECT), "8500000017000000"),
    (leave(), "9500000000000000"),
]


@pytest.mark.parametrize(("instruction", "encoded"), ENCODED)
def test_each_instruction(instruction: Instruction, encoded: str) -> None:
    assert assemble(instruction).code.hex() == encoded


def test_jumps_count_slots_from_the_next_one_and_a_map_takes_two() -> None:
    program = assemble(
        jump_if(R1, 7, "end"), load_map(R1, "m"), jump("end"), jump_unless(R1, 8, "end"), label("end"), leave()
    )
    slots = [program.code[start : start + 8].hex() for start in range(0, len(program.code), 8)]
    assert slots == [
        "1501040007000000",
        "1811000000000000",
        "0000000000000000",
        "0500010000000000",
        "5501000008000000",
        "9500000000000000",
    ]
    assert program.maps == {1: "m"}
    assert program.linked({"m": 9})[8:16].hex() == "1811000009000000"


def test_a_program_is_known_by_its_code() -> None:
    assert assemble(leave()).digest == assemble(label("x"), leave()).digest != assemble(move(R0, 1), leave()).digest


def test_what_cannot_be_assembled() -> None:
    with pytest.raises(ValueError, match="no label end"):
        assemble(jump("end"))
    with pytest.raises(ValueError, match="end stands twice"):
        assemble(label("end"), label("end"))
    with pytest.raises(ValueError, match="a jump back to start"):
        assemble(label("start"), jump("start"))


def test_numbers_as_the_wire_has_them() -> None:
    assert (wire16(0x0800), wire16(0x86DD)) == (0x0008, 0xDD86)
