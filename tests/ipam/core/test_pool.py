import msgspec
import pytest

from services.ipam.core.pool import BrokenInvariant, Hold, ItemState, Mark, Phase, Pool, item_id
from shared.contracts.eni import EniAddress
from shared.model import EniId, Ip
from tests.ipam.world import eni, grant, inventory, ip, item, key, one_eni, pool_of, release, wish


def test_an_item_goes_round_from_idle_to_idle() -> None:
    pool = pool_of(one_eni(1))
    assert pool.state(ip(1), 0) is ItemState.IDLE
    lease = grant(pool, wish("a"), 1.0)
    assert lease.ipv4 == ip(1)
    assert pool.state(ip(1), 1.0) is ItemState.LEASED
    pool.retire(key("a"))
    assert pool.state(ip(1), 2.0) is ItemState.RELEASING
    pool.cool(key("a"), 32.0, 2.0)
    assert pool.state(ip(1), 31.9) is ItemState.COOLING
    assert pool.next_cooled(2.0) == 32.0
    assert pool.state(ip(1), 32.0) is ItemState.IDLE
    assert pool.next_cooled(32.0) is None
    pool.check()
    assert [line.event.split()[0] for line in pool.story(ip(1))] == ["appeared", "leased", "released"]


def test_a_grant_that_was_not_written_leaves_the_item_as_it_was() -> None:
    pool = pool_of(one_eni(1))
    grant(pool, wish("a"), 0)
    release(pool, key("a"), 0)
    lease = grant(pool, wish("b"), 40.0)
    pool.retire(key("b"))
    pool.keep(key("b"))
    assert pool.state(ip(1), 40.0) is ItemState.LEASED
    release(pool, key("b"), 40.0)
    pool.reserve(lease, 80.0)
    assert pool.state(ip(1), 80.0) is ItemState.GRANTING
    pool.abandon(key("b"), 80.0)
    assert pool.state(ip(1), 80.0) is ItemState.IDLE
    assert pool.resting[ip(1)] == 70.0
    pool.check()


def test_idle_items_are_ordered_by_how_long_they_rested() -> None:
    pool = pool_of(one_eni(4))
    for number, now in ((1, 10.0), (2, 5.0)):
        lease = grant(pool, wish(f"{number}"), now)
        assert lease.ipv4 == ip(number)
        pool.retire(lease.key)
    pool.cool(key("1"), 40.0, 10.0)
    pool.cool(key("2"), 35.0, 5.0)
    assert [i.id for i in pool.idle(50.0)] == [ip(3), ip(4), ip(2), ip(1)]
    assert [i.id for i in pool.idle(37.0)] == [ip(3), ip(4), ip(2)]


def test_only_an_idle_item_can_be_reserved_or_marked() -> None:
    pool = pool_of(one_eni(1))
    lease = grant(pool, wish("a"), 0)
    with pytest.raises(BrokenInvariant, match=r"leased, not idle.*appeared"):
        pool.reserve(msgspec.structs.replace(lease, key=key("b")), 0)
    with pytest.raises(BrokenInvariant, match="leased, not idle"):
        pool.mark([ip(1)], 0)


def test_steps_out_of_order_raise() -> None:
    pool = pool_of(one_eni(1))
    with pytest.raises(BrokenInvariant, match="without a lease"):
        pool.retire(key("a"))
    grant(pool, wish("a"), 0)
    with pytest.raises(BrokenInvariant, match="is leased, not granting"):
        pool.commit(key("a"), 0)
    with pytest.raises(BrokenInvariant, match="is leased, not releasing"):
        pool.cool(key("a"), 1, 0)


def test_giving_back_that_the_cloud_confirms() -> None:
    pool = pool_of(one_eni(2))
    pool.mark([ip(2)], 0)
    assert pool.state(ip(2), 0) is ItemState.GIVEN_BACK
    assert pool.departed() == []
    pool.marked([ip(2)], 0)
    pool.accepted([ip(2), ip(77)])
    assert pool.marks == {ip(2): Mark.ACCEPTED}
    pool.observe(one_eni(1, synced=False, generation=2), 1)
    assert pool.departed() == [], "absence from an inventory that is not synced means nothing"
    pool.observe(one_eni(1, generation=3), 2)
    assert pool.departed() == [ip(2)]
    pool.observe(one_eni(2, epoch="e2"), 3)
    assert pool.marks == {ip(2): Mark.MARKED}, "another eni_manager is told again"
    pool.observe(one_eni(1, epoch="e2"), 4)
    assert pool.departed() == [ip(2)]
    pool.forget([ip(2)])
    assert pool.departed() == []
    assert pool.state(ip(2), 2) is ItemState.ABSENT


def test_the_rest_of_an_item_that_left_is_remembered_until_it_is_over() -> None:
    pool = pool_of(one_eni(2))
    grant(pool, wish("a"), 0)
    release(pool, key("a"), 0)
    assert pool.rested_elsewhere(50) == []
    pool.observe(inventory(synced=False), 1)
    assert pool.rested_elsewhere(50) == []
    pool.observe(inventory(), 2)
    assert pool.rested_elsewhere(29) == []
    assert pool.rested_elsewhere(30) == [ip(1)]


def test_giving_back_that_was_not_written() -> None:
    pool = pool_of(one_eni(2))
    pool.mark([ip(2)], 0)
    pool.observe(one_eni(1, generation=2), 1)
    assert pool.departed() == [], "the write is still under way"
    pool.unmark([ip(2)])
    pool.observe(one_eni(2, generation=3), 1)
    assert pool.state(ip(2), 1) is ItemState.IDLE


def test_an_item_that_eni_manager_keeps_rests_first() -> None:
    pool = pool_of(one_eni(2))
    pool.mark([ip(2)], 0)
    pool.marked([ip(2)], 0)
    pool.refused(ip(2), 30.0, 0, why="an attachment uses it")
    assert pool.state(ip(2), 1) is ItemState.COOLING
    assert pool.state(ip(2), 30) is ItemState.IDLE
    assert pool.story(ip(2))[-1].event == "not given back: an attachment uses it"


def test_what_an_unsynced_inventory_does_not_list_is_known_but_not_given() -> None:
    pool = pool_of(inventory(eni(1, item(1)), eni(2, item(2))))
    pool.observe(inventory(eni(1, item(1)), synced=False, epoch="e2"), 1)
    assert pool.state(ip(2), 1) is ItemState.UNUSABLE
    assert pool.state(ip(1), 1) is ItemState.IDLE
    assert EniId("eni-2") in pool.enis
    pool.observe(inventory(eni(1, item(1)), epoch="e2", generation=2), 2)
    assert pool.state(ip(2), 2) is ItemState.ABSENT
    assert EniId("eni-2") not in pool.enis
    assert pool.story(ip(2)) == [], "the story of what is gone is not kept"


def test_a_leased_item_that_vanishes_is_reported_and_stays_leased() -> None:
    pool = pool_of(inventory(eni(1, item(1)), eni(2, item(2))))
    grant(pool, wish("a"), 0)
    grant(pool, wish("b"), 0)
    assert pool.differences() == {}
    pool.observe(inventory(synced=False), 1)
    assert pool.differences() == {}
    pool.observe(inventory(eni(2, item(1))), 2)
    found = pool.differences()
    assert found[key("a")] == "192.168.0.1 is leased to default/pod-a on eni-1, but is on eni-2 now"
    assert found[key("b")] == "192.168.0.2 is leased to default/pod-b, but this node no longer has it"
    assert pool.state(ip(2), 2) is ItemState.LEASED
    assert pool.story(ip(2)), "the story of a held item stays"


def test_unusable_items_and_items_without_addresses() -> None:
    pool = pool_of(inventory(eni(1, item(1, usable=False), EniAddress())))
    assert pool.state(ip(1), 0) is ItemState.UNUSABLE
    assert list(pool.items) == [ip(1)]


def test_an_ipv6_item_is_named_by_its_ipv6_address() -> None:
    pool = pool_of(inventory(eni(1, EniAddress(ipv6=Ip("2001:db8::1")))))
    lease = grant(pool, wish("a"), 0)
    assert lease.addresses == ("2001:db8::1",)
    assert pool.state(Ip("2001:db8::1"), 0) is ItemState.LEASED


def test_an_item_whose_other_family_is_held_is_not_idle() -> None:
    pool = pool_of(inventory(eni(1, EniAddress(ipv4=ip(1), ipv6=Ip("2001:db8::1")))))
    grant(pool, wish("a"), 0)
    pool.observe(inventory(eni(1, EniAddress(ipv4=ip(2), ipv6=Ip("2001:db8::1")))), 1)
    assert pool.state(ip(2), 1) is ItemState.UNUSABLE


def test_restore() -> None:
    lease = grant(pool_of(one_eni(3)), wish("a"), 0)
    pool = Pool()
    pool.restore([lease], {ip(2): 9.0}, [ip(3)], 5.0)
    assert pool.state(ip(1), 5.0) is ItemState.LEASED
    assert pool.state(ip(2), 5.0) is ItemState.ABSENT
    pool.observe(one_eni(3), 5.0)
    assert pool.state(ip(2), 5.0) is ItemState.COOLING
    assert pool.state(ip(3), 5.0) is ItemState.GIVEN_BACK


def test_two_leases_of_one_address_are_refused_at_once() -> None:
    lease = grant(pool_of(one_eni(1)), wish("a"), 0)
    again = {"key": key("b"), "host_link": "caliother"}
    pool = Pool()
    with pytest.raises(BrokenInvariant, match="is held by"):
        pool.restore([lease, msgspec.structs.replace(lease, **again)], {}, [], 0)
    with pytest.raises(BrokenInvariant, match="belongs to"):
        Pool().restore([lease, msgspec.structs.replace(lease, key=key("b"), ipv4=ip(9))], {}, [], 0)
    with pytest.raises(BrokenInvariant, match=r"holds .* already"):
        Pool().restore([lease, lease], {}, [], 0)
    with pytest.raises(BrokenInvariant, match="has no address"):
        item_id(msgspec.structs.replace(lease, ipv4=None))


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda pool: pool.holders.clear(), "held twice, or by nobody"),
        (lambda pool: pool.host_links.clear(), "host link"),
        (lambda pool: pool.marks.update({ip(1): Mark.MARKED}), "given back while held"),
        (lambda pool: pool.resting.update({ip(1): 3.0}), "rests while"),
    ],
)
def test_check_sees_every_corruption(corrupt: object, message: str) -> None:
    pool = pool_of(one_eni(2))
    grant(pool, wish("a"), 0)
    pool.check()
    corrupt(pool)  # type: ignore[operator]
    with pytest.raises(BrokenInvariant, match=message):
        pool.check()


def test_check_sees_a_lease_under_anothers_key() -> None:
    pool = pool_of(one_eni(1))
    lease = grant(pool, wish("a"), 0)
    pool.holds = {key("b"): Hold(lease, Phase.LEASED)}
    pool.holders = {ip(1): key("b")}
    pool.host_links = {lease.host_link: key("b")}
    with pytest.raises(BrokenInvariant, match="another's key"):
        pool.check()


def test_a_leased_address_that_the_cloud_took_is_a_difference() -> None:
    pool = pool_of(one_eni(2))
    held = grant(pool, wish("a"), 0)
    gone = msgspec.structs.replace(item(1, usable=False), gone=True)
    pool.observe(inventory(eni(1, gone, item(2))), 1)
    assert pool.differences() == {
        held.key: f"{ip(1)} is leased to {held.pod}, but the cloud has taken it away from eni-1"
    }


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_an_address_that_another_eni_of_ours_has_now_is_there(order: tuple[int, int]) -> None:
    gone = msgspec.structs.replace(item(1, usable=False), gone=True)
    views = {1: eni(1, gone), 2: eni(2, item(1))}
    pool = pool_of(inventory(*(views[n] for n in order)))
    assert pool.items[ip(1)].eni == "eni-2"
    assert grant(pool, wish("a"), 0).eni_id == "eni-2"
