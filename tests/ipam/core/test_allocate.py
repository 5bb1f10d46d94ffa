from services.ipam.core.allocate import Grant, Refuse, Wait, choose, choose_host_link, held, outlook, shortage
from services.ipam.core.pool import Pool
from shared.errors import Conflict, Exhausted
from shared.model import PodKey, host_link_name
from tests.ipam.world import SUBNET4, eni, grant, inventory, item, key, one_eni, pool_of, release, wish


def test_a_grant_says_everything_about_the_attachment() -> None:
    pool = pool_of(one_eni(2))
    answer = choose(pool, wish("a", pod="web", uid="u1"), 7.0)
    assert isinstance(answer, Grant)
    lease = answer.lease
    assert (lease.key, lease.pod, lease.pod_uid) == (key("a"), PodKey("default", "web"), "u1")
    assert (lease.eni_id, lease.eni_mac, lease.subnet4) == ("eni-1", "00:16:3e:00:00:01", SUBNET4)
    assert (lease.ipv4, lease.ipv6, lease.granted_at) == ("192.168.0.1", None, 7.0)
    assert lease.host_link == host_link_name(lease.pod, "eth0")
    assert pool.holds == {}, "choosing changes nothing"


def test_a_key_that_holds_a_lease() -> None:
    pool = pool_of(one_eni(2))
    assert held(pool, wish("a")) is None
    lease = grant(pool, wish("a"), 0)
    assert held(pool, wish("a")) == lease
    other = held(pool, wish("a", pod="other"))
    assert isinstance(other, Refuse)
    assert isinstance(other.error, Conflict)
    assert "default/pod-a" in other.error.message
    pool.retire(key("a"))
    assert held(pool, wish("a")) is None, "a lease on its way out answers nothing"


def test_a_second_sandbox_of_a_pod_has_a_host_link_of_its_own() -> None:
    pool = pool_of(one_eni(4))
    names = [grant(pool, wish(c, pod="web"), 0).host_link for c in ("a", "b")]
    assert names == [
        host_link_name(PodKey("default", "web"), "eth0"),
        host_link_name(PodKey("default", "web"), "eth0", salt="b"),
    ]
    pool.host_links[host_link_name(PodKey("default", "web"), "eth0", salt="c")] = key("x")
    third = choose_host_link(pool, wish("c", pod="web"))
    assert third == host_link_name(PodKey("default", "web"), "eth0", salt="c1")
    release(pool, key("a"), 0)
    assert choose_host_link(pool, wish("d", pod="web")) == names[0]


def test_waiting_says_why() -> None:
    pool = Pool()
    assert choose(pool, wish("a"), 0) == Wait("eni_manager has not said yet which addresses this node has")
    pool.observe(inventory(synced=False, capacity=0), 0)
    assert choose(pool, wish("a"), 0) == Wait("eni_manager has not compared this node's addresses with the cloud yet")
    pool.observe(inventory(capacity=10), 0)
    assert choose(pool, wish("a"), 0) == Wait(
        "an address has been asked of the cloud and is not there yet: "
        "0 of at most 10 addresses are in use and 0 cool down"
    )
    pool.observe(inventory(capacity=10, blocked="vsw-a has no free address"), 0)
    assert shortage(pool, 0).startswith("vsw-a has no free address (0 of at most 10")
    pool.observe(one_eni(2, capacity=2), 0)
    grant(pool, wish("a"), 0)
    grant(pool, wish("b"), 0)
    release(pool, key("b"), 0)
    assert shortage(pool, 1) == (
        "the node's addresses are exhausted: 1 of at most 2 addresses are in use and 1 cool down"
    )


def test_a_node_without_capacity_refuses() -> None:
    answer = choose(pool_of(inventory(capacity=0)), wish("a"), 0)
    assert isinstance(answer, Refuse)
    assert isinstance(answer.error, Exhausted)
    assert "capacity is 0" in answer.error.message


def test_outlook() -> None:
    pool = pool_of(inventory(synced=False))
    assert "not compared" in outlook(pool, 0, 0)
    pool.observe(inventory(eni(1, item(1), item(2, usable=False)), capacity=2), 0)
    assert outlook(pool, 0, 0) == ""
    assert outlook(pool, 1, 0) == "", "the second address is being made usable"
    assert "exhausted" in outlook(pool, 2, 0)
    pool.observe(inventory(eni(1, item(1), item(2)), capacity=9, blocked="quota"), 0)
    assert outlook(pool, 1, 0) == ""
    grant(pool, wish("a"), 0)
    grant(pool, wish("b"), 0)
    assert outlook(pool, 0, 0).startswith("quota")
    release(pool, key("a"), 0)
    assert outlook(pool, 0, 0) == "", "a cooling address will serve"
    pool.observe(inventory(eni(1, item(1), item(2)), capacity=9), 0)
    assert outlook(pool, 6, 0) == "", "the node may still grow"
