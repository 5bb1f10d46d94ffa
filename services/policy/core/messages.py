"""What the dataplane is told: Felix's messages, with its names and fields (felix.md §3.5).

`msgspec.to_builtins` gives the JSON of the original's protobuf messages: unset fields are left out, members of a choice
are there even when they are 0.
"""

import msgspec


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message, or a part of one."""


# ---- parts


class PortRange(Message, frozen=True):
    first: int = 0
    last: int = 0


class Protocol(Message, frozen=True):
    """Either of the two."""

    number: int | None = None
    name: str | None = None


class IcmpTypeAndCode(Message, frozen=True):
    type: int = 0
    code: int = 0


class ServiceAccountMatch(Message, frozen=True):
    selector: str = ""
    names: tuple[str, ...] = ()


class HTTPPath(Message, frozen=True):
    """Either of the two."""

    exact: str | None = None
    prefix: str | None = None


class HTTPMatch(Message, frozen=True):
    methods: tuple[str, ...] = ()
    paths: tuple[HTTPPath, ...] = ()


class RuleMetadata(Message, frozen=True):
    annotations: dict[str, str] = {}


class Rule(Message, frozen=True):
    """One rule, in the order of its field numbers, which the encoding of rule ids relies on (rules.py)."""

    action: str = ""
    ip_version: str = ""
    protocol: Protocol | None = None
    src_net: tuple[str, ...] = ()
    src_ports: tuple[PortRange, ...] = ()
    dst_net: tuple[str, ...] = ()
    dst_ports: tuple[PortRange, ...] = ()
    icmp_type: int | None = None
    icmp_type_code: IcmpTypeAndCode | None = None
    src_ip_set_ids: tuple[str, ...] = ()
    dst_ip_set_ids: tuple[str, ...] = ()
    src_named_port_ip_set_ids: tuple[str, ...] = ()
    dst_named_port_ip_set_ids: tuple[str, ...] = ()
    dst_ip_port_set_ids: tuple[str, ...] = ()
    not_protocol: Protocol | None = None
    not_src_net: tuple[str, ...] = ()
    not_src_ports: tuple[PortRange, ...] = ()
    not_dst_net: tuple[str, ...] = ()
    not_dst_ports: tuple[PortRange, ...] = ()
    not_icmp_type: int | None = None
    not_icmp_type_code: IcmpTypeAndCode | None = None
    not_src_ip_set_ids: tuple[str, ...] = ()
    not_dst_ip_set_ids: tuple[str, ...] = ()
    not_src_named_port_ip_set_ids: tuple[str, ...] = ()
    not_dst_named_port_ip_set_ids: tuple[str, ...] = ()
    original_src_selector: str = ""
    original_dst_selector: str = ""
    original_src_namespace_selector: str = ""
    original_dst_namespace_selector: str = ""
    original_not_src_selector: str = ""
    original_not_dst_selector: str = ""
    src_service_account_match: ServiceAccountMatch | None = None
    dst_service_account_match: ServiceAccountMatch | None = None
    http_match: HTTPMatch | None = None
    metadata: RuleMetadata | None = None
    original_dst_service: str = ""
    original_dst_service_namespace: str = ""
    original_src_service: str = ""
    original_src_service_namespace: str = ""
    rule_id: str = ""


class Policy(Message, frozen=True):
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()
    untracked: bool = False
    pre_dnat: bool = False
    namespace: str = ""
    original_selector: str = ""
    tier: str = ""


class Profile(Message, frozen=True):
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()


class PolicyID(Message, frozen=True):
    """`tier` up to 3.28; `namespace` and `kind` in later versions."""

    name: str
    tier: str = ""
    namespace: str = ""
    kind: str = ""

    @property
    def text(self) -> str:
        """One text for all of it, as traces and dumps show it."""
        if self.tier:
            return f"{self.tier}/{self.name}"
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


class ProfileID(Message, frozen=True):
    name: str


class TierInfo(Message, frozen=True):
    """Policies in the order in which they are asked; by name up to 3.28."""

    name: str
    ingress_policies: tuple[str | PolicyID, ...] = ()
    egress_policies: tuple[str | PolicyID, ...] = ()
    default_action: str = ""


class WorkloadEndpointID(Message, frozen=True):
    orchestrator_id: str
    workload_id: str
    endpoint_id: str


class NatInfo(Message, frozen=True):
    ext_ip: str
    int_ip: str


class WorkloadEndpoint(Message, frozen=True):
    state: str = ""
    name: str = ""
    mac: str = ""
    profile_ids: tuple[str, ...] = ()
    ipv4_nets: tuple[str, ...] = ()
    ipv6_nets: tuple[str, ...] = ()
    tiers: tuple[TierInfo, ...] = ()
    ipv4_nat: tuple[NatInfo, ...] = ()
    ipv6_nat: tuple[NatInfo, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()


class HostEndpointID(Message, frozen=True):
    endpoint_id: str


class HostEndpoint(Message, frozen=True):
    name: str = ""
    profile_ids: tuple[str, ...] = ()
    tiers: tuple[TierInfo, ...] = ()
    expected_ipv4_addrs: tuple[str, ...] = ()
    expected_ipv6_addrs: tuple[str, ...] = ()
    untracked_tiers: tuple[TierInfo, ...] = ()
    pre_dnat_tiers: tuple[TierInfo, ...] = ()
    forward_tiers: tuple[TierInfo, ...] = ()


class ServiceAccountID(Message, frozen=True):
    namespace: str
    name: str


class NamespaceID(Message, frozen=True):
    name: str


# ---- messages, in the order of the classes of a flush


class IPSetUpdate(Message, frozen=True):
    """A set with all its members; `type` is NET or IP_AND_PORT."""

    id: str
    type: str
    members: tuple[str, ...] = ()


class IPSetDeltaUpdate(Message, frozen=True):
    id: str
    added_members: tuple[str, ...] = ()
    removed_members: tuple[str, ...] = ()


class ActivePolicyUpdate(Message, frozen=True):
    id: PolicyID
    policy: Policy


class ActiveProfileUpdate(Message, frozen=True):
    id: ProfileID
    profile: Profile


class WorkloadEndpointUpdate(Message, frozen=True):
    id: WorkloadEndpointID
    endpoint: WorkloadEndpoint


class HostEndpointUpdate(Message, frozen=True):
    id: HostEndpointID
    endpoint: HostEndpoint


class WorkloadEndpointRemove(Message, frozen=True):
    id: WorkloadEndpointID


class HostEndpointRemove(Message, frozen=True):
    id: HostEndpointID


class ActiveProfileRemove(Message, frozen=True):
    id: ProfileID


class ActivePolicyRemove(Message, frozen=True):
    id: PolicyID


class IPSetRemove(Message, frozen=True):
    id: str


class ServiceAccountRemove(Message, frozen=True):
    id: ServiceAccountID


class ServiceAccountUpdate(Message, frozen=True):
    id: ServiceAccountID
    labels: dict[str, str] = {}


class NamespaceRemove(Message, frozen=True):
    id: NamespaceID


class NamespaceUpdate(Message, frozen=True):
    id: NamespaceID
    labels: dict[str, str] = {}


class Encapsulation(Message, frozen=True):
    ipip_enabled: bool = False
    vxlan_enabled: bool = False


class InSync(Message, frozen=True):
    """Everything that existed when the process started has been said."""
