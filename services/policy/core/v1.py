"""The v1 model: the keys and values that the calculation consumes, whatever they were written as (felix.md §1.4).

A value is immutable and made of plain text, numbers and tuples, so that two are compared by `==` and 100,000 of them
cost the garbage collector nothing. `msgspec.to_builtins` gives the JSON names of the original.
"""

import msgspec

Port = int | str
"""A number, a range `low:high`, or a name."""

Protocol = int | str
"""A number, or a lower-case name."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What every value is: frozen, and silent about what is not set."""


# ---- keys


class Key(msgspec.Struct, frozen=True, gc=False):
    """Names one thing. Two keys are equal when their kind and all their parts are."""

    @property
    def path(self) -> str:
        """The key's text in the original's datastore."""
        raise NotImplementedError


class PolicyKey(Key, frozen=True, gc=False):
    """A policy: `name` (which is `namespace/name` of a namespaced one), and, where they count, its kind and tier."""

    name: str
    kind: str = ""
    tier: str = "default"

    @property
    def path(self) -> str:
        return f"/calico/v1/policy/tier/{self.tier}/policy/{_part(self.name)}"


class ProfileRulesKey(Key, frozen=True, gc=False):
    name: str

    @property
    def path(self) -> str:
        return f"/calico/v1/policy/profile/{_part(self.name)}/rules"


class ProfileLabelsKey(Key, frozen=True, gc=False):
    name: str

    @property
    def path(self) -> str:
        return f"/calico/v1/policy/profile/{_part(self.name)}/labels"


class ProfileKey(Key, frozen=True, gc=False):
    """The v3 Profile itself, from which later versions read labels."""

    name: str

    @property
    def path(self) -> str:
        return f"/calico/resources/v3/projectcalico.org/profiles/{self.name}"


class WorkloadKey(Key, frozen=True, gc=False):
    host: str
    orchestrator: str
    workload: str
    endpoint: str

    @property
    def path(self) -> str:
        parts = (self.host, "workload", self.orchestrator, _part(self.workload), "endpoint", self.endpoint)
        return "/calico/v1/host/" + "/".join(parts)

    @property
    def id(self) -> str:
        """`orchestrator/workload/endpoint`, unique on its host."""
        return f"{self.orchestrator}/{self.workload}/{self.endpoint}"


class HostEndpointKey(Key, frozen=True, gc=False):
    host: str
    endpoint: str

    @property
    def path(self) -> str:
        return f"/calico/v1/host/{self.host}/endpoint/{_part(self.endpoint)}"


class NetworkSetKey(Key, frozen=True, gc=False):
    name: str

    @property
    def path(self) -> str:
        return f"/calico/v1/netset/{_part(self.name)}"


class TierKey(Key, frozen=True, gc=False):
    name: str

    @property
    def path(self) -> str:
        return f"/calico/v1/policy/tier/{self.name}/metadata"


class SliceKey(Key, frozen=True, gc=False):
    """An EndpointSlice."""

    namespace: str
    name: str

    @property
    def path(self) -> str:
        return f"/calico/resources/v3/projectcalico.org/kubernetesendpointslices/{self.namespace}/{self.name}"


class ServiceKey(Key, frozen=True, gc=False):
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return f"/calico/resources/v3/projectcalico.org/kubernetesservices/{self.namespace}/{self.name}"


def _part(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2f")


# ---- values


class EndpointPort(Record, frozen=True, gc=False):
    """A named port of an endpoint; `protocol` in lower case."""

    name: str
    protocol: str
    port: int


class AddressMap(Record, frozen=True, gc=False):
    """A floating address and the pod's address behind it."""

    int_ip: str
    ext_ip: str


class WorkloadEndpoint(Record, frozen=True, gc=False):
    """A pod's end of the network; nets are /32 and /128."""

    state: str = ""
    name: str = ""
    active_instance_id: str = ""
    mac: str = ""
    profile_ids: tuple[str, ...] = ()
    ipv4_nets: tuple[str, ...] = ()
    ipv6_nets: tuple[str, ...] = ()
    ipv4_nat: tuple[AddressMap, ...] = ()
    ipv6_nat: tuple[AddressMap, ...] = ()
    labels: dict[str, str] = {}
    ipv4_gateway: str = ""
    ipv6_gateway: str = ""
    ports: tuple[EndpointPort, ...] = ()
    generate_name: str = ""
    allow_spoofed_source_ips: tuple[str, ...] = ()


class HostEndpoint(Record, frozen=True, gc=False):
    """A host's interface, by name, by `*`, or by an address that it must have."""

    name: str = ""
    expected_ipv4_addrs: tuple[str, ...] = ()
    expected_ipv6_addrs: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    profile_ids: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class NetworkSet(Record, frozen=True, gc=False):
    nets: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    profile_ids: tuple[str, ...] = ()


class HTTPPath(Record, frozen=True, gc=False):
    exact: str = ""
    prefix: str = ""


class HTTPMatch(Record, frozen=True, gc=False):
    methods: tuple[str, ...] = ()
    paths: tuple[HTTPPath, ...] = ()


class RuleMetadata(Record, frozen=True, gc=False):
    annotations: dict[str, str] = {}


_NEGATED = {
    "protocol": "!protocol",
    "icmp_type": "!icmp_type",
    "icmp_code": "!icmp_code",
    "src_nets": "!src_nets",
    "src_selector": "!src_selector",
    "src_ports": "!src_ports",
    "dst_nets": "!dst_nets",
    "dst_selector": "!dst_selector",
    "dst_ports": "!dst_ports",
    "orig_src_selector": "!orig_src_selector",
    "orig_dst_selector": "!orig_dst_selector",
}


def _json_name(field: str) -> str:
    if field.startswith("not_"):
        return _NEGATED[field.removeprefix("not_")]
    return field


class Rule(Record, frozen=True, gc=False, rename=_json_name):
    """One rule. A net of None is a destination that could not be read: the original keeps it as a hole."""

    action: str = ""
    ip_version: int | None = None
    protocol: Protocol | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    not_protocol: Protocol | None = None
    not_icmp_type: int | None = None
    not_icmp_code: int | None = None
    src_nets: tuple[str | None, ...] = ()
    src_selector: str = ""
    src_ports: tuple[Port, ...] = ()
    src_service: str = ""
    src_service_ns: str = ""
    dst_nets: tuple[str | None, ...] = ()
    dst_selector: str = ""
    dst_ports: tuple[Port, ...] = ()
    dst_service: str = ""
    dst_service_ns: str = ""
    not_src_nets: tuple[str | None, ...] = ()
    not_src_selector: str = ""
    not_src_ports: tuple[Port, ...] = ()
    not_dst_nets: tuple[str | None, ...] = ()
    not_dst_selector: str = ""
    not_dst_ports: tuple[Port, ...] = ()
    orig_src_selector: str = ""
    orig_src_namespace_selector: str = ""
    orig_dst_selector: str = ""
    orig_dst_namespace_selector: str = ""
    not_orig_src_selector: str = ""
    not_orig_dst_selector: str = ""
    orig_src_service_acct_names: tuple[str, ...] = ()
    orig_src_service_acct_selector: str = ""
    orig_dst_service_acct_names: tuple[str, ...] = ()
    orig_dst_service_acct_selector: str = ""
    http: HTTPMatch | None = None
    metadata: RuleMetadata | None = None


class Policy(Record, frozen=True, gc=False):
    """`types` is what it governs, `ingress` and `egress` in lower case; none at all means both."""

    namespace: str = ""
    order: float | None = None
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()
    selector: str = ""
    untracked: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False
    types: tuple[str, ...] = ()


class ProfileRules(Record, frozen=True, gc=False):
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()


class ProfileLabels(Record, frozen=True, gc=False):
    """Labels that every endpoint of the profile inherits."""

    labels: dict[str, str] = {}


class ProfileResource(Record, frozen=True, gc=False):
    """What later versions read of the v3 Profile: its labels, and what its validation found, if anything."""

    labels: dict[str, str] = {}
    flaw_field: str = ""
    flaw: str = ""


class Tier(Record, frozen=True, gc=False):
    """`default_action` is `Deny` or `Pass`: what becomes of traffic that no rule of the tier decided."""

    order: float | None = None
    default_action: str = "Deny"


class SlicePort(Record, frozen=True, gc=False):
    port: int | None = None
    protocol: str | None = None


class ServiceEndpoints(Record, frozen=True, gc=False):
    """What an EndpointSlice says of its service: `namespace/name`, addresses and ports."""

    service: str
    addresses: tuple[str, ...] = ()
    ports: tuple[SlicePort, ...] = ()


Value = (
    Policy
    | ProfileRules
    | ProfileLabels
    | ProfileResource
    | WorkloadEndpoint
    | HostEndpoint
    | NetworkSet
    | Tier
    | ServiceEndpoints
)
