"""What single fields of a rule mean, and in which order tiers, policies, rules and profiles are asked."""

from typing import Any

import pytest

from services.policy.core import messages as m
from services.policy.core.state import State
from services.policy.core.verdict import Flow, judge

TCP = Flow("10.0.0.1", "10.0.0.2", "tcp", 80, 40_000)
UDP = Flow("10.0.0.1", "10.0.0.2", "udp", 53, 40_000)
SIX = Flow("fd00::1", "fd00::2", "tcp", 80, 40_000)
PING = Flow("10.0.0.1", "10.0.0.2", "icmp", icmp_type=8, icmp_code=0)
PING6 = Flow("fd00::1", "fd00::2", "icmpv6", icmp_type=128, icmp_code=0)
ENDPOINT = m.WorkloadEndpointID("k8s", "n/p", "eth0")
SETS = (
    m.IPSetUpdate("source", "NET", ("10.0.0.1/32", "fd00::/64")),
    m.IPSetUpdate("wide", "NET", ("10.0.0.0/24",)),
    m.IPSetUpdate("others", "NET", ("192.0.2.0/24",)),
    m.IPSetUpdate("ports", "IP_AND_PORT", ("10.0.0.2,tcp:80", "10.0.0.1,udp:40000")),
)


def state_with(endpoint: m.WorkloadEndpoint, policies: dict[str, m.Policy], profiles: dict[str, m.Profile]) -> State:
    state = State()
    state.apply(SETS)
    state.apply(m.ActivePolicyUpdate(m.PolicyID(name, tier="default"), policy) for name, policy in policies.items())
    state.apply(m.ActiveProfileUpdate(m.ProfileID(name), profile) for name, profile in profiles.items())
    state.apply([m.WorkloadEndpointUpdate(ENDPOINT, endpoint)])
    return state


def endpoint(*names: str, profiles: tuple[str, ...] = (), state: str = "active", **tier: Any) -> m.WorkloadEndpoint:
    tiers = (m.TierInfo("default", ingress_policies=names, **tier),) if names else ()
    return m.WorkloadEndpoint(state=state, tiers=tiers, profile_ids=profiles)


def rule(action: str = "allow", **fields: Any) -> m.Rule:
    return m.Rule(action=action, **fields)


HTTP = (m.PortRange(80, 89),)
NAME = m.Protocol(name="tcp")


@pytest.mark.parametrize(
    ("fields", "flow", "mismatch"),
    [
        ({}, TCP, ""),
        ({"ip_version": "IPV4"}, TCP, ""),
        ({"ip_version": "IPV6"}, TCP, "ip_version"),
        ({"protocol": NAME}, TCP, ""),
        ({"protocol": m.Protocol(number=6)}, TCP, ""),
        ({"protocol": NAME}, UDP, "protocol"),
        ({"not_protocol": NAME}, TCP, "not_protocol"),
        ({"not_protocol": NAME}, UDP, ""),
        ({"src_net": ("10.0.0.0/8",)}, TCP, ""),
        ({"src_net": ("10.0.0.0/8",)}, SIX, "src_net"),
        ({"dst_net": ("192.0.2.0/24",)}, TCP, "dst_net"),
        ({"dst_net": ("192.0.2.0/24", "10.0.0.2/32")}, TCP, ""),
        ({"not_src_net": ("10.0.0.0/8",)}, TCP, "not_src_net"),
        ({"not_dst_net": ("192.0.2.0/24",)}, TCP, ""),
        # A negated list of the other family alone turns the rule off.
        ({"not_dst_net": ("192.0.2.0/24",)}, SIX, "not_dst_net"),
        ({"src_ip_set_ids": ("source", "wide")}, TCP, ""),
        ({"src_ip_set_ids": ("source", "others")}, TCP, "src_ip_set_ids"),
        ({"src_ip_set_ids": ("source",)}, SIX, ""),
        ({"dst_ip_set_ids": ("others",)}, TCP, "dst_ip_set_ids"),
        ({"not_src_ip_set_ids": ("wide",)}, TCP, "not_src_ip_set_ids"),
        ({"not_dst_ip_set_ids": ("others",)}, TCP, ""),
        ({"not_dst_ip_set_ids": ("wide",)}, TCP, "not_dst_ip_set_ids"),
        ({"dst_ip_port_set_ids": ("ports",)}, TCP, ""),
        ({"dst_ip_port_set_ids": ("ports",)}, UDP, "dst_ip_port_set_ids"),
        ({"dst_ports": HTTP}, TCP, ""),
        ({"dst_ports": HTTP}, UDP, "dst_ports"),
        # Numbers and names are alternatives.
        ({"dst_ports": (m.PortRange(1, 2),), "dst_named_port_ip_set_ids": ("ports",)}, TCP, ""),
        ({"src_ports": (m.PortRange(40_000, 40_000),)}, TCP, ""),
        ({"src_ports": HTTP}, TCP, "src_ports"),
        ({"src_named_port_ip_set_ids": ("ports",)}, UDP, ""),
        ({"not_src_ports": (m.PortRange(1, 50_000),)}, TCP, "not_src_ports"),
        ({"not_dst_ports": HTTP}, TCP, "not_dst_ports"),
        ({"not_dst_named_port_ip_set_ids": ("ports",)}, TCP, "not_dst_ports"),
        ({"not_dst_named_port_ip_set_ids": ("ports",)}, UDP, ""),
        ({"icmp_type": 8}, PING, ""),
        ({"icmp_type": 0}, PING, "icmp"),
        ({"icmp_type_code": m.IcmpTypeAndCode(8, 0)}, PING, ""),
        ({"icmp_type_code": m.IcmpTypeAndCode(8, 1)}, PING, "icmp"),
        ({"not_icmp_type": 8}, PING, "not_icmp"),
        # Not (type and code), which is not the same as not type and not code.
        ({"not_icmp_type_code": m.IcmpTypeAndCode(8, 1)}, PING, ""),
        ({"not_icmp_type_code": m.IcmpTypeAndCode(8, 0)}, PING, "not_icmp"),
        ({"protocol": m.Protocol(name="icmp"), "ip_version": "IPV4"}, PING6, "ip_version"),
    ],
)
def test_fields(fields: dict[str, Any], flow: Flow, mismatch: str) -> None:
    state = state_with(endpoint("p"), {"p": m.Policy(inbound_rules=(rule(**fields),))}, {})
    verdict = judge(state, state.workloads[ENDPOINT], "ingress", flow, trail=True)
    assert [asked.mismatch for asked in verdict.asked] == [mismatch]
    assert verdict.allowed is (mismatch == "")


OPEN = m.Profile(inbound_rules=(rule(),))
SHUT = m.Profile(inbound_rules=(rule("deny"),))
PASSING = m.Profile(inbound_rules=(rule("next-tier"),))


@pytest.mark.parametrize(
    ("actions", "profiles", "allowed", "reason"),
    [
        (("allow",), (), True, "the rule says allow"),
        (("log", "allow"), (), True, "the rule says allow"),
        (("deny", "allow"), ("open",), False, "the rule says deny"),
        (("next-tier", "deny"), ("open",), True, "the rule says allow"),
        (("next-tier",), ("shut", "open"), False, "the rule says deny"),
        (("next-tier",), ("passing", "open"), True, "the rule says allow"),
        (("next-tier",), ("passing",), False, "no profile accepts it"),
        (("next-tier",), (), False, "no profile accepts it"),
        ((), ("open",), False, "no rule of the tier matches, so it drops"),
        (("",), ("open",), False, "the rule says nothing"),
        (("foo",), ("open",), False, "the rule says foo"),
    ],
)
def test_order(actions: tuple[str, ...], profiles: tuple[str, ...], allowed: bool, reason: str) -> None:
    policies = {"p": m.Policy(inbound_rules=tuple(rule(action) for action in actions))}
    known = {"open": OPEN, "shut": SHUT, "passing": PASSING}
    state = state_with(endpoint("p", profiles=profiles), policies, known)
    verdict = judge(state, state.workloads[ENDPOINT], "ingress", TCP)
    assert (verdict.allowed, verdict.reason) == (allowed, reason)


def test_a_direction_that_no_policy_governs_is_the_profiles_business() -> None:
    state = state_with(endpoint("p", profiles=("open",)), {"p": m.Policy()}, {"open": OPEN})
    assert not judge(state, state.workloads[ENDPOINT], "ingress", TCP).allowed
    assert judge(state, state.workloads[ENDPOINT], "egress", TCP).reason == "no profile accepts it"


def test_a_tier_that_passes() -> None:
    state = state_with(endpoint("p", profiles=("open",), default_action="Pass"), {"p": m.Policy()}, {"open": OPEN})
    assert judge(state, state.workloads[ENDPOINT], "ingress", TCP).owner == "profile open"


def test_an_endpoint_that_is_down_takes_nothing() -> None:
    state = state_with(endpoint(profiles=("open",), state="inactive"), {}, {"open": OPEN})
    assert judge(state, state.workloads[ENDPOINT], "ingress", TCP).reason == "the endpoint is down"


def test_the_state_forgets_what_is_removed() -> None:
    state = state_with(endpoint("p", profiles=("open",)), {"p": m.Policy()}, {"open": OPEN})
    host, space, account = m.HostEndpointID("h"), m.NamespaceID("n"), m.ServiceAccountID("n", "s")
    more = [
        m.HostEndpointUpdate(host, m.HostEndpoint(name="eth0")),
        m.NamespaceUpdate(space, {"a": "b"}),
        m.ServiceAccountUpdate(account),
        m.IPSetDeltaUpdate("wide", ("10.1.0.0/16",), ("10.0.0.0/24",)),
        m.InSync(),
    ]
    state.apply(more)
    assert state.sets["wide"].holds("10.1.2.3") and not state.sets["wide"].holds("10.0.0.1")
    dump = state.dump()
    assert (dump["in_sync"], dump["heps"], dump["ns"]) == (True, {"h": {"name": "eth0"}}, {"n": {"a": "b"}})
    state.apply([m.WorkloadEndpointRemove(ENDPOINT), m.HostEndpointRemove(host), m.ServiceAccountRemove(account)])
    state.apply([m.ActivePolicyRemove(m.PolicyID("p", tier="default")), m.ActiveProfileRemove(m.ProfileID("open"))])
    state.apply([m.NamespaceRemove(space), *(m.IPSetRemove(one.id) for one in SETS)])
    empty: dict[str, Any] = {name: {} for name in ("ipsets", "policies", "profiles", "weps", "heps", "ns", "sas")}
    assert state.dump() == {"in_sync": True, **empty}
