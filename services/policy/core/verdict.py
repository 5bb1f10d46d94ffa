"""What a set of policies means for one flow: what a dataplane carries out (felix.md §4.1, §4.4).

    tier after tier, policy after policy, rule after rule: the first that matches decides
        allow: accepted    deny: dropped    next-tier: on to the next tier    log: on to the next rule
    the end of a tier that governs the direction drops, or passes on if its default action says so
    no tier, or passed by all: the profiles in their order; none accepts: dropped

Each direction of each endpoint judges for itself: traffic between two pods passes when the egress of the one and the
ingress of the other accept it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from services.policy.core import messages as m
from services.policy.core import nets
from services.policy.core.state import SetState, State

Direction = Literal["ingress", "egress"]

NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}


class Flow(msgspec.Struct, frozen=True):
    """The first packet of a connection; addresses canonical, the protocol in lower case."""

    source: str
    destination: str
    protocol: str
    port: int | None = None
    source_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None


class Asked(msgspec.Struct, frozen=True):
    """One rule that was asked: `mismatch` is the first field that did not match, empty when all did; `why` is filled in
    for people (reasons.py)."""

    owner: str
    rule: int
    action: str
    mismatch: str
    rule_id: str = ""
    why: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """Whether a side accepts, who decided that and why; `asked` is everything that was asked, when wanted."""

    allowed: bool
    tier: str
    owner: str
    rule: int | None
    reason: str
    asked: tuple[Asked, ...] = ()


def judge(
    state: State, endpoint: m.WorkloadEndpoint, direction: Direction, flow: Flow, *, trail: bool = False
) -> Verdict:
    """One endpoint's word on a flow in one direction."""
    asked: list[Asked] | None = [] if trail else None
    decision = _decide(state, endpoint, direction, flow, asked)
    return msgspec.structs.replace(decision, asked=tuple(asked)) if asked else decision


def _decide(
    state: State, endpoint: m.WorkloadEndpoint, direction: Direction, flow: Flow, asked: list[Asked] | None
) -> Verdict:
    if endpoint.state != "active":
        return Verdict(False, "", "", None, "the endpoint is down")
    for tier in endpoint.tiers:
        listed = tier.ingress_policies if direction == "ingress" else tier.egress_policies
        if not listed:
            continue
        for name in listed:
            policy_id, policy = state.policy(name)
            owner = f"policy {policy_id.text}"
            rules = policy.inbound_rules if direction == "ingress" else policy.outbound_rules
            number = _first(rules, owner, flow, state.sets, asked)
            if number is None:
                continue
            action = rules[number].action
            if action == "next-tier":
                break
            return Verdict(action == "allow", tier.name, owner, number, f"the rule says {action or 'nothing'}")
        else:
            if tier.default_action != "Pass":
                return Verdict(False, tier.name, "", None, "no rule of the tier matches, so it drops")
    for name in endpoint.profile_ids:
        profile = state.profiles[name]
        rules = profile.inbound_rules if direction == "ingress" else profile.outbound_rules
        number = _first(rules, f"profile {name}", flow, state.sets, asked)
        if number is not None and rules[number].action != "next-tier":
            action = rules[number].action
            return Verdict(action == "allow", "", f"profile {name}", number, f"the rule says {action or 'nothing'}")
    return Verdict(False, "", "", None, "no profile accepts it")


def _first(
    rules: Sequence[m.Rule], owner: str, flow: Flow, sets: dict[str, SetState], asked: list[Asked] | None
) -> int | None:
    """The first rule that matches and decides."""
    for number, rule in enumerate(rules):
        mismatch = _mismatch(rule, flow, sets)
        if asked is not None:
            asked.append(Asked(owner, number, rule.action, mismatch, rule.rule_id))
        if not mismatch and rule.action != "log":
            return number
    return None


def _mismatch(rule: m.Rule, flow: Flow, sets: dict[str, SetState]) -> str:
    """The first field of the rule that the flow does not match; empty: it matches."""
    sixth = nets.is_ipv6(flow.source)
    if rule.ip_version and rule.ip_version != ("IPV6" if sixth else "IPV4"):
        return "ip_version"
    if rule.protocol is not None and not _is(rule.protocol, flow.protocol):
        return "protocol"
    if rule.not_protocol is not None and _is(rule.not_protocol, flow.protocol):
        return "not_protocol"
    return next(_net_mismatches(rule, flow, sixth), "") or next(_other_mismatches(rule, flow, sets), "")


def _is(protocol: m.Protocol, name: str) -> bool:
    return protocol.name == name if protocol.number is None else protocol.number == NUMBERS[name]


def _net_mismatches(rule: m.Rule, flow: Flow, sixth: bool) -> Iterator[str]:
    for field, listed, address, wanted in (
        ("src_net", rule.src_net, flow.source, True),
        ("dst_net", rule.dst_net, flow.destination, True),
        ("not_src_net", rule.not_src_net, flow.source, False),
        ("not_dst_net", rule.not_dst_net, flow.destination, False),
    ):
        if not listed:
            continue
        # A list of the other family alone turns the rule off for this one, also a negated list.
        family = [net for net in listed if nets.is_ipv6(net) == sixth]
        if not family or any(nets.contains(net, address) for net in family) != wanted:
            yield field


def _other_mismatches(rule: m.Rule, flow: Flow, sets: dict[str, SetState]) -> Iterator[str]:
    source, destination = flow.source, flow.destination
    if not all(sets[i].holds(source) for i in rule.src_ip_set_ids):
        yield "src_ip_set_ids"
    if not all(sets[i].holds(destination) for i in rule.dst_ip_set_ids):
        yield "dst_ip_set_ids"
    if any(sets[i].holds(source) for i in rule.not_src_ip_set_ids):
        yield "not_src_ip_set_ids"
    if any(sets[i].holds(destination) for i in rule.not_dst_ip_set_ids):
        yield "not_dst_ip_set_ids"

    def at(address: str, port: int | None) -> Callable[[str], bool]:
        member = f"{address},{flow.protocol}:{port}"
        return lambda set_id: member in sets[set_id].members

    at_source, at_destination = at(source, flow.source_port), at(destination, flow.port)
    if not all(map(at_destination, rule.dst_ip_port_set_ids)):
        yield "dst_ip_port_set_ids"
    if (rule.src_ports or rule.src_named_port_ip_set_ids) and not (
        _within(flow.source_port, rule.src_ports) or any(map(at_source, rule.src_named_port_ip_set_ids))
    ):
        yield "src_ports"
    if (rule.dst_ports or rule.dst_named_port_ip_set_ids) and not (
        _within(flow.port, rule.dst_ports) or any(map(at_destination, rule.dst_named_port_ip_set_ids))
    ):
        yield "dst_ports"
    if _within(flow.source_port, rule.not_src_ports) or any(map(at_source, rule.not_src_named_port_ip_set_ids)):
        yield "not_src_ports"
    if _within(flow.port, rule.not_dst_ports) or any(map(at_destination, rule.not_dst_named_port_ip_set_ids)):
        yield "not_dst_ports"
    if not _icmp(rule.icmp_type, rule.icmp_type_code, flow, unset=True):
        yield "icmp"
    if _icmp(rule.not_icmp_type, rule.not_icmp_type_code, flow, unset=False):
        yield "not_icmp"


def _within(port: int | None, ranges: Sequence[m.PortRange]) -> bool:
    return port is not None and any(one.first <= port <= one.last for one in ranges)


def _icmp(kind: int | None, both: m.IcmpTypeAndCode | None, flow: Flow, *, unset: bool) -> bool:
    if both is not None:
        return flow.icmp_type == both.type and flow.icmp_code == both.code
    return unset if kind is None else flow.icmp_type == kind
