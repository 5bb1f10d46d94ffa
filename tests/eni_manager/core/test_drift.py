"""What has happened behind our back, and how sure we must be."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.eni_manager.core.drift import (
    ABSENT,
    CREATOR,
    NODE_TAG,
    CloudAddress,
    CloudEni,
    Owner,
    foreign_attached,
    judge,
    strange_groups,
    strangers,
)
from services.eni_manager.core.machine import Event, State
from services.eni_manager.core.model import Eni, InstanceType, Slot, SlotsAdded, SlotsMarked, SlotState, applied
from services.eni_manager.core.node import Node
from shared.eni_conf import EniConf
from shared.model import EniId, Ip, Mac

HERE = "i-here"
OURS = {**CREATOR, NODE_TAG: HERE}
OWNER = Owner(instance=HERE, tags=OURS, blocked=(("excluded", "true"),))


def listed(*ips, status="InUse", instance=HERE, tags=OURS, name="eni-cni-1", kind="Secondary", eni_id="eni-1"):
    return CloudEni(
        id=EniId(eni_id),
        mac=Mac("00:16:3e:00:00:01"),
        status=status,
        type=kind,
        name=name,
        instance=instance,
        vswitch="vsw-a",
        ipv4=tuple(CloudAddress(Ip(ip), primary=i == 0) for i, ip in enumerate(ips)),
        tags=dict(tags),
    )


def known(*ips, state=State.READY, slots=SlotState.VALID):
    return Eni(
        name="eni-cni-1",
        state=state,
        vswitch="vsw-a",
        initial=1,
        max_slots=10,
        id=EniId("eni-1"),
        mac=Mac("00:16:3e:00:00:01"),
        slots={Ip(ip): Slot(Ip(ip), primary=i == 0, state=slots) for i, ip in enumerate(ips)},
    )


def judged(eni, seen, doubts=frozenset()):
    return judge(eni, seen, instance=HERE, doubts=doubts)


# ---- whose is it?


def test_ours_by_creator_when_attached_here_by_node_tag_when_not():
    assert OWNER.owns(listed("10.0.0.1", tags=CREATOR))
    assert OWNER.owns(listed("10.0.0.1", instance="", status="Available"))
    assert not OWNER.owns(listed("10.0.0.1", instance="", status="Available", tags=CREATOR))
    assert not OWNER.owns(listed("10.0.0.1", instance="i-other"))
    assert not OWNER.owns(listed("10.0.0.1", tags={}))
    assert not OWNER.owns(listed("10.0.0.1", tags={**OURS, "excluded": "true"}))
    assert not OWNER.owns(listed("10.0.0.1", kind="Primary"))


def test_an_eni_without_any_configured_group_is_strange_and_one_with_some_is_not():
    def seen(*groups, **how):
        return msgspec.structs.replace(listed("10.0.0.1", **how), security_groups=groups)

    strange = strange_groups([seen("sg-old", "sg-other")], OWNER, ["sg-new", "sg-2"])
    assert list(strange) == ["eni-1"]
    assert "has sg-old, sg-other, configured are sg-2, sg-new" in strange["eni-1"]
    assert "it has none," in strange_groups([seen()], OWNER, ["sg-new"])["eni-1"]
    for fine in (seen("sg-old", "sg-new"), seen("sg-old", tags={}), seen("sg-old", status="Detaching")):
        assert strange_groups([fine], OWNER, ["sg-new"]) == {}
    assert strange_groups([seen("sg-old")], OWNER, []) == {}, (
        "nothing is configured: the primary ENI's, whatever they are"
    )


def test_what_we_make_passes_our_own_filter():
    conf = EniConf(eni_tag_filter={"team": "net", "stage": "prod"}, eni_tags={"stage": "test", "x": "y"})
    node = Node(HERE, "r", "z", InstanceType("t", 4, 10), ("v",), ("sg",))
    owner = node.owner(conf)
    assert owner.owns(listed("10.0.0.1", tags=owner.tags))
    assert owner.owns(listed("10.0.0.1", tags=owner.tags, instance="", status="Available"))


def test_a_tag_filter_narrows_it():
    filtered = msgspec.structs.replace(OWNER, tag_filter={"pool": "a"})
    assert not filtered.owns(listed("10.0.0.1"))
    assert filtered.owns(listed("10.0.0.1", tags={**OURS, "pool": "a"}))


def test_strangers_are_adopted_or_deleted_by_their_status():
    def found(status, **more):
        return [eni.state for eni in strangers({}, [listed("10.0.0.1", status=status, **more)], OWNER, max_slots=10)]

    assert found("InUse") == [State.REJOINING]
    assert found("Attaching") == [State.ATTACHING]
    assert found("Available", instance="") == [State.DELETING]
    assert found("Detaching") == found("Deleting") == []
    assert found("InUse", tags={}) == []


def test_a_known_eni_is_no_stranger_by_id_or_by_the_name_that_we_gave():
    by_id = {"x": known("10.0.0.1")}
    unborn = msgspec.structs.replace(known(), id=None, mac=None, state=State.WANTED)
    assert strangers(by_id, [listed("10.0.0.1", name="")], OWNER, max_slots=10) == []
    assert strangers({"eni-cni-1": unborn}, [listed("10.0.0.1")], OWNER, max_slots=10) == []


def test_foreign_enis_on_this_instance_are_counted():
    listing = [
        listed("10.0.0.1"),
        listed("10.0.0.2", eni_id="eni-2", tags={}),
        listed("10.0.0.3", eni_id="eni-3", kind="Primary", tags={}),
        listed("10.0.0.4", eni_id="eni-4", kind="Trunk", tags={}),
        listed("10.0.0.5", eni_id="eni-5", tags={}, instance=""),
    ]
    assert foreign_attached({}, listing, OWNER) == 2


# ---- what has become of it?


def test_all_as_believed():
    verdict = judged(known("10.0.0.1", "10.0.0.2"), listed("10.0.0.1", "10.0.0.2"))
    assert verdict == type(verdict)()


def test_an_absence_is_believed_the_second_time():
    first = judged(known("10.0.0.1"), None)
    assert (first.event, first.doubts) == (None, {ABSENT})
    assert judged(known("10.0.0.1"), None, first.doubts).event is Event.LOST
    assert judged(known("10.0.0.1"), listed("10.0.0.1"), first.doubts).doubts == frozenset()


def test_detached_or_attached_elsewhere_is_lost():
    doubts = frozenset({ABSENT})
    assert judged(known("10.0.0.1"), listed("10.0.0.1", status="Available", instance=""), doubts).event is Event.LOST
    assert judged(known("10.0.0.1"), listed("10.0.0.1", instance="i-other"), doubts).event is Event.LOST


def test_a_new_address_is_adopted_at_once():
    verdict = judged(known("10.0.0.1"), listed("10.0.0.1", "10.0.0.9"))
    assert verdict.facts == (SlotsAdded("eni-cni-1", (Slot(Ip("10.0.0.9")),)),)
    assert "10.0.0.9" in verdict.notices[0]


def test_a_lost_address_is_believed_the_second_time_then_taken():
    eni, seen = known("10.0.0.1", "10.0.0.2"), listed("10.0.0.1")
    first = judged(eni, seen)
    assert (first.facts, first.doubts) == ((), {"10.0.0.2"})
    second = judged(eni, seen, first.doubts)
    assert isinstance(second.facts[0], SlotsMarked)
    assert second.facts[0].to is SlotState.MISSING
    assert second.taken == ()
    missing = applied(eni, second.facts[0])
    assert judged(missing, seen).taken == ("10.0.0.2",)
    back = judged(missing, listed("10.0.0.1", "10.0.0.2"))
    assert applied(missing, back.facts[0]).slots[Ip("10.0.0.2")].state is SlotState.PENDING


def test_what_is_being_returned_is_not_missed():
    eni = known("10.0.0.1", slots=SlotState.RETURNING)
    assert judged(eni, listed()).doubts == frozenset()


def test_draining_waits_to_be_found_or_forgotten():
    draining = known("10.0.0.1", state=State.DRAINING)
    assert judged(draining, listed("10.0.0.1")).event is Event.FOUND
    first = judged(draining, None)
    assert (first.taken, first.doubts) == ((), {ABSENT})
    assert judged(draining, None, first.doubts).taken == ("10.0.0.1",)


def test_an_eni_on_its_way_is_its_keepers_business():
    for state in set(State) - {State.READY, State.DRAINING}:
        assert judged(known("10.0.0.1", state=state), None, frozenset({ABSENT})).event is None


IPS = st.sets(st.sampled_from([f"10.0.0.{i}" for i in range(1, 8)]))


@given(believed=IPS, truth=IPS)
def test_two_looks_at_the_same_truth_agree_with_it(believed, truth):
    eni, seen, doubts = known(*sorted(believed)), listed(*sorted(truth)), frozenset()
    for _ in range(2):
        verdict = judged(eni, seen, doubts)
        doubts = verdict.doubts
        for fact in verdict.facts:
            eni = applied(eni, fact)
    live = {item for item, slot in eni.slots.items() if slot.state in (SlotState.VALID, SlotState.PENDING)}
    assert live == truth
    assert not judged(eni, seen, doubts).facts
