"""Selectors as apimachinery reads them."""

import pytest

from compose.lab.kubeapi.kinds import Kinds
from compose.lab.kubeapi.selectors import field_selector, label_selector, selects
from compose.lab.kubeapi.status import Refusal

PODS = Kinds().built_in("", "pods")
EVENTS = Kinds().built_in("", "events")


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("a=b", {"a": "b"}, {"a": "c"}),
        ("a==b", {"a": "b"}, {}),
        ("a=", {"a": ""}, {"a": "x"}),
        ("a!=b", {"a": "c"}, {"a": "b"}),
        ("a!=b", {}, {"a": "b"}),
        ("a in (b,c)", {"a": "c"}, {"a": "d"}),
        ("a in (b, c )", {"a": "b"}, {}),
        ("a notin (b)", {"a": "c"}, {"a": "b"}),
        ("a notin (b)", {}, {"a": "b"}),
        ("a", {"a": ""}, {"b": ""}),
        ("!a", {}, {"a": ""}),
        ("! a", {"b": ""}, {"a": ""}),
        ("a>5", {"a": "6"}, {"a": "5"}),
        ("a<5", {"a": "-1"}, {"a": "x"}),
        ("a>5", {"a": "7"}, {}),
        ("k8s.io/app.x_y=v-1", {"k8s.io/app.x_y": "v-1"}, {}),
        ("a=b,c in (d),!e", {"a": "b", "c": "d"}, {"a": "b", "c": "d", "e": ""}),
        (" a = b , c ", {"a": "b", "c": ""}, {"a": "b"}),
        ("in=notin", {"in": "notin"}, {"in": "x"}),
    ],
)
def test_labels(text: str, matching: dict[str, str], other: dict[str, str]) -> None:
    selector = label_selector(text)
    assert selector(matching)
    assert not selector(other)


def test_the_empty_selector_takes_all() -> None:
    assert label_selector("")({})
    assert field_selector("", PODS)({})


@pytest.mark.parametrize("text", ["a=b=c", "a in b", "a in (b", ",", "a,,b", "a=b,", "=b", "a>x", "a b", "-a", "a!b"])
def test_bad_label_selectors_are_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        label_selector(text)
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1,status.phase!=Failed", True),
        ("spec.nodeName!=n1", False),
        ("status.podIP=", True),
        ("spec.hostNetwork=false", True),
        ("metadata.name=a,metadata.namespace=ns", True),
        ("metadata.name=a,", True),
    ],
)
def test_fields(text: str, expected: bool) -> None:
    pod = {"metadata": {"name": "a", "namespace": "ns"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    assert field_selector(text, PODS)(pod) is expected


def test_an_event_s_source_is_its_component() -> None:
    event = {"metadata": {}, "source": {"component": "kubelet"}, "involvedObject": {"name": "a"}}
    assert field_selector("source=kubelet,involvedObject.name=a", EVENTS)(event)


@pytest.mark.parametrize("text", ["spec.image=x", "metadata.labels=x", "spec.nodeName", "=x"])
def test_fields_that_nobody_indexed_are_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        field_selector(text, PODS)
    assert refused.value.code == 400


def test_all_together() -> None:
    matches = selects(PODS, labels="a=b", fields="status.phase=Running", namespace="ns")
    pod = {"metadata": {"namespace": "ns", "labels": {"a": "b"}}, "status": {"phase": "Running"}}
    assert matches(pod)
    assert not matches(pod | {"metadata": {"namespace": "other", "labels": {"a": "b"}}})
    assert not matches(pod | {"metadata": {"namespace": "ns", "labels": None}})
