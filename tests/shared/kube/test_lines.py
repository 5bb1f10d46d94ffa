"""Lines come out whole however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.kube.errors import ApiInternal
from shared.kube.lines import Lines


@given(st.lists(st.binary().filter(lambda b: b"\n" not in b)), st.lists(st.integers(min_value=1, max_value=9)))
def test_any_cut_gives_the_same_lines(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cutter = Lines()
    seen: list[bytes] = []
    for size in [*cuts, len(stream) + 1]:
        chunk, stream = stream[:size], stream[size:]
        seen.extend(cutter.feed(chunk))
    assert seen == [line for line in lines if line.strip()]


def test_the_end_of_a_cut_line_is_never_told() -> None:
    assert [*Lines().feed(b'{"a":1}\n{"b":')] == [b'{"a":1}']


def test_a_line_beyond_the_limit_is_refused_and_one_at_it_is_not() -> None:
    cutter = Lines(max_line=1000)
    assert [*cutter.feed(b"x" * 999), *cutter.feed(b"x\n")] == [b"x" * 1000]
    with pytest.raises(ApiInternal, match="longer than 1000 bytes"):
        [*cutter.feed(b"x" * 600), *cutter.feed(b"x" * 600)]
