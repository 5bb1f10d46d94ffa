"""Names, settings, tables as values, and single lines of rules."""

import pytest

from services.policy.core import messages as m
from services.policy.core.nft import hosts, match, names
from services.policy.core.nft.model import Chain, Change, Hook, Set, Table, difference, whole
from services.policy.core.nft.settings import Settings

TCP = m.Protocol(name="tcp")
WEB = (m.PortRange(80, 80),)


# ---- rules


def lines(rule: m.Rule) -> list[str]:
    return match.alternatives(rule, (4, 6), lambda set_id, family: f"{set_id}{family}")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (m.Rule(), [""]),
        (m.Rule(ip_version="IPV6"), ["meta nfproto 10"]),
        (m.Rule(protocol=TCP, ip_version="IPV4"), ["meta nfproto 2 meta l4proto 6"]),
        (m.Rule(protocol=m.Protocol(name="icmp"), ip_version="IPV4"), ["meta l4proto 1"]),
        (m.Rule(protocol=TCP, not_protocol=m.Protocol(number=6)), []),
        (m.Rule(not_protocol=TCP), ["meta l4proto != 6"]),
        (m.Rule(protocol=TCP, dst_ports=WEB), ["tcp dport 80"]),
        (m.Rule(protocol=m.Protocol(number=47), dst_ports=WEB), []),
        (m.Rule(protocol=m.Protocol(number=47), not_dst_ports=WEB), ["meta l4proto 47"]),
        # More than fifteen ports are one set, neighbours are one range.
        (
            m.Rule(protocol=TCP, dst_ports=tuple(m.PortRange(port, port) for port in (*range(1, 40, 2), 2))),
            [f"tcp dport {{ 1-3, {', '.join(str(port) for port in range(5, 40, 2))} }}"],
        ),
        # Numbers or names: one packet is matched by one of them.
        (
            m.Rule(protocol=TCP, ip_version="IPV4", dst_ports=WEB, dst_named_port_ip_set_ids=("n", "o")),
            [
                "ip daddr . meta l4proto . tcp dport @n4",
                "ip daddr . meta l4proto . tcp dport != @n4 ip daddr . meta l4proto . tcp dport @o4",
                "ip daddr . meta l4proto . tcp dport != @n4 ip daddr . meta l4proto . tcp dport != @o4 tcp dport 80",
            ],
        ),
        # Of negated ones none may match.
        (
            m.Rule(protocol=TCP, ip_version="IPV6", not_src_ports=WEB, not_src_named_port_ip_set_ids=("n", "o")),
            ["tcp sport != 80 ip6 saddr . meta l4proto . tcp sport != @n6 ip6 saddr . meta l4proto . tcp sport != @o6"],
        ),
        # A named port without a protocol is one of any protocol (Felix 3.32 on).
        (
            m.Rule(ip_version="IPV4", dst_named_port_ip_set_ids=("n",)),
            ["ip daddr . meta l4proto . th dport @n4"],
        ),
        # Not (type and code), which is not (not type and not code).
        (
            m.Rule(protocol=m.Protocol(name="icmp"), ip_version="IPV4", not_icmp_type_code=m.IcmpTypeAndCode(3, 1)),
            ["icmp type . icmp code != { 3 . 1 }"],
        ),
        (
            m.Rule(protocol=m.Protocol(name="icmp"), ip_version="IPV4", icmp_type_code=m.IcmpTypeAndCode(8, 0)),
            ["icmp type 8 icmp code 0"],
        ),
        (
            m.Rule(protocol=m.Protocol(name="icmpv6"), ip_version="IPV6", icmp_type=128, not_icmp_type=129),
            ["icmpv6 type 128 icmpv6 type != 129"],
        ),
        (m.Rule(protocol=TCP, ip_version="IPV4", icmp_type=8), []),
        (m.Rule(protocol=TCP, ip_version="IPV4", not_icmp_type=8), ["meta nfproto 2 meta l4proto 6"]),
        # Without a protocol: by cases, since only ICMP has types and only some protocols have ports.
        (m.Rule(ip_version="IPV4", not_icmp_type=8), ["icmp type != 8", "meta nfproto 2 meta l4proto != 1"]),
        (
            m.Rule(not_protocol=TCP, not_dst_ports=WEB),
            [
                "udp dport != 80",
                "dccp dport != 80",
                "sctp dport != 80",
                "udplite dport != 80",
                "meta l4proto != { 6, 17, 33, 132, 136 }",
            ],
        ),
        # Lists of nets: neighbours merged, the other version's not; what is left empty turns the rule off.
        (
            m.Rule(src_net=("10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "fd00::/8", "192.0.2.1/32")),
            ["ip saddr { 10.0.0.0/23, 192.0.2.1 }", "ip6 saddr fd00::/8"],
        ),
        (m.Rule(not_dst_net=("10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24")), ["ip daddr != 10.0.0.0-10.0.2.255"]),
        (m.Rule(src_net=("0.0.0.0/0",)), ["ip saddr 0.0.0.0/0"]),
        (m.Rule(not_src_net=("0.0.0.0/0",)), []),
        (m.Rule(not_src_net=("0.0.0.0/1", "128.0.0.0/1")), []),
        (
            m.Rule(src_ip_set_ids=("a", "b"), not_dst_ip_set_ids=("c",)),
            ["ip saddr @a4 ip saddr @b4 ip daddr != @c4", "ip6 saddr @a6 ip6 saddr @b6 ip6 daddr != @c6"],
        ),
        # Layer 7 is somebody else's: what is below it is matched.
        (m.Rule(protocol=TCP, http_match=m.HTTPMatch(("GET",))), ["meta l4proto 6"]),
    ],
)
def test_what_a_rule_reads_like(rule: m.Rule, expected: list[str]) -> None:
    assert lines(rule) == expected


# ---- names


def test_names_are_the_objects_own_where_nft_takes_them() -> None:
    assert names.policy(m.PolicyID("default/knp.default.web", tier="default"), "ingress") == (
        "pi-default/default/knp.default.web"
    )
    assert names.profile("kns.default", "egress") == "pro-kns.default"
    assert names.workload(m.WorkloadEndpointID("k8s", "shop/web-0", "eth0"), "ingress") == "tw-shop/web-0"
    assert names.workload(m.WorkloadEndpointID("k8s", "shop/web-0", "net1"), "egress") == "fw-k8s//shop/web-0//net1"


def test_names_of_any_text_are_short_and_not_each_others() -> None:
    texts = ["a" * 300, "a" * 299, "a b", "a.b", 'a"b', "a__b", "a{b}", "", "a\n", "ä", "a;b"]
    made = [names.named("x", text) for text in texts]
    assert len(set(made)) == len(texts)
    assert all(len(name) <= 105 and not set(name) & set(' "{};\n,ä') for name in made)


@pytest.mark.parametrize("name", ["", "*", "eth*", "a b", "x" * 16, 'e"', "..", "ä"])
def test_what_no_interface_is_called(name: str) -> None:
    assert not names.is_link(name)
    assert names.is_link("eth0.100")


# ---- settings


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"log_prefix": 'a"b'}, "log_prefix"),
        ({"log_prefix": "x" * 101}, "log_prefix"),
        ({"workload_prefixes": ("cali*",)}, "workload_prefixes"),
        ({"flow_log_group": 65_536}, "flow_log_group"),
        ({"flow_log_rate": 0}, "flow_log_rate"),
        ({"mark_accept": 3, "mark_pass": 2}, "mark_pass"),
    ],
)
def test_settings_that_cannot_be(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Settings(**fields)  # type: ignore[arg-type]


# ---- host endpoints


def test_a_host_endpoint_without_a_name_is_of_the_interfaces_that_have_its_address() -> None:
    listed = {
        "a": m.HostEndpoint("", expected_ipv4_addrs=("10.0.0.1",), expected_ipv6_addrs=("fd00::1",)),
        "b": m.HostEndpoint("eth1"),
        "c": m.HostEndpoint("*"),
        "d": m.HostEndpoint("*"),
        "e": m.HostEndpoint("this-name-is-too-long-for-linux"),
        "f": m.HostEndpoint("cali1"),
    }
    addresses = {"eth0": {"10.0.0.1"}, "eth1": {"fd00::1"}, "cali1": {"10.0.0.1"}, "odd name": {"10.0.0.1"}}
    held = {link: frozenset(one) for link, one in addresses.items()}
    assert hosts.resolve(listed, held, ("cali",)) == {"eth0": "a", "eth1": "a", "*": "c"}
    assert hosts.resolve(listed, {}, ("cali",)) == {"eth1": "b", "*": "c"}


# ---- tables


def test_a_set_or_a_hook_that_is_another_replaces_the_table() -> None:
    old = Table(chains={"c": Chain("c", ("accept",))}, sets={"s": Set("s", "ipv4_addr")}, elements={"s": {"10.0.0.1"}})
    interval = Table(chains=old.chains, sets={"s": Set("s", "ipv4_addr", frozenset({"interval"}))})
    hooked = Table(chains={"c": Chain("c", ("accept",), Hook("filter", "input", 0))}, sets=old.sets)
    for other in (interval, hooked):
        change = difference(old, other)
        assert change.replace
        assert change == whole(other)
        assert change.text().startswith("add table inet terway\ndelete table inet terway\nadd table inet terway\n")


def test_what_a_change_says_of_itself() -> None:
    assert Change().empty() and not Change().structural()
    elements = Change(elements_added={"s": ("10.0.0.1",)})
    assert not elements.empty() and not elements.structural()
    assert elements.text() == "add table inet terway\nadd element inet terway s { 10.0.0.1 }\n"
    assert Change(chains_removed=("c",)).structural()


def test_elements_of_what_the_kernel_fills_are_nobodys() -> None:
    drops = Set("d", "ifname", frozenset({"dynamic"}), counter=True)
    old, new = Table(sets={"d": drops}, elements={"d": {'"eth0"'}}), Table(sets={"d": drops})
    assert difference(old, new).empty()
