"""Go's durations, as Go reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.duration import Duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120s", 120),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("100ms", 0.1),
        ("1µs", 1e-6),
        ("1us", 1e-6),
        ("5ns", 5e-9),
        ("-3s", -3),
        ("+3s", 3),
        ("1h1m1s1ms", 3661.001),
    ],
)
def test_read(text: str, seconds: float) -> None:
    duration = parse_duration(text)
    assert isinstance(duration, Duration)
    assert duration == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "120", "s", "1d", "1 s", "1s ", "--1s", "1,5s", ".s", "1e3s", "two", "1٣s"])
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expected a duration such as 120s"):
        parse_duration(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_parts_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    expected = hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    assert parse_duration(f"{hours}h{minutes}m{seconds}s{milliseconds}ms") == pytest.approx(expected)
