"""Every message of every contract survives the wire, and is read by a neighbour that knows more or fewer fields."""

import types
from enum import Enum
from functools import cache
from typing import Any, NewType, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts import eni, ipam, policy
from shared.rpc.method import Method
from shared.rpc.wire import Frames, Meta, Request, Response, encode_request, encode_result

METHODS: dict[str, Method[Any, Any]] = {
    method.name: method
    for contract in (eni, ipam, policy)
    for method in vars(contract).values()
    if isinstance(method, Method)
}


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a contract's type. One that this does not know needs a thought before it goes on the wire."""
    if isinstance(kind, NewType):
        return values(kind.__supertype__)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=8),
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return simple[kind]


def kinds(name: str) -> tuple[Any, Any]:
    """What a method is asked with, and what it answers."""
    return METHODS[name].params, METHODS[name].result


def received(frame: bytes) -> Request | Response:
    [message] = Frames(1 << 20).feed(frame)
    return message


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30)
@given(data=st.data())
def test_survives_the_wire(name: str, data: st.DataObject) -> None:
    asked, answered = kinds(name)
    params, result = data.draw(values(asked)), data.draw(values(answered))
    request = received(encode_request(7, name, params, Meta(1.5, "r")))
    assert isinstance(request, Request) and request.method == name
    assert msgspec.convert(request.params, asked) == params
    response = received(encode_result(7, result))
    assert isinstance(response, Response)
    assert msgspec.convert(response.result, answered) == result


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=15)
@given(data=st.data())
def test_a_newer_neighbour_is_understood(name: str, data: st.DataObject) -> None:
    """It sends fields that we do not know."""
    for kind in kinds(name):
        value = data.draw(values(kind))
        extended = {**msgspec.to_builtins(value), "from_tomorrow": {"x": [1]}}
        assert msgspec.convert(extended, kind) == value


def test_method_names_say_who_serves_them() -> None:
    assert {name.split(".")[0] for name in METHODS} == {"eni", "ipam", "policy"}
    assert all(method.deadline_s > 0 for method in METHODS.values())
