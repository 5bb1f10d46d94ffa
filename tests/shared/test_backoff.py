"""Pauses grow as told, within their jitter and cap, and end when they should."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.backoff import TABLE, TABLE_2021, Backoff, with_overrides


def none() -> float:
    return 0.0


def test_growth_is_exact_without_jitter() -> None:
    assert list(Backoff(2.0, 1.5, steps=5).delays(none)) == [2.0, 3.0, 4.5, 6.75]
    assert list(Backoff(2.0, 1.5, cap_s=4.0, steps=5).delays(none)) == [2.0, 3.0, 4.0, 4.0]


def test_attempts_are_steps_and_the_first_waits_its_own_time() -> None:
    assert list(Backoff(1.0, steps=3).attempts(none)) == [0.0, 1.0, 1.0]
    assert list(Backoff(3.0, 1.5, steps=3, first_s=18.0).attempts(none)) == [18.0, 3.0, 4.5]
    assert list(Backoff(1.0, steps=1).attempts(none)) == [0.0]
    assert list(Backoff(1.0, steps=1).delays(none)) == []
    assert list(Backoff(1.0, steps=0).attempts(none)) == []


def test_jitter_only_lengthens() -> None:
    assert list(Backoff(5.0, 1.0, 1.3, steps=3).delays(lambda: 0.5)) == [8.25, 8.25]


@given(
    st.builds(
        Backoff,
        initial_s=st.floats(0, 100),
        factor=st.floats(0.1, 10),
        jitter=st.floats(0, 2),
        cap_s=st.none() | st.floats(0.1, 100),
        steps=st.none() | st.integers(0, 50),
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_bounds(backoff: Backoff, chance: float) -> None:
    delays = list(islice(backoff.delays(lambda: chance), 2000))
    assert len(delays) == (2000 if backoff.steps is None else max(0, backoff.steps - 1))
    assert all(0 <= delay < float("inf") for delay in delays)
    if backoff.cap_s is not None:
        assert all(delay <= backoff.cap_s * (1 + backoff.jitter) for delay in delays)


def test_tables_agree_where_terway_did_not_change() -> None:
    same = {"default", "eni_ops", "eni_release", "meta_assign_private_ip", "meta_unassign_private_ip"}
    assert {name for name in TABLE_2021 if TABLE_2021[name] == TABLE[name]} == same | {"wait_sts_token_ready"}
    assert set(TABLE_2021) <= set(TABLE)


@pytest.mark.parametrize(
    ("name", "first", "total"),
    [("eni_create", 0.0, 10.0), ("wait_eni_status", 3.0, 96.5), ("eni_delete_confirm", 1.0, 9.0)],
)
def test_total_patience(name: str, first: float, total: float) -> None:
    """How long a caller waits at most without jitter: a changed digit in the table shows here."""
    attempts = list(TABLE[name].attempts(none))
    assert attempts[0] == first
    assert sum(attempts[1:]) == pytest.approx(total, abs=0.5)


def test_overrides_replace_whole_entries() -> None:
    quick = Backoff(0.01, steps=2)
    table = with_overrides({"eni_ops": quick, "new": quick})
    assert table["eni_ops"] == table["new"] == quick
    assert table["default"] == TABLE["default"] and "new" not in TABLE
    assert with_overrides({}, TABLE_2021) == TABLE_2021
