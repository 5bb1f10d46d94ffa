"""The three patch dialects; examples of RFC 7386 and RFC 6902 where they have one."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.kubeapi.patches import json_patch, merge, strategic
from compose.lab.kubeapi.status import Refusal

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge(target: Any, patch: Any, expected: Any) -> None:
    assert merge(target, patch) == expected


@given(json_values, json_values)
def test_patches_leave_their_arguments_alone(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    once = merge(target, patch)
    assert (target, patch) == before
    assert merge(once, patch) == once, "saying it twice changes nothing"
    strategic(target, patch)
    assert (target, patch) == before


@pytest.mark.parametrize(
    ("doc", "operations", "expected"),
    [  # RFC 6902, appendix A
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "q"}], {"foo": ["bar", "q", "baz"]}),
        ({"foo": ["a"]}, [{"op": "add", "path": "/foo/-", "value": ["b"]}], {"foo": ["a", ["b"]]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["a", "b", "c"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["a", "c"]}),
        ({"foo": ["a", "b"]}, [{"op": "replace", "path": "/foo/1", "value": "c"}], {"foo": ["a", "c"]}),
        ({"a": {"b": 1}, "c": {}}, [{"op": "move", "from": "/a/b", "path": "/c/d"}], {"a": {}, "c": {"d": 1}}),
        ({"a": [1, 2, 3]}, [{"op": "move", "from": "/a/0", "path": "/a/2"}], {"a": [2, 3, 1]}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}], {"a": 1}),
        ({"a/b": 1, "m~n": 2}, [{"op": "remove", "path": "/a~1b"}, {"op": "remove", "path": "/m~0n"}], {}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
    ],
)
def test_json_patch(doc: Any, operations: list[dict[str, Any]], expected: Any) -> None:
    before = copy.deepcopy(doc)
    assert json_patch(doc, operations) == expected
    assert doc == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/b"},
        {"op": "replace", "path": "/b", "value": 1},
        {"op": "add", "path": "/l/3", "value": 1},
        {"op": "add", "path": "/l/x", "value": 1},
        {"op": "add", "path": "/a/x", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "add", "path": "/b"},
        {"op": "frob", "path": "/a"},
        {"path": "/a"},
        7,
    ],
)
def test_json_patches_that_lead_nowhere(operation: Any) -> None:
    with pytest.raises(Refusal) as refused:
        json_patch({"a": 1, "l": [0, 1]}, [operation])
    assert refused.value.code == 422


def test_strategic_merges_lists_that_are_maps() -> None:
    pod = {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}
    patch = {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]}
    assert strategic(pod, patch) == {
        "containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b"},
            {"name": "c"},
        ]
    }


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"env": [{"name": "b"}]}, {"env": [{"name": "b", "$patch": "delete"}]}, {"env": []}),
        ({"env": [{"name": "a"}]}, {"env": [{"name": "c"}, {"$patch": "replace"}]}, {"env": [{"name": "c"}]}),
        ({"labels": {"a": "1"}}, {"labels": {"b": "2", "$patch": "replace"}}, {"labels": {"b": "2"}}),
        ({"labels": {"a": "1"}}, {"labels": {"$patch": "delete"}}, {"labels": {}}),
        ({"finalizers": ["a"]}, {"finalizers": ["b", "a"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        ({"args": [1, 2]}, {"args": [3]}, {"args": [3]}),
        ({"s": {"a": 1, "b": 2}}, {"s": {"$retainKeys": ["b", "c"], "c": 3}}, {"s": {"b": 2, "c": 3}}),
        (
            {"ports": [{"port": 80, "name": "x"}]},
            {"ports": [{"port": 80, "name": "y"}, {"port": 81}]},
            {"ports": [{"port": 80, "name": "y"}, {"port": 81}]},
        ),
        (
            {"taints": [{"key": "a"}, {"key": "b"}]},
            {"$setElementOrder/taints": [{"key": "b"}, {"key": "a"}], "taints": [{"key": "b", "value": "1"}]},
            {"taints": [{"key": "b", "value": "1"}, {"key": "a"}]},
        ),
        ({"ports": ["odd"]}, {"ports": ["list"]}, {"ports": ["list"]}),
    ],
)  # fmt: skip
def test_strategic_directives(target: Any, patch: Any, expected: Any) -> None:
    assert strategic(target, patch) == expected


def test_an_element_without_its_key_is_refused() -> None:
    with pytest.raises(Refusal, match="merge key"):
        strategic({"containers": [{"name": "a"}]}, {"containers": [{"image": "x"}]})
