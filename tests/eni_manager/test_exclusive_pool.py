"""Exclusive ENIs as a pool: an ENI is one item, with its primary address, and goes as a whole."""

import functools
import time

import pytest

from shared.model import Mode
from tests.eni_manager.conftest import CloudOfOne, Start, usable


@pytest.fixture
def start_exclusive(start: Start) -> Start:
    return functools.partial(start, mode=Mode.EXCLUSIVE_ENI)


async def test_demand_is_a_number_of_enis(start_exclusive: Start, cloud: CloudOfOne) -> None:
    async with start_exclusive() as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
        assert (seen.mode, seen.capacity, seen.addresses_per_eni) == (Mode.EXCLUSIVE_ENI, 3, 1)
        assert [(len(one.addresses), one.max_addresses, one.addresses[0].primary) for one in seen.enis] == [
            (1, 1, True),
            (1, 1, True),
        ]
        assert [len(one.ipv4) for one in cloud.enis()] == [1, 1], "nothing is assigned that no pod could have"
        await eni.demand(5)
        seen = await eni.until(lambda seen: len(usable(seen)) == 3 and bool(seen.blocked))
        assert "all 3 ENIs that it may have, with 1 addresses each" in seen.blocked
        assert any("can host 3 pods in mode exclusive" in warning for warning in seen.warnings)


async def test_what_is_given_back_is_the_whole_eni(start_exclusive: Start, cloud: CloudOfOne) -> None:
    async with start_exclusive() as eni:
        await eni.demand(3)
        one, *others = usable(await eni.until_usable(3))
        await eni.demand(2)
        assert one.ipv4 is not None
        assert (await eni.give_back(one.ipv4)).accepted == [one.ipv4]
        seen = await eni.until(lambda seen: len(seen.enis) == 2)
        assert {item.ipv4 for item in usable(seen)} == {item.ipv4 for item in others}
        assert len(cloud.enis()) == 2


@pytest.mark.parametrize("stack", ["ipv4", "dual"])
async def test_enis_of_an_earlier_mode_are_kept_and_their_other_addresses_returned(
    stack: str, start: Start, start_exclusive: Start, cloud: CloudOfOne
) -> None:
    async with start(ip_stack=stack) as eni:
        await eni.demand(12)
        await eni.until_usable(12)
    made = {one.id for one in cloud.enis()}
    async with start_exclusive(ip_stack=stack) as eni:
        await eni.demand(3)
        seen = await eni.until_usable(3)
        assert made <= {one.id for one in seen.enis}
        await eni.until(lambda seen: cloud.addresses() == 3)
        assert {one.max_addresses for one in (await eni.inventory()).enis} == {1}
    async with start(ip_stack=stack) as eni:
        await eni.demand(30)
        seen = await eni.until_usable(30)
        assert {one.max_addresses for one in seen.enis} == {10}


async def test_an_address_that_somebody_adds_is_returned(start_exclusive: Start, cloud: CloudOfOne) -> None:
    async with start_exclusive() as eni:
        await eni.demand(1)
        await eni.until_usable(1)
        (made,) = cloud.enis()
        cloud.account.assign_ipv4(made.id, time.time(), count=2)
        assert cloud.addresses() == 3
        seen = await eni.until(lambda seen: cloud.addresses() == 1)
        assert len(usable(seen)) == 1
