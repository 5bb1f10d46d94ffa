"""Pairs in the pool: who is given which, and what is said of a pair that has lost a half."""

import msgspec

from services.ipam.core.allocate import Grant, choose
from services.ipam.core.pool import ItemState
from shared.contracts.eni import EniAddress
from shared.model import Cidr, Ip, Subnet
from tests.ipam.world import eni, grant, inventory, ip, pool_of, wish

SIX = [Ip(f"2001:db8::{number}") for number in range(5)]
SUBNET6 = Subnet(Cidr("2001:db8::/64"), Ip("2001:db8::fffd"))


def pairs(*sixes: Ip | None, dual: bool = True, usable: bool = True):
    addresses = [EniAddress(ip(n), six, usable=usable) for n, six in enumerate(sixes, start=1)]
    view = msgspec.structs.replace(eni(1, *addresses), subnet6=SUBNET6)
    return msgspec.structs.replace(inventory(view), dual=dual)


def test_a_lease_is_of_both_halves() -> None:
    lease = grant(pool_of(pairs(SIX[1])), wish("a"), 0)
    assert lease.addresses == (ip(1), SIX[1])
    assert lease.subnet6 == SUBNET6


def test_without_dual_stack_an_old_pair_gives_ipv4_alone() -> None:
    lease = grant(pool_of(pairs(SIX[1], dual=False)), wish("a"), 0)
    assert (lease.addresses, lease.subnet6) == ((ip(1),), None)


def test_a_half_brings_no_ipv6_subnet() -> None:
    answer = choose(pool_of(pairs(None)), wish("a"), 0)
    assert isinstance(answer, Grant)
    assert (answer.lease.ipv6, answer.lease.subnet6) == (None, None)


def test_the_loss_of_the_ipv6_half_is_a_difference_until_it_is_back() -> None:
    pool = pool_of(pairs(SIX[1]))
    lease = grant(pool, wish("a"), 0)
    for now in (None, SIX[2]):
        pool.observe(pairs(now, usable=False), 1)
        [said] = pool.differences().values()
        assert said == (
            f"{SIX[1]} is leased to {lease.pod} with {ip(1)}, but the cloud has taken it away from {lease.eni_id}"
        )
        assert pool.state(ip(1), 1) is ItemState.LEASED
        pool.check()
    pool.observe(pairs(SIX[1]), 2)
    assert pool.differences() == {}


def test_a_pod_of_a_time_before_dual_stack_is_no_difference() -> None:
    pool = pool_of(pairs(None))
    grant(pool, wish("a"), 0)
    pool.observe(pairs(SIX[1]), 1)
    assert pool.differences() == {}


def test_a_pair_whose_ipv6_half_another_pod_holds_is_given_to_nobody() -> None:
    pool = pool_of(pairs(SIX[1], SIX[2]))
    grant(pool, wish("a"), 0)
    pool.observe(pairs(None, SIX[1]), 1)  # the cloud gave it to another pair
    assert pool.state(ip(2), 1) is ItemState.UNUSABLE
