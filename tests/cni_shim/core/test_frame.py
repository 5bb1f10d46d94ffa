"""Frames, cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cni_shim.core.frame import BadFrame, Call, note_of, read_call, write_reply
from services.cni_shim.core.reply import Reply

CALL = Call(None, 60, {"CNI_COMMAND": "DEL", "CNI_IFNAME": "eth0", "CNI_ARGS": "a=b;c=ü"}, b'{"name": "x"}')


def test_a_note_is_a_call() -> None:
    assert read_call(note_of(CALL)) == CALL


def test_the_note_of_an_add_is_its_del() -> None:
    add = Call(5, 120, {**CALL.env, "CNI_COMMAND": "ADD"}, CALL.stdin)
    noted = read_call(note_of(add))
    assert noted is not None and noted.env["CNI_COMMAND"] == "DEL" and noted.netns is None


@given(st.integers(0, len(note_of(CALL)) - 1))
def test_cut_anywhere_it_is_not_yet_a_call(cut: int) -> None:
    assert read_call(note_of(CALL)[:cut]) is None


@given(st.binary(max_size=300))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    try:
        assert read_call(noise) is None or noise.startswith(b"terway-cni/1 ")
    except BadFrame:
        pass


@pytest.mark.parametrize(
    "header",
    [
        b"x" * 200,
        b"\n",
        b"terway-cni/2 none 1 0 0\n",
        b"terway-cni/1 none 1 0\n",
        b"terway-cni/1 none 1 -1 0\n",
        b"terway-cni/1 none 1 0 4194305\n",
        b"terway-cni/1 none 1 0 0\nx",
    ],
)
def test_not_ours(header: bytes) -> None:
    with pytest.raises(BadFrame):
        read_call(header)


def test_reply() -> None:
    assert write_reply(Reply(1, b"abc\n")) == b"1 4\nabc\n"
