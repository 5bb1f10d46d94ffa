"""Pairs of addresses, decided without a cloud: who becomes whose partner, what a listing says, what comes first."""

import pytest

from services.eni_manager.core.drift import CloudAddress, CloudEni, judge
from services.eni_manager.core.machine import State
from services.eni_manager.core.model import (
    Eni,
    Ipv6Added,
    Ipv6Dropped,
    Limits,
    Paired,
    Slot,
    SlotState,
    applied,
)
from services.eni_manager.core.placement import (
    Assign,
    AssignIpv6,
    Blocks,
    Confirm,
    Pair,
    Unassign,
    VSwitch,
    ipv6_of,
    next_chore,
    plan,
)
from shared.model import EniId, Ip, Mac

FOUR = [Ip(f"10.0.0.{n}") for n in range(1, 6)]
SIX = [Ip(f"fd00::{n}") for n in range(1, 6)]


def eni(*pairs: tuple[Ip, Ip | None], spare: tuple[Ip, ...] = (), state: SlotState = SlotState.VALID) -> Eni:
    slots = {
        four: Slot(four, six, primary=number == 0, state=state if six else SlotState.PENDING)
        for number, (four, six) in enumerate(pairs)
    }
    return Eni("e", State.READY, "v", 1, 5, EniId("eni-1"), Mac("m"), slots=slots, spare6=spare)


def listed(fours: list[Ip], sixes: list[Ip]) -> CloudEni:
    ipv4 = tuple(CloudAddress(ip, number == 0) for number, ip in enumerate(fours))
    return CloudEni(EniId("eni-1"), Mac("m"), "InUse", instance="i-1", ipv4=ipv4, ipv6=tuple(sixes))


def verdict(of: Eni, seen: CloudEni, doubts: frozenset[str] = frozenset()):
    return judge(of, seen, instance="i-1", doubts=doubts, dual=True)


def chore(of: Eni, *, target: int = 0, pairing_blocked: bool = False, held: tuple[Ip, ...] = ()):
    return next_chore(
        of, target=target, growth_blocked=pairing_blocked, dual=True, pairing_blocked=pairing_blocked, held=held
    )


# ---- what comes first


def test_halves_are_completed_before_more_are_asked_for():
    half = eni((FOUR[0], SIX[0]), (FOUR[1], None), (FOUR[2], None))
    assert chore(half, target=5) == AssignIpv6(2)
    with_spare = applied(half, Ipv6Added("e", (SIX[1],)))
    assert chore(with_spare, target=5) == Pair(((FOUR[1], SIX[1]),))
    paired = applied(with_spare, Paired("e", ((FOUR[1], SIX[1]),)))
    assert paired.spare6 == ()
    assert chore(paired, target=5) == Confirm((FOUR[1],)), "a whole pair does not wait for the others"


def test_without_dual_stack_a_slot_needs_no_partner():
    half = eni((FOUR[0], SIX[0]), (FOUR[1], None))
    assert next_chore(half, target=0, growth_blocked=False) == Confirm((FOUR[1],))


def test_what_cannot_be_completed_now_keeps_nothing_else_up():
    half = eni((FOUR[0], SIX[0]), (FOUR[1], None))
    assert chore(half, pairing_blocked=True) is None
    leaving = applied(half, Ipv6Dropped("e", ()))
    slots = leaving.slots | {FOUR[2]: Slot(FOUR[2], SIX[2], state=SlotState.RETURNING)}
    assert chore(Eni("e", State.READY, "v", 1, 5, slots=slots), pairing_blocked=True) == Unassign((FOUR[2],))
    assert chore(eni((FOUR[0], SIX[0])), target=3) == Assign(2)


def test_a_pod_s_lost_address_is_not_replaced_while_the_pod_lives():
    lost = applied(eni((FOUR[0], SIX[0]), (FOUR[1], SIX[1])), Ipv6Dropped("e", (SIX[1],)))
    assert lost.slots[FOUR[1]] == Slot(FOUR[1], None, state=SlotState.PENDING, lost6=SIX[1])
    assert chore(lost, held=(FOUR[1],)) is None
    assert chore(applied(lost, Ipv6Added("e", (SIX[4],))), held=(FOUR[1],)) is None
    assert chore(lost) == AssignIpv6(1), "its pod has gone"


def test_an_address_that_comes_back_finds_its_own_pair():
    before = eni((FOUR[0], SIX[0]), (FOUR[1], SIX[1]), (FOUR[2], SIX[2]))
    lost = applied(before, Ipv6Dropped("e", (SIX[1], SIX[2])))
    back = applied(lost, Ipv6Added("e", (SIX[2], SIX[1])))
    assert {item: slot.ipv6 for item, slot in back.slots.items()} == {
        item: slot.ipv6 for item, slot in before.slots.items()
    }
    assert back.spare6 == ()
    assert chore(back) == Confirm((FOUR[1], FOUR[2]))


# ---- what a listing says


def test_an_ipv6_address_that_is_missing_twice_makes_a_half_and_never_takes_the_pair_away():
    pair = eni((FOUR[0], SIX[0]), (FOUR[1], SIX[1]))
    seen = listed(FOUR[:2], SIX[:1])
    once = verdict(pair, seen)
    assert (once.facts, once.doubts) == ((), frozenset({SIX[1]}))
    twice = verdict(pair, seen, once.doubts)
    assert twice.facts == (Ipv6Dropped("e", (SIX[1],)),)
    assert twice.taken == ()
    assert twice.notices == (f"has lost IPv6 addresses in the cloud: {SIX[1]}",)
    assert verdict(applied(pair, twice.facts[0]), seen).doubts == frozenset()


def test_an_unknown_ipv6_address_is_taken_in():
    pair = eni((FOUR[0], SIX[0]))
    found = verdict(pair, listed(FOUR[:1], SIX[:2]))
    assert found.facts == (Ipv6Added("e", (SIX[1],)),)
    assert verdict(applied(pair, found.facts[0]), listed(FOUR[:1], SIX[:2])).facts == ()


def test_without_dual_stack_ipv6_addresses_are_nobody_s_business():
    found = judge(eni((FOUR[0], None)), listed(FOUR[:1], SIX), instance="i-1", doubts=frozenset())
    assert found.facts == ()


def test_an_ipv4_address_that_is_lost_takes_its_pair_with_it():
    pair = eni((FOUR[0], SIX[0]), (FOUR[1], SIX[1]))
    seen = listed(FOUR[:1], SIX[:2])
    gone = verdict(pair, seen, frozenset({FOUR[1]}))
    after = applied(pair, gone.facts[0])
    assert after.slots[FOUR[1]].state is SlotState.MISSING
    assert verdict(after, seen).taken == (FOUR[1],)


@pytest.mark.parametrize("sixes", [0, 1, 2, 3])
def test_a_fresh_eni_s_addresses_are_paired_as_far_as_there_are_any(sixes):
    seen = listed(FOUR[:2], SIX[:sixes])
    assert [slot.ipv6 for slot in seen.pairs] == [*SIX[: min(sixes, 2)], *[None] * max(0, 2 - sixes)]
    assert [slot.ipv4 for slot in seen.pairs] == FOUR[:2]


# ---- placement


def test_addresses_that_no_pod_can_be_given_do_not_count_and_their_reason_is_said():
    half, blocks = eni((FOUR[0], SIX[0]), (FOUR[1], None)), Blocks()
    blocks.put(ipv6_of("e"), until=9.0, why="no IPv6 addresses")

    def planned(enis: int):
        return plan(
            [half],
            total=2,
            limits=Limits(enis, 5),
            in_flight={},
            blocks=blocks,
            vswitches=[VSwitch("w")],
            now=1.0,
            stuck={"e": 1},
        )

    assert [creation.vswitch for creation in planned(2).creations] == ["w"], "another ENI serves"
    assert planned(1).targets == {}
    assert planned(1).blocked.startswith("no IPv6 addresses; the node has all 1 ENIs")
    assert planned(1).retry_at == 9.0
