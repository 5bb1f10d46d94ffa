"""Anything can be shown, and no secret ever is."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.dump import dump, dump_pretty
from shared.duration import Duration
from shared.model import PodKey
from shared.rpc.wire import Meta, encode_request
from shared.secret import Secret


class Kind(StrEnum):
    VETH = "veth"


class Holder(msgspec.Struct):
    secret: Secret
    odd: Any = None


@dataclass
class Plain:
    path: Path


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("do not look at me")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Path("/run/x"), "/run/x"),
        (Kind.VETH, "veth"),
        (Duration(1.5), 1.5),
        (Plain(Path("/a")), {"path": "/a"}),
        (ValueError("no"), "ValueError: no"),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({PodKey("ns", "web"): [1]}, {"ns/web": [1]}),
        ({("a", 1): Path("/x")}, {"('a', 1)": "/x"}),
        (float("nan"), None),
        ("\ud800", "\\ud800"),
        ({"\ud800": {"\ud801"}}, {"\\ud800": ["\\ud801"]}),
        (
            Holder(Secret("hunter2"), {PodKey("ns", "web"): Secret("hunter2")}),
            {"secret": "***", "odd": {"ns/web": "***"}},
        ),
        (2**70, 2**70),
        ({PodKey("ns", "web"): "\ud800"}, {"ns/web": "\\ud800"}),
    ],
)
def test_shown(value: object, shown: object) -> None:
    assert json.loads(dump(value)) == shown
    assert json.loads(dump_pretty(value)) == shown
    assert b"\n" not in dump(value)


def test_an_object_that_resists_costs_nothing() -> None:
    assert b"Hostile" in dump(Hostile())
    assert b"Hostile" in dump({"deep": [Hostile()]})
    endless: list[object] = []
    endless.append(endless)
    assert b"list" in dump(endless)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers()
    | st.dates()
    | st.builds(Secret, st.just("hunter2"))
    | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.tuples(st.text()), inner),
    max_leaves=12,
)


@given(anything)
def test_never_fails_and_never_tells(value: object) -> None:
    line = dump(value)
    json.loads(line)
    assert b"hunter2" not in line and b"\n" not in line


def test_a_secret_has_no_text_form() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert (str(secret), repr(secret), f"{secret}", f"{secret!r}") == ("***", "Secret('***')", "***", "Secret('***')")
    assert (str(Secret()), repr(Secret())) == ("", "Secret('')")
    assert bool(secret) and not Secret()
    assert secret == Secret("hunter2") and secret != Secret("x") and secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1


def test_a_secret_does_not_travel() -> None:
    with pytest.raises(TypeError):
        encode_request(1, "m", Holder(Secret("hunter2")), Meta())
    with pytest.raises(TypeError, match="not pickled"):
        Secret("hunter2").__reduce__()
