"""Totals only grow, whatever becomes of the counters in the kernel."""

from hypothesis import given
from hypothesis import strategies as st

from services.policy.core import messages as m
from services.policy.core.counts import Count, Denial, Line, RuleSeen, Totals, rule_number
from services.policy.core.tally import Owner, Read, Series, tally

WEB = m.PolicyID("web", tier="default")
POD = m.WorkloadEndpointID("k8s", "shop/web-0", "eth0")
OWNERS: dict[str, Owner] = {
    "pi-web": WEB,
    "po-web": WEB,
    "pri-kns": m.ProfileID("kns"),
    "tw-shop/web-0": POD,
    "sources": "host",
}


def seen(chain: str, handle: int, comment: str, packets: int, action: str = "allow") -> RuleSeen:
    return RuleSeen(chain, handle, comment, action, Count(packets, packets * 60))


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.booleans()), max_size=40))
def test_whatever_happens_to_the_chain_what_was_counted_stays(steps: list[tuple[int, bool, bool]]) -> None:
    """Packets come; the chain is filled anew with or without a look before; the table is made anew with old handles."""
    totals, handle, held, expected, unseen = Totals(), 1, 0, 0, 0
    for came, refilled, looked_before in steps:
        held, unseen = held + came, unseen + came
        if refilled and looked_before:
            totals.read([seen("pi-web", handle, "rule 0 x", held)], {"pi-web"})
            expected, unseen = expected + unseen, 0
        if refilled:
            handle, held, unseen = handle + 1, 0, 0
        totals.read([seen("pi-web", handle, "rule 0 x", held), seen("po-web", 1000, "rule 0 y", 7)])
        expected, unseen = expected + unseen, 0
        assert totals.lines[Line("pi-web", "rule 0 x", "allow")].packets == expected
        assert totals.lines[Line("po-web", "rule 0 y", "allow")] == Count(7, 420)


def test_a_table_that_is_another_begins_anew_under_the_same_handles() -> None:
    totals = Totals()
    totals.read([seen("pi-web", 5, "rule 0", 100)])
    totals.read([seen("pi-web", 5, "rule 0", 3)])
    assert totals.lines[Line("pi-web", "rule 0", "allow")].packets == 103
    totals.read([seen("pi-web", 5, "rule 1", 200)])
    assert totals.lines[Line("pi-web", "rule 1", "allow")].packets == 200
    totals.read_denials({Denial("pi-web", "cali1"): Count(5, 300)})
    totals.read_denials({})
    totals.read_denials({Denial("pi-web", "cali1"): Count(2, 120)})
    assert totals.denials[Denial("pi-web", "cali1")] == Count(7, 420)
    totals.keep({"po-web"}, set())
    assert not totals.lines and not totals.denials
    totals.read([seen("pi-web", 5, "rule 1", 201)])
    assert totals.lines[Line("pi-web", "rule 1", "allow")].packets == 201, "it was not known yet whose it is"


def test_a_table_that_was_removed_and_made_anew_counts_on() -> None:
    totals = Totals()
    for handle, packets, expected in ((1, 5, 5), (1, 6, 6), (2, 6, 12), (2, 7, 13), (3, 1, 14)):
        totals.of_table(handle)
        totals.read([seen("pi-web", 5, "rule 0", packets)])
        assert totals.lines[Line("pi-web", "rule 0", "allow")].packets == expected


def test_a_pods_own_table_is_that_pods_alone_and_added_to_the_nodes() -> None:
    node, own, past = Totals(), Totals(), Totals()
    node.read([seen("pi-web", 1, "rule 1 b", 4, "deny"), seen("tw-shop/web-0", 2, "no profile accepts it", 2, "deny")])
    node.read_denials({Denial("pi-web", "cali1"): Count(4, 240)})
    own.read(
        [
            seen("pi-web", 1, "rule 0 a", 3),
            seen("pi-web", 2, "rule 1 b", 5, "deny"),
            seen("tw-shop/web-0", 3, "no profile accepts it", 1, "deny"),
            seen("output", 4, "the source address is not the pod's", 9, "deny"),
        ]
    )
    past.add(own)  # of another pod, which has gone
    reads = [Read(node, {"cali1": "shop/web-0"}), Read(own.copy(), {}, "shop/web-0"), Read(past, {})]
    found = tally(reads, OWNERS, 1.0)
    assert [(r.direction, r.rule, r.action, r.packets) for r in found.policies[0].rules] == [
        ("ingress", 0, "allow", 6),
        ("ingress", 1, "deny", 14),
    ]
    [drops] = found.endpoints
    assert {(drop.by, drop.why): drop.packets for drop in drops.drops} == {
        ("default/web", "a rule denies it"): 9,
        ("", "no profile accepts it"): 4,
    }
    assert found.others == {"the source address is not the pod's": 18}


def test_the_tally_says_who_decided() -> None:
    totals = Totals()
    totals.read(
        [
            seen("pi-web", 1, "rule 0 a", 2),
            seen("pi-web", 2, "rule 0 a", 3),  # a rule for each family
            seen("pi-web", 3, "rule 1 b", 4, "deny"),
            seen("pri-kns", 4, "rule 0", 1),
            seen("tw-shop/web-0", 5, "default: no rule of the tier matches", 6, "deny"),
            seen("tw-shop/web-0", 6, "no profile accepts it", 0, "deny"),
            seen("sources", 7, "the source address is not the pod's", 9, "deny"),
        ]
    )
    totals.read_denials({Denial("pi-web", "cali1"): Count(4, 240), Denial("pi-web", "eth0"): Count(1, 60)})
    found = tally([Read(totals, {"cali1": "shop/web-0"})], OWNERS, 1.0)
    assert {
        (one.kind, one.text): [(r.direction, r.rule, r.action, r.packets) for r in one.rules] for one in found.policies
    } == {
        ("policy", "default/web"): [("ingress", 0, "allow", 5), ("ingress", 1, "deny", 4)],
        ("profile", "kns"): [("ingress", 0, "allow", 1)],
    }
    assert {one.endpoint: [(drop.by, drop.why, drop.packets) for drop in one.drops] for one in found.endpoints} == {
        "shop/web-0": [
            ("", "default: no rule of the tier matches", 6),
            ("default/web", "a rule denies it", 4),
        ],
        "host:eth0": [("default/web", "a rule denies it", 1)],
    }
    assert found.others == {"the source address is not the pod's": 9}


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), max_size=6), max_size=20))
def test_series_are_bounded_and_none_ever_shrinks(rounds: list[dict[str, int]]) -> None:
    series, totals = Series(2), dict.fromkeys("abcdef", 0)
    before, rest = dict[tuple[str, ...], Count](), Count()
    for came in rounds:
        for name, more in came.items():
            totals[name] += more
        shown = series.show({(name,): Count(number, number) for name, number in totals.items()})
        assert len(shown) <= 2
        assert before.keys() <= shown.keys()
        assert all(shown[labels].packets >= count.packets for labels, count in before.items())
        assert series.rest.packets >= rest.packets
        assert sum(count.packets for count in shown.values()) + series.rest.packets == sum(totals.values())
        before, rest = shown, series.rest


def test_whose_series_goes_makes_place_and_the_rest_stays() -> None:
    series = Series(1)
    assert series.show({("a",): Count(1, 1), ("b",): Count(5, 5)}) == {("a",): Count(1, 1)}
    assert series.show({("b",): Count(6, 6)}) == {}, "once counted with the rest, always: it would seem to shrink"
    assert series.rest == Count(6, 6)
    assert series.show({("c",): Count(2, 2)}) == {("c",): Count(2, 2)}
    assert series.rest == Count(6, 6)


def test_rules_numbers() -> None:
    assert rule_number("rule 12 abc") == 12
    assert rule_number("rule 0") == 0
    assert rule_number("default: no rule of the tier matches") is None
    assert rule_number("rule x") is None
