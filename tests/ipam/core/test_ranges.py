"""The node's own ranges as pool items: host-local's addresses, and the pool's rules about them."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.ipam.core.allocate import Grant, Refuse, Wait, Wish, choose, shortage
from services.ipam.core.pool import ItemState, Pool
from services.ipam.core.ranges import MOST, expanded, size
from shared.contracts.eni import Inventory, PodRange
from shared.errors import Invalid
from shared.model import AttachmentKey, Cidr, Mode, PodKey


def inventory(*cidrs: str, usable: bool = True, blocked: str = "") -> Inventory:
    ranges = [PodRange(Cidr(cidr), usable) for cidr in cidrs]
    return Inventory("e", 1, bool(ranges), Mode.VPC_ROUTE, 0, [], blocked=blocked, ranges=ranges)


def pool_of(*cidrs: str, **more) -> Pool:
    pool = Pool()
    pool.observe(inventory(*cidrs, **more), 0.0)
    return pool


def wish(number: int) -> Wish:
    return Wish(AttachmentKey("terway", f"c{number}", "eth0"), PodKey("default", f"p{number}"))


def grant(pool: Pool, number: int, now: float):
    found = choose(pool, wish(number), now)
    assert isinstance(found, Grant), found
    pool.reserve(found.lease, now)
    pool.commit(found.lease.key, now)
    return found.lease


def test_network_gateway_and_broadcast_are_nobodys():
    [eni] = expanded(inventory("10.244.1.0/29")).enis
    assert [one.ipv4 for one in eni.addresses] == [f"10.244.1.{n}" for n in (2, 3, 4, 5, 6)]
    assert (eni.id, eni.mac, eni.subnet4.gateway, eni.subnet6) == ("", "", "10.244.1.1", None)


@pytest.mark.parametrize(
    ("cidr", "count"),
    [
        *(("10.0.0.0/24", 253), ("10.0.0.0/30", 1), ("10.0.0.0/31", 0), ("10.0.0.1/32", 0), ("fd00::/126", 2)),
        *(("10.0.0.0/8", MOST), ("fd00::/64", MOST), ("10.0.0.0/20", 4093)),
    ],
)
def test_capacity_is_the_ranges_size(cidr, count):
    assert size(Cidr(cidr)) == count
    assert expanded(inventory(cidr)).capacity == count


def test_with_two_ranges_an_item_is_a_pair_and_the_smaller_one_counts():
    found = expanded(inventory("10.0.0.0/29", "fd00::/64"))
    assert found.capacity == 5
    assert [(one.ipv4, one.ipv6) for one in found.enis[0].addresses][:2] == [
        ("10.0.0.2", "fd00::2"),
        ("10.0.0.3", "fd00::3"),
    ]
    lease = grant(pool_of("10.0.0.0/29", "fd00::/64"), 1, 0.0)
    assert lease.addresses == ("10.0.0.2", "fd00::2") and lease.subnet6.gateway == "fd00::1"


def test_other_modes_have_the_clouds_addresses():
    given_ = replace(inventory("10.0.0.0/24"), mode=Mode.SHARED_VETH, capacity=7)
    assert expanded(given_) is given_


def test_a_range_that_is_none_is_named():
    with pytest.raises(Invalid, match=r"'10\.0\.0\.1/24'"):
        expanded(inventory("10.0.0.1/24"))


def test_while_the_vpc_does_not_route_it_nobody_gets_an_address_and_is_told_why():
    pool = pool_of("10.0.0.0/24", usable=False, blocked="the route table is full")
    found = choose(pool, wish(1), 0.0)
    assert isinstance(found, Wait) and "the route table is full" in found.reason
    pool.observe(inventory(blocked="node n1 has no spec.podCIDR"), 1.0)
    assert shortage(pool, 1.0) == "node n1 has no spec.podCIDR"


def test_a_range_without_room_for_a_pod_refuses():
    assert isinstance(choose(pool_of("10.0.0.0/31"), wish(1), 0.0), Refuse)


def test_all_others_come_before_an_address_that_was_used():
    pool, given_ = pool_of("10.0.0.0/28"), []
    for number in range(30):
        lease = grant(pool, number, float(number))
        given_.append(lease.ipv4)
        pool.retire(lease.key)
        pool.cool(lease.key, number + 1.0, float(number))
        pool.check()
    assert given_[:13] == [f"10.0.0.{n}" for n in range(2, 15)]
    assert given_[13:26] == given_[:13], "round and round, as host-local does"


def test_pods_keep_their_addresses_when_the_node_gets_another_range():
    pool = pool_of("10.0.0.0/24")
    lease = grant(pool, 1, 0.0)
    pool.observe(inventory("10.9.0.0/24"), 1.0)
    assert "this node no longer has it" in pool.differences()[lease.key]
    assert grant(pool, 2, 1.0).ipv4 == "10.9.0.2"
    pool.observe(inventory("10.9.0.0/24", "fd00::/64"), 1.0)
    pool.check()


@settings(deadline=None)
@given(
    st.integers(26, 30),
    st.lists(st.one_of(st.integers(0, 80), st.sampled_from(["restart", "later"])), max_size=60),
)
def test_no_address_is_given_twice_nor_before_it_has_rested(prefix, steps):
    """`restart`: another eni_manager shows the same range; a number: that pod comes, or goes if it is there."""
    cidr = f"10.244.3.64/{prefix}"
    pool, now, rest, rested = pool_of(cidr), 0.0, 10.0, {}
    for step in steps:
        now += 1.0
        if step == "restart":
            pool.observe(replace(inventory(cidr), epoch=f"e{now}"), now)
        elif step == "later":
            now += 10.0
        elif (key := wish(step).key) in pool.holds:
            lease = pool.retire(key)
            pool.cool(key, now + rest, now)
            rested[lease.ipv4] = now + rest
        else:
            found = choose(pool, wish(step), now)
            if isinstance(found, Grant):
                address = found.lease.ipv4
                assert ip_address(address) in ip_network(cidr) and rested.get(address, 0.0) <= now
                pool.reserve(found.lease, now)
                pool.commit(key, now)
            else:
                assert not any(pool.state(item, now) is ItemState.IDLE for item in pool.items)
        pool.check()
