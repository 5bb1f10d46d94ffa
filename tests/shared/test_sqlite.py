"""Durable, grouped, apart: what a write returned for is on the disk, and one that fails takes nobody with it."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from blockbuster import BlockingError, blockbuster_ctx

from shared.errors import Conflict, Refused, Unavailable
from shared.sqlite import BATCH, Database

LEASES = "CREATE TABLE leases (address TEXT PRIMARY KEY, pod TEXT NOT NULL) STRICT"


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("shared"):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ipam.sqlite"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with await Database.open(path, [LEASES]) as database:
        yield database


def insert(address: str, pod: str = "a") -> Callable[[sqlite3.Connection], str]:
    def write(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO leases VALUES (?, ?)", (address, pod))
        return address

    return write


def addresses(connection: sqlite3.Connection) -> list[str]:
    return [row["address"] for row in connection.execute("SELECT address FROM leases ORDER BY address")]


def read_by_another(path: Path) -> list[str]:
    """What is in the file, for somebody who does not know us."""
    with closing(sqlite3.connect(path)) as connection:
        return sorted(address for (address,) in connection.execute("SELECT address FROM leases"))


def no_thread_is_left() -> bool:
    for thread in threading.enumerate():
        if "sqlite" in thread.name:
            thread.join(5)
    return not any("sqlite" in thread.name for thread in threading.enumerate())


@asynccontextmanager
async def queue_held(database: Database) -> AsyncIterator[list[str]]:
    """Writes submitted in here wait, and are then performed together; gives the SQL that the writer runs then."""
    entered, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    statements: list[str] = []

    def hold(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(entered.set)
        release.wait(10)
        connection.set_trace_callback(statements.append)

    holding = asyncio.create_task(database.write(hold))
    await entered.wait()
    yield statements
    release.set()
    await holding


def commits(statements: list[str]) -> int:
    return sum(statement.startswith("COMMIT") for statement in statements)


async def test_blockbuster_sees_sqlite_on_the_loop(tmp_path: Path) -> None:
    """So that its silence in all other tests says something."""
    with blockbuster_ctx(), pytest.raises(BlockingError):
        sqlite3.connect(tmp_path / "x").execute("SELECT 1")


async def test_what_a_write_returned_for_is_there_for_all(database: Database, path: Path) -> None:
    assert await database.write(insert("10.0.0.1")) == "10.0.0.1"
    assert await database.read(addresses) == ["10.0.0.1"]
    assert await asyncio.to_thread(read_by_another, path) == ["10.0.0.1"]


async def test_the_disk_is_waited_for(database: Database, path: Path) -> None:
    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    full = 2
    assert await database.write(settings) == ["wal", full, 1]


async def test_the_disk_is_not_waited_for_when_all_of_a_commit_would_end_with_the_power(database: Database) -> None:
    def level(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    normal, full = 1, 2
    assert await database.write(level, outlasts_power=False) == normal
    assert await database.write(level) == full
    together = [database.write(level, outlasts_power=each) for each in (False, True, False)]
    assert (await asyncio.gather(*together))[1] == full, "whoever shares its commit"


async def test_only_the_owner_can_read_it(database: Database, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


WRITER = f"""
import asyncio, sys
from shared.sqlite import Database

async def main():
    database = await Database.open(sys.argv[1], [{LEASES!r}])
    async def put(number):
        await database.write(lambda c: c.execute("INSERT INTO leases VALUES (?, 'a')", (number,)).rowcount)
        print(number, flush=True)
    for start in range(0, 1000000, 10):
        await asyncio.gather(*(put(f"{{number:07}}") for number in range(start, start + 10)))

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_answered(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, os.fspath(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline().strip() for _ in range(200)]
        writer.kill()
        answered += writer.stdout.read().split("\n")[:-1]
    kept = read_by_another(path)
    assert set(answered) <= set(kept)
    assert kept == [f"{number:07}" for number in range(len(kept))], "no hole and no half"


async def test_writes_that_wait_share_a_commit(database: Database) -> None:
    async with queue_held(database) as statements:
        waiting = [asyncio.create_task(database.write(insert(f"{number:02}"))) for number in range(50)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == [f"{number:02}" for number in range(50)]
    assert commits(statements) == 2, "the holder's own, and one for all fifty"


async def test_a_commit_has_bounded_size(database: Database) -> None:
    async with queue_held(database) as statements:
        waiting = [asyncio.create_task(database.write(insert(f"{number:05}"))) for number in range(BATCH + 1)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert commits(statements) == 3


async def test_a_failing_write_is_undone_alone(database: Database) -> None:
    def half_then_fail(connection: sqlite3.Connection) -> None:
        insert("half")(connection)
        raise Conflict("the address belongs to another pod")

    async with queue_held(database) as statements:
        waiting = [
            asyncio.create_task(database.write(write))
            for write in (insert("1"), half_then_fail, insert("2"), insert("1"), insert("3"))
        ]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str, Conflict, str, sqlite3.IntegrityError, str]
    assert await database.read(addresses) == ["1", "2", "3"]
    assert commits(statements) == 2, "and the good ones still shared one"


async def test_a_full_disk_fails_who_does_not_fit(database: Database) -> None:
    """SQLite may roll back everybody then; each is tried again alone."""

    def fill(connection: sqlite3.Connection) -> None:
        insert("fits not", "x" * 10_000_000)(connection)

    def limit(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 100")

    await database.write(limit)
    async with queue_held(database):
        waiting = [asyncio.create_task(database.write(write)) for write in (insert("1"), fill, insert("2"))]
        await asyncio.sleep(0)
    first, full, second = await asyncio.gather(*waiting, return_exceptions=True)
    assert (first, second) == ("1", "2")
    assert "full" in str(full)
    assert await database.read(addresses) == ["1", "2"]


async def test_a_commit_that_fails_is_unavailable_and_fails_alone(path: Path) -> None:
    """A deferred constraint is checked at COMMIT, when all jobs of the batch have run."""
    schema = [LEASES, "CREATE TABLE pods (address TEXT REFERENCES leases DEFERRABLE INITIALLY DEFERRED) STRICT"]

    def orphan(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO pods VALUES ('nowhere')")

    async with await Database.open(path, schema) as database:
        async with queue_held(database):
            waiting = [asyncio.create_task(database.write(write)) for write in (insert("1"), orphan, insert("2"))]
            await asyncio.sleep(0)
        first, broken, second = await asyncio.gather(*waiting, return_exceptions=True)
        assert (first, second) == ("1", "2")
        assert isinstance(broken, Unavailable) and "FOREIGN KEY" in str(broken)
        assert await database.read(addresses) == ["1", "2"]


@pytest.mark.parametrize(
    "meddle",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.execute("COMMIT"),
        lambda connection: connection.execute("BEGIN"),
        lambda connection: connection.executescript("DELETE FROM leases"),
    ],
)
async def test_a_write_cannot_commit_its_neighbours(
    database: Database, meddle: Callable[[sqlite3.Connection], None]
) -> None:
    def write(connection: sqlite3.Connection) -> None:
        insert("mine")(connection)
        meddle(connection)

    async with queue_held(database):
        waiting = [asyncio.create_task(database.write(each)) for each in (insert("1"), write, insert("2"))]
        await asyncio.sleep(0)
    first, refused, second = await asyncio.gather(*waiting, return_exceptions=True)
    assert (first, second) == ("1", "2")
    assert isinstance(refused, sqlite3.Error)
    assert await database.read(addresses) == ["1", "2"]


async def test_reads_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.read(insert("1"))


async def test_a_read_sees_one_moment(database: Database) -> None:
    await database.write(insert("1"))
    loop = asyncio.get_running_loop()

    def twice(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
        before = addresses(connection)
        asyncio.run_coroutine_threadsafe(database.write(insert("2")), loop).result(10)
        return before, addresses(connection)

    assert await database.read(twice) == (["1"], ["1"])
    assert await database.read(addresses) == ["1", "2"]


async def test_reads_do_not_wait_for_writes(database: Database) -> None:
    async with queue_held(database):
        assert await database.read(addresses) == []


async def test_a_read_that_fails_fails_alone(database: Database) -> None:
    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT x FROM nowhere")

    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        await database.read(bad)
    assert await database.read(addresses) == []


async def test_a_cancelled_caller_disturbs_nobody(database: Database) -> None:
    async with queue_held(database):
        waiting = [asyncio.create_task(database.write(insert(str(number)))) for number in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str, asyncio.CancelledError, str]
    assert {"0", "2"} <= set(await database.read(addresses))


async def test_closing_finishes_what_was_submitted(path: Path) -> None:
    database = await Database.open(path, [LEASES])
    async with queue_held(database):
        waiting = [asyncio.create_task(database.write(insert(str(number)))) for number in range(5)]
        await asyncio.sleep(0)
        closing_down = asyncio.create_task(database.close())
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == ["0", "1", "2", "3", "4"]
    await closing_down
    for call in (database.write, database.read):
        with pytest.raises(Unavailable, match=f"{path} is closed"):
            await call(addresses)
    await database.close()
    assert not path.with_name("ipam.sqlite-wal").exists(), "folded into the file"
    assert await asyncio.to_thread(no_thread_is_left)


async def test_reopening_keeps_everything(path: Path) -> None:
    for number in range(3):
        async with await Database.open(path, [LEASES]) as database:
            await database.write(insert(str(number)))
    assert await asyncio.to_thread(read_by_another, path) == ["0", "1", "2"]


async def test_migrations_lead_on_from_where_the_file_is(path: Path) -> None:
    async with await Database.open(path, [LEASES]) as database:
        await database.write(insert("1"))
    more = [LEASES, "ALTER TABLE leases ADD COLUMN node TEXT; UPDATE leases SET node = 'n1'", "CREATE TABLE extra (x)"]
    async with await Database.open(path, more) as database:
        rows = await database.read(lambda connection: connection.execute("SELECT address, node FROM leases").fetchall())
        assert [tuple(row) for row in rows] == [("1", "n1")]
        assert await database.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0]) == 3


async def test_a_migration_happens_wholly_or_not_at_all(path: Path) -> None:
    async with await Database.open(path, [LEASES]):
        pass
    broken = "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1)"
    with pytest.raises(Refused, match="no such table: nowhere"):
        await Database.open(path, [LEASES, broken])
    async with await Database.open(path, [LEASES, "CREATE TABLE half (x)"]) as database:
        assert await database.read(lambda c: c.execute("PRAGMA user_version").fetchone()[0]) == 2


async def test_a_newer_programs_file_is_refused(path: Path) -> None:
    async with await Database.open(path, [LEASES, "CREATE TABLE extra (x)"]):
        pass
    with pytest.raises(Refused, match=r"schema version 2; this program knows up to 1"):
        await Database.open(path, [LEASES])


async def test_what_is_no_database_is_refused_and_kept(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious notes " * 100)
    with pytest.raises(Refused, match="not a database"):
        await Database.open(path, [LEASES])
    assert path.read_text().startswith("precious")


async def test_a_place_that_cannot_hold_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=str(tmp_path)):
        await Database.open(tmp_path / "file" / "x.sqlite", [LEASES])
    assert await asyncio.to_thread(no_thread_is_left)


async def test_another_process_that_reads_takes_nothing_from_us(path: Path, database: Database) -> None:
    """It would delete the WAL when it closes, if we had lost our locks (which are the process's, not the file's)."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(*c.execute('SELECT address FROM leases'))"

    async def read_elsewhere() -> str:
        reading = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script + "; c.close()", str(path), stdout=subprocess.PIPE
        )
        return (await reading.communicate())[0].decode().strip()

    await database.write(insert("10.0.0.1"))
    assert await read_elsewhere() == "('10.0.0.1',)"
    await database.write(insert("10.0.0.2"))
    assert await read_elsewhere() == "('10.0.0.1',) ('10.0.0.2',)"
