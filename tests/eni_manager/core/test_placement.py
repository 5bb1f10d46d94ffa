"""Who gains, where a new ENI goes, and why not."""

from hypothesis import given
from hypothesis import strategies as st

from services.eni_manager.core.machine import HOLDS_A_SLOT, ON_THE_WAY, State
from services.eni_manager.core.model import BATCH, Eni, Limits, Slot, SlotState
from services.eni_manager.core.placement import (
    AT_BIRTH,
    CREATION,
    MOST_CREATIONS,
    Assign,
    Blocks,
    Confirm,
    Creation,
    Leave,
    Unassign,
    VSwitch,
    bulk,
    next_chore,
    order_vswitches,
    plan,
)
from shared.model import EniId, Ip

A = VSwitch("vsw-a")
B = VSwitch("vsw-b")
LIMITS = Limits(3, 10)


def eni(name, count, state=State.READY, *, vswitch="vsw-a", most=10, slots=SlotState.VALID):
    made = state is not State.WANTED
    return Eni(
        name=name,
        state=state,
        vswitch=vswitch,
        initial=count,
        max_slots=most,
        id=EniId(f"eni-{name}") if made else None,
        slots={
            Ip(f"10.0.{ord(name[0])}.{i}"): Slot(ipv4=Ip(f"10.0.{ord(name[0])}.{i}"), primary=i == 0, state=slots)
            for i in range(count if made else 0)
        },
    )


def planned(
    enis, total, *, limits=LIMITS, blocks=None, vswitches=(A,), in_flight=None, policy="most_ips", at_birth=BATCH
):
    return plan(
        enis,
        total=total,
        limits=limits,
        in_flight=in_flight or {},
        blocks=blocks or Blocks(),
        vswitches=vswitches,
        policy=policy,
        now=100.0,
        at_birth=at_birth,
    )


def blocked(subject, why="because", until=160.0):
    blocks = Blocks()
    blocks.put(subject, until=until, why=why)
    return blocks


def test_nothing_is_done_when_there_is_enough():
    assert planned([eni("a", 5)], 5) == planned([eni("a", 5)], 0) == planned([], 0)
    assert planned([eni("a", 5)], 5).targets == {}


def test_existing_enis_come_first():
    decided = planned([eni("a", 5), eni("b", 2)], 12)
    assert decided.targets == {"a": 10}
    assert decided.creations == ()


def test_least_ips_spreads():
    assert planned([eni("a", 5), eni("b", 2)], 12, policy="least_ips").targets == {"a": 6, "b": 6}


def test_an_eni_on_the_way_is_filled_before_a_new_one_is_made():
    decided = planned([eni("a", 4, State.WANTED)], 9)
    assert decided.targets == {"a": 9}
    assert decided.creations == ()


def test_a_ready_eni_is_filled_before_one_on_the_way():
    assert planned([eni("a", 4, State.ATTACHING), eni("b", 1)], 8).targets == {"b": 4}


def test_what_is_in_flight_counts():
    assert planned([eni("a", 4)], 9, in_flight={"a": 5}).targets == {}
    assert planned([eni("a", 4)], 12, in_flight={"a": 5}).targets == {"a": 10}


def test_a_birth_brings_more_than_an_assignment():
    limits = Limits(3, 30)
    assert planned([], 40, limits=limits, at_birth=AT_BIRTH).creations == (
        Creation("vsw-a", 30),
        Creation("vsw-a", 10),
    )


def test_a_vswitch_that_refused_so_many_at_once_is_asked_for_a_batch():
    limits, full = Limits(3, 30), blocked(bulk("vsw-a"))
    assert planned([], 40, limits=limits, at_birth=AT_BIRTH, blocks=full).creations == (
        Creation("vsw-a", BATCH),
        Creation("vsw-a", BATCH),
    )
    other = planned([], 30, limits=limits, at_birth=AT_BIRTH, blocks=full, vswitches=(VSwitch("vsw-b"),))
    assert other.creations == (Creation("vsw-b", 30),)


def test_a_new_eni_starts_with_at_most_one_batch_and_what_it_may_hold():
    assert planned([], 3).creations == (Creation("vsw-a", 3),)
    assert planned([], 15, limits=Limits(3, 20)).creations == (Creation("vsw-a", BATCH),)
    assert planned([], 15, limits=Limits(3, 6)).creations == (
        Creation("vsw-a", 6),
        Creation("vsw-a", 6),
        Creation("vsw-a", 3),
    )


def test_at_most_three_are_on_the_way():
    decided = planned([], 60, limits=Limits(7, 10))
    assert len(decided.creations) == MOST_CREATIONS
    assert decided.blocked == "", "the rest waits its turn"
    on_the_way = [eni("a", 10, State.ATTACHING), eni("b", 10, State.WANTED)]
    assert len(planned(on_the_way, 60, limits=Limits(7, 10)).creations) == 1


def test_returning_and_missing_addresses_do_not_count_as_held():
    leaving = eni("a", 3, slots=SlotState.RETURNING)
    assert planned([leaving], 2).targets == {"a": 2}
    assert planned([eni("a", 10, slots=SlotState.RETURNING)], 2).creations == (Creation("vsw-a", 2),)


def test_a_draining_eni_takes_a_place_and_holds_nothing():
    decided = planned([eni("a", 5, State.DRAINING)], 25)
    assert [creation.initial for creation in decided.creations] == [10, 10]
    assert decided.short == 5


def test_at_capacity_it_says_so_and_no_time_helps():
    decided = planned([eni("a", 10), eni("b", 10), eni("c", 10)], 31)
    assert decided.short == 1
    assert decided.blocked == "the node has all 3 ENIs that it may have, with 10 addresses each"
    assert decided.retry_at is None


def test_a_blocked_eni_is_passed_over():
    assert planned([eni("a", 5), eni("b", 2)], 12, blocks=blocked("a")).targets == {"b": 7}


def test_a_blocked_vswitch_blocks_its_enis_and_is_passed_over():
    decided = planned([eni("a", 5)], 8, blocks=blocked("vsw-a"), vswitches=(A, B))
    assert decided.targets == {}
    assert decided.creations == (Creation("vsw-b", 3),)


def test_all_vswitches_blocked_says_why_and_until_when():
    decided = planned([eni("a", 5)], 8, blocks=blocked("vsw-a", "vsw-a is empty"))
    assert (decided.short, decided.blocked, decided.retry_at) == (3, "vsw-a is empty", 160.0)


def test_all_slots_with_exhausted_vswitches_names_both_reasons():
    decided = planned([eni("a", 5)], 8, limits=Limits(1, 10), blocks=blocked("vsw-a", "vsw-a is empty"), vswitches=(B,))
    assert decided.blocked == "vsw-a is empty; the node has all 1 ENIs that it may have, with 10 addresses each"


def test_a_block_on_creation():
    decided = planned([], 1, blocks=blocked(CREATION, "no permission"))
    assert (decided.creations, decided.blocked, decided.retry_at) == ((), "no permission", 160.0)


def test_without_a_vswitch():
    assert "no vSwitch" in planned([], 1, vswitches=()).blocked


def test_an_expired_block_is_none():
    assert planned([], 1, blocks=blocked("vsw-a", until=100.0)).creations == (Creation("vsw-a", 1),)
    blocks = blocked("x", until=5.0)
    assert blocks.standing(6.0) == {}
    blocks.put("y", until=9.0, why="first")
    blocks.put("y", until=8.0, why="earlier ends do not count")
    assert blocks.standing(6.0)["y"].why == "first"


def test_known_counts_choose_the_vswitch():
    few, many, none = VSwitch("few", 3), VSwitch("many", 50), VSwitch("none", 0)
    assert planned([], 5, vswitches=(few, many)).creations == (Creation("many", 5),)
    assert planned([], 5, vswitches=(few, none)).creations[0] == Creation("few", 3)
    assert planned([], 5, vswitches=(none,)).creations[0] == Creation("none", 1), "the count may be stale"
    assert planned([], 20, vswitches=(VSwitch("x", 12), many)).creations == (Creation("x", 10), Creation("many", 10))


def test_order_of_vswitches():
    few, many, unknown = VSwitch("few", 3), VSwitch("many", 50), VSwitch("unknown")
    assert order_vswitches((few, unknown, many), "most", lambda: 0) == (many, few, unknown)
    assert order_vswitches((few, unknown, many), "ordered", lambda: 0) == (many, few, unknown)
    assert order_vswitches((unknown, VSwitch("other")), "most", lambda: 0) == (unknown, VSwitch("other"))
    draws = iter([0.9, 0.1, 0.5])
    assert order_vswitches((few, unknown, many), "random", lambda: next(draws)) == (unknown, many, few)


# ---- chores


def test_chores_in_order_of_need():
    one = eni("a", 3)
    assert next_chore(one, target=0, growth_blocked=False) is None
    assert next_chore(one, target=5, growth_blocked=False) == Assign(2)
    assert next_chore(one, target=99, growth_blocked=False) == Assign(7)
    assert next_chore(one, target=5, growth_blocked=True) is None
    pending = eni("a", 3, slots=SlotState.PENDING)
    assert next_chore(pending, target=5, growth_blocked=False) == Confirm(tuple(sorted(pending.slots)))


def test_returning_secondaries_are_unassigned_the_primary_stays():
    one = eni("a", 2)
    slots = {item: Slot(slot.ipv4, None, slot.primary, SlotState.RETURNING) for item, slot in one.slots.items()}
    valid = Slot(Ip("10.9.9.9"), state=SlotState.VALID)
    mixed = Eni(**{f: getattr(one, f) for f in one.__struct_fields__} | {"slots": slots | {valid.item: valid}})
    assert next_chore(mixed, target=0, growth_blocked=False) == Unassign((Ip("10.0.97.1"),))
    assert next_chore(mixed, target=2, growth_blocked=False) == Assign(1), "what a pod waits for comes first"


def test_all_returning_means_the_eni_leaves():
    assert next_chore(eni("a", 3, slots=SlotState.RETURNING), target=9, growth_blocked=False) == Leave()
    assert next_chore(eni("a", 3, State.DRAINING, slots=SlotState.RETURNING), target=0, growth_blocked=True) == Leave()
    assert next_chore(eni("a", 3, State.DRAINING), target=9, growth_blocked=False) is None


# ---- whatever the node looks like


STATES = st.sampled_from([s for s in State if s in HOLDS_A_SLOT])


@st.composite
def nodes(draw):
    per_eni = draw(st.integers(1, 30))
    limits = Limits(draw(st.integers(0, 8)), per_eni)
    enis = [
        eni(
            name,
            draw(st.integers(1, per_eni)),
            draw(STATES),
            vswitch=draw(st.sampled_from(["vsw-a", "vsw-b"])),
            most=per_eni,
        )
        for name in "abcdefgh"[: draw(st.integers(0, 8))]
    ]
    blocks = Blocks()
    for subject in draw(st.sets(st.sampled_from(["a", "b", "vsw-a", "vsw-b", CREATION]))):
        blocks.put(subject, until=draw(st.floats(50, 200)), why=f"{subject} is blocked")
    counts = st.none() | st.integers(0, 40)
    vswitches = (VSwitch("vsw-a", draw(counts)), VSwitch("vsw-b", draw(counts)))
    return enis, limits, blocks, vswitches


@given(nodes(), st.integers(0, 300), st.sampled_from(["most_ips", "least_ips"]))
def test_a_plan_never_exceeds_a_limit_and_explains_what_it_does_not_do(node, total, policy):
    enis, limits, blocks, vswitches = node
    decided = planned(enis, total, limits=limits, blocks=blocks, vswitches=vswitches, policy=policy)
    held = sum(one.expected for one in enis)
    gained = sum(decided.targets[one.name] - one.expected for one in enis if one.name in decided.targets)
    bought = sum(creation.initial for creation in decided.creations)
    by_name = {one.name: one for one in enis}

    for name, target in decided.targets.items():
        assert by_name[name].expected < target <= by_name[name].max_slots
        assert by_name[name].grows
    assert gained + bought <= max(0, total - held)
    assert len(enis) + len(decided.creations) <= max(limits.enis, len(enis))
    assert sum(one.state in ON_THE_WAY for one in enis) + len(decided.creations) <= max(
        MOST_CREATIONS, sum(one.state in ON_THE_WAY for one in enis)
    )
    assert all(1 <= creation.initial <= min(BATCH, limits.per_eni) for creation in decided.creations)
    assert (decided.blocked != "") == (decided.short > 0)
    if held + gained + bought < total and not decided.blocked:
        # Something is on its way, and the decision is taken again when it has come.
        assert decided.creations or any(one.state in ON_THE_WAY for one in enis)
