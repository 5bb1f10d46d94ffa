"""A small collection behaves as a set does, however small or large."""

from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.few import Few, joined, without


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=200))
def test_as_a_set(changes: list[tuple[bool, int]]) -> None:
    held: Few[int] = ()
    model: set[int] = set()
    for adds, one in changes:
        if adds:
            held = joined(held, one)
            model.add(one)
        elif one in model:
            held = without(held, one)
            model.remove(one)
        assert len(held) == len(model)
        assert set(held) == model
        assert all((number in held) == (number in model) for number in range(16))


def test_none_of_many_costs_nothing() -> None:
    held: Few[int] = ()
    for number in range(100):
        held = joined(held, number)
    assert isinstance(held, set)
    for number in range(100):
        held = without(held, number)
    assert held == ()
