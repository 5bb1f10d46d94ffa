"""Runs recorded universes of the original through the calculation, and says where the two differ.

    python -m tests.policy.replay FILE…          case files (.json, .json.gz) and selector files, in any number

Compared are every v1 key and value, the folded state after every flush, and the order of message classes. Prints the
first differences and, at the end, `replay: D of N steps differ`; exits 0 only when D is 0. A selector file's case
counts as one step.
"""

import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.policy.core import objects, v1
from services.policy.core.convert.client import stored
from services.policy.core.graph import Graph
from services.policy.core.intake import Intake, Update
from services.policy.core.messages import Message
from services.policy.core.problems import Invalid
from services.policy.core.profiles import PROFILES, Compat
from services.policy.core.selectors import Selector, SelectorError, parse
from tests.policy.dataplane import CLASSES, Dataplane

Json = Any


def load(path: Path) -> Json:
    """A file's JSON, packed or not."""
    opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    with opened as file:
        return json.loads(file.read())


# ---- cases


def bare(value: Json) -> Json:
    """Without what counts as absent: null, false, and empty texts, lists and objects."""
    if isinstance(value, dict):
        stripped = {key: bare(entry) for key, entry in value.items()}
        return {key: entry for key, entry in stripped.items() if entry or (entry == 0 and entry is not False)}
    if isinstance(value, list | tuple):
        return [bare(entry) for entry in value]
    return None if value is False or value in ("", None) else value


class Universe:
    """One case's cluster and calculation."""

    def __init__(self, compat: Compat, host: str, mode: str) -> None:
        self.compat = compat
        self.by_client = mode == "client"
        self.intake = Intake(compat)
        self.graph = Graph(host, compat)
        self.dataplane = Dataplane()
        self.state: dict[str, dict[str, Json]] = {}
        if compat.profile_resources:
            for update in self.intake.apply(_default_allow()):
                self.graph.update(update.key, update.value)

    def apply(self, op: Json) -> list[Update]:
        """One operation; what it does to the v1 model."""
        raw = op["object"]
        kind = objects.kind_of(raw)
        assert kind is not None, f"unknown kind {raw['kind']}"
        written = objects.read(raw, kind)
        if op["op"] == "delete":
            meta = self._stored_name(written)
            return self.intake.delete(kind, meta.namespace, meta.name)
        if self.by_client and raw["apiVersion"].startswith("projectcalico.org"):
            try:
                written = stored(written, self.compat)
            except Invalid:
                return []  # refused: the old one stays
        return self.intake.apply(written)

    def _stored_name(self, written: objects.Object) -> objects.Metadata:
        meta = written.metadata
        named = isinstance(written, objects.NetworkPolicy | objects.GlobalNetworkPolicy)
        if self.by_client and named and not meta.name.startswith(("knp.", "ossg.")):
            return msgspec.structs.replace(meta, name=f"default.{meta.name}")
        return meta


def _default_allow() -> objects.Profile:
    allow = (objects.Rule(action="Allow"),)
    metadata = objects.Metadata(name="projectcalico-default-allow")
    return objects.Profile(metadata=metadata, spec=objects.ProfileSpec(ingress=allow, egress=allow))


def v1_json(key: v1.Key, value: v1.Value | None) -> Json:
    """A value as the recordings write it."""
    match value:
        case None:
            return None
        case v1.ProfileLabels():
            return value.labels
        case v1.ProfileResource():
            return {"spec": {"labelsToApply": value.labels}}
        case v1.ServiceEndpoints():
            return PLACEHOLDER
    return msgspec.to_builtins(value)


PLACEHOLDER = "taken from ops"


def case_differences(case: Json, compat: Compat, host: str) -> Iterator[tuple[int, list[str]]]:
    """Step numbers with what differs there; a step without differences has an empty list."""
    universe = Universe(compat, host, case["mode"])
    broken = ""
    for number, step in enumerate(case["steps"]):
        try:
            found = [broken] if broken else list(_step_differences(universe, step, number == case["in_sync_at_step"]))
        except Exception as error:  # counts as a difference, and what follows cannot be right either
            broken = f"raised in step {number}: {error!r}"
            found = [broken]
        yield number, found


def _step_differences(universe: Universe, step: Json, in_sync: bool) -> Iterator[str]:
    updates: list[Json] = []
    for op in step["ops"]:
        for key, kind, value in universe.apply(op):
            universe.graph.update(key, value)
            entry = {"key": key.path, "type": kind, "value": bare(v1_json(key, value))}
            if key in universe.graph.invalid:
                entry["dropped_by_filter"] = True
            updates.append(entry)
    yield from _v1_differences(step["v1"], updates)
    if in_sync:
        universe.graph.in_sync()
    sent = universe.graph.flush()
    universe.dataplane.apply(sent)
    _fold(universe.state, step)
    yield from _state_differences(universe.state, universe.dataplane.state())
    yield from _order_differences(step["trace"], sent)


def _v1_differences(expected: list[Json], actual: list[Json]) -> Iterator[str]:
    wanted = [{**entry, "value": PLACEHOLDER if _is_placeholder(entry) else bare(entry["value"])} for entry in expected]
    if wanted == actual:
        return
    for i in range(max(len(wanted), len(actual))):
        one = wanted[i] if i < len(wanted) else None
        other = actual[i] if i < len(actual) else None
        if one != other:
            yield f"v1[{i}]:\n    original {json.dumps(one)}\n    here     {json.dumps(other)}"
            return


def _is_placeholder(entry: Json) -> bool:
    return "kubernetes" in entry["key"] and entry["value"] is not None


def _fold(state: dict[str, dict[str, Json]], step: Json) -> None:
    for kind, ids in (step["removed"] or {}).items():
        for name in ids:
            del state[kind][name]
    for kind, things in (step["changed"] or {}).items():
        state.setdefault(kind, {}).update({name: bare(thing) for name, thing in things.items()})


def _state_differences(expected: dict[str, dict[str, Json]], actual: dict[str, dict[str, Json]]) -> Iterator[str]:
    for kind in sorted(expected.keys() | actual.keys()):
        wanted, found = expected.get(kind, {}), actual.get(kind, {})
        for name in sorted(wanted.keys() | found.keys()):
            one, other = wanted.get(name), found.get(name)
            if other is not None:
                other = bare(other)
            if one != other:
                yield f"{kind} {name}:\n    original {json.dumps(one)}\n    here     {json.dumps(other)}"


def _order_differences(trace: list[Json], sent: Iterable[Message]) -> Iterator[str]:
    """The classes that were sent must be in the one order; those of the trace are, so the two agree."""
    ours = list(dict.fromkeys(CLASSES[type(message)] for message in sent))
    order = list(dict.fromkeys(CLASSES.values()))
    theirs = [entry[0] for entry in trace]
    assert theirs == sorted(theirs, key=order.index), f"the recording breaks its own order: {theirs}"
    if ours != sorted(ours, key=order.index):
        yield f"classes out of order: {ours}"
    for last in ("Encapsulation", "InSync"):
        if (last in ours) != (last in theirs):
            yield f"{last}: original {last in theirs}, here {last in ours}"


# ---- selectors


def selector_differences(case: Json, labels: list[dict[str, str]], compat: Compat) -> list[str]:
    """What differs about one selector string."""
    try:
        selector = parse(case["selector"], compat.language)
    except SelectorError as error:
        return [f"refused here: {error}"] if case["valid"] else []
    if not case["valid"]:
        return [f"accepted here, as {selector.text}"]
    answers: dict[str, Json] = {
        "canonical": selector.text,
        "id": selector.id,
        "pcns": selector.prefixed("pcns.").text,
        "eval": _answers(selector, labels),
    }
    return [
        f"{name}: original {case[name]!r}, here {answer!r}"
        for name, answer in answers.items()
        if name in case and _flat(case[name]) != answer
    ]


def _answers(selector: Selector, labels: list[dict[str, str]]) -> str:
    return "".join(str(int(selector.matches(sample.get))) for sample in labels)


def _flat(value: Json) -> Json:
    return "".join(map(str, map(int, value))) if isinstance(value, list) else value


# ---- files


def file_differences(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Every step of a file: its name and what differs."""
    content = load(path)
    compat = PROFILES[content.get("felix") or content["version"]]
    for index, case in enumerate(content["cases"]):
        if "selector" in case:
            yield f"{path.name} selector {index}", selector_differences(case, content["labels"], compat)
            continue
        for number, found in case_differences(case, compat, content["host"]):
            yield f"{path.name} {case['name']} step {number}", found


def main(paths: list[str], shown: int = 10) -> int:
    """The exit code."""
    if not paths:
        print("usage: python -m tests.policy.replay FILE…", file=sys.stderr)
        return 2
    steps = differing = 0
    for path in paths:
        for name, found in file_differences(Path(path)):
            steps += 1
            if found:
                differing += 1
                if differing <= shown:
                    print(name, *found[:3], sep="\n  ")
    print(f"replay: {differing} of {steps} steps differ")
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
