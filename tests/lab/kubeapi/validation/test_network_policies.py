"""What an API server says to a NetworkPolicy."""

from typing import Any

import pytest

from compose.lab.kubeapi.defaults import set_defaults
from compose.lab.kubeapi.kinds import Kinds
from compose.lab.kubeapi.status import Refusal
from compose.lab.kubeapi.validation import decoding, problems_of, validate

KIND = Kinds().built_in("networking.k8s.io", "networkpolicies")
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', "
    "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def policy(**spec: Any) -> dict[str, Any]:
    body = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"podSelector": {}, **spec}}
    return set_defaults(KIND, decoding.read(KIND, body))


def said(**spec: Any) -> list[str]:
    return [f"{field}: {message}" for field, _, message in problems_of(KIND, policy(**spec))]


def ports(*said: Any) -> dict[str, Any]:
    return {"ingress": [{"ports": [*said]}]}


def peers(*said: Any) -> dict[str, Any]:
    return {"egress": [{"to": [*said]}]}


def block(cidr: str, *excepted: str) -> dict[str, Any]:
    return peers({"ipBlock": {"cidr": cidr, "except": [*excepted]}})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"podSelector": {"matchLabels": {"example.com/app": "web", "x": ""}}},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}},
        {"policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": [{}]},
        {"ingress": None, "egress": [{"to": None, "ports": None}]},
        ports({"port": 80}, {"port": "http", "protocol": "UDP"}, {"protocol": "SCTP"}, {}),
        ports({"port": 1, "endPort": 65535}, {"port": 80, "endPort": 80}),
        peers({"podSelector": {}}, {"namespaceSelector": {}}, {"podSelector": {}, "namespaceSelector": {}}),
        block("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/9"),
        block("0.0.0.0/0", "10.1.2.3/32"),
        block("10.1.2.3/8"),
        block("fd00::/64", "fd00::/65"),
        block("10.01.0.0/16"),
    ],
)
def test_what_is_accepted(spec: dict[str, Any]) -> None:
    assert said(**spec) == []


@pytest.mark.parametrize(
    ("spec", "complaints"),
    [
        (
            ports({"port": 0}, {"port": 65536}),
            [
                "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ingress[0].ports[1].port: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            ports({"port": 80, "endPort": 79}),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`"],
        ),
        (
            ports({"port": 80, "endPort": 65536}),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 65536: must be between 1 and 65535, inclusive"],
        ),
        (
            ports({"port": "http", "endPort": 90}),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric"],
        ),
        (
            ports({"endPort": 90}),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is not specified"],
        ),
        (
            ports({"port": "80"}),
            ['spec.ingress[0].ports[0].port: Invalid value: "80": must contain at least one letter (a-z)'],
        ),
        (
            ports({"port": "a-long-port-name"}),
            ['spec.ingress[0].ports[0].port: Invalid value: "a-long-port-name": must be no more than 15 characters'],
        ),
        (
            ports({"port": "Ht--tp-"}),
            [
                'spec.ingress[0].ports[0].port: Invalid value: "Ht--tp-": '
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                'spec.ingress[0].ports[0].port: Invalid value: "Ht--tp-": must not contain consecutive hyphens',
                'spec.ingress[0].ports[0].port: Invalid value: "Ht--tp-": must not begin or end with a hyphen',
            ],
        ),
        (
            ports({"port": 80, "protocol": "tcp"}),
            ['spec.ingress[0].ports[0].protocol: Unsupported value: "tcp": supported values: "TCP", "UDP", "SCTP"'],
        ),
        (peers({}), ["spec.egress[0].to[0]: Required value: must specify a peer"]),
        (
            peers({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
            ["spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"],
        ),
        (block(""), ["spec.egress[0].to[0].ipBlock.cidr: Required value"]),
        *(
            (
                block(text, "10.0.0.0/8"),
                [
                    f'spec.egress[0].to[0].ipBlock.cidr: Invalid value: "{text}": '
                    "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
                ],
            )
            for text in ("10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "fe80::%1/64", "x/8", "10.0.0.0/-1")
        ),
        *(
            (
                block("10.0.0.0/8", text),
                [f'spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "{text}": must be a strict subset of `cidr`'],
            )
            for text in ("10.0.0.0/8", "11.0.0.0/16", "0.0.0.0/0", "fd00::/16")
        ),
        (
            block("10.0.0.0/8", "10.1.0.0/16", "x"),
            [
                'spec.egress[0].to[0].ipBlock.except[1]: Invalid value: "x": '
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            ],
        ),
        (
            {"policyTypes": ["Ingress", "ingress"]},
            ['spec.policyTypes[1]: Unsupported value: "ingress": supported values: "Ingress", "Egress"'],
        ),
        (
            {"policyTypes": ["Ingress", "Egress", "Ingress"]},
            [
                'spec.policyTypes: Invalid value: ["Ingress","Egress","Ingress"]: '
                "may not specify more than two policyTypes"
            ],
        ),
        (
            {"podSelector": {"matchLabels": {"-a": "b"}}},
            [f'spec.podSelector.matchLabels: Invalid value: "-a": {NAME_PART}'],
        ),
        (
            {"podSelector": {"matchLabels": {"/a": "b"}}},
            ['spec.podSelector.matchLabels: Invalid value: "/a": prefix part must be non-empty'],
        ),
        (
            {"podSelector": {"matchLabels": {"a": "x" * 64}}},
            [f'spec.podSelector.matchLabels: Invalid value: "{"x" * 64}": must be no more than 63 characters'],
        ),
        (
            peers({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            [
                "spec.egress[0].to[0].namespaceSelector.matchExpressions[0].values: Required value: "
                "must be specified when `operator` is 'In' or 'NotIn'"
            ],
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            [
                "spec.podSelector.matchExpressions[0].values: Forbidden: "
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            ],
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Equals", "values": ["b"]}]}},
            ['spec.podSelector.matchExpressions[0].operator: Invalid value: "Equals": not a valid selector operator'],
        ),
        (
            {"podSelector": {"matchExpressions": [{"operator": "Exists"}]}},
            [
                'spec.podSelector.matchExpressions[0].key: Invalid value: "": name part must be non-empty',
                f'spec.podSelector.matchExpressions[0].key: Invalid value: "": {NAME_PART}',
            ],
        ),
    ],
)
def test_what_is_refused(spec: dict[str, Any], complaints: list[str]) -> None:
    assert said(**spec) == complaints


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (ports({"port": True}), "cannot unmarshal bool into Go struct field .spec.ingress.ports.port of type intstr"),
        (ports({"port": 80.5}), "cannot unmarshal number 80.5 into Go struct field .spec.ingress.ports.port"),
        (ports({"endPort": "90"}), "cannot unmarshal string into Go struct field .spec.ingress.ports.endPort"),
        (ports({"endPort": 1 << 31}), "cannot unmarshal number 2147483648 into"),
        ({"ingress": {}}, "cannot unmarshal object into Go struct field .spec.ingress of type []"),
        ({"podSelector": []}, "cannot unmarshal array into Go struct field .spec.podSelector of type struct"),
        ({"podSelector": {"matchLabels": {"a": 1}}}, "cannot unmarshal number"),
    ],
)
def test_what_cannot_be_read(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal) as refused:
        policy(**spec)
    assert refused.value.code == 400
    assert why in refused.value.message


def test_the_refusal_names_every_field_once() -> None:
    with pytest.raises(Refusal) as refused:
        validate(KIND, policy(policyTypes=["x"], **ports({"port": 0})))
    body = refused.value.body()
    assert (body["code"], body["reason"]) == (422, "Invalid")
    assert body["message"] == (
        'NetworkPolicy.networking.k8s.io "p" is invalid: '
        "[spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive, "
        'spec.policyTypes[0]: Unsupported value: "x": supported values: "Ingress", "Egress"]'
    )
    assert [(cause["field"], cause["reason"]) for cause in body["details"]["causes"]] == [
        ("spec.ingress[0].ports[0].port", "FieldValueInvalid"),
        ("spec.policyTypes[0]", "FieldValueNotSupported"),
    ]


def test_what_is_left_unsaid_is_filled_in() -> None:
    made = policy(ingress=[{"ports": [{"port": 80}], "from": None}], egress=[{"ports": [{"protocol": "UDP"}]}])
    assert made["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": 80, "protocol": "TCP"}]}],
        "egress": [{"ports": [{"protocol": "UDP"}]}],
    }
    assert policy(egress=[])["spec"]["policyTypes"] == ["Ingress"]
    assert policy(egress=[{}], policyTypes=["Ingress"])["spec"]["policyTypes"] == ["Ingress"]


def test_unknown_fields_are_dropped_or_refused() -> None:
    body = {"metadata": {"name": "p"}, "spec": {"podselector": {}, "ingress": [{"form": []}]}}
    assert decoding.read(KIND, body)["spec"] == {"ingress": [{}]}
    with pytest.raises(Refusal, match=r'strict decoding error: unknown field "spec.podselector", unknown field') as no:
        decoding.read(KIND, body, strict=True)
    assert no.value.code == 400
