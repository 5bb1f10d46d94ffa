import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ipam.core.sizing import (
    Counts,
    Watermarks,
    count,
    excess,
    needed,
    reclaimable,
    surplus,
    warmed_up,
)
from tests.ipam.world import eni, grant, inventory, ip, item, key, one_eni, pool_of, release, wish


def counts(used: int = 0, idle: int = 0, cooling: int = 0, unusable: int = 0, waiting: int = 0) -> Counts:
    return Counts(used=used, idle=idle, cooling=cooling, unusable=unusable, given_back=0, waiting=waiting)


@pytest.mark.parametrize(
    ("have", "marks", "total"),
    [
        (counts(), Watermarks(0, 5), 0),
        (counts(), Watermarks(3, 5), 3),
        (counts(used=2, idle=3), Watermarks(0, 5), 5),  # inside the marks nothing moves
        (counts(used=2, idle=3), Watermarks(4, 5), 6),
        (counts(used=2, idle=9), Watermarks(0, 5), 7),
        (counts(used=2, cooling=9), Watermarks(0, 5), 7),
        (counts(used=2, waiting=4), Watermarks(0, 5), 6),
        (counts(used=2, waiting=4), Watermarks(3, 5), 9),
        (counts(used=2, cooling=8, waiting=4), Watermarks(0, 5), 14),  # waiting pods do not wait for the cooldown
        (counts(used=2, cooling=8, waiting=4), Watermarks(0, 30), 14),
        (counts(used=28, waiting=200), Watermarks(3, 5), 30),
        (counts(used=2, unusable=3, waiting=3), Watermarks(0, 5), 5),
    ],
)
def test_needed(have: Counts, marks: Watermarks, total: int) -> None:
    assert needed(have, marks, 30) == total


def test_a_pod_that_comes_or_goes_between_the_marks_moves_nothing() -> None:
    marks = Watermarks(2, 5)
    totals = {needed(counts(used=used, idle=10 - used), marks, 30) for used in range(5, 9)}
    assert totals == {10}


@pytest.mark.parametrize(
    ("have", "total"),
    [
        (counts(), 12),
        (counts(idle=8), 12),
        (counts(used=2, idle=12), 12),
        (counts(used=9, idle=3, waiting=4), 13),
    ],
)
def test_a_node_that_warms_up_holds_more_than_the_high_mark(have: Counts, total: int) -> None:
    marks = Watermarks(0, 5, warm_up=12)
    assert needed(have, marks, 30) == total
    assert needed(have, marks, 10) <= 10, "never more than the node can hold"


def test_warming_up_ends_when_the_node_has_held_as_many_once() -> None:
    marks = Watermarks(0, 5, warm_up=12)
    assert not warmed_up(counts(used=3, idle=8), marks, 30)
    assert warmed_up(counts(used=3, idle=9), marks, 30)
    assert warmed_up(counts(used=3, idle=7), marks, 10), "a small node is as warm as it can be"
    assert excess(counts(idle=12), marks) == 0
    assert excess(counts(idle=14), marks) == 2
    assert excess(counts(idle=12), Watermarks(0, 5)) == 7


def test_promised_items_are_as_good_as_used() -> None:
    marks = Watermarks(2, 5)
    before = needed(counts(used=10, idle=3), marks, 30)
    away = msgspec.structs.replace(counts(idle=3), promised=10)
    assert needed(away, marks, 30) == before == 13
    assert excess(away, marks) == 0


@pytest.mark.parametrize(
    ("have", "batch", "goes"),
    [
        (counts(used=4, idle=9), 5, 5),
        (counts(used=4, idle=4), 5, 2),
        (counts(used=4, idle=2, cooling=2), 5, 2),
        (counts(used=4, idle=2), 5, 0),
        (counts(used=4, idle=9, waiting=1), 5, 0),
    ],
)
def test_a_quiet_node_gives_back_a_few_at_a_time_down_to_the_low_mark(have: Counts, batch: int, goes: int) -> None:
    assert reclaimable(have, Watermarks(2, 10), batch) == goes


small = st.integers(0, 40)


@given(small, small, small, small, small, small, small, st.integers(0, 60))
def test_demand_keeps_its_promises(
    used: int, idle: int, cooling: int, unusable: int, waiting: int, low: int, more: int, capacity: int
) -> None:
    marks = Watermarks(min(low, capacity), min(low + more, capacity))
    have = counts(used, idle, cooling, unusable, waiting)
    total = needed(have, marks, capacity)
    assert total <= capacity
    assert total >= min(used + waiting + marks.low, capacity)
    after = counts(used, idle, cooling - excess(have, marks), unusable, waiting)
    assert needed(after, marks, capacity) >= min(total, used + waiting + marks.high), "giving back asks for nothing new"


def test_excess_counts_what_cools_and_spares_waiting_pods() -> None:
    assert excess(counts(idle=4, cooling=4), Watermarks(0, 5)) == 3
    assert excess(counts(idle=4, cooling=4, waiting=1), Watermarks(0, 5)) == 0
    assert excess(counts(idle=4), Watermarks(0, 5)) == 0


def test_count() -> None:
    pool = pool_of(inventory(eni(1, *(item(n, usable=n != 6) for n in range(1, 7)))))
    for name in "abc":
        grant(pool, wish(name), 0)
    release(pool, key("a"), 0)
    pool.retire(key("b"))
    pool.mark([ip(5)], 0)
    found = count(pool, 9, 1.0)
    assert found == Counts(used=2, idle=1, cooling=1, unusable=1, given_back=1, waiting=9)
    assert found.kept == 5


def test_what_the_cloud_has_taken_away_is_not_held() -> None:
    """eni_manager does not count it either: one side counting it would buy an address too many for each."""
    pool = pool_of(one_eni(3))
    grant(pool, wish("a"), 0)
    taken = msgspec.structs.replace(item(1, primary=True, usable=False), gone=True)
    pool.observe(inventory(eni(1, taken, item(2), item(3))), 1)
    found = count(pool, 0, 2)
    assert found == Counts(used=0, idle=2, cooling=0, unusable=0, given_back=0, waiting=0, lost=1)
    assert needed(found, Watermarks(0, 5), 30) == 2


def test_surplus_takes_the_emptiest_eni_first_and_no_primary_of_an_eni_that_stays() -> None:
    busy = eni(1, item(1, primary=True), item(2), item(3))
    calm = eni(2, item(11, primary=True), item(12), item(13))
    pool = pool_of(inventory(busy, calm))
    assert grant(pool, wish("a"), 0).ipv4 == ip(1)
    assert surplus(pool, 2, 0) == [ip(12), ip(13)]
    assert surplus(pool, 3, 0) == [ip(11), ip(12), ip(13)]
    assert surplus(pool, 9, 0) == [ip(11), ip(12), ip(13), ip(2), ip(3)]
    assert surplus(pool, 0, 0) == []


def test_surplus_completes_an_eni_that_is_already_half_given_back() -> None:
    pool = pool_of(one_eni(3))
    pool.mark([ip(2), ip(3)], 0)
    assert surplus(pool, 1, 0) == [ip(1)]


def test_surplus_leaves_what_cools_and_what_is_not_synced() -> None:
    pool = pool_of(one_eni(3))
    grant(pool, wish("a"), 0)
    release(pool, key("a"), 0)
    assert surplus(pool, 3, 1) == [ip(2), ip(3)], "the primary cools, so its ENI stays"
    assert surplus(pool, 3, 30) == [ip(2), ip(3), ip(1)]
    pool.observe(one_eni(3, synced=False), 31)
    assert surplus(pool, 3, 31) == []
