"""Whatever is written: reading raises Invalid or nothing, and the calculation goes on with what is left."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.adapters.reading import reader
from services.policy.core import objects
from services.policy.core.convert.client import stored
from services.policy.core.graph import Graph
from services.policy.core.intake import Intake
from services.policy.core.problems import Invalid
from services.policy.core.profiles import PROFILES, Compat
from services.policy.core.selectors import SelectorError, parse
from tests.policy.dataplane import Dataplane

_SELECTOR = "a == 'x' && has(b)"
_RULE = {
    "action": "Allow",
    "ipVersion": 4,
    "protocol": "TCP",
    "notProtocol": 17,
    "icmp": {"type": 8, "code": 0},
    "notICMP": {"type": 8},
    "source": {
        "nets": ["10.0.0.0/8"],
        "notNets": ["10.1.0.0/16"],
        "selector": _SELECTOR,
        "notSelector": "c in {'y'}",
        "namespaceSelector": "all()",
        "ports": [80, "1:9", "http"],
        "serviceAccounts": {"names": ["sa"], "selector": "has(x)"},
    },
    "destination": {"services": {"name": "s", "namespace": "n"}, "notPorts": ["dns"], "nets": ["fd00::/8"]},
    "http": {"methods": ["GET"], "paths": [{"exact": "/a"}, {"prefix": "/b"}]},
    "metadata": {"annotations": {"a": "b"}},
}
_SPEC = {
    "order": 10,
    "selector": "all()",
    "types": ["Ingress", "Egress"],
    "ingress": [_RULE],
    "egress": [_RULE, {"action": "Pass"}],
    "serviceAccountSelector": "has(x)",
}
_LABELS = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}]}


def _object(version: str, kind: str, spec: Any = None, **fields: Any) -> Any:
    meta = {"name": "a", "namespace": "n", "labels": {"a": "x"}, "annotations": {}}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **({"spec": spec} if spec else {}), **fields}


_POD = _object(
    "v1",
    "Pod",
    {
        "nodeName": "node1",
        "serviceAccountName": "sa",
        "containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}],
    },
    status={"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
)
_POD["metadata"]["annotations"] = {
    "cni.projectcalico.org/floatingIPs": '["1.2.3.4"]',
    "cni.projectcalico.org/allowedSourcePrefixes": '["1.2.3.0/24"]',
    "cni.projectcalico.org/podIPs": "10.0.0.1,fd00::1",
}
MANIFESTS = [
    _POD,
    _object("v1", "Namespace"),
    _object("v1", "ServiceAccount"),
    _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        {
            "podSelector": _LABELS,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": _LABELS, "namespaceSelector": {}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [{"port": 80, "endPort": 90}, {"port": "http", "protocol": "UDP"}],
                }
            ],
            "egress": [{"to": [{"podSelector": {}}], "ports": [{}]}],
        },
    ),
    _object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        endpoints=[{"addresses": ["10.0.0.1"]}],
        ports=[{"port": 80, "protocol": "TCP"}],
    ),
    _object("projectcalico.org/v3", "NetworkPolicy", _SPEC),
    _object(
        "projectcalico.org/v3",
        "GlobalNetworkPolicy",
        {**_SPEC, "doNotTrack": True, "preDNAT": False, "applyOnForward": True, "namespaceSelector": "has(t)"},
    ),
    _object("projectcalico.org/v3", "NetworkSet", {"nets": ["10.0.0.0/8"]}),
    _object("projectcalico.org/v3", "GlobalNetworkSet", {"nets": ["10.0.0.0/8", "::/0"]}),
    _object(
        "projectcalico.org/v3",
        "HostEndpoint",
        {
            "node": "node1",
            "interfaceName": "eth0",
            "expectedIPs": ["10.0.0.1"],
            "profiles": ["p"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        },
    ),
    _object("projectcalico.org/v3", "Profile", {"ingress": [_RULE], "labelsToApply": {"a": "b"}}),
    *(
        _object(
            "policy.networking.k8s.io/v1alpha1",
            kind,
            {
                "tier": "Admin",
                "priority": 5,
                "subject": {"pods": {"namespaceSelector": _LABELS, "podSelector": _LABELS}},
                "ingress": [
                    {
                        "name": "r",
                        "action": "Deny",
                        "from": [{"namespaces": _LABELS}],
                        "ports": [{"portNumber": {"port": 80}}, {"namedPort": "http"}],
                    }
                ],
                "egress": [
                    {
                        "action": "Pass",
                        "to": [{"networks": ["10.0.0.0/8"]}],
                        "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}],
                    }
                ],
            },
        )
        for kind in ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy")
    ),
    _object("projectcalico.org/v3", "Tier", {"order": 1, "defaultAction": "Pass"}),
]

_DEEP: Any = []
for _ in range(5_000):
    _DEEP = [_DEEP]

JUNK: list[Any] = [
    *(None, True, 0, -1, 65536, 10**30, 1.5, float("nan"), float("inf"), [], {}, [None], [[]], {"a": 1}, ["x", 1]),
    *("", " ", "a", "é", "\ud800", "\n", "'", '"', "a'b", "1:2", "9:1", "9" * 5000, {"": ""}, _DEEP),
    *("0.0.0.0/0", "1.2.3.4/33", "1.2.3.4/" + "9" * 5000, "::ffff:1.2.3.4", "fe80::1%eth0"),
    *("a = b", "(" * 300, "global()", "all() || has(", "{", "[]", '["x"]', '{"a": 1}', "[" * 100_000),
]


class Dice(Protocol):
    """What decides; random.Random is one, and so is what a fuzzer gives."""

    def random(self) -> float: ...
    def choice(self, seq: Sequence[Any], /) -> Any: ...


def spoiled(manifest: Any, dice: Dice, times: int) -> Any:
    """A copy with some of its places, however deep, replaced by junk, removed, or doubled."""
    manifest = copy.deepcopy(manifest)
    for _ in range(times):
        here, holder = manifest, None
        while isinstance(here, dict | list) and here and dice.random() < 0.85:
            holder, place = here, dice.choice(list(here) if isinstance(here, dict) else range(len(here)))
            if place in ("kind", "apiVersion"):
                holder = None
                break
            here = here[place]
        if holder is None:
            continue
        if isinstance(holder, list) and dice.random() < 0.2:
            holder.append(here)
        elif dice.random() < 0.1:
            del holder[place]
        else:
            holder[place] = dice.choice(JUNK)
    return manifest


def read(raw: Any, kind: type[objects.Object]) -> objects.Object:
    """As a manifest and as the API server's JSON, which must come to the same. Raises Invalid."""
    seen = _sent(raw, kind)
    try:
        written = objects.read(raw, kind)
    except Invalid:
        assert not isinstance(seen, objects.Object)
        raise
    if isinstance(seen, objects.Object):
        assert seen == written
    return written


def _sent(raw: Any, kind: type[objects.Object]) -> objects.Object | Invalid | None:
    """Read from JSON; None: there is no such JSON, or it has no name and a mirror would pass it over."""
    try:
        sent = msgspec.Raw(json.dumps(raw, allow_nan=False).encode("utf-8", "strict"))
        return reader(kind)(sent).take()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


@settings(max_examples=600, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    times=st.integers(0, 6),
    compat=st.sampled_from(list(PROFILES.values())),
    by_client=st.booleans(),
)
def test_no_manifest_stops_the_calculation(seed: int, times: int, compat: Compat, by_client: bool) -> None:
    dice = random.Random(seed)
    intake, graph, dataplane = Intake(compat), Graph("node1", compat), Dataplane()
    graph.in_sync()
    for manifest in MANIFESTS:
        raw = spoiled(manifest, dice, times)
        kind = objects.kind_of(raw)
        assert kind is not None
        try:
            written = read(raw, kind)
            if by_client:
                written = stored(written, compat)
        except Invalid as error:
            assert error.reason
            continue
        for key, _, value in intake.apply(written):
            graph.update(key, value)
            assert key.path.startswith("/calico/")
        dataplane.apply(graph.flush())
    for kind in set(objects.KINDS.values()):
        for key, _, value in intake.delete(kind, "n", "a"):
            graph.update(key, value)
    dataplane.apply(graph.flush())


def test_what_is_not_spoiled_is_read_whole() -> None:
    """Else the test above would test nothing."""
    for compat in PROFILES.values():
        intake = Intake(compat)
        for manifest in MANIFESTS:
            kind = objects.kind_of(manifest)
            assert kind is not None
            assert _sent(manifest, kind) == objects.read(manifest, kind)
            intake.apply(objects.read(manifest, kind))
        found = {problem.field for problems in intake.problems.values() for problem in problems}
        assert not compat.tiers or found == {"spec.ingress[0].http", "spec.egress[0].http"}


_WORDS = st.sampled_from(
    (
        *("a", "b/c.d-e", "==", "!=", "in", "not in", "notin", "contains", "starts with", "ends with"),
        *("{", "}", ",", "(", ")", "!", "&&", "||", "'x'", '"y"', "'", "has(", "has(a)", "all()", "global()"),
        *(" ", "\t", "\n", "é", "\ud800"),
    )
)


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.text(), st.lists(_WORDS, max_size=30).map(" ".join), st.lists(_WORDS, max_size=30).map("".join)))
def test_no_text_stops_the_parser(text: str) -> None:
    try:
        selector = parse(text)
    except SelectorError:
        return
    again = parse(selector.text)
    labels = {"a": "x", "b/c.d-e": "y"}
    assert again.matches(labels.get) == selector.matches(labels.get)
