"""The wire, cut anywhere: what was put in comes out, and nothing else does."""

from itertools import pairwise

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Failure
from shared.rpc.wire import (
    Frames,
    Meta,
    Request,
    Response,
    WireError,
    encode_failure,
    encode_request,
    encode_result,
)


class Params(msgspec.Struct):
    text: str
    numbers: list[int]
    more: dict[str, float | None]


ids = st.integers(0, 2**32 - 1)
params = st.builds(
    Params,
    text=st.text(max_size=40),
    numbers=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=5),
    more=st.dictionaries(st.text(max_size=5), st.none() | st.floats(allow_nan=False), max_size=3),
)
metas = st.builds(Meta, deadline_s=st.none() | st.floats(0, 1e6), request_id=st.text(max_size=20))
failures = st.builds(
    Failure, code=st.text(max_size=10), message=st.text(max_size=40), retry_after=st.none() | st.floats(0, 1e6)
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, Request | Response]:
    """A frame and what it must be read as."""
    id, method, body = draw(ids), draw(st.text(max_size=20)), draw(params)
    plain = msgspec.to_builtins(body)
    match draw(st.sampled_from(["request", "notification", "result", "failure"])):
        case "request":
            meta = draw(metas)
            return encode_request(id, method, body, meta), Request(id, method, plain, meta)
        case "notification":
            return encode_request(None, method, body, Meta()), Request(None, method, plain, Meta())
        case "result":
            return encode_result(id, body), Response(id, None, plain)
        case _:
            failure = draw(failures)
            return encode_failure(id, failure), Response(id, failure, None)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    return [stream[a:b] for a, b in pairwise([0, *sorted(place % (len(stream) + 1) for place in places), len(stream)])]


def read(frames: Frames, pieces: list[bytes]) -> list[Request | Response]:
    return [message for piece in pieces for message in frames.feed(piece)]


def read_until_broken(frames: Frames, pieces: list[bytes]) -> tuple[list[Request | Response], bool]:
    """What came before the stream broke, and whether it did."""
    found: list[Request | Response] = []
    try:
        for piece in pieces:
            for message in frames.feed(piece):
                found.append(message)
    except WireError:
        return found, True
    return found, False


@given(st.lists(messages(), max_size=6), st.lists(st.integers(0, 5000), max_size=12))
def test_messages_survive_any_cut(sent: list[tuple[bytes, Request | Response]], places: list[int]) -> None:
    stream = b"".join(frame for frame, _ in sent)
    frames = Frames(1 << 16)
    assert read(frames, cut(stream, places)) == [message for _, message in sent]
    assert frames.pending == 0


@given(st.lists(messages(), max_size=3), st.binary(max_size=80), st.lists(st.integers(0, 5000), max_size=12))
def test_garbage_is_refused_at_the_same_place_however_it_is_cut(
    sent: list[tuple[bytes, Request | Response]], garbage: bytes, places: list[int]
) -> None:
    stream = b"".join(frame for frame, _ in sent) + garbage
    whole = read_until_broken(Frames(1 << 16), [stream])
    assert whole == read_until_broken(Frames(1 << 16), cut(stream, places))
    assert whole[0][: len(sent)] == [message for _, message in sent]


def nested(depth: int) -> bytes:
    """An array of arrays that never ends; each level holds integers that an unpacker takes out of its buffer."""
    return b"\xdd\xff\xff\xff\xff" * 1 + (b"\xdc\x00\x10" + b"\x01" * 15) * depth


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_message_is_bounded_even_while_it_is_incomplete(piece: int) -> None:
    """The unpacker's own limits do not see this: no array is long, and it holds no unread bytes at any time."""
    endless = b"\x94\x00\x01\xa1m" + (b"\xdc\x03\xe8" + (b"\xdc\x03\xe8" + b"\x01" * 1000) * 60)
    frames = Frames(1000)
    taken = 0
    with pytest.raises(WireError, match="longer than 1000"):
        for start in range(0, len(endless), piece):
            taken = start
            list(frames.feed(endless[start : start + piece]))
    assert taken <= 2000


def test_endless_nesting_is_refused() -> None:
    with pytest.raises(WireError):
        list(Frames(1 << 20).feed(nested(20_000)))


@given(st.integers(0, 3))
def test_the_limit_is_exact(over: int) -> None:
    frame = encode_request(1, "m", Params("x" * 300, [], {}), Meta())
    frames = Frames(len(frame) - over)
    found, broken = read_until_broken(frames, [frame[:100], frame[100:]])
    assert (len(found), broken) == ((1, False) if over == 0 else (0, True))


def test_small_messages_in_one_large_piece_are_not_an_oversized_one() -> None:
    frame = encode_request(1, "m", Params("", [], {}), Meta())
    assert len(list(Frames(len(frame)).feed(frame * 500))) == 500


@pytest.mark.parametrize(
    "message",
    [
        {"not": "an array"},
        7,
        [],
        [0],
        [3, 1, "m", []],
        [0, "id", "m", [{}]],
        [0, True, "m", [{}]],
        [True, 1, None, {}],
        [0, 1, b"m", [{}]],
        [0, 1, "m", {}],
        [0, 1, "m", [{}, {}, {}]],
        [0, 1, "m", [{}, 7]],
        [0, 1, "m", [{}, {"deadline_s": "soon"}]],
        [0, 1, "m", [{}, {"deadline_s": float("nan")}]],
        [0, 1, "m", [{}, {"deadline_s": float("inf")}]],
        [2, "m", 5],
        [1, 1, None],
        [1, 1, None, {}, 5],
    ],
)
def test_what_is_no_message_is_refused(message: object) -> None:
    with pytest.raises(WireError):
        list(Frames(1000).feed(msgpack.packb(message)))


@pytest.mark.parametrize(
    "bytes_", [b"\xc1", b"\xa3\xff\xfe\xfd", b"\x81\x90\x01", b"\x81\x01\x02", b"\xc7\x01\x05\x00"]
)
def test_what_is_no_messagepack_of_ours_is_refused(bytes_: bytes) -> None:
    """A reserved byte, a string that is no UTF-8, keys that are no strings, an extension type."""
    with pytest.raises(WireError):
        list(Frames(1000).feed(bytes_))


def test_a_foreign_client_may_leave_out_meta_and_params() -> None:
    """MessagePack-RPC's arguments are any array; ours has two elements, both with a default."""
    frames = Frames(1000)
    stream = msgpack.packb([0, 1, "m", []]) + msgpack.packb([0, 2, "m", [{"a": 1}]])
    assert read(frames, [stream]) == [Request(1, "m", {}, Meta()), Request(2, "m", {"a": 1}, Meta())]


def test_a_foreign_servers_error_is_internal() -> None:
    found = read(Frames(1000), [msgpack.packb([1, 9, "no such method", None])])
    assert found == [Response(9, Failure("internal", "no such method"), None)]


def test_a_newer_neighbours_fields_are_ignored() -> None:
    found = read(Frames(1000), [msgpack.packb([0, 1, "m", [{}, {"request_id": "r", "tomorrow": 1}]])])
    assert found == [Request(1, "m", {}, Meta(request_id="r"))]
