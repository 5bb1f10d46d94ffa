"""What marks and follows marks, as values."""

from services.eni_manager.core.wiring.difference import Drop, Put, changes, stale_rules
from services.eni_manager.core.wiring.symmetric import ruleset, symmetric, without_ruleset
from services.eni_manager.core.wiring.values import Rule, Side
from shared.model import Ip

WANTED = symmetric("eth0", Ip("10.0.0.1"))


def test_rules_and_route_as_terway_has_them() -> None:
    assert [str(item) for item in WANTED.items] == [
        "route default via 10.0.0.1 dev eth0 onlink table 100",
        "rule 600: from all fwmark 0x10/0x10 lookup 100",
        "rule 600: from all fwmark 0x4000/0x4000 lookup 100",
    ]


def test_the_same_in_ipv6() -> None:
    wanted = symmetric("eth0", Ip("fe80::fd"))
    assert [str(item) for item in wanted.items] == [
        "route default via fe80::fd dev eth0 onlink table 100",
        "IPv6 rule 600: from all fwmark 0x10/0x10 lookup 100",
        "IPv6 rule 600: from all fwmark 0x4000/0x4000 lookup 100",
    ]
    assert changes(wanted, WANTED) == [Put(item) for item in wanted.items], "one family is not the other"
    assert ruleset("eth0", v6=True).startswith(without_ruleset(v6=True))
    assert "table ip6 terway_symmetric_ipv6" in ruleset("eth0", v6=True)


def test_another_table_for_the_mark_gives_way_and_another_mark_stays() -> None:
    ours, wrong, foreign = WANTED.rules[0], Rule(600, 77, mark=0x10), Rule(600, 77, mark=0x20)
    assert changes(Side(rules=(ours,)), Side(rules=(wrong, foreign))) == [Drop(wrong), Put(ours)]


def test_what_no_pod_uses_is_not_about_marks() -> None:
    assert stale_rules(WANTED.rules, used=()) == []


def test_the_transaction_replaces_what_was_there() -> None:
    assert ruleset("eth0").startswith(without_ruleset())
    assert 'iifname "eth0"' in ruleset("eth0") and 'oifname "eth0"' in ruleset("eth0")
