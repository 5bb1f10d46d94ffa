"""Pods with a name that comes back get the address that they had."""

import msgspec
import pytest

from services.ipam.core.allocate import Grant, Wait, choose
from services.ipam.core.pool import BrokenInvariant, ItemState
from services.ipam.core.sizing import surplus
from services.ipam.core.stickiness import asks_for_it, is_stateful, stateful_kinds
from shared.kube.objects import OwnerReference
from tests.ipam.world import grant, ip, key, one_eni, pool_of, release, wish


@pytest.mark.parametrize(
    ("text", "asked"),
    [("true", True), ("True", True), ("1", True), ("t", True), ("false", False), ("0", False), ("", False)],
)
def test_the_annotation_is_a_bool_as_go_reads_it(text: str, asked: bool) -> None:
    assert asks_for_it({"k8s.aliyun.com/pod-ip-reservation": text}) == (asked, "")


def test_the_annotation_may_be_absent_and_must_not_be_nonsense() -> None:
    assert asks_for_it({}) == (False, "")
    asked, problem = asks_for_it({"k8s.aliyun.com/pod-ip-reservation": "5m"})
    assert not asked
    assert "expected true or false, got '5m'" in problem


def test_owners() -> None:
    kinds = stateful_kinds(["GameServer", " CloneSet "])
    for kind, known in [("StatefulSet", True), ("gameserver", True), ("cloneset", True), ("ReplicaSet", False)]:
        assert is_stateful([OwnerReference(kind=kind, controller=True)], kinds) is known
    assert not is_stateful([OwnerReference(kind="StatefulSet", controller=False)], kinds), (
        "an owner that manages it not"
    )
    assert not is_stateful([], kinds)


def test_a_sticky_pod_gets_its_address_back_before_its_rest_is_over_and_others_do_not() -> None:
    pool = pool_of(one_eni(3, capacity=30))
    had = grant(pool, wish("a", pod="db-0"), 0)
    release(pool, key("a"), 10, sticky_s=300)
    assert pool.state(ip(1), 11) is ItemState.PROMISED
    assert grant(pool, wish("b"), 11).ipv4 == ip(2)
    assert grant(pool, wish("c", pod="db-0"), 12).ipv4 == had.ipv4
    assert pool.promises == {}


def test_another_network_or_interface_of_the_pod_is_not_who_had_it() -> None:
    pool = pool_of(one_eni(3))
    grant(pool, wish("a", pod="db-0"), 0)
    release(pool, key("a"), 0, sticky_s=300)
    assert grant(pool, wish("b", pod="db-0", ifname="net1"), 1).ipv4 != ip(1)


def test_of_two_addresses_that_wait_for_a_pod_it_gets_the_last_one() -> None:
    pool = pool_of(one_eni(3))
    grant(pool, wish("a", pod="db-0"), 0)
    grant(pool, wish("b", pod="db-0"), 0)
    release(pool, key("a"), 1, sticky_s=300)
    release(pool, key("b"), 2, sticky_s=300)
    assert grant(pool, wish("c", pod="db-0"), 3).ipv4 == ip(2)


def test_a_promise_is_broken_only_at_capacity_after_the_rest_and_when_nothing_cools() -> None:
    pool = pool_of(one_eni(2, capacity=3))
    grant(pool, wish("a", pod="db-0"), 0)
    grant(pool, wish("b"), 0)
    release(pool, key("a"), 0, sticky_s=300)
    assert isinstance(choose(pool, wish("c"), 40), Wait), "the node can hold one more: the cloud is asked first"
    pool.observe(one_eni(2, capacity=2), 40)
    release(pool, key("b"), 40)
    assert isinstance(choose(pool, wish("c"), 50), Wait), "b's cools, and will be idle soon"
    assert pool.next_cooled(50) == 70
    assert grant(pool, wish("c"), 70).ipv4 == ip(2)
    assert grant(pool, wish("d"), 71).ipv4 == ip(1), "nothing else will come"
    assert pool.kept_for(wish("x", pod="db-0").pod, key("x"), 72) is None


def test_no_promise_is_broken_before_the_address_has_rested() -> None:
    pool = pool_of(one_eni(1, capacity=1))
    lease = grant(pool, wish("a", pod="db-0"), 0)
    release(pool, key("a"), 0, sticky_s=300)
    waiting = choose(pool, wish("b"), 29)
    assert isinstance(waiting, Wait)
    assert "1 wait for sticky pods" in waiting.reason
    assert pool.next_cooled(29) == 30, "somebody must look again then"
    with pytest.raises(BrokenInvariant):
        pool.reserve(msgspec.structs.replace(lease, key=key("b"), pod=wish("b").pod), 29)
    assert isinstance(choose(pool, wish("b"), 30), Grant)


def test_a_promise_lapses_and_only_then_the_address_may_leave_the_node() -> None:
    pool = pool_of(one_eni(3))
    grant(pool, wish("a", pod="db-0"), 0)
    release(pool, key("a"), 0, sticky_s=300)
    assert ip(1) not in surplus(pool, 3, 299)
    assert pool.next_cooled(100) == 300
    assert pool.state(ip(1), 300) is ItemState.IDLE
    assert ip(1) in surplus(pool, 3, 300)
