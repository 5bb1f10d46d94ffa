"""When the node says InsufficientIP."""

from services.ipam.core.pool import Pool
from services.ipam.core.sizing import count
from services.ipam.core.sufficiency import Sufficiency, judge
from tests.ipam.world import grant, inventory, key, one_eni, pool_of, release, wish


def judged(pool: Pool, *, waiting: int = 0, now: float = 1.0) -> Sufficiency | None:
    return judge(pool, count(pool, waiting, now), now)


def test_nothing_is_said_before_it_is_known() -> None:
    assert judged(pool_of(one_eni(2, synced=False))) is None


def test_an_idle_address_is_sufficient_though_the_cloud_refuses_more() -> None:
    assert judged(pool_of(one_eni(1, blocked="vSwitch a has no free addresses"))) == Sufficiency(sufficient=True)


def test_what_the_cloud_refuses_is_the_reason() -> None:
    said = judged(pool_of(inventory(blocked="vSwitch a has no free addresses")))
    assert said == Sufficiency(sufficient=False, message="vSwitch a has no free addresses")
    assert said.reason == "InsufficientIP"


def test_a_full_node_is_an_alarm_only_when_pods_wait_and_nothing_cools() -> None:
    pool = pool_of(one_eni(2, capacity=2))
    for name in "ab":
        grant(pool, wish(name), 0)
    assert judged(pool) == Sufficiency(sufficient=True)
    said = judged(pool, waiting=3)
    assert said is not None
    assert (said.sufficient, said.message) == (False, "3 pods wait, and 2 of 2 addresses are in use")
    release(pool, key("a"), 0)
    assert judged(pool, waiting=3) == Sufficiency(sufficient=True)
