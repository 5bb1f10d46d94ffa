"""What marks and follows marks, as values."""

import pytest

from services.eni_manager.core.wiring.difference import Drop, Put, changes, stale_rules
from services.eni_manager.core.wiring.symmetric import Marking, outdated, ruleset, symmetric, without_ruleset
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


OTHER = Marking("bond0", mark=0x20000, mask=0x60000, table=77, priority=700, comment="ours")


def test_by_other_marks() -> None:
    wanted = symmetric("bond0", Ip("10.0.0.1"), OTHER)
    assert [str(item) for item in wanted.items] == [
        "route default via 10.0.0.1 dev bond0 onlink table 77",
        "rule 700: from all fwmark 0x20000/0x60000 lookup 77",
        "rule 700: from all fwmark 0x4000/0x4000 lookup 77",
    ]
    text = ruleset("bond0", OTHER)
    assert 'iifname "bond0" ct mark set ct mark and 0xfff9ffff or 0x20000 comment "ours"' in text
    assert "ct mark and 0x60000 == 0x20000 meta mark set meta mark and 0xfff9ffff or 0x20000" in text
    assert list(OTHER.problems()) == list(Marking().problems()) == []


def test_what_an_earlier_configuration_wanted_goes() -> None:
    others = (Rule(500, 101, mark=0x20), Rule(512, 512), Rule(600, 100, mark=0x10, v6=True))
    wanted = symmetric("bond0", Ip("10.0.0.1"), OTHER).rules
    assert outdated([*WANTED.rules, *wanted, *others], wanted, v6=False) == list(WANTED.rules)


@pytest.mark.parametrize(
    ("marking", "said"),
    [
        (Marking("eth0 "), "interface: 'eth0 ' is no interface's name; leave it away for that of the default route"),
        (Marking("a" * 16), "interface: 'aaaaaaaaaaaaaaaa' is no interface's name"),
        (Marking(mask=0), "mask: expected 1 to 4294967295, got 0"),
        (Marking(mark=0), "mark: expected bits of the mask, 0x10, and not none of them; got 0x0"),
        (Marking(mark=0x30), "mark: expected bits of the mask, 0x10, and not none of them; got 0x30"),
        (Marking(mark=0x4000, mask=0xFFFF), "mask: 0xffff has 0xc000, which kube-proxy sets; take other bits"),
        (
            Marking(table=254),
            "table_id: expected 1 to 999, and none of 101, 253, 254, 255, 512, which are in use; got 254",
        ),
        (Marking(table=1003), "which are in use; got 1003"),
        (
            Marking(priority=2048),
            "rule_priority: expected 513 to 2047, between the rules to pods and those from pods; got",
        ),
        (Marking(comment='a"b'), "comment: expected at most 127 bytes without quotes, got 'a\"b'"),
    ],
)
def test_what_cannot_work_is_named_with_the_way_out(marking: Marking, said: str) -> None:
    [problem] = marking.problems()
    assert said in problem
