"""From `Tag.1.Key=a` to typed requests.

RPC style flattens lists and structures into numbered names; `nest` undoes it, `decode` types it by one of the
classes of `requests.py` and turns what does not fit into the cloud's own errors.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from compose.lab.cloud.core.errors import CloudError, malformed, missing
from compose.lab.cloud.core.signature import COMMON

R = TypeVar("R", bound=msgspec.Struct)

_IGNORED = frozenset({"OwnerId", "OwnerAccount", "ResourceOwnerId", "ResourceOwnerAccount", "ServiceManaged"})
"""Accepted everywhere by the API and without meaning here."""

_MISSING = re.compile(r"missing required field `(\w+)`(?: - at `\$\.?(.*)`)?")
_UNKNOWN = re.compile(r"unknown field `(\w+)`(?: - at `\$\.?(.*)`)?")
_WRONG = re.compile(r"(.*) - at `\$\.?(.*)`")


def nest(flat: Mapping[str, str]) -> dict[str, Any]:
    """`{"Tag.1.Key": "a"}` becomes `{"Tag": [{"Key": "a"}]}`. Raises when a name is both a value and a list."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *way, last = name.split(".")
        branch = tree
        for step in way:
            branch = branch.setdefault(step, {})
            if not isinstance(branch, dict):
                raise malformed(name, f"{step} is given as a value, too")
        if isinstance(branch.get(last), dict):
            raise malformed(name, "it is given as a list, too")
        branch[last] = value
    return {name: _lists(value) for name, value in tree.items()}


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if all(key.isdigit() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(each) for key, each in value.items()}


def decode(parameters: Mapping[str, str], kind: type[R]) -> R:
    """The request of this kind. Empty values count as not given, as the API has it."""
    flat = {k: v for k, v in parameters.items() if v != "" and k not in COMMON and k not in _IGNORED}
    try:
        return msgspec.convert(nest(flat), kind, strict=False)
    except msgspec.ValidationError as e:
        raise _as_cloud_error(str(e)) from e


def _as_cloud_error(problem: str) -> CloudError:
    if found := _MISSING.search(problem):
        return missing(_join(found[2], found[1]))
    if found := _UNKNOWN.search(problem):
        return CloudError("UnsupportedParameter", f"The parameter {_join(found[2], found[1])} is unsupported.")
    if found := _WRONG.match(problem):
        return malformed(found[2], found[1])
    return malformed("(request)", problem)


def _join(path: str | None, name: str) -> str:
    return f"{path}.{name}" if path else name
