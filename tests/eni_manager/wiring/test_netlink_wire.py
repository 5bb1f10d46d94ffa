"""Frames of rtnetlink: whatever is written is read back, and what is cut short or made up is refused."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.eni_manager.adapters.netlink_wire import (
    Request,
    attributes,
    failure,
    packed,
)
from shared.netlink import ACK, CAPPED, EXTENDED, HEADER, NLMSG_ERROR, NLMSGERR_ATTR_MSG, attribute, text
from shared.netlink import Message as Frame
from shared.netlink import messages as frames

BODIES = st.binary(max_size=70)


@given(st.lists(st.tuples(st.integers(16, 100), BODIES), max_size=6))
def test_requests_come_back_as_they_were(requests: list[tuple[int, bytes]]) -> None:
    data = b"".join(packed(Request(kind, 0, body), number, flags=ACK) for number, (kind, body) in enumerate(requests))
    assert [(f.type, f.sequence, f.body) for f in frames(data)] == [
        (kind, number, body) for number, (kind, body) in enumerate(requests)
    ]


@given(st.dictionaries(st.integers(1, 0x3FFF), BODIES, max_size=6), st.integers(0, 3))
def test_attributes_come_back_as_they_were(wanted: dict[int, bytes], skip: int) -> None:
    body = bytes(4 * skip) + b"".join(attribute(kind, payload) for kind, payload in wanted.items())
    assert attributes(body, 4 * skip) == wanted
    assert attributes(body, 4 * skip, only=()) == {}


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        for frame in frames(data):
            with suppress(ValueError):
                attributes(frame.body, 0)


def test_what_is_cut_short_is_refused() -> None:
    whole = packed(Request(16, 0, attribute(3, b"eth0\0")), 1)
    with pytest.raises(ValueError, match="in a datagram of"):
        list(frames(whole[:-4]))
    with pytest.raises(ValueError, match="in a message of"):
        attributes(attribute(3, b"eth0\0\0\0\0")[:-1], 0)


@pytest.mark.parametrize("capped", [True, False])
def test_a_refusal_carries_the_kernels_words(capped: bool) -> None:
    echoed = packed(Request(16, 0, b"12345678"), 7)
    body = (-17).to_bytes(4, "little", signed=True) + (echoed[: HEADER.size] if capped else echoed)
    said = failure(
        Frame(NLMSG_ERROR, EXTENDED | (CAPPED if capped else 0), 7, body + text(NLMSGERR_ATTR_MSG, "no room"))
    )
    assert (said.errno, said.words) == (17, "no room")
    assert failure(Frame(NLMSG_ERROR, 0, 7, bytes(4) + echoed[:16])).errno == 0
