"""What an API server finds out while it decodes: fields of another type, and fields that there are not. No I/O.

The one is a 400; the other is dropped, or a 400 when the client asked for strictness. Null means absent.
"""

import base64
import binascii
from typing import Any

from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.status import Refusal
from compose.lab.kubeapi.validation.schemas import ANY_KIND, SCHEMAS, Fields, ListOf, MapOf, Shape

Json = dict[str, Any]

_RANGES = {"int32": 1 << 31, "int64": 1 << 63, "intstr": 1 << 31}


def read(kind: Kind, obj: Json, *, strict: bool = False) -> Json:
    """The object as the server understands it; raises a 400."""
    shape = SCHEMAS.get(kind.collection, ANY_KIND)
    unknown: list[str] = []
    try:
        found: Json = _read(obj, shape, "", unknown)
    except _WrongType as error:
        raise Undecodable(kind, f"json: {error}") from error
    if unknown and strict:
        said = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise Undecodable(kind, f"strict decoding error: {said}")
    return found


class Undecodable(Refusal):
    """A 400. `why` is the decoder's own complaint."""

    def __init__(self, kind: Kind, why: str) -> None:
        said = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}'
        super().__init__(400, "BadRequest", said)
        self.why = why


class _WrongType(Exception):
    def __init__(self, value: object, path: str, wanted: str) -> None:
        name = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}[type(value)]
        shown = f"{name} {value}" if name == "number" and wanted in _RANGES else name
        super().__init__(f"cannot unmarshal {shown} into Go struct field .{path} of type {wanted}")


def _read(value: Any, shape: Shape, path: str, unknown: list[str]) -> Any:
    match shape:
        case "any":
            return value
        case str():
            return _plain(value, shape, path)
        case ListOf(items):
            if not isinstance(value, list):
                raise _WrongType(value, path, "[]")
            return [_read(_some(item, items), items, path, unknown) for item in value]
        case MapOf(values):
            if not isinstance(value, dict):
                raise _WrongType(value, path, "map")
            return {key: _read(_some(one, values), values, f"{path}.{key}", unknown) for key, one in value.items()}
    if not isinstance(value, dict):
        raise _WrongType(value, path, "struct")
    found = {}
    for key, one in value.items():
        below = f"{path}.{key}" if path else key
        inner = shape.known.get(key)
        if inner is None and not shape.open:
            unknown.append(below)
        elif inner is None:
            found[key] = one
        elif one is not None:
            found[key] = _read(one, inner, below, unknown)
    return found


def _some(value: Any, shape: Shape) -> Any:
    """Null within a list or a map is the type's empty value."""
    if value is not None:
        return value
    match shape:
        case Fields() | MapOf():
            return {}
        case ListOf():
            return []
    return {"bool": False, "string": "", "[]byte": "", "any": None}.get(shape, 0)


def _plain(value: Any, shape: str, path: str) -> Any:
    text, number = isinstance(value, str), isinstance(value, int) and not isinstance(value, bool)
    limit = _RANGES.get(shape)
    if limit is not None:
        if (number and -limit <= value < limit) or (text and shape == "intstr"):
            return value
    elif isinstance(value, bool) if shape == "bool" else text:
        if shape == "[]byte":
            try:
                base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise _WrongType(value, path, shape) from error
        return value
    raise _WrongType(value, path, shape)
