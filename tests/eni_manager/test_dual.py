"""Dual stack: pool items are pairs. Asked of the lab's cloud, which knows what each ENI really has."""

import asyncio
import time

import aiohttp
import pytest

from compose.lab.cloud.core.faults import Fault
from compose.lab.cloud.core.layout import Layout
from compose.lab.cloud.core.model import VSwitch
from services.eni_manager.core.capacity import dual_lacks
from services.eni_manager.core.model import InstanceType
from shared.backoff import Backoff
from shared.contracts.eni import DEMAND, Demand

from .conftest import Site, usable

pytestmark = pytest.mark.timeout(60)

WITHOUT = VSwitch("vsw-lab-a", "cn-lab-a", "192.168.0.0/20")
WITH = VSwitch("vsw-lab-c", "cn-lab-a", "192.168.32.0/20", "2408:4005:3cd:1003::/64")
NO_IPV6 = Site(Layout(vswitches=(WITHOUT,)))
ONE_OF_TWO = Site(Layout(vswitches=(WITHOUT, WITH)))
ONE_IPV6_EACH = Site(instance_type="ecs.ebmre7p.32xlarge")


def pairs(seen):
    return {address.ipv4: address.ipv6 for address in usable(seen)}


def agree(cloud, seen):
    """What ipam may give to pods is what the cloud has assigned, in both families and nothing twice."""
    found = pairs(seen)
    assert None not in found.values()
    assert len(set(found.values())) == len(found)
    assert sorted(found) == sorted(ip for eni in cloud.enis() for ip in eni.ipv4)
    assert sorted(found.values()) == sorted(ip for eni in cloud.enis() for ip in eni.ipv6)


async def noticed(eni, what):
    """Wait until /state tells of it."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            async with session.get(f"{eni.http}/state") as answer:
                if what in await answer.text():
                    return
            await asyncio.sleep(0.05)


async def test_pairs_are_made_grown_and_returned_in_both_families(cloud, start):
    async with start(ip_stack="dual") as eni:
        await eni.demand(3)
        agree(cloud, seen := await eni.until_usable(3))
        made = pairs(seen)
        [view] = seen.enis
        assert seen.dual and view.subnet6 is not None

        await eni.demand(12)  # a second call for this ENI, and then another ENI
        seen = await eni.until_usable(12)
        agree(cloud, seen)
        assert made.items() <= pairs(seen).items(), "a pair never changes partners"

        gone = [address.ipv4 for address in usable(seen) if not address.primary][:2]
        await eni.demand(10)
        await eni.give_back(*gone)
        seen = await eni.until(lambda seen: sum(len(one.addresses) for one in seen.enis) == 10)
        agree(cloud, seen)

        await eni.demand(0)
        await eni.give_back(*pairs(seen))
        await eni.until(lambda seen: seen.enis == [])
        assert cloud.enis() == []


async def test_ipv4_alone_asks_for_no_ipv6(cloud, start):
    async with start() as eni:
        await eni.demand(4)
        seen = await eni.until_usable(4)
        assert not seen.dual
        assert [one.ipv6 for one in cloud.enis()] == [[]]
        assert [one.subnet6 for one in seen.enis] == [None]


async def test_a_restart_keeps_the_pairs(cloud, start):
    async with start(ip_stack="dual") as eni:
        await eni.demand(7)
        before = pairs(await eni.until_usable(7))
    async with start(ip_stack="dual") as eni:
        await eni.demand(7)
        assert pairs(await eni.until_usable(7)) == before


async def test_pairs_that_pods_have_outlive_the_journal(cloud, start, tmp_path):
    async with start(ip_stack="dual") as eni:
        await eni.demand(6)
        seen = await eni.until_usable(6)
        there = cloud.enis()[0]
        # Two that go and two that come, in an order in which the cloud's lists are no pairs any more.
        gone = list(pairs(seen))[1:3]
        await eni.demand(4)
        await eni.give_back(*gone)
        await eni.until(lambda seen: sum(len(one.addresses) for one in seen.enis) == 4)
        await eni.demand(6)
        before = pairs(await eni.until_usable(6))
        there.ipv6 = [*reversed(there.ipv6)]
    for file in (tmp_path / "state").glob("eni_manager.sqlite*"):
        file.unlink()
    leased = dict(list(before.items())[2:])
    async with start(ip_stack="dual") as eni:
        await eni.until(lambda seen: seen.synced)
        assert usable(await eni.inventory()) == [], "nothing is paired before ipam has said what pods have"
        await eni.client.call(DEMAND, Demand(6, 0, leased))
        after = pairs(await eni.until_usable(6))
        agree(cloud, await eni.inventory())
        assert {four: after[four] for four in leased} == leased


async def test_addresses_of_a_time_before_become_pairs(cloud, start):
    async with start() as eni:
        await eni.demand(5)
        before = {address.ipv4 for address in usable(await eni.until_usable(5))}
    async with start(ip_stack="dual") as eni:
        await eni.demand(5)
        seen = await eni.until(lambda seen: len([a for a in usable(seen) if a.ipv6]) == 5)
        assert pairs(seen).keys() == before
        agree(cloud, seen)


async def test_a_pair_that_loses_its_ipv6_address_is_a_half_until_it_has_another(cloud, start):
    async with start(ip_stack="dual") as eni:
        await eni.demand(4)
        before = pairs(await eni.until_usable(4))
        item, lost = next(iter(before.items()))
        [there] = cloud.enis()
        cloud.account.unassign_ipv6(there.id, time.time(), [lost])

        seen = await eni.until(lambda seen: len(usable(seen)) == 4 and lost not in pairs(seen).values())
        after = pairs(seen)
        agree(cloud, seen)
        assert after[item] not in (None, lost)
        assert {ip: six for ip, six in after.items() if ip != item} == {
            ip: six for ip, six in before.items() if ip != item
        }


async def test_an_ipv6_address_from_outside_is_known_and_used_by_the_next_pair(cloud, start):
    async with start(ip_stack="dual") as eni:
        await eni.demand(2)
        await eni.until_usable(2)
        [there] = cloud.enis()
        [extra] = cloud.account.assign_ipv6(there.id, time.time(), count=1)
        await noticed(eni, extra)
        await eni.demand(3)
        seen = await eni.until_usable(3)
        agree(cloud, seen)
        assert extra in pairs(seen).values()


@pytest.mark.parametrize("cloud", [NO_IPV6], indirect=True)
async def test_a_vswitch_without_ipv6_is_named_and_nothing_is_bought_in_it(cloud, start):
    async with start(ip_stack="dual") as eni:
        await eni.demand(2, waiting=2)
        seen = await eni.until(lambda seen: bool(seen.blocked))
        assert "vsw-lab-a" in seen.blocked
        assert "no IPv6 range" in seen.blocked
        assert any("vsw-lab-a" in warning for warning in seen.warnings)
        assert cloud.enis() == []


@pytest.mark.parametrize("cloud", [ONE_OF_TWO], indirect=True)
async def test_another_vswitch_with_ipv6_is_taken(cloud, start):
    vswitches = {WITH.zone: [WITHOUT.id, WITH.id]}
    async with start(ip_stack="dual", vswitches=vswitches) as eni:
        await eni.demand(2)
        agree(cloud, await eni.until_usable(2))
        assert {one.vswitch for one in cloud.enis()} == {WITH.id}


@pytest.mark.parametrize("cloud", [ONE_OF_TWO], indirect=True)
async def test_an_eni_in_a_vswitch_without_ipv6_makes_room_for_one_that_serves_pairs(cloud, start):
    async with start(vswitches={WITH.zone: [WITHOUT.id]}) as eni:
        await eni.demand(2)
        await eni.until_usable(2)
    async with start(ip_stack="dual", vswitches={WITH.zone: [WITHOUT.id, WITH.id]}) as eni:
        await eni.demand(2)
        seen = await eni.until(lambda seen: len([a for a in usable(seen) if a.ipv6]) == 2 and len(seen.enis) == 1)
        agree(cloud, seen)
        assert {one.vswitch for one in cloud.enis()} == {WITH.id}


@pytest.mark.parametrize("cloud", [NO_IPV6], indirect=True)
async def test_what_pods_have_in_a_vswitch_without_ipv6_stays(cloud, start):
    async with start() as eni:
        await eni.demand(2)
        await eni.until_usable(2)
        before = [sorted(one.ipv4) for one in cloud.enis()]
    async with start(ip_stack="dual") as eni:
        await eni.demand(2, waiting=1)
        await eni.until(lambda seen: "no IPv6 range" in seen.blocked)
        assert [sorted(one.ipv4) for one in cloud.enis()] == before


@pytest.mark.parametrize("cloud", [ONE_IPV6_EACH], indirect=True)
async def test_a_type_with_fewer_ipv6_addresses_serves_ipv4_alone_and_says_so(cloud, start):
    async with start(ip_stack="dual") as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
        assert not seen.dual
        assert {address.ipv6 for address in usable(seen)} == {None}
        [said] = [warning for warning in seen.warnings if "IPv4 addresses only" in warning]
        assert "and 1 IPv6 addresses, which must be as many" in said


@pytest.mark.parametrize("kind", ["lost_answer", "error"])
@pytest.mark.parametrize("tries", [1, 40])
async def test_lost_answers_and_failures_about_ipv6_leak_and_double_nothing(cloud, start, kind, tries):
    for action in ("AssignIpv6Addresses", "UnassignIpv6Addresses"):
        cloud.cloud.faults.add(Fault(action, kind=kind, times=2))
    async with start({"eni_ip_ops": Backoff(0.01, steps=tries)}, ip_stack="dual") as eni:
        await eni.demand(1)
        await eni.until_usable(1)
        await eni.demand(4)
        agree(cloud, seen := await eni.until_usable(4))
        gone = [address.ipv4 for address in usable(seen) if not address.primary][:2]
        await eni.demand(2)
        await eni.give_back(*gone)
        agree(cloud, await eni.until(lambda seen: sum(len(one.addresses) for one in seen.enis) == 2))


async def test_ipv6_addresses_that_are_refused_hold_up_pods_with_the_reason(cloud, start):
    async with start(ip_stack="dual") as eni:
        await eni.demand(1)
        await eni.until_usable(1)
        cloud.cloud.faults.add(Fault("AssignIpv6Addresses", code="QuotaExceeded.PrivateIpAddress", status=403))
        cloud.cloud.faults.add(Fault("CreateNetworkInterface", code="EniPerInstanceLimitExceeded", status=403))
        await eni.demand(3, waiting=2)
        seen = await eni.until(lambda seen: "QuotaExceeded.PrivateIpAddress" in seen.blocked)
        assert len(usable(seen)) == 1
        assert {None} == {address.ipv6 for address in seen.enis[0].addresses if not address.usable}


@pytest.mark.parametrize(
    ("kind", "lacks"),
    [
        (InstanceType("ecs.g6.large", 2, 6, 6), ""),
        (InstanceType("ecs.old.large", 2, 6, 1), "ecs.old.large: no dual stack: an ENI has 6 IPv4 and 1 IPv6"),
        (InstanceType("ecs.none.large", 2, 6, 0), "6 IPv4 and 0 IPv6"),
        (InstanceType("ecs.tiny", 1, 6, 0), ""),  # it has no ENI at all, which is said elsewhere
    ],
)
def test_what_a_type_lacks_for_pairs(kind, lacks):
    said = dual_lacks(kind)
    assert lacks in said
    assert bool(said) is bool(lacks)


def test_an_exclusive_eni_needs_one():
    assert dual_lacks(InstanceType("ecs.x", 4, 6, 1), exclusive=True) == ""
    assert dual_lacks(InstanceType("ecs.x", 4, 6, 0), exclusive=True) == "ecs.x: its ENIs have no IPv6 addresses"
