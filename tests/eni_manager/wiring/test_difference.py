"""One comparison for ADD, CHECK and repair: nothing missed, nothing foreign touched."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.eni_manager.core.wiring import wire
from services.eni_manager.core.wiring.difference import Change, Drop, Put, changes, stale_rules, superseded_rules
from services.eni_manager.core.wiring.values import (
    Address,
    Item,
    Link,
    Neighbour,
    Route,
    Rule,
    Shaper,
    Side,
    Sysctl,
)
from services.eni_manager.core.wiring.veth import to_pods
from shared.contracts.ipam import Bandwidth
from shared.model import Cidr, Ip, Mac
from tests.eni_manager.wiring.leases import ENI, NODE, lease

WIRING = wire(lease(ipv6="2001:db8:1::17", bandwidth=Bandwidth(ingress=9999, egress=8888)), NODE, ENI)
WANTED = Side.of((*WIRING.uplink.items, *WIRING.host.items, *WIRING.pod.items))
LINK = WIRING.veth.host


def said(wanted: Side, actual: Side) -> list[str]:
    return [str(change) for change in changes(wanted, actual)]


def applied(actual: Side, todo: list[Change]) -> Side:
    """What a kernel holds after the changes: one link state, one setting and one qdisc each, no two equal routes."""
    items: list[Item] = list(actual.items)
    for change in todo:
        match change:
            case Drop(item=item):
                items.remove(item)
            case Put(item=item):
                items = [other for other in items if not _same_place(item, other)] + [item]
    return Side.of(items)


def _same_place(one: Item, other: Item) -> bool:
    match one, other:
        case (Link(name=a), Link(name=b)) | (Sysctl(path=a), Sysctl(path=b)) | (Shaper(link=a), Shaper(link=b)):
            return a == b
        case Route(), Route():
            return (one.to, one.table) == (other.to, other.table)
        case Neighbour(), Neighbour():
            return (one.link, one.ip) == (other.link, other.ip)
        case _:
            return False


def test_what_is_whole_needs_nothing() -> None:
    assert changes(WANTED, WANTED) == []


def test_every_kind_of_damage_is_said_in_one_sentence() -> None:
    for item in WANTED.items:
        found = said(WANTED, Side.of(other for other in WANTED.items if other != item))
        # A setting whose link has vanished is nobody's difference; all else is missed.
        assert found == ([] if isinstance(item, Sysctl) else [f"{item} is missing"])


def test_what_differs_is_named_with_what_is_wanted() -> None:
    wanted = Side(links=(Link("eth0", 1500),), sysctls=(Sysctl("net/ipv4/conf/eth0/forwarding", "1"),))
    actual = Side(links=(Link("eth0", 1400, up=False),), sysctls=(Sysctl("net/ipv4/conf/eth0/forwarding", "0"),))
    assert said(wanted, actual) == [
        "sysctl net/ipv4/conf/eth0/forwarding = 0 should be sysctl net/ipv4/conf/eth0/forwarding = 1",
        "link eth0 mtu 1400 down should be link eth0 mtu 1500 up",
    ]


ADDRESSES = st.sampled_from(("192.168.32.17", "192.168.32.18", "10.0.0.5"))
LINKS = st.sampled_from(("eth0", "eth1", LINK, "other"))
CIDRS = st.sampled_from(("192.168.32.17/32", "192.168.32.18/32", "0.0.0.0/0"))
STRAYS = st.one_of(
    st.builds(Address, LINKS, ADDRESSES.map(Ip), st.sampled_from((24, 32))),
    st.builds(Route, LINKS, CIDRS.map(Cidr), st.just(Ip("10.9.9.9")), st.sampled_from((254, 1003))),
    st.builds(Rule, st.sampled_from((512, 600, 2048)), st.sampled_from((254, 77)), source=CIDRS.map(Cidr)),
    st.builds(Rule, st.sampled_from((512, 600)), st.sampled_from((254, 77)), to=CIDRS.map(Cidr)),
    st.builds(Rule, st.sampled_from((512, 2048)), st.sampled_from((254, 77)), v6=st.booleans()),
    st.builds(Neighbour, LINKS, st.just(Ip("169.254.1.1")), st.just(Mac("02:00:00:00:00:01"))),
    st.builds(Link, LINKS, st.sampled_from((1400, 1500)), st.booleans()),
)


@given(kept=st.sets(st.sampled_from(WANTED.items)), strays=st.lists(STRAYS, max_size=8))
def test_carried_out_nothing_is_left_to_do_and_nothing_foreign_gone(kept: set[Item], strays: list[Item]) -> None:
    links = {item.name: item for item in strays if isinstance(item, Link)}
    strays = [item for item in strays if not isinstance(item, Link)] + list(links.values())
    actual = Side.of([item for item in WANTED.items if item in kept and not _taken(item, strays)] + strays)
    todo = changes(WANTED, actual)
    after = applied(actual, todo)
    assert changes(WANTED, after) == []
    managed = {item.link for item in WANTED.addresses}
    for gone in set(actual.items) - set(after.items):
        match gone:
            case Address(link=link):
                assert link in managed
            case Rule(priority=512):
                assert gone.to == "192.168.32.17/32" and gone.table == 77
            case Rule():
                assert gone.priority == 2048 and gone.source == "192.168.32.17/32"
            case _:
                assert any(_same_place(gone, item) for item in WANTED.items)


def _taken(item: Item, strays: list[Item]) -> bool:
    return any(_same_place(item, stray) for stray in strays)


def test_a_foreign_priority_for_our_address_stays() -> None:
    (rule,) = (item for item in WIRING.host.rules if item.source == "192.168.32.17/32")
    foreign = replace(rule, priority=600, table=100)
    assert changes(Side(rules=(rule,)), Side(rules=(rule, foreign))) == []


def test_an_older_terways_rule_with_iif_gives_way() -> None:
    (rule,) = (item for item in WIRING.host.rules if item.source == "192.168.32.17/32")
    older = replace(rule, iif=LINK)
    assert changes(Side(rules=(rule,)), Side(rules=(older,))) == [Drop(older), Put(rule)]


def test_stale_rules_are_those_whose_address_nobody_uses() -> None:
    used = Rule(512, 254, to=Cidr("192.168.32.17/32"))
    left = Rule(2048, 1003, source=Cidr("192.168.32.18/32"))
    elsewhere = replace(left, priority=600)
    assert stale_rules([used, left, elsewhere], ["192.168.32.17/32"]) == [left]


def test_a_rule_for_all_pods_is_stale_where_the_mode_does_without() -> None:
    assert stale_rules([to_pods(v6=False), to_pods(v6=True)], [], [to_pods(v6=True)]) == [to_pods(v6=False)]


def test_a_rule_for_all_takes_the_place_of_one_per_pod_and_of_no_other() -> None:
    earlier = Rule(512, 254, to=Cidr("192.168.32.17/32"))
    others = (
        Rule(512, 254, to=Cidr("192.168.32.18/32")),
        Rule(600, 254, to=earlier.to),
        Rule(512, 254, source=earlier.to),
    )
    assert superseded_rules([earlier, *others], WANTED.rules) == [earlier]
    assert changes(WANTED, Side.of((*WANTED.items, earlier, *others))) == [], "it does no harm, so CHECK is content"


def test_a_rule_to_a_pod_that_leads_elsewhere_gives_way() -> None:
    astray = Rule(512, 77, to=Cidr("192.168.32.17/32"))
    assert changes(WANTED, Side.of((*WANTED.items, astray))) == [Drop(astray)]
