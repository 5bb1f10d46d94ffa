"""Versions, history and snapshots against a plain model of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.kubeapi.store import Change, Expired, Store

PODS, NODES = ("", "pods"), ("", "nodes")


def obj(value: int) -> dict[str, Any]:
    return {"metadata": {}, "value": value}


writes = st.lists(
    st.tuples(st.sampled_from([PODS, NODES]), st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9))),
    max_size=40,
)


@given(writes, st.integers(min_value=0, max_value=45), st.integers(min_value=1, max_value=30))
def test_every_remembered_version_can_be_shown_and_replayed(
    todo: list[tuple[tuple[str, str], str, int | None]], forget: int, history: int
) -> None:
    store = Store(first_version=100, history=history)
    snapshots: dict[int, dict[tuple[str, str], Any]] = {100: {PODS: {}, NODES: {}}}
    for collection, name, value in todo:
        key = ("ns", name)
        if value is not None:
            store.put(collection, key, obj(value))
        elif store.get(collection, key) is not None:
            store.remove(collection, key)
        else:
            continue
        snapshots[store.version] = {PODS: dict(store.all(PODS)), NODES: dict(store.all(NODES))}
    assert store.version == 99 + len(snapshots), "one version for each write"
    store.compact(100 + forget)

    for version, snapshot in snapshots.items():
        if version < store.oldest:
            for ask in (lambda v=version: store.at(PODS, v), lambda v=version: store.since(v, 1)):
                with pytest.raises(Expired) as error:
                    ask()
                assert error.value.oldest == store.oldest
            continue
        assert store.at(PODS, version) == snapshot[PODS]
        changes = store.since(version, 1000)
        assert [change.version for change in changes] == [*range(version + 1, store.version + 1)]
        assert replay(snapshot, changes) == {PODS: store.all(PODS), NODES: store.all(NODES)}
    assert store.version - store.oldest <= 2 * history


def replay(snapshot: dict[tuple[str, str], Any], changes: list[Change]) -> dict[tuple[str, str], Any]:
    now = {collection: dict(objects) for collection, objects in snapshot.items()}
    for change in changes:
        if change.new is None:
            assert now[change.collection].pop(change.name) == change.old
        else:
            assert now[change.collection].get(change.name) == change.old
            now[change.collection][change.name] = change.new
    return now


def test_versions_are_written_into_objects_and_old_ones_stay_as_they_were() -> None:
    store = Store(first_version=5)
    first = store.put(PODS, ("ns", "a"), obj(1))
    second = store.put(PODS, ("ns", "a"), obj(2))
    last = store.remove(PODS, ("ns", "a"))
    assert [o["metadata"]["resourceVersion"] for o in (first, second, last)] == ["6", "7", "8"]
    assert (first["value"], second["value"], last["value"]) == (1, 2, 2)


def test_compaction_never_reaches_into_the_future_or_back() -> None:
    store = Store(first_version=1)
    store.put(PODS, ("ns", "a"), obj(1))
    store.compact(1000)
    assert store.oldest == 2
    store.compact(1)
    assert store.oldest == 2
    assert store.since(2, 10) == []
    assert store.since(9, 10) == [], "the future has no changes yet"


def test_limits_are_kept() -> None:
    store = Store(first_version=1)
    for value in range(5):
        store.put(PODS, ("ns", "a"), obj(value))
    assert [change.version for change in store.since(2, 2)] == [3, 4]
