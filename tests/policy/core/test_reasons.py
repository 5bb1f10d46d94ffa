"""Every field that a rule can fail to match is put into words."""

import msgspec
import pytest

from services.policy.core import messages as m
from services.policy.core.reasons import reason
from services.policy.core.state import State
from services.policy.core.verdict import Flow, judge

HERE = m.WorkloadEndpointID("k8s", "n/a", "eth0")
FLOW = Flow("10.0.0.1", "10.0.0.2", "tcp", 80, 40000)
NET, PORTS = m.IPSetUpdate("s:all", "NET", ("10.0.0.0/30",)), m.IPSetUpdate("n:all", "IP_AND_PORT", ())
NONE = m.IPSetUpdate("s:none", "NET", ())
BOTH = m.IPSetUpdate("n:both", "IP_AND_PORT", ("10.0.0.1,tcp:40000", "10.0.0.2,tcp:80"))
WEB = m.PortRange(8080, 8090)

CASES = [
    (m.Rule(ip_version="IPV6"), "10.0.0.1 is not IPv6"),
    (m.Rule(protocol=m.Protocol(name="udp")), "the protocol is tcp, and the rule is for udp"),
    (m.Rule(not_protocol=m.Protocol(number=6)), "the protocol is tcp, and the rule is for all but 6"),
    (m.Rule(src_net=("10.1.0.0/16", "10.2.0.0/16")), "source 10.0.0.1 is not among 10.1.0.0/16, 10.2.0.0/16"),
    (m.Rule(not_dst_net=("10.0.0.0/8",)), "destination 10.0.0.2 is among what the rule excludes: 10.0.0.0/8"),
    (m.Rule(dst_ports=(WEB,)), "destination port 80 is not among 8080-8090"),
    (m.Rule(src_ports=(WEB,)), "source port 40000 is not among 8080-8090"),
    (m.Rule(not_dst_ports=(m.PortRange(80, 80),)), "destination port 80 is among what the rule excludes: 80"),
    (m.Rule(dst_named_port_ip_set_ids=("n:all",)), "destination port 80 is not among the ports of IP set n:all"),
    (
        m.Rule(not_src_named_port_ip_set_ids=("n:both",)),
        "source port 40000 is among what the rule excludes: the ports of IP set n:both",
    ),
    (m.Rule(src_ip_set_ids=("s:none",)), "source 10.0.0.1 is not among s:none"),
    (
        m.Rule(dst_ip_set_ids=("s:none",), original_dst_selector="a", original_dst_namespace_selector="b"),
        "destination 10.0.0.2 is not among pods 'a' of namespaces 'b'",
    ),
    (
        m.Rule(src_ip_set_ids=("s:none",), src_service_account_match=m.ServiceAccountMatch("", ("robot",))),
        "source 10.0.0.1 is not among service accounts 'robot'",
    ),
    (
        m.Rule(not_src_ip_set_ids=("s:all",), original_not_src_selector="a"),
        "source 10.0.0.1 is among what the rule excludes: 'a'",
    ),
    (m.Rule(not_dst_ip_set_ids=("s:all",)), "destination 10.0.0.2 is among what the rule excludes: s:all"),
    (
        m.Rule(dst_ip_port_set_ids=("n:all",), original_dst_service="dns", original_dst_service_namespace="n"),
        "10.0.0.2 port 80 is no endpoint of service n/dns",
    ),
    (m.Rule(icmp_type=8), "tcp of type None and code None is not what the rule is for"),
]


@pytest.mark.parametrize(("rule", "words"), CASES)
def test_words(rule: m.Rule, words: str) -> None:
    state = State()
    policy = m.PolicyID("p", tier="default")
    state.apply((NET, NONE, PORTS, BOTH, m.ActivePolicyUpdate(policy, m.Policy((rule,)))))
    tier = m.TierInfo("default", ingress_policies=("p",))
    endpoint = m.WorkloadEndpoint(state="active", tiers=(tier,))
    [asked] = judge(state, endpoint, "ingress", FLOW, trail=True).asked
    assert asked.mismatch
    assert reason(rule, asked.mismatch, FLOW) == words


def test_every_field_is_among_them() -> None:
    """A field of a rule that decides and has no words is not forgotten here."""
    said = {name for rule, _ in CASES for name in msgspec.structs.asdict(rule) if getattr(rule, name)}
    silent = {name for name in m.Rule.__struct_fields__ if name.startswith("original")} | {"action", "rule_id"}
    like_another = {
        *("dst_net", "not_src_net", "not_src_ports", "src_named_port_ip_set_ids", "not_dst_named_port_ip_set_ids"),
        *("icmp_type_code", "not_icmp_type", "not_icmp_type_code"),
        *("dst_service_account_match", "http_match", "metadata"),
    }
    assert set(m.Rule.__struct_fields__) == said | silent | like_another
