"""The ledger under every interleaving: callers come, share a key, leave, delete, while writes end when they like."""

import asyncio
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ipam.adapters.store import Store
from services.ipam.core.pool import Phase, Pool, Promise, item_id
from services.ipam.driver import Ledger, steady_clock
from shared.contracts.ipam import Lease
from shared.errors import Conflict, Exhausted, SuiteError, Unavailable
from shared.model import AttachmentKey, Ip
from tests.ipam.world import ip, key, one_eni, wish


class Disk:
    """A database whose writes end when the test says so, and which refuses what the real one refuses."""

    def __init__(self) -> None:
        self.leases: dict[AttachmentKey, Lease] = {}
        self.resting: dict[Ip, float] = {}
        self.given_back: set[Ip] = set()
        self.writing: list[asyncio.Future[bool]] = []

    async def _written(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self.writing.append(done)
        if not await done:
            raise Unavailable("the disk is full")

    async def grant(self, lease: Lease, item: Ip, now: float) -> None:
        await self._written()
        assert lease.key not in self.leases
        assert item not in {item_id(other) for other in self.leases.values()}
        assert lease.host_link not in {other.host_link for other in self.leases.values()}
        assert self.resting.get(item, now) <= now
        self.leases[lease.key] = lease

    async def release(self, key: AttachmentKey, item: Ip, until: float, promise: Promise | None = None) -> None:
        await self._written()
        del self.leases[key]
        self.resting[item] = until

    async def mark(self, items: list[Ip], now: float) -> None:
        await self._written()
        self.given_back |= set(items)

    def finish(self, number: int, *, well: bool) -> None:
        if self.writing:
            self.writing.pop(number % len(self.writing)).set_result(well)


async def settle() -> None:
    """Let everything run that can run without the disk."""
    for _ in range(20):
        await asyncio.sleep(0)


Op = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.integers(0, 3)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("write"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("inventory"), st.integers(0, 3)),
)


async def live(ops: list[tuple[str, int]]) -> None:
    disk, pool = Disk(), Pool()
    loop = asyncio.get_running_loop()
    callers: list[asyncio.Task[Lease]] = []
    deletes: list[asyncio.Task[Lease | None]] = []
    async with asyncio.TaskGroup() as tasks:
        ledger = Ledger(pool, cast(Store, disk), steady_clock(0.0, loop), tasks, cooldown_s=0.0, changed=lambda: None)
        for op, number in ops:
            match op:
                case "add":
                    wanted = wish(f"c{number}")
                    callers.append(asyncio.create_task(ledger.acquire(wanted, loop.time() + 1000)))
                case "delete":
                    deletes.append(asyncio.create_task(ledger.release(key(f"c{number}"))))
                case "leave" if callers:
                    callers[number % len(callers)].cancel()
                case "write" | "fail":
                    disk.finish(number, well=op == "write")
                case "inventory":
                    ledger.observe(one_eni(number, capacity=3))
            await settle()
            pool.check()
            durable = {k: hold.lease for k, hold in pool.holds.items() if hold.phase is not Phase.GRANTING}
            assert durable == disk.leases, "memory says leased what the disk does, no more and no less"
            waits = bool(ledger.waiting)
            assert not (waits and pool.idle(ledger.clock())), "somebody waits beside an idle address"
        while disk.writing:
            disk.finish(0, well=True)
            await settle()
        ledger.close("the end")
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        ends = await asyncio.gather(*deletes, return_exceptions=True)
    for outcome in (*outcomes, *ends):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, Unavailable | Conflict | asyncio.CancelledError), outcome
    for waiting in ledger.waiting:
        raise AssertionError(f"{waiting.wish.key} waits for ever")
    pool.check()
    assert {k: hold.lease for k, hold in pool.holds.items()} == disk.leases


@given(st.lists(Op, min_size=12, max_size=40))
@settings(max_examples=250, deadline=None)
def test_any_interleaving(ops: list[tuple[str, int]]) -> None:
    loop = asyncio.new_event_loop()  # not asyncio.run, which takes pytest-asyncio's loop away
    try:
        loop.run_until_complete(live([("inventory", 2), *ops]))
    finally:
        loop.close()


class Desk:
    """A ledger on a held disk with one address, and its clock in the test's hand."""

    def __init__(self, tasks: asyncio.TaskGroup, *, addresses: int = 1) -> None:
        self.disk = Disk()
        self.now = 100.0
        self.ledger = Ledger(
            Pool(), cast(Store, self.disk), lambda: self.now, tasks, cooldown_s=30.0, changed=lambda: None
        )
        self.ledger.observe(one_eni(addresses))

    def add(self, container: str) -> asyncio.Task[Lease]:
        ends = asyncio.get_running_loop().time() + 1000
        return asyncio.create_task(self.ledger.acquire(wish(container), ends))

    async def write(self, *, well: bool = True) -> None:
        await settle()
        assert self.disk.writing
        self.disk.finish(0, well=well)
        await settle()


async def test_a_lease_that_nobody_saw_is_released_at_once() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks)
        adding = desk.add("a")
        await settle()
        adding.cancel()
        await desk.write()
        await desk.write()  # the release
        assert desk.disk.leases == {}
        assert desk.disk.resting == {ip(1): 130.0}
    with pytest.raises(asyncio.CancelledError):
        await adding


async def test_a_second_call_during_the_write_gets_the_same_lease() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks)
        first = desk.add("a")
        await settle()
        second = desk.add("a")
        await desk.write()
        assert await first == await second


async def test_a_delete_during_the_write_ends_the_lease_after_it() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks)
        adding = desk.add("a")
        await settle()
        deleting = asyncio.create_task(desk.ledger.release(key("a")))
        await desk.write()
        lease = await adding
        await desk.write()
        assert await deleting == lease
        assert desk.disk.leases == {}


async def test_a_disk_that_cannot_write_gives_the_address_to_the_next() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks)
        first, second = desk.add("a"), desk.add("b")
        await desk.write(well=False)
        with pytest.raises(Unavailable, match="the disk is full"):
            await first
        await desk.write()
        assert (await second).ipv4 == ip(1)


async def test_a_release_that_cannot_be_written_keeps_the_lease() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks)
        adding = desk.add("a")
        await desk.write()
        lease = await adding
        releasing = asyncio.create_task(desk.ledger.release(key("a")))
        await desk.write(well=False)
        with pytest.raises(Unavailable, match="could not be written"):
            await releasing
        assert desk.ledger.leases() == [lease]
        again = asyncio.create_task(desk.ledger.release(key("a")))
        await desk.write()
        assert await again == lease


async def test_a_mark_that_cannot_be_written_leaves_the_address_to_whoever_waits() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks)
        marking = asyncio.create_task(desk.ledger.mark([ip(1)]))
        await settle()
        adding = desk.add("a")
        await desk.write(well=False)
        with pytest.raises(Unavailable):
            await marking
        await desk.write()
        assert (await adding).ipv4 == ip(1)
        assert desk.disk.given_back == set()


async def test_an_add_during_the_release_of_its_key_gets_a_new_lease() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks, addresses=2)
        adding = desk.add("a")
        await desk.write()
        first = await adding
        releasing = asyncio.create_task(desk.ledger.release(key("a")))
        await settle()
        again = desk.add("a")
        await desk.write()
        assert await releasing == first
        await desk.write()
        assert (await again).ipv4 == ip(2), "the first one rests"


async def test_waiting_ends_in_time() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks, addresses=0)
        with pytest.raises(Exhausted, match="an address has been asked of the cloud"):
            await desk.ledger.acquire(wish("a"), asyncio.get_running_loop().time() + 0.01)
        assert desk.ledger.waiting == []
        assert desk.ledger.tally.exhausted == 1


async def test_nobody_joins_the_line_after_the_end() -> None:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks, addresses=0)
        waiting = desk.add("a")
        await settle()
        desk.ledger.close("the end")
        for late in (waiting, desk.add("b")):
            with pytest.raises(SuiteError, match="the end"):
                await late


async def test_a_disk_that_disagrees_with_memory_ends_the_service() -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.TaskGroup() as tasks:
            desk = Desk(tasks)
            desk.disk.leases[key("a")] = await lease_elsewhere()
            adding = desk.add("a")
            await desk.write()
    assert [type(error) for error in ended.value.exceptions] == [AssertionError]
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding


async def lease_elsewhere() -> Lease:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(tasks)
        adding = desk.add("a")
        await desk.write()
        return await adding
