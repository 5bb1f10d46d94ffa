"""The three kinds of patch. All return new data and leave their arguments alone. No I/O.

- JSON merge patch, RFC 7386.
- JSON patch, RFC 6902.
- Kubernetes' strategic merge patch: a merge patch in which some lists are maps in disguise (containers by name).
"""

import copy
from collections.abc import Sequence
from typing import Any

from compose.lab.kubeapi.status import Refusal, bad_request

Json = dict[str, Any]


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: objects are merged, null removes, anything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


# ---- JSON patch


def json_patch(target: Any, operations: Sequence[Json]) -> Any:
    """RFC 6902; a 422 when a path does not lead anywhere or a test fails."""
    doc = copy.deepcopy(target)
    for operation in operations:
        try:
            doc = _operate(doc, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            text = f"the server rejected our request due to an error in our request: {operation}: {error}"
            raise Refusal(422, "Invalid", text) from error
    return doc


def _operate(doc: Any, operation: Json) -> Any:
    path = _pointer(operation["path"])
    match operation["op"]:
        case "add":
            return _add(doc, path, copy.deepcopy(operation["value"]))
        case "replace":
            _value_at(doc, path)
            return _add(_remove(doc, path), path, copy.deepcopy(operation["value"]))
        case "remove":
            return _remove(doc, path)
        case "copy":
            return _add(doc, path, copy.deepcopy(_value_at(doc, _pointer(operation["from"]))))
        case "move":
            source = _pointer(operation["from"])
            value = _value_at(doc, source)
            return _add(_remove(doc, source), path, value)
        case "test":
            if _value_at(doc, path) != operation["value"]:
                raise ValueError("the test failed")
            return doc
        case other:
            raise ValueError(f"unknown operation {other!r}")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"{text!r} is no JSON pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _index(step: str, length: int) -> int:
    if not step.isdecimal() or int(step) >= length:
        raise IndexError(f"no element {step!r}")
    return int(step)


def _value_at(doc: Any, path: Sequence[str]) -> Any:
    for step in path:
        doc = doc[_index(step, len(doc))] if isinstance(doc, list) else doc[step]
    return doc


def _add(doc: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _value_at(doc, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), value)
    else:
        parent[last] = value
    return doc


def _remove(doc: Any, path: Sequence[str]) -> Any:
    if not path:
        return None
    parent, last = _value_at(doc, path[:-1]), path[-1]
    if isinstance(parent, list):
        del parent[_index(last, len(parent))]
    else:
        del parent[last]
    return doc


# ---- strategic merge patch

MERGE_KEYS = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "ownerReferences": ("uid",),
    "podIPs": ("ip",),
    "hostIPs": ("ip",),
    "ports": ("containerPort", "port"),
    "secrets": ("name",),
    "taints": ("key",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Lists that are maps, by the field's name, and the key (or the first that is there) within their elements.

Kubernetes declares it field by field (`patchMergeKey`); within the kinds that the lab serves the names are unambiguous.
"""

MERGED_SETS = frozenset({"finalizers", "podCIDRs"})
"""Lists of plain values that are sets: patches add to them."""


def strategic(target: Any, patch: Any, *, field: str = "") -> Any:
    """Kubernetes' own merge, with its directives `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/…`."""
    if isinstance(patch, list):
        return _strategic_list(target if isinstance(target, list) else [], patch, field)
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    merged = dict(target) if isinstance(target, dict) else {}
    retained = patch.get("$retainKeys")
    if retained is not None:
        merged = {key: value for key, value in merged.items() if key in retained}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [item for item in merged.get(name) or [] if item not in value]
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = strategic(merged.get(key), value, field=key)
    for key, value in patch.items():
        if key.startswith("$setElementOrder/"):
            name = key.partition("/")[2]
            if name in merged:
                merged[name] = _ordered(merged[name], value, name)
    return merged


def _strategic_list(target: list[Any], patch: list[Any], field: str) -> list[Any]:
    if field in MERGED_SETS:
        return [*target, *(item for item in patch if item not in target)]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if item.get("$patch") != "replace"]
    if field not in MERGE_KEYS or not all(isinstance(item, dict) for item in (*target, *patch)):
        return copy.deepcopy(patch)
    merged = list(target)
    for item in patch:
        identity = _identity(item, field)
        at = next((i for i, known in enumerate(merged) if _identity(known, field) == identity), None)
        if item.get("$patch") == "delete":
            merged = [known for known in merged if _identity(known, field) != identity]
        elif at is None:
            merged.append(strategic({}, item))
        else:
            merged[at] = strategic(merged[at], item)
    return merged


def _identity(item: Json, field: str) -> tuple[str, Any]:
    for key in MERGE_KEYS[field]:
        if key in item:
            return key, item[key]
    raise bad_request(f"map: {item} does not contain declared merge key: {MERGE_KEYS[field][0]}")


def _ordered(items: list[Any], order: list[Any], field: str) -> list[Any]:
    """The elements that `order` names, in that order; the others keep theirs and come first."""
    if field in MERGE_KEYS:
        ranks = [_identity(item, field) for item in order]
        keys = [_identity(item, field) for item in items]
    else:
        ranks, keys = order, items
    return [
        item
        for _, item in sorted(zip(keys, items, strict=True), key=lambda p: ranks.index(p[0]) if p[0] in ranks else -1)
    ]
