"""The table is complete: every pair is in it or named impossible, every state is reached, left and resumed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.eni_manager.core.machine import (
    LEAVING,
    ON_THE_WAY,
    RESUME,
    TRANSITIONS,
    Event,
    IllegalStep,
    State,
    step,
)

E, S = Event, State

IMPOSSIBLE = {
    S.WANTED: {E.ACCEPTED, E.IN_USE, E.CONFIGURED, E.LOST, E.FOUND, E.RELEASED, E.DETACHED, E.DELETED},
    S.CREATED: {E.CREATED, E.CONFIGURED, E.FOUND, E.RELEASED, E.DETACHED, E.DELETED},
    S.ATTACHING: {E.CREATED, E.ACCEPTED, E.CONFIGURED, E.FOUND, E.RELEASED, E.DETACHED, E.DELETED},
    S.ATTACHED: {E.CREATED, E.ACCEPTED, E.IN_USE, E.FOUND, E.RELEASED, E.DETACHED, E.DELETED},
    S.READY: set(Event) - {E.LOST, E.RELEASED},
    S.REJOINING: {E.CREATED, E.ACCEPTED, E.IN_USE, E.FOUND, E.RELEASED, E.DETACHED, E.DELETED},
    S.DRAINING: set(Event) - {E.FOUND, E.RELEASED},
    S.DETACHING: set(Event) - {E.DETACHED, E.FAILED},
    S.DELETING: set(Event) - {E.DELETED, E.IN_USE, E.FAILED},
    S.GONE: set(Event),
}


def test_every_pair_is_in_the_table_or_named_impossible():
    for state in State:
        possible = {event for at, event in TRANSITIONS if at is state}
        assert possible.isdisjoint(IMPOSSIBLE[state]), state
        assert possible | IMPOSSIBLE[state] == set(Event), state


def test_an_impossible_pair_raises_with_the_story():
    for state, events in IMPOSSIBLE.items():
        for event in events:
            with pytest.raises(IllegalStep, match="made as eni-1") as raised:
                step(state, event, story=("created: made as eni-1",))
            assert (raised.value.state, raised.value.event) == (state, event)


def test_resume_is_total_and_keeps_the_right_to_dispose():
    assert set(RESUME) == set(State)
    for state, (resumed, do) in RESUME.items():
        # What pods may have used is never resumed into a state that may dispose of it by itself.
        assert (state in ON_THE_WAY) == (resumed in ON_THE_WAY)
        assert (state in LEAVING) == (resumed in LEAVING)
        assert (do is None) == (state in (S.DRAINING, S.GONE))


def test_a_state_always_leads_to_the_same_do():
    dos: dict[State, set[object]] = {}
    for state, do in TRANSITIONS.values():
        dos.setdefault(state, set()).add(do)
    for state, do in RESUME.values():
        dos.setdefault(state, set()).add(do)
    assert all(len(each) == 1 for each in dos.values()), dos


def test_a_failure_that_passes_changes_nothing_but_when():
    for (state, event), (after, do) in TRANSITIONS.items():
        if event is E.FAILED:
            assert after is state
            assert do is RESUME[state][1]


def test_what_pods_may_use_leaves_only_when_released():
    used = {S.READY, S.REJOINING, S.DRAINING}
    for (state, event), (after, _) in TRANSITIONS.items():
        if state in used and after in LEAVING:
            assert event is E.RELEASED


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_every_walk_ends_where_something_can_still_happen_or_in_gone(events):
    state = S.WANTED
    for event in events:
        if (state, event) in TRANSITIONS:
            state, _ = step(state, event)
    assert state is S.GONE or any(at is state for at, _ in TRANSITIONS)


def test_gone_is_reached_from_everywhere():
    reached = {S.GONE}
    while True:
        more = {at for (at, _), (after, _) in TRANSITIONS.items() if after in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)
