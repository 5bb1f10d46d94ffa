"""Which fields the built-in kinds have, and of what type: what an API server finds out while it decodes. No I/O.

A field of another type is a 400, a field that a closed shape does not have is dropped (or a 400 when the client asked
for strictness), and null means absent. Kinds and parts that nobody here reads keep whatever they are given.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from compose.lab.kubeapi.kinds import Collection, Kind
from compose.lab.kubeapi.status import Refusal

Json = dict[str, Any]


class Fields(msgspec.Struct, frozen=True):
    """An object with these fields; an `open` one may have others, which are nobody's business."""

    known: Mapping[str, "Shape"]
    open: bool = False


class MapOf(msgspec.Struct, frozen=True):
    """An object with any keys."""

    values: "Shape"


class ListOf(msgspec.Struct, frozen=True):
    """A list."""

    items: "Shape"


Shape = str | Fields | MapOf | ListOf
"""`string`, `bool`, `int32`, `int64`, `intstr` (a number or a name), `[]byte`, `any`, or something composed."""

_RANGES = {"int32": 1 << 31, "int64": 1 << 63, "intstr": 1 << 31}


def read(kind: Kind, obj: Json, *, strict: bool = False) -> Json:
    """The object as the server understands it; raises a 400."""
    shape = _SHAPES.get(kind.collection, _ANY_KIND)
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


# ---- the kinds


def _texts(*names: str) -> dict[str, Shape]:
    return dict.fromkeys(names, "string")


_STRINGS = MapOf("string")
_LABEL_SELECTOR = Fields(
    {
        "matchLabels": _STRINGS,
        "matchExpressions": ListOf(Fields({**_texts("key", "operator"), "values": ListOf("string")})),
    }
)
_REFERENCE = Fields(_texts("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"))
_METADATA = Fields(
    {
        **_texts("name", "generateName", "namespace", "uid", "resourceVersion", "selfLink"),
        **_texts("creationTimestamp", "deletionTimestamp"),
        "generation": "int64",
        "deletionGracePeriodSeconds": "int64",
        "labels": _STRINGS,
        "annotations": _STRINGS,
        "finalizers": ListOf("string"),
        "ownerReferences": ListOf(
            Fields({**_texts("apiVersion", "kind", "name", "uid"), "controller": "bool", "blockOwnerDeletion": "bool"})
        ),
        "managedFields": "any",
    }
)


def _kind(known: Mapping[str, Shape], *, open_: bool = False) -> Fields:
    return Fields({**_texts("apiVersion", "kind"), "metadata": _METADATA, **known}, open=open_)


_ANY_KIND = _kind({}, open_=True)
_CONTAINER = Fields(
    {
        **_texts("name", "image", "imagePullPolicy"),
        "command": ListOf("string"),
        "args": ListOf("string"),
        "ports": ListOf(
            Fields({**_texts("name", "hostIP", "protocol"), "containerPort": "int32", "hostPort": "int32"})
        ),
    },
    open=True,
)
_POD_SPEC = Fields(
    {
        **_texts("nodeName", "restartPolicy", "dnsPolicy", "serviceAccountName", "serviceAccount", "schedulerName"),
        **_texts("hostname", "subdomain"),
        "hostNetwork": "bool",
        "terminationGracePeriodSeconds": "int64",
        "activeDeadlineSeconds": "int64",
        "nodeSelector": _STRINGS,
        "containers": ListOf(_CONTAINER),
        "initContainers": ListOf(_CONTAINER),
        "hostAliases": ListOf(Fields({"ip": "string", "hostnames": ListOf("string")})),
        "tolerations": ListOf(Fields({**_texts("key", "operator", "value", "effect"), "tolerationSeconds": "int64"})),
    },
    open=True,
)
_POD_STATUS = Fields(
    {
        **_texts("phase", "podIP", "hostIP", "reason", "message"),
        "podIPs": ListOf(Fields(_texts("ip"))),
        "conditions": ListOf(Fields({}, open=True)),
        "containerStatuses": ListOf(Fields({}, open=True)),
    },
    open=True,
)
_NODE_SPEC = Fields(
    {
        **_texts("podCIDR", "providerID"),
        "podCIDRs": ListOf("string"),
        "unschedulable": "bool",
        "taints": ListOf(Fields(_texts("key", "value", "effect", "timeAdded"))),
    },
    open=True,
)
_NODE_STATUS = Fields(
    {
        "addresses": ListOf(Fields(_texts("type", "address"))),
        "conditions": ListOf(Fields({}, open=True)),
        "capacity": MapOf("any"),
        "allocatable": MapOf("any"),
    },
    open=True,
)
_SERVICE_SPEC = Fields(
    {
        **_texts("type", "clusterIP", "externalName", "sessionAffinity", "loadBalancerIP", "loadBalancerClass"),
        **_texts("externalTrafficPolicy", "internalTrafficPolicy", "ipFamilyPolicy", "trafficDistribution"),
        "clusterIPs": ListOf("string"),
        "externalIPs": ListOf("string"),
        "ipFamilies": ListOf("string"),
        "loadBalancerSourceRanges": ListOf("string"),
        "selector": _STRINGS,
        "publishNotReadyAddresses": "bool",
        "allocateLoadBalancerNodePorts": "bool",
        "healthCheckNodePort": "int32",
        "sessionAffinityConfig": "any",
        "ports": ListOf(
            Fields(
                {
                    **_texts("name", "protocol", "appProtocol"),
                    "port": "int32",
                    "targetPort": "intstr",
                    "nodePort": "int32",
                }
            )
        ),
    }
)
_CONDITIONS = Fields({"ready": "bool", "serving": "bool", "terminating": "bool"})
_ENDPOINT = Fields(
    {
        **_texts("hostname", "nodeName", "zone"),
        "addresses": ListOf("string"),
        "conditions": _CONDITIONS,
        "targetRef": _REFERENCE,
        "deprecatedTopology": _STRINGS,
        "hints": "any",
    }
)
_POLICY_PORTS = ListOf(Fields({"protocol": "string", "port": "intstr", "endPort": "int32"}))
_POLICY_PEERS = ListOf(
    Fields(
        {
            "podSelector": _LABEL_SELECTOR,
            "namespaceSelector": _LABEL_SELECTOR,
            "ipBlock": Fields({"cidr": "string", "except": ListOf("string")}),
        }
    )
)

_SHAPES: Mapping[Collection, Fields] = {
    ("", "pods"): _kind({"spec": _POD_SPEC, "status": _POD_STATUS}),
    ("", "nodes"): _kind({"spec": _NODE_SPEC, "status": _NODE_STATUS}),
    ("", "namespaces"): _kind(
        {"spec": Fields({"finalizers": ListOf("string")}), "status": Fields({"phase": "string"}, open=True)}
    ),
    ("", "services"): _kind({"spec": _SERVICE_SPEC, "status": Fields({}, open=True)}),
    ("", "configmaps"): _kind({"data": _STRINGS, "binaryData": MapOf("[]byte"), "immutable": "bool"}),
    ("", "serviceaccounts"): _kind(
        {
            "secrets": ListOf(_REFERENCE),
            "imagePullSecrets": ListOf(Fields(_texts("name"))),
            "automountServiceAccountToken": "bool",
        }
    ),
    ("", "events"): _kind(
        {
            **_texts("reason", "message", "type", "firstTimestamp", "lastTimestamp", "eventTime", "action"),
            **_texts("reportingComponent", "reportingInstance"),
            "involvedObject": _REFERENCE,
            "related": _REFERENCE,
            "source": Fields(_texts("component", "host")),
            "count": "int32",
            "series": Fields({"count": "int32", "lastObservedTime": "string"}),
        }
    ),
    ("discovery.k8s.io", "endpointslices"): _kind(
        {
            "addressType": "string",
            "endpoints": ListOf(_ENDPOINT),
            "ports": ListOf(Fields({**_texts("name", "protocol", "appProtocol"), "port": "int32"})),
        }
    ),
    ("networking.k8s.io", "networkpolicies"): _kind(
        {
            "spec": Fields(
                {
                    "podSelector": _LABEL_SELECTOR,
                    "policyTypes": ListOf("string"),
                    "ingress": ListOf(Fields({"ports": _POLICY_PORTS, "from": _POLICY_PEERS})),
                    "egress": ListOf(Fields({"ports": _POLICY_PORTS, "to": _POLICY_PEERS})),
                }
            ),
            "status": "any",
        }
    ),
}
