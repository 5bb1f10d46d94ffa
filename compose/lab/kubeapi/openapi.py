"""OpenAPI descriptions, as much as kubectl asks of them: which query parameters a PATCH takes. No I/O.

From v3 a new kubectl learns that the server validates fields; from v2 an old one (1.20, Debian 12's) that there is a
dry run. Neither finds schemas here, so both leave validation to the server, which does it.
"""

import json
from collections.abc import Iterable
from typing import Any

from compose.lab.kubeapi.discovery import VERSION
from compose.lab.kubeapi.kinds import Kind

Json = dict[str, Any]

PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")
"""What a PATCH takes."""

V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""The only form in which client-go reads v2. It asks for `v2@v1.0`, which no answer may be called."""

_INFO = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
_MARK = "x-kubernetes-group-version-kind"


def v3_index(kinds: Iterable[Kind]) -> Json:
    """/openapi/v3: where each group's version is described."""
    paths = {_group_path(kind): {"serverRelativeURL": f"/openapi/v3/{_group_path(kind)}"} for kind in kinds}
    return {"paths": paths}


def v3_document(path: str, kinds: Iterable[Kind]) -> Json | None:
    """/openapi/v3/<path>; None when nothing of that version is served."""
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in PARAMETERS]
    paths = {_path(kind): _patch(kind, parameters) for kind in kinds if _group_path(kind) == path}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths} if paths else None


def v2_document(kinds: Iterable[Kind]) -> Json:
    """/openapi/v2: everything at once."""
    parameters = [{"name": name, "in": "query", "type": "string"} for name in PARAMETERS]
    return {"swagger": "2.0", "info": _INFO, "paths": {_path(kind): _patch(kind, parameters) for kind in kinds}}


def _patch(kind: Kind, parameters: list[Json]) -> Json:
    responses = {"200": {"description": "OK"}}
    return {"patch": {_MARK: _identity(kind), "parameters": parameters, "responses": responses}}


def _identity(kind: Kind) -> Json:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _group_path(kind: Kind) -> str:
    return f"apis/{kind.api_version}" if kind.group else f"api/{kind.version}"


def _path(kind: Kind) -> str:
    namespace = "namespaces/{namespace}/" if kind.namespaced else ""
    return f"/{_group_path(kind)}/{namespace}{kind.plural}/{{name}}"


def v2_protobuf(kinds: Iterable[Kind]) -> bytes:
    """The same as gnostic's openapi.v2.Document. Texts and messages only, so this is all of protobuf that it takes."""
    info = _field(1, _INFO["title"]) + _field(2, _INFO["version"])
    # ParametersItem.parameter.non_body_parameter.query_parameter_sub_schema: in, name, type
    parameters = b"".join(
        _field(8, _field(1, _field(2, _field(3, _field(2, "query") + _field(4, name) + _field(6, "string")))))
        for name in PARAMETERS
    )
    paths = b""
    for kind in kinds:
        identity = _field(1, _MARK) + _field(2, _field(2, json.dumps(_identity(kind))))
        operation = parameters + _field(13, identity)
        paths += _field(2, _field(1, _path(kind)) + _field(2, _field(8, operation)))
    return _field(1, "2.0") + _field(2, info) + _field(8, paths)


def _field(number: int, content: str | bytes) -> bytes:
    """A length-delimited field."""
    body = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
