"""Label and field selectors, in the query parameters' text form. No I/O."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.status import bad_request

Json = dict[str, Any]
Matches = Callable[[Json], bool]

_NAME = r"(?:[a-zA-Z0-9.-]+/)?[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?"
_REQUIREMENT = re.compile(
    rf"""\s*(?:
        (?P<absent>!)\s*(?P<absent_key>{_NAME})
      | (?P<set_key>{_NAME})\s+(?P<set_op>in|notin)\s*\((?P<values>[^()]*)\)
      | (?P<key>{_NAME})\s*(?:(?P<op>==|=|!=|>|<)\s*(?P<value>[a-zA-Z0-9_.-]*))?
    )\s*(?:,|$)""",
    re.VERBOSE,
)


def label_selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """What `labelSelector=text` asks of an object's labels; raises a 400 on bad syntax."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    at = 0
    while at < len(text):
        found = _REQUIREMENT.match(text, at)
        if found is None:
            raise bad_request(f"unable to parse requirement: found '{text[at:]}' in label selector '{text}'")
        tests.append(_label_test(found, text))
        at = found.end()
    if text.rstrip().endswith(","):
        raise bad_request(f"unable to parse requirement: found '', expected: identifier in '{text}'")
    return lambda labels: all(test(labels) for test in tests)


def _label_test(found: re.Match[str], text: str) -> Callable[[Mapping[str, str]], bool]:
    if found["absent"]:
        absent = found["absent_key"]
        return lambda labels: absent not in labels
    if found["set_key"]:
        key, values = found["set_key"], {value.strip() for value in found["values"].split(",")}
        if found["set_op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    key, op, value = found["key"], found["op"], found["value"]
    match op:
        case None:
            return lambda labels: key in labels
        case "=" | "==":
            return lambda labels: labels.get(key) == value
        case "!=":
            return lambda labels: labels.get(key) != value
    if not re.fullmatch(r"-?\d+", value):
        raise bad_request(f"for 'Gt', 'Lt' operators, the value must be an integer: '{text}'")
    bound, above = int(value), op == ">"

    def compare(labels: Mapping[str, str]) -> bool:
        try:
            number = int(labels[key])
        except (KeyError, ValueError):
            return False
        return number > bound if above else number < bound

    return compare


FIELDS: dict[tuple[str, str], Sequence[str]] = {
    ("", "pods"): (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    ("", "nodes"): ("spec.unschedulable",),
    ("", "namespaces"): ("status.phase",),
    ("", "secrets"): ("type",),
    ("", "events"): (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}
"""What each kind can be selected by besides metadata.name and metadata.namespace."""


def field_selector(text: str, kind: Kind) -> Matches:
    """What `fieldSelector=text` asks of an object of that kind; raises a 400 for a field that cannot be selected by."""
    known = ("metadata.name", "metadata.namespace", *FIELDS.get(kind.collection, ()))
    tests: list[Matches] = []
    for term in filter(None, text.split(",")):
        found = re.fullmatch(r"([^=!]+?)(==|!=|=)(.*)", term)
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        field, op, value = found.groups()
        if field not in known:
            raise bad_request(f"field label not supported: {field}")
        tests.append(_field_test(field, value, negated=op == "!="))
    return _all(tests)


def _field_test(field: str, value: str, *, negated: bool) -> Matches:
    part, _, name = ("source.component" if field == "source" else field).partition(".")
    if not name:
        return lambda obj: (_text(obj.get(part)) == value) != negated
    if name in ("hostNetwork", "unschedulable"):
        return lambda obj: (_text(bool((obj.get(part) or {}).get(name))) == value) != negated
    return lambda obj: (_text((obj.get(part) or {}).get(name)) == value) != negated


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _all(tests: Sequence[Matches]) -> Matches:
    """One question of many. Watches ask it of every change, hundreds of them at once, so the usual cases are direct."""
    match tests:
        case []:
            return lambda obj: True
        case [only]:
            return only
        case [first, second]:
            return lambda obj: first(obj) and second(obj)
    return lambda obj: all(test(obj) for test in tests)


def selects(kind: Kind, *, labels: str, fields: str, namespace: str = "") -> Matches:
    """Both selectors and the namespace (empty: any) as one question to an object."""
    by_labels, by_fields = label_selector(labels), field_selector(fields, kind)
    tests: list[Matches] = []
    if namespace:
        tests.append(lambda obj: bool(obj["metadata"].get("namespace") == namespace))
    if fields:
        tests.append(by_fields)
    if labels:
        tests.append(lambda obj: by_labels(obj["metadata"].get("labels") or {}))
    return _all(tests)
