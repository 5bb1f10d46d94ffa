"""What an API server says to the other kinds that the project reads: at first, and when they change."""

from typing import Any

import pytest

from compose.lab.kubeapi.defaults import set_defaults
from compose.lab.kubeapi.kinds import Kinds
from compose.lab.kubeapi.validation import decoding, problems_of

KINDS = Kinds()
PORT_RANGE = "must be between 1 and 65535, inclusive"
CONTAINER = {"name": "main", "image": "tools:1"}
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end"
)


def made(plural: str, body: dict[str, Any], *, group: str = "") -> dict[str, Any]:
    kind = KINDS.built_in(group, plural)
    home = {"namespace": "default"} if kind.namespaced else {}
    whole = body | {"metadata": {"name": "a"} | home | body.get("metadata", {})}
    return set_defaults(kind, decoding.read(kind, whole))


def said(plural: str, body: dict[str, Any], old: dict[str, Any] | None = None, *, group: str = "") -> list[str]:
    """The complaints, each cut off after its first sentence part that tells it from others."""
    kind = KINDS.built_in(group, plural)
    before = None if old is None else made(plural, old, group=group)
    return [f"{field}: {text}" for field, _, text in problems_of(kind, made(plural, body, group=group), before)]


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [CONTAINER]} | spec}


def container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[CONTAINER | fields])


# ---- metadata


@pytest.mark.parametrize(
    ("plural", "metadata", "complaints"),
    [
        ("configmaps", {"name": ""}, ["metadata.name: Required value: name or generateName is required"]),
        ("configmaps", {"name": "a.b-c.d"}, []),
        ("namespaces", {"name": "a.b"}, ['metadata.name: Invalid value: "a.b": must not contain dots']),
        ("services", {"name": "1a"}, ['metadata.name: Invalid value: "1a": a DNS-1035 label must consist of']),
        ("configmaps", {"name": "A"}, ['metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must']),
        ("configmaps", {"generateName": "a-"}, []),
        ("configmaps", {"generateName": "A-"}, ['metadata.generateName: Invalid value: "A-": a lowercase RFC 1123']),
        ("configmaps", {"labels": {"a": "b c"}}, ['metadata.labels: Invalid value: "b c": a valid label must be an']),
        ("configmaps", {"labels": {"a/b/c": ""}}, ['metadata.labels: Invalid value: "a/b/c": a qualified name must']),
        ("configmaps", {"labels": {"A_/b": ""}}, ['metadata.labels: Invalid value: "A_/b": prefix part a lowercase']),
        ("configmaps", {"annotations": {"K8S.io/A": "any text: ü"}}, []),
        ("configmaps", {"annotations": {"a b": ""}}, ['metadata.annotations: Invalid value: "a b": name part must']),
        ("configmaps", {"annotations": {"a": "x" * (256 << 10)}}, ["metadata.annotations: Too long: may not be more"]),
        ("configmaps", {"finalizers": ["x/y/z"]}, ['metadata.finalizers: Invalid value: "x/y/z": a qualified name']),
        (
            "configmaps",
            {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]},
            ['metadata.ownerReferences.uid: Invalid value: "": must not be empty'],
        ),
        (
            "configmaps",
            {
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": True} for name in "pq"
                ]
            },
            ["metadata.ownerReferences: Invalid value: "],
        ),
    ],
)
def test_metadata(plural: str, metadata: dict[str, Any], complaints: list[str]) -> None:
    body = {"metadata": metadata} | ({"spec": {"ports": [{"port": 80}]}} if plural == "services" else {})
    found = said(plural, body)
    assert len(found) == len(complaints)
    assert all(text.startswith(start) for text, start in zip(found, complaints, strict=True)), found


def test_an_object_that_goes_gets_no_new_finalizers() -> None:
    old = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}}
    new = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y", "x/z"]}}
    assert said("configmaps", new, old) == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, "
        'found new finalizers []string{"x/z"}'
    ]
    assert said("configmaps", old, new) == []


# ---- pods


@pytest.mark.parametrize(
    ("body", "complaints"),
    [
        (pod(), []),
        (pod(nodeName="n.1", hostNetwork=True, nodeSelector={"a": "b"}, restartPolicy="Never"), []),
        (container(ports=[{"containerPort": 80, "name": "http"}, {"containerPort": 53, "protocol": "UDP"}]), []),
        ({}, ["spec.containers: Required value"]),
        (pod(containers=[]), ["spec.containers: Required value"]),
        (container(name="", image=None), ["spec.containers[0].name: Required value", "spec.containers[0].image: Requ"]),
        (container(name="A"), [f'spec.containers[0].name: Invalid value: "A": {LABEL_RULE}']),
        (pod(initContainers=[CONTAINER]), ['spec.containers[0].name: Duplicate value: "main"']),
        (container(ports=[{}]), ["spec.containers[0].ports[0].containerPort: Required value"]),
        (
            container(ports=[{"containerPort": 70000}]),
            [f"spec.containers[0].ports[0].containerPort: Invalid value: 70000: {PORT_RANGE}"],
        ),
        (
            container(ports=[{"containerPort": 80, "protocol": "ICMP"}]),
            ['spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'],
        ),
        (
            container(ports=[{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
            ['spec.containers[0].ports[1].name: Duplicate value: "a"'],
        ),
        (
            container(ports=[{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8080}]),
            ['spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//8080"'],
        ),
        (
            pod(hostNetwork=True, containers=[CONTAINER | {"ports": [{"containerPort": 80, "hostPort": 81}]}]),
            ["spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when"],
        ),
        (pod(restartPolicy="Maybe"), ['spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always"']),
        (pod(dnsPolicy="x"), ['spec.dnsPolicy: Unsupported value: "x"']),
        (pod(nodeName="A"), ['spec.nodeName: Invalid value: "A": a lowercase RFC 1123 subdomain']),
        (pod(nodeSelector={"-": "b"}), ['spec.nodeSelector: Invalid value: "-": name part must']),
        (pod(hostname="a.b"), ['spec.hostname: Invalid value: "a.b": must not contain dots']),
        (pod(activeDeadlineSeconds=0), ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1"]),
        (pod(hostAliases=[{"ip": "x"}]), ['spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address']),
    ],
)
def test_pods(body: dict[str, Any], complaints: list[str]) -> None:
    found = said("pods", body)
    assert len(found) == len(complaints), found
    assert all(text.startswith(start) for text, start in zip(found, complaints, strict=True)), found


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        (container(image="tools:2"), ""),
        (pod(tolerations=[{"operator": "Exists"}]), ""),
        (pod(activeDeadlineSeconds=5), ""),
        (pod(nodeName="other"), "spec: Forbidden: pod updates may not change fields other than"),
        (pod(hostNetwork=True), "spec: Forbidden: pod updates may not change fields other than"),
        (container(name="other"), "spec: Forbidden: pod updates may not change fields other than"),
        (pod(terminationGracePeriodSeconds=1), "spec: Forbidden: pod updates may not change fields other than"),
        (pod(containers=[CONTAINER, CONTAINER | {"name": "b"}]), "spec.containers: Forbidden: pod updates may not add"),
    ],
)
def test_what_of_a_pod_can_change(new: dict[str, Any], complaint: str) -> None:
    found = said("pods", new, pod())
    assert bool(found) == bool(complaint)
    assert all(text.startswith(complaint) for text in found)


@pytest.mark.parametrize(
    ("addresses", "complaint"),
    [
        (["10.0.0.1", "fd00::1"], ""),
        (["10.0.0.1", "10.0.0.2"], "status.podIPs: Invalid value: "),
        (["10.0.0.256"], 'status.podIPs[0]: Invalid value: "10.0.0.256": must be a valid IP address'),
    ],
)
def test_a_pod_s_addresses(addresses: list[str], complaint: str) -> None:
    body = pod() | {"status": {"podIPs": [{"ip": address} for address in addresses]}}
    found = said("pods", body)
    assert bool(found) == bool(complaint)
    assert all(text.startswith(complaint) for text in found)
    assert made("pods", body)["status"]["podIP"] == addresses[0]
    assert made("pods", pod() | {"status": {"podIP": "10.0.0.1"}})["status"]["podIPs"] == [{"ip": "10.0.0.1"}]


def test_a_pod_s_defaults() -> None:
    spec = made(
        "pods", pod(hostNetwork=True, containers=[{"name": "a", "image": "b", "ports": [{"containerPort": 1}]}])
    )
    assert spec["spec"]["restartPolicy"] == "Always"
    assert spec["spec"]["serviceAccount"] == "default"
    [found] = spec["spec"]["containers"]
    assert found["imagePullPolicy"] == "Always"
    assert found["ports"] == [{"containerPort": 1, "protocol": "TCP", "hostPort": 1}]
    images = {"a:1": "IfNotPresent", "h:5000/a": "Always", "a:latest": "Always", "a@sha256:0": "IfNotPresent"}
    for image, policy in images.items():
        assert made("pods", container(image=image))["spec"]["containers"][0]["imagePullPolicy"] == policy


# ---- nodes


@pytest.mark.parametrize(
    ("body", "old", "complaints"),
    [
        ({"spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "a/b", "effect": "NoSchedule"}]}}, None, []),
        ({"spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}}, None, []),
        ({"spec": {"podCIDRs": ["x"]}}, None, ['spec.podCIDRs[0]: Invalid value: "x": must be a valid CIDR']),
        ({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}}, None, ["spec.podCIDRs: Invalid value: "]),
        ({"spec": {"taints": [{"key": "a"}]}}, None, ["spec.taints[0].effect: Required value"]),
        ({"spec": {"taints": [{"key": "a", "effect": "x"}]}}, None, ['spec.taints[0].effect: Unsupported value: "x"']),
        (
            {"spec": {"taints": [{"key": "a", "effect": "NoExecute", "value": value} for value in "bc"]}},
            None,
            ['spec.taints[1]: Duplicate value: {"key":"a","effect":"NoExecute","value":"c"}'],
        ),
        ({"spec": {"providerID": "cn-x.i-2"}}, {}, []),
        (
            {"spec": {"providerID": "cn-x.i-2"}},
            {"spec": {"providerID": "cn-x.i-1"}},
            ['spec.providerID: Forbidden: node updates may not change providerID except from "" to valid'],
        ),
        (
            {"spec": {"podCIDR": "10.1.0.0/24"}},
            {"spec": {"podCIDR": "10.0.0.0/24"}},
            ['spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'],
        ),
        (
            {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}] * 2}},
            None,
            ["status.addresses[1]: Duplicate value: "],
        ),
    ],
)
def test_nodes(body: dict[str, Any], old: dict[str, Any] | None, complaints: list[str]) -> None:
    found = said("nodes", body, old)
    assert len(found) == len(complaints), found
    assert all(text.startswith(start) for text, start in zip(found, complaints, strict=True)), found


# ---- services and their endpoints


def service(**spec: Any) -> dict[str, Any]:
    return {"spec": {"ports": [{"port": 80}]} | spec}


@pytest.mark.parametrize(
    ("body", "old", "complaints"),
    [
        (service(), None, []),
        (service(ports=[], clusterIP="None"), None, []),
        ({"spec": {"type": "ExternalName", "externalName": "a.example."}}, None, []),
        (service(ports=[{"name": "a", "port": 80}, {"name": "b", "port": 80, "protocol": "UDP"}]), None, []),
        ({}, None, ["spec.ports: Required value"]),
        (service(type="Cluster"), None, ['spec.type: Unsupported value: "Cluster"']),
        (
            service(ports=[{"port": 0}]),
            None,
            [f"spec.ports[0].{field}: Invalid value: 0: {PORT_RANGE}" for field in ("port", "targetPort")],
        ),
        (service(ports=[{"port": 80, "targetPort": "80"}]), None, ['spec.ports[0].targetPort: Invalid value: "80"']),
        (service(ports=[{"port": 1}, {"port": 2}]), None, [f"spec.ports[{i}].name: Required value" for i in (0, 1)]),
        (
            service(ports=[{"name": "a", "port": 1}, {"name": "a", "port": 1}]),
            None,
            ['spec.ports[1].name: Duplicate value: "a"', 'spec.ports[1]: Duplicate value: {"protocol":"TCP","port":1}'],
        ),
        (service(selector={"a": "b c"}), None, ['spec.selector: Invalid value: "b c": a valid label']),
        (service(clusterIP="x"), None, ['spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address']),
        (service(clusterIP="None", type="NodePort"), None, ['spec.clusterIPs[0]: Invalid value: "None": may not be']),
        (
            service(clusterIP="172.21.0.8", clusterIPs=["172.21.0.8"]),
            service(clusterIP="172.21.0.7"),
            ['spec.clusterIPs[0]: Invalid value: "172.21.0.8": may not change once set'],
        ),
        ({"spec": {"type": "ExternalName"}}, None, ['spec.externalName: Invalid value: "": a lowercase RFC 1123']),
    ],
)
def test_services(body: dict[str, Any], old: dict[str, Any] | None, complaints: list[str]) -> None:
    found = said("services", body, old)
    assert len(found) == len(complaints), found
    assert all(text.startswith(start) for text, start in zip(found, complaints, strict=True)), found


def endpoints(kind: str, *addresses: str, **fields: Any) -> dict[str, Any]:
    return {"addressType": kind, "endpoints": [{"addresses": [*addresses]}], **fields}


@pytest.mark.parametrize(
    ("body", "old", "complaints"),
    [
        (endpoints("IPv4", "10.0.0.1", ports=[{"port": 80}]), None, []),
        (endpoints("IPv6", "fd00::1"), None, []),
        (endpoints("FQDN", "a.example"), None, []),
        (endpoints("", "10.0.0.1"), None, ["addressType: Required value"]),
        (endpoints("IP", "10.0.0.1"), None, ['addressType: Unsupported value: "IP"']),
        (endpoints("IPv4"), None, ["endpoints[0].addresses: Required value: must contain at least 1 address"]),
        (endpoints("IPv4", "fd00::1"), None, ['endpoints[0].addresses[0]: Invalid value: "fd00::1": must be a val']),
        (endpoints("IPv4", "127.0.0.1"), None, ['endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not']),
        (endpoints("IPv4", "169.254.1.1"), None, ["endpoints[0].addresses[0]: Invalid value: "]),
        (endpoints("FQDN", "a"), None, ['endpoints[0].addresses[0]: Invalid value: "a": should be a domain']),
        (endpoints("IPv4", "10.0.0.1", ports=[{}, {}]), None, ['ports[1].name: Duplicate value: ""']),
        (endpoints("IPv4", "10.0.0.1", ports=[{"port": 0}]), None, [f"ports[0].port: Invalid value: 0: {PORT_RANGE}"]),
        (endpoints("IPv6", "fd00::1"), endpoints("IPv4", "10.0.0.1"), ['addressType: Invalid value: "IPv6": field']),
    ],
)
def test_endpoint_slices(body: dict[str, Any], old: dict[str, Any] | None, complaints: list[str]) -> None:
    found = said("endpointslices", body, old, group="discovery.k8s.io")
    assert len(found) == len(complaints), found
    assert all(text.startswith(start) for text, start in zip(found, complaints, strict=True)), found


# ---- the rest


@pytest.mark.parametrize(
    ("body", "old", "complaints"),
    [
        ({"data": {"a.json": "", "B_1": ""}, "binaryData": {"x": "AAAA"}}, None, []),
        ({"data": {"a/b": ""}}, None, ['data[a/b]: Invalid value: "a/b": a valid config key must consist of']),
        ({"data": {"..": ""}}, None, ["data[..]: Invalid value: \"..\": must not be '..'"]),
        ({"data": {"a": ""}, "binaryData": {"a": ""}}, None, ['data[a]: Invalid value: "a": duplicate of key present']),
        ({"data": {"a": "x" * ((1 << 20) + 1)}}, None, [": Too long: may not be more than 1048576 bytes"]),
        ({"data": {"a": "2"}, "immutable": True}, {"data": {"a": "1"}}, []),
        (
            {"data": {"a": "2"}, "immutable": True},
            {"data": {"a": "1"}, "immutable": True},
            ["data: Forbidden: field is immutable when `immutable` is set"],
        ),
        ({}, {"immutable": True}, ["immutable: Forbidden: field is immutable when `immutable` is set"]),
    ],
)
def test_config_maps(body: dict[str, Any], old: dict[str, Any] | None, complaints: list[str]) -> None:
    found = said("configmaps", body, old)
    assert len(found) == len(complaints), found
    assert all(text.startswith(start) for text, start in zip(found, complaints, strict=True)), found


def test_events_live_with_what_they_are_about() -> None:
    assert said("events", {"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}}) == []
    assert said("events", {"involvedObject": {"kind": "Node", "name": "n"}}) == []
    assert said("events", {"involvedObject": {"kind": "Pod", "namespace": "web", "name": "p"}}) == [
        'involvedObject.namespace: Invalid value: "web": does not match event.namespace'
    ]


def test_a_namespace_keeps_its_name_label() -> None:
    labels = made("namespaces", {"metadata": {"labels": {"kubernetes.io/metadata.name": "b"}}})["metadata"]["labels"]
    assert labels == {"kubernetes.io/metadata.name": "a"}
