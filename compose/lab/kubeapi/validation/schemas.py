"""Which fields the kinds that the project reads have, and of what type. No I/O.

Kinds and parts that nobody here reads are `open`: they keep whatever they are given.
"""

from collections.abc import Mapping

import msgspec

from compose.lab.kubeapi.kinds import Collection


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
METADATA = Fields(
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
    return Fields({**_texts("apiVersion", "kind"), "metadata": METADATA, **known}, open=open_)


ANY_KIND = _kind({}, open_=True)
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

SCHEMAS: Mapping[Collection, Fields] = {
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
