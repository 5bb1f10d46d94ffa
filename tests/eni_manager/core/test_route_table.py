"""Which entries are made, removed, waited for and left alone; and that nobody's entry but a dead node's is removed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.eni_manager.core.route_table import (
    CONFIRMING_LOOKS,
    LONGEST_NODE_NAME,
    LOOKS_PER_TURN,
    WATCHERS,
    Entry,
    Owner,
    Watchers,
    plan,
)
from shared.model import Cidr, Ip

OWN = Owner(cluster="c1", node="node1")
HERE, THERE = "i-1", "i-2"
MINE, OTHER = Cidr("10.244.1.0/24"), Cidr("10.244.2.0/24")


def entry(destination: Cidr = MINE, hop: str = HERE, *, by: Owner | None = OWN, status: str = "Available") -> Entry:
    return Entry(f"rte-{destination}-{hop}", destination, hop, status, by.description if by else "made by hand")


def planned(*table: Entry, wanted=(MINE,), in_use=(), known=None):
    return plan(OWN, HERE, wanted=wanted, in_use=in_use, table=table, known=known or {})


def test_the_description_names_cluster_and_node_and_fits():
    assert entry().owner == OWN
    assert entry(by=None).owner is None
    assert Entry("e", MINE, HERE, "Available", "terway: pods of node x").owner is None
    longest = Owner("0" * 36, "n" * LONGEST_NODE_NAME)
    assert len(longest.description) <= 256
    assert entry(by=longest).owner == longest


def test_an_entry_that_is_missing_is_made():
    found = planned()
    assert (found.create, found.routed, found.delete, found.blocked) == ((MINE,), (), (), {})


def test_an_entry_that_leads_here_is_enough_whoever_made_it():
    for by in (OWN, None, Owner("c2", "node1")):
        found = planned(entry(by=by))
        assert (found.routed, found.create, found.delete, found.blocked) == ((MINE,), (), (), {})


def test_an_entry_on_its_way_is_waited_for():
    for status in ("Pending", "Deleting", "Modifying"):
        found = planned(entry(status=status))
        assert (found.waiting, found.create, found.delete) == ((MINE,), (), ())


def test_an_entry_of_ours_that_nobody_wants_is_waited_for_until_it_can_go():
    for status in ("Pending", "Deleting"):
        found = planned(entry(status=status), wanted=())
        assert (found.waiting, found.delete) == ((MINE,), ())


def test_what_an_earlier_instance_of_this_node_left_is_replaced():
    found = planned(entry(hop="i-old"))
    assert [(one.hop, why) for one, why in found.delete] == [
        ("i-old", "it leads to i-old, an earlier instance of this node")
    ]
    assert found.create == ()


def test_a_range_that_another_node_has_is_asked_about_first():
    taken = entry(hop=THERE, by=Owner("c1", "node2"))
    found = planned(taken)
    assert found.ask == {"node2"} and MINE in found.blocked and found.delete == ()
    found = planned(taken, known={"node2": (MINE,)})
    assert found.ask == frozenset() and found.delete == ()
    assert (
        "by an entry of node node2 of cluster c1" in found.blocked[MINE] and "remove that entry" in found.blocked[MINE]
    )
    found = planned(taken, known={"node2": (OTHER,)})
    assert found.delete == ((taken, "node node2 has other pod ranges now"),) and not found.blocked
    found = planned(taken, known={"node2": None})
    assert found.delete == ((taken, "node node2 is gone"),) and not found.blocked


def test_foreign_entries_and_those_of_other_clusters_are_never_touched():
    for by in (None, Owner("c2", "node1"), Owner("c2", "node2")):
        found = planned(entry(hop=THERE, by=by), known={"node1": None, "node2": None})
        assert (found.delete, found.create, found.ask) == ((), (), frozenset())
        assert MINE in found.blocked


def test_a_range_that_is_this_nodes_no_more_goes_when_no_pod_uses_it():
    table = [entry(), entry(OTHER)]
    found = planned(*table, wanted=(OTHER,), in_use=(Ip("10.244.1.7"),))
    assert set(found.routed) == {MINE, OTHER} and found.delete == ()
    assert "used by 1 pods still" in found.blocked[MINE]
    found = planned(*table, wanted=(OTHER,), in_use=(Ip("10.244.2.7"),))
    assert found.delete == ((table[0], "this node has other pod ranges now"),)
    assert planned(entry(by=None), entry(OTHER), wanted=(OTHER,)).delete == ()


def test_in_another_mode_all_of_ours_goes():
    assert [one.destination for one, _ in planned(entry(), entry(OTHER, THERE, by=None), wanted=()).delete] == [MINE]


owners = st.one_of(
    st.none(), st.builds(Owner, st.sampled_from(["c1", "c2"]), st.sampled_from(["node1", "node2", "node3"]))
)
ranges = st.integers(1, 4).map(lambda n: Cidr(f"10.244.{n}.0/24"))
tables = st.lists(
    st.builds(
        lambda destination, hop, by, status: entry(destination, hop, by=by, status=status),
        ranges,
        st.sampled_from([HERE, THERE, "i-3"]),
        owners,
        st.sampled_from(["Available", "Pending", "Deleting"]),
    ),
    unique_by=lambda one: one.destination,
)
knowns = st.dictionaries(st.sampled_from(["node2", "node3"]), st.one_of(st.none(), st.frozensets(ranges)))


@given(tables, st.frozensets(ranges), st.lists(st.integers(1, 4).map(lambda n: Ip(f"10.244.{n}.9"))), knowns)
def test_nothing_is_removed_that_somebody_may_need(table, wanted, in_use, known):
    found = planned(*table, wanted=tuple(sorted(wanted)), in_use=in_use, known=known)
    for one, _ in found.delete:
        assert one.owner is not None and one.owner.cluster == "c1" and one.status == "Available"
        if one.owner.node != "node1":
            assert one.destination in wanted and one.hop != HERE
            assert known[one.owner.node] is None or one.destination not in known[one.owner.node]
        elif one.destination not in wanted:
            assert not any(ip.rpartition(".")[0] in one.destination for ip in in_use)
    there = {one.destination for one in table}
    assert set(found.create) == wanted - there
    settled = {
        *found.routed,
        *found.create,
        *found.waiting,
        *found.blocked,
        *(one.destination for one, _ in found.delete),
    }
    assert wanted <= settled, "each range is one of these"


# ---- watchers


def cluster_of(names):
    return [
        entry(Cidr(f"10.{n >> 8}.{n & 255}.0/24"), f"i-{name}", by=Owner("c1", name)) for n, name in enumerate(names)
    ]


def look(watchers, node, table, gone):
    own = Owner("c1", node)
    watched = watchers.watched(own, table)
    names = {one.owner.node for one in watched}
    return watched, watchers.removable(watched, {name: None if name in gone else () for name in names})


def test_a_node_that_is_gone_at_two_looks_in_a_row_is_removed_and_others_are_not():
    names = [f"node{n}" for n in range(1, 4)]
    table, watchers = cluster_of(names), Watchers()
    assert look(watchers, "node1", table, {"node3"})[1] == []
    assert look(watchers, "node1", table, set())[1] == [], "it was only away for a moment"
    assert look(watchers, "node1", table, {"node3"})[1] == []
    assert [one.owner.node for one in look(watchers, "node1", table, {"node3"})[1]] == ["node3"]


def test_own_entries_foreign_ones_and_those_of_other_clusters_are_not_watched():
    table = [entry(), entry(OTHER, by=None), entry(Cidr("10.1.0.0/24"), by=Owner("c2", "node9"))]
    for _ in range(3):
        assert look(Watchers(), "node1", table, {"node1", "node9"}) == ([], [])


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 16), st.data())
def test_every_dead_nodes_entry_is_removed_though_watchers_die_too(count, data):
    names = [f"node{n}" for n in range(count)]
    gone = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=count - 1))
    table, alive = cluster_of(names), {name: Watchers() for name in names if name not in gone}
    for _ in range(40 * LOOKS_PER_TURN):
        removed = set()
        for name, watchers in alive.items():
            _, removable = look(watchers, name, table, gone)
            removed |= {one.id for one in removable}
            assert {one.owner.node for one in removable} <= gone
        table = [one for one in table if one.id not in removed]
        if {one.owner.node for one in table} == alive.keys():
            break
    assert {one.owner.node for one in table} == alive.keys()


def test_a_node_asks_for_few_names_in_a_large_cluster():
    names = [f"node{n}" for n in range(300)]
    table = cluster_of(names)
    watched = [len(look(Watchers(), name, table, set())[0]) for name in names]
    assert sum(watched) == len(names) * WATCHERS
    assert max(watched) < 10 * WATCHERS
    assert CONFIRMING_LOOKS <= LOOKS_PER_TURN, "a suspicion would not outlast a turn"
