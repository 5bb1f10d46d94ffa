"""The graph against the naive model, over random operations; and the same states reached by many ways.

`TERWAY_POLICY_SEQUENCES` sets the number of sequences: 500 unless told otherwise, 10,000 in the nightly run.
"""

import os
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.core import v1
from services.policy.core.graph import Graph
from services.policy.core.profiles import FELIX_3_24_5
from tests.policy.dataplane import Dataplane
from tests.policy.model import Model
from tests.policy.universes import HOST, Change, Dice

SEQUENCES = int(os.environ.get("TERWAY_POLICY_SEQUENCES", "500"))
pytestmark = pytest.mark.timeout(120 + SEQUENCES // 5)

Store = dict[v1.Key, v1.Value]

thorough = settings(max_examples=SEQUENCES, deadline=None)


def plain(state: Any) -> Any:
    """As JSON has it: without the difference between tuples and lists."""
    return msgspec.json.decode(msgspec.json.encode(state))


def expected(store: Store, *, in_sync: bool) -> Any:
    """What the model makes of it."""
    return plain(Model(store, HOST, FELIX_3_24_5).state(in_sync=in_sync))


class Run:
    """A graph, the dataplane behind it, and the datastore in front."""

    def __init__(self) -> None:
        self.graph = Graph(HOST, FELIX_3_24_5)
        self.dataplane = Dataplane()
        self.store: Store = {}
        self.in_sync = False

    def change(self, change: Change) -> None:
        key, value = change
        if value is None:
            self.store.pop(key, None)
        else:
            self.store[key] = value
        self.graph.update(key, value)

    def sync(self) -> None:
        self.graph.in_sync()
        self.in_sync = True

    def flush(self) -> None:
        self.dataplane.apply(self.graph.flush())

    def check(self) -> None:
        assert plain(self.dataplane.state()) == expected(self.store, in_sync=self.in_sync)
        assert self.graph.flush() == [], "there was nothing left to say"


@thorough
@given(seed=st.integers(0, 2**64), steps=st.integers(1, 60), sync_at=st.integers(0, 30))
def test_equals_the_model_after_every_flush(seed: int, steps: int, sync_at: int) -> None:
    run, dice = Run(), Dice(seed)
    for step, change in enumerate(dice.changes(steps)):
        run.change(change)
        if step == sync_at:
            run.sync()
        if dice.random.random() < 0.4:
            run.flush()
            run.check()
    run.flush()
    run.check()


# ---- path independence


def between(before: Store, after: Store) -> list[Change]:
    """From one content to another: what goes first, then what is new or changed."""
    gone: list[Change] = [(key, None) for key in before if key not in after]
    return gone + [(key, value) for key, value in after.items() if before.get(key) != value]


def ways(states: list[Store]) -> list[tuple[str, list[Store]]]:
    """The same final state by other sequences of states."""
    last = states[-1]
    keys = list(last)
    return [
        ("as it is", states),
        ("backwards within", [dict(reversed(state.items())) for state in states]),
        ("states backwards", [*reversed(states), last]),
        ("empty between", [one for state in states for one in ({}, state)]),
        ("split", [*states[:-1], *({key: last[key] for key in keys[:n]} for n in range(len(keys))), last]),
        ("squashed", [last]),
    ]


@settings(thorough, max_examples=max(SEQUENCES // 5, 1))
@given(seed=st.integers(0, 2**64), sizes=st.lists(st.integers(0, 25), min_size=1, max_size=3))
def test_every_way_ends_in_the_same_state(seed: int, sizes: list[int]) -> None:
    dice = Dice(seed)
    states = [{key: value for key, value in dice.changes(size) if value is not None} for size in sizes]
    wanted = expected(states[-1], in_sync=True)
    for way, sequence in ways(states):
        for rhythm in ("each", "twice", "state", "end"):
            run = Run()
            run.sync()
            for before, after in pairwise([{}, *sequence]):
                for change in between(before, after):
                    run.change(change)
                    if rhythm == "twice":
                        run.change(change)
                    if rhythm in ("each", "twice"):
                        run.flush()
                if rhythm == "state":
                    run.flush()
            run.flush()
            assert plain(run.dataplane.state()) == wanted, f"{way}, flushed {rhythm}"
