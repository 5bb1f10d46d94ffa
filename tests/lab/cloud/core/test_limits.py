"""Token buckets, distributions of delays, and the calendar that they fill."""

import itertools
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.cloud.core.calendar import Calendar
from compose.lab.cloud.core.model import DELAYS, Delays
from compose.lab.cloud.core.spread import LogNormal, Mixture, Spread, draw
from compose.lab.cloud.core.throttle import Limit, Limits, Throttle, Throttled


def refused(throttle: Throttle, action: str, now: float) -> Throttled:
    with pytest.raises(Throttled) as caught:
        throttle.admit(action, now)
    return caught.value


def test_a_burst_and_then_the_rate() -> None:
    throttle = Throttle(Limits(actions={"A": Limit(60, burst=2)}))
    throttle.admit("A", 0)
    throttle.admit("A", 0)
    no = refused(throttle, "A", 0.25)
    assert (no.code, no.status, no.retry_after_s) == ("Throttling.User", 400, pytest.approx(0.75))
    throttle.admit("B", 0.25)
    throttle.admit("A", 1.0)
    refused(throttle, "A", 1.5)
    throttle.admit("A", 100)
    throttle.admit("A", 100)
    assert refused(throttle, "A", 100).code == "Throttling.User", "a bucket holds its burst and no more"


def test_all_calls_together() -> None:
    throttle = Throttle(Limits(account=Limit(60, burst=2), each_action=Limit(60, burst=2)))
    throttle.admit("A", 0)
    throttle.admit("B", 0)
    assert refused(throttle, "C", 0).code == "Throttling"
    throttle.limits = Limits()
    for _ in range(100):
        throttle.admit("A", 0)


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 5), st.integers(1, 600))
def test_never_more_than_burst_and_rate_allow(pauses: list[float], burst: int, per_minute: int) -> None:
    throttle = Throttle(Limits(each_action=Limit(per_minute, burst=burst)))
    let_through, times = 0, list(itertools.accumulate(pauses))
    for now in times:
        try:
            throttle.admit("A", now)
            let_through += 1
        except Throttled as e:
            assert e.retry_after_s > 0
    span = times[-1] - times[0] if times else 0
    assert let_through <= burst + span * per_minute / 60 + 1e-6


SPREADS: list[tuple[bytes, Spread]] = [
    (b"[1, 3]", (1.0, 3.0)),
    (b'{"kind": "log_normal", "median": 5, "p99": 60}', LogNormal(5, 60)),
    (b'{"kind": "mixture", "of": [[0.9, [0, 1]], [0.1, [30, 60]]]}', Mixture(((0.9, (0, 1)), (0.1, (30, 60))))),
]


@pytest.mark.parametrize(("text", "spread"), SPREADS)
def test_distributions_are_read_from_files(text: bytes, spread: Spread) -> None:
    assert msgspec.json.decode(b'{"attach": ' + text + b"}", type=Delays).attach == spread


@pytest.mark.parametrize("spread", [s for _, s in SPREADS])
@given(one=st.floats(0, 1, exclude_max=True), other=st.floats(0, 1, exclude_max=True))
def test_a_greater_chance_is_a_longer_time(spread: Spread, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 0 <= draw(spread, less) <= draw(spread, more)


def test_distributions_are_what_they_say() -> None:
    chance = random.Random(7)
    drawn = sorted(draw(LogNormal(5, 60), chance.random()) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(5, rel=0.05) and drawn[19_800] == pytest.approx(60, rel=0.15)
    mixed = [draw(Mixture(((0.9, (0, 1)), (0.1, (30, 60)))), chance.random()) for _ in range(20_000)]
    assert sum(value >= 30 for value in mixed) == pytest.approx(2_000, rel=0.1)
    assert all(value <= 1 or 30 <= value <= 60 for value in mixed)


@pytest.mark.parametrize(
    "text",
    [
        b'{"kind": "log_normal", "median": 0, "p99": 1}',
        b'{"kind": "log_normal", "median": 5, "p99": 1}',
        b'{"kind": "mixture", "of": [[0.5, [0, 1]]]}',
        b'{"kind": "other"}',
    ],
)
def test_distributions_that_cannot_be(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"attach": ' + text + b"}", type=Delays)


@given(st.lists(st.integers(1, 50), max_size=20))
def test_the_calendar_keeps_the_order_of_times(waits: list[int]) -> None:
    calendar, happened = Calendar(lambda: 0.0), list[int]()
    for wait in waits:
        calendar.after((wait, wait), 1000.0, lambda wait=wait: happened.append(wait))
    while (due := calendar.next_due) is not None:
        calendar.advance(due)
    assert happened == sorted(waits, key=lambda wait: 1000.0 + wait), "what is due at the same time: in the order given"


def test_every_named_set_of_delays_can_be_drawn_from() -> None:
    for delays in DELAYS.values():
        for name in msgspec.structs.fields(delays):
            assert draw(getattr(delays, name.name), 0.999) >= 0
