"""What clusters hold, as far as the calculation reads it: one Struct per kind, only the fields that matter.

`read` turns decoded JSON or YAML into one of them and raises `Invalid` with the field when a value has the wrong
type; unknown fields are ignored, a null means absent. Semantics are checked later (validate.py).
"""

import re
from typing import Any, Final

import msgspec

from services.policy.core.problems import Invalid


class _Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Part of an object."""


class Metadata(_Part, frozen=True):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    generate_name: str = ""
    deletion_timestamp: str | None = None
    uid: str = ""
    resource_version: str = ""


class Object(_Part, frozen=True):
    """An object of some kind."""

    metadata: Metadata = Metadata()


# ---- Kubernetes


class ContainerPort(_Part, frozen=True):
    container_port: int = 0
    name: str = ""
    protocol: str = ""
    host_port: int = 0


class Container(_Part, frozen=True):
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(_Part, frozen=True):
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodAddress(_Part, frozen=True):
    ip: str = ""


class PodStatus(_Part, frozen=True):
    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodAddress, ...] = msgspec.field(default=(), name="podIPs")


class Pod(Object, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Namespace(Object, frozen=True):
    pass


class ServiceAccount(Object, frozen=True):
    pass


class Requirement(_Part, frozen=True):
    key: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()


class LabelSelector(_Part, frozen=True):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


class IPBlock(_Part, frozen=True):
    cidr: str = ""
    excepted: tuple[str, ...] = msgspec.field(default=(), name="except")


class Peer(_Part, frozen=True):
    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class PolicyPort(_Part, frozen=True):
    port: int | str | None = None
    end_port: int | None = None
    protocol: str | None = None


class IngressRule(_Part, frozen=True):
    peers: tuple[Peer, ...] = msgspec.field(default=(), name="from")
    ports: tuple[PolicyPort, ...] = ()


class EgressRule(_Part, frozen=True):
    peers: tuple[Peer, ...] = msgspec.field(default=(), name="to")
    ports: tuple[PolicyPort, ...] = ()


class KubePolicySpec(_Part, frozen=True):
    pod_selector: LabelSelector = LabelSelector()
    ingress: tuple[IngressRule, ...] = ()
    egress: tuple[EgressRule, ...] = ()
    policy_types: tuple[str, ...] = ()


class KubePolicy(Object, frozen=True):
    """networking.k8s.io NetworkPolicy."""

    spec: KubePolicySpec = KubePolicySpec()


class Service(Object, frozen=True):
    pass


class SliceEndpoint(_Part, frozen=True):
    addresses: tuple[str, ...] = ()


class SlicePort(_Part, frozen=True):
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Object, frozen=True):
    address_type: str = ""
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()


# ---- Kubernetes, for administrators


class PodsMatch(_Part, frozen=True):
    namespace_selector: LabelSelector = LabelSelector()
    pod_selector: LabelSelector = LabelSelector()


class AdminSubject(_Part, frozen=True):
    """One of the two."""

    namespaces: LabelSelector | None = None
    pods: PodsMatch | None = None


class AdminPeer(_Part, frozen=True):
    """One of these; nodes and domain names exist too and cannot be converted."""

    namespaces: LabelSelector | None = None
    pods: PodsMatch | None = None
    networks: tuple[str, ...] = ()


class AdminPortNumber(_Part, frozen=True):
    protocol: str = "TCP"
    port: int = 0


class AdminPortRange(_Part, frozen=True):
    protocol: str = "TCP"
    start: int = 0
    end: int = 0


class AdminPort(_Part, frozen=True):
    """One of these."""

    port_number: AdminPortNumber | None = None
    port_range: AdminPortRange | None = None
    named_port: str = ""


class AdminPortMatch(_Part, frozen=True):
    """One of the two."""

    number: int | None = None
    range: AdminPortRange | None = None


class AdminTransport(_Part, frozen=True):
    destination_port: AdminPortMatch | None = None


class AdminProtocol(_Part, frozen=True):
    """One of these."""

    tcp: AdminTransport | None = None
    udp: AdminTransport | None = None
    sctp: AdminTransport | None = None
    destination_named_port: str = ""


class AdminIngressRule(_Part, frozen=True):
    name: str = ""
    action: str = ""
    peers: tuple[AdminPeer, ...] = msgspec.field(default=(), name="from")
    ports: tuple[AdminPort, ...] = ()
    protocols: tuple[AdminProtocol, ...] = ()


class AdminEgressRule(_Part, frozen=True):
    name: str = ""
    action: str = ""
    peers: tuple[AdminPeer, ...] = msgspec.field(default=(), name="to")
    ports: tuple[AdminPort, ...] = ()
    protocols: tuple[AdminProtocol, ...] = ()


AdminRule = AdminIngressRule | AdminEgressRule


class AdminSpec(_Part, frozen=True):
    tier: str = ""
    priority: int = 0
    subject: AdminSubject = AdminSubject()
    ingress: tuple[AdminIngressRule, ...] = ()
    egress: tuple[AdminEgressRule, ...] = ()


class AdminPolicy(Object, frozen=True):
    """What the three kinds have in common, which is everything but their names."""

    spec: AdminSpec = AdminSpec()


class AdminNetworkPolicy(AdminPolicy, frozen=True):
    pass


class BaselineAdminNetworkPolicy(AdminPolicy, frozen=True):
    pass


class ClusterNetworkPolicy(AdminPolicy, frozen=True):
    pass


# ---- Calico


class ServiceAccountMatch(_Part, frozen=True):
    names: tuple[str, ...] = ()
    selector: str = ""


class ServiceMatch(_Part, frozen=True):
    name: str = ""
    namespace: str = ""


class EntityRule(_Part, frozen=True):
    nets: tuple[str, ...] = ()
    not_nets: tuple[str, ...] = ()
    selector: str = ""
    not_selector: str = ""
    namespace_selector: str = ""
    ports: tuple[int | str, ...] = ()
    not_ports: tuple[int | str, ...] = ()
    service_accounts: ServiceAccountMatch | None = None
    services: ServiceMatch | None = None


class ICMP(_Part, frozen=True):
    type: int | None = None
    code: int | None = None


class HTTPPath(_Part, frozen=True):
    exact: str = ""
    prefix: str = ""


class HTTP(_Part, frozen=True):
    methods: tuple[str, ...] = ()
    paths: tuple[HTTPPath, ...] = ()


class RuleMetadata(_Part, frozen=True):
    annotations: dict[str, str] = {}


class Rule(_Part, frozen=True):
    action: str = ""
    ip_version: int | None = None
    protocol: int | str | None = None
    not_protocol: int | str | None = None
    icmp: ICMP | None = None
    not_icmp: ICMP | None = msgspec.field(default=None, name="notICMP")
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()
    http: HTTP | None = None
    metadata: RuleMetadata | None = None


class NetworkPolicySpec(_Part, frozen=True):
    tier: str = ""
    order: float | None = None
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    selector: str = ""
    types: tuple[str, ...] = ()
    service_account_selector: str = ""


class NetworkPolicy(Object, frozen=True):
    """projectcalico.org NetworkPolicy."""

    spec: NetworkPolicySpec = NetworkPolicySpec()


class GlobalNetworkPolicySpec(NetworkPolicySpec, frozen=True):
    do_not_track: bool = False
    pre_dnat: bool = msgspec.field(default=False, name="preDNAT")
    apply_on_forward: bool = False
    namespace_selector: str = ""


class GlobalNetworkPolicy(Object, frozen=True):
    spec: GlobalNetworkPolicySpec = GlobalNetworkPolicySpec()


class NetworkSetSpec(_Part, frozen=True):
    nets: tuple[str, ...] = ()


class NetworkSet(Object, frozen=True):
    spec: NetworkSetSpec = NetworkSetSpec()


class GlobalNetworkSet(Object, frozen=True):
    spec: NetworkSetSpec = NetworkSetSpec()


class EndpointPort(_Part, frozen=True):
    name: str = ""
    protocol: int | str = ""
    port: int = 0


class HostEndpointSpec(_Part, frozen=True):
    node: str = ""
    interface_name: str = ""
    expected_ips: tuple[str, ...] = msgspec.field(default=(), name="expectedIPs")
    profiles: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class HostEndpoint(Object, frozen=True):
    spec: HostEndpointSpec = HostEndpointSpec()


class ProfileSpec(_Part, frozen=True):
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    labels_to_apply: dict[str, str] = {}


class Profile(Object, frozen=True):
    spec: ProfileSpec = ProfileSpec()


class TierSpec(_Part, frozen=True):
    order: float | None = None
    default_action: str = ""


class Tier(Object, frozen=True):
    spec: TierSpec = TierSpec()


NAMESPACED: Final = (Pod, ServiceAccount, KubePolicy, Service, EndpointSlice, NetworkPolicy, NetworkSet)
"""The kinds whose objects are in a namespace."""

KINDS: Final[dict[tuple[str, str], type[Object]]] = {
    ("v1", "Pod"): Pod,
    ("v1", "Namespace"): Namespace,
    ("v1", "ServiceAccount"): ServiceAccount,
    ("v1", "Service"): Service,
    ("discovery.k8s.io", "EndpointSlice"): EndpointSlice,
    ("networking.k8s.io", "NetworkPolicy"): KubePolicy,
    ("policy.networking.k8s.io", "AdminNetworkPolicy"): AdminNetworkPolicy,
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"): BaselineAdminNetworkPolicy,
    ("policy.networking.k8s.io", "ClusterNetworkPolicy"): ClusterNetworkPolicy,
    ("projectcalico.org", "NetworkPolicy"): NetworkPolicy,
    ("projectcalico.org", "GlobalNetworkPolicy"): GlobalNetworkPolicy,
    ("projectcalico.org", "NetworkSet"): NetworkSet,
    ("projectcalico.org", "GlobalNetworkSet"): GlobalNetworkSet,
    ("projectcalico.org", "HostEndpoint"): HostEndpoint,
    ("projectcalico.org", "Profile"): Profile,
    ("projectcalico.org", "Tier"): Tier,
}
"""API group (`v1` for the core group) and kind."""


def kind_of(raw: Any) -> type[Object] | None:
    """The Struct for a decoded object, by its apiVersion and kind; None: not one of ours."""
    if not isinstance(raw, dict):
        return None
    group = str(raw.get("apiVersion", "")).partition("/")[0].removeprefix("crd.")
    return KINDS.get((group, str(raw.get("kind", ""))))


def read(raw: Any, kind: type[Object]) -> Object:
    """The object. Raises Invalid."""
    try:
        try:
            written = msgspec.convert(raw, kind)
        except msgspec.ValidationError:
            # A null means absent, as it does for the API server; rare enough to look for it only now.
            written = msgspec.convert(_without_nulls(raw), kind)
        msgspec.json.encode(written)
    except msgspec.ValidationError as error:
        raise Invalid(*_place(str(error))) from None
    except UnicodeEncodeError:
        raise Invalid("", "not all of it is text") from None
    except RecursionError:
        raise Invalid("", "it is nested too deeply") from None
    return written


def _without_nulls(raw: Any) -> Any:
    if isinstance(raw, dict):
        return {key: _without_nulls(value) for key, value in raw.items() if value is not None}
    if isinstance(raw, list):
        return [_without_nulls(value) for value in raw]
    return raw


def _place(message: str) -> tuple[str, str]:
    """msgspec says `what - at `$.path``."""
    found = re.fullmatch(r"(.*?) - at `(?:key in )?\$\.?(.*)`", message, re.DOTALL)
    return (found[2], found[1]) if found else ("", message)
