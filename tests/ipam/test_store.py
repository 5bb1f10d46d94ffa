import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from services.ipam.adapters.store import Remembered, Store
from shared.contracts.ipam import Lease
from shared.errors import Internal, Refused
from tests.ipam.world import grant, ip, key, one_eni, pool_of, promise, wish

FAR = 1e12


def lease_of(container: str, number: int = 1) -> Lease:
    return grant(pool_of(one_eni(1, first=number)), wish(container), 5.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "ipam.sqlite") as opened:
        yield opened


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ipam.sqlite"
    first, second = lease_of("a"), lease_of("b", 2)
    async with await Store.open(path) as store:
        await store.grant(first, ip(1), 5.0)
        await store.grant(second, ip(2), 5.0)
        await store.release(second.key, ip(2), 35.0)
        await store.mark([ip(3), ip(4)], 6.0)
        await store.unmark([ip(4)], 36.0)
    async with await Store.open(path) as store:
        assert await store.load(FAR) == Remembered([first], {ip(2): 35.0, ip(4): 36.0}, [ip(3)])
        await store.forget([ip(3), ip(2)])
        assert await store.load(FAR) == Remembered([first], {ip(4): 36.0}, [])


async def test_a_rest_that_a_clock_set_back_made_endless_is_shortened(store: Store) -> None:
    held = lease_of("a")
    await store.grant(held, ip(1), 5.0)
    await store.release(held.key, ip(1), 1000.0)
    assert (await store.load(40.0)).resting == {ip(1): 40.0}
    await store.grant(held, ip(1), 40.0)


async def test_promises_and_milestones_survive_a_restart(tmp_path: Path) -> None:
    path, held, kept = tmp_path / "ipam.sqlite", lease_of("a"), promise("pod-a", 300.0)
    async with await Store.open(path) as store:
        await store.grant(held, ip(1), 5.0)
        await store.release(held.key, ip(1), 35.0, kept)
        await store.reach("warmed-up", 6.0)
        await store.reach("warmed-up", 7.0)
    async with await Store.open(path) as store:
        remembered = await store.load(FAR)
        assert remembered == Remembered([], {ip(1): 35.0}, [], {ip(1): kept}, frozenset({"warmed-up"}))
        assert (await store.load(FAR, 100.0)).promises[ip(1)].until == 100.0, "the clock was set back"


async def test_only_its_own_pod_has_an_address_that_rests(store: Store) -> None:
    held, stranger = lease_of("a"), lease_of("b")
    await store.grant(held, ip(1), 5.0)
    await store.release(held.key, ip(1), 35.0, promise("pod-a", 300.0))
    with pytest.raises(Internal, match="still rests"):
        await store.grant(stranger, ip(1), 6.0)
    with pytest.raises(Internal, match="waits for its pod"):
        await store.mark([ip(1)], 6.0)
    await store.grant(held, ip(1), 6.0)
    remembered = await store.load(FAR)
    assert (remembered.resting, remembered.promises) == ({}, {}), "the promise is kept"


@pytest.mark.parametrize(
    "change",
    [
        {},  # the same key
        {"key": key("b"), "host_link": "cali-b"},  # the same address
        {"key": key("b"), "ipv4": ip(9)},  # the same host link
        {"key": key("b"), "host_link": "cali-b", "ipv4": None},  # no address
        {"key": key("b"), "host_link": "cali-b", "ipv4": ip(3)},  # given back
        {"key": key("b"), "host_link": "cali-b", "ipv4": ip(4)},  # still resting
    ],
)
async def test_the_database_refuses_what_must_not_be(store: Store, change: dict[str, object]) -> None:
    first = lease_of("a")
    await store.grant(first, ip(1), 5.0)
    await store.mark([ip(3)], 5.0)
    other = lease_of("z", 4)
    await store.grant(other, ip(4), 5.0)
    await store.release(other.key, ip(4), 35.0)
    wrong = msgspec.structs.replace(first, **change)
    with pytest.raises(Internal, match="the database refuses to lease"):
        await store.grant(wrong, wrong.ipv4 or ip(1), 34.9)
    assert await store.load(FAR) == Remembered([first], {ip(4): 35.0}, [ip(3)])


async def test_the_database_refuses_to_give_back_what_is_leased(store: Store) -> None:
    await store.grant(lease_of("a"), ip(1), 5.0)
    with pytest.raises(Internal, match="the address is leased"):
        await store.mark([ip(2), ip(1)], 6.0)
    assert (await store.load(FAR)).given_back == []


async def test_a_lease_whose_columns_differ_from_it_cannot_be_written(tmp_path: Path, store: Store) -> None:
    await store.grant(lease_of("a"), ip(1), 5.0)
    with closing(sqlite3.connect(tmp_path / "ipam.sqlite")) as other, pytest.raises(sqlite3.IntegrityError):
        other.execute("UPDATE leases SET container_id = 'b'")


async def test_a_lease_that_cannot_be_read_is_said_so(tmp_path: Path, store: Store) -> None:
    await store.grant(lease_of("a"), ip(1), 5.0)
    with closing(sqlite3.connect(tmp_path / "ipam.sqlite")) as other:
        other.execute("UPDATE leases SET lease = json_remove(lease, '$.pod')")
        other.commit()
    with pytest.raises(Internal, match="cannot be read: Object missing required field `pod`"):
        await store.load(FAR)


async def test_a_newer_programs_file_is_refused(tmp_path: Path) -> None:
    async with await Store.open(tmp_path / "ipam.sqlite"):
        pass
    with closing(sqlite3.connect(tmp_path / "ipam.sqlite")) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(Refused, match="too old"):
        await Store.open(tmp_path / "ipam.sqlite")
