"""What ipam must not forget, in SQLite. The database is the last guard: it refuses what memory should never ask for.

A lease is stored once, as JSON; the columns by which uniqueness is enforced are generated from it and cannot differ.
`resting` keeps when a used address may be used again (and, after that time, how long it has been unused); `promises`
keeps whose it is meanwhile; `given_back` keeps the decision that nobody gets an address any more because it returns to
the cloud; `milestones` keeps what this node has reached once and for all.
"""

import asyncio
import itertools
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from services.ipam.core.pool import Promise
from shared import log as logs
from shared.contracts.ipam import Lease
from shared.crashpoint import crashpoint
from shared.errors import Internal, Refused, Unavailable
from shared.model import AttachmentKey, Ip, PodKey
from shared.sqlite import Database

T = TypeVar("T")

log = logs.get(__name__)

MIGRATIONS: Final = (
    """
    CREATE TABLE leases (
        network      TEXT NOT NULL CHECK (network = json_extract(lease, '$.key.network')),
        container_id TEXT NOT NULL CHECK (container_id = json_extract(lease, '$.key.container_id')),
        ifname       TEXT NOT NULL CHECK (ifname = json_extract(lease, '$.key.ifname')),
        lease        TEXT NOT NULL CHECK (json_valid(lease)),
        host_link    TEXT NOT NULL GENERATED ALWAYS AS (json_extract(lease, '$.host_link')) STORED UNIQUE,
        ipv4         TEXT GENERATED ALWAYS AS (json_extract(lease, '$.ipv4')) STORED UNIQUE,
        ipv6         TEXT GENERATED ALWAYS AS (json_extract(lease, '$.ipv6')) STORED UNIQUE,
        PRIMARY KEY (network, container_id, ifname),
        CHECK (ipv4 IS NOT NULL OR ipv6 IS NOT NULL)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE resting (
        item  TEXT NOT NULL PRIMARY KEY,
        until REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE given_back (
        item  TEXT NOT NULL PRIMARY KEY,
        since REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER a_lease_of_what_was_given_back AFTER INSERT ON leases
        WHEN EXISTS (SELECT 1 FROM given_back WHERE item IN (NEW.ipv4, NEW.ipv6))
        BEGIN SELECT RAISE(ABORT, 'the address was given back'); END;
    CREATE TRIGGER a_lease_of_what_still_rests AFTER INSERT ON leases
        WHEN EXISTS (SELECT 1 FROM resting WHERE item IN (NEW.ipv4, NEW.ipv6))
        BEGIN SELECT RAISE(ABORT, 'the address still rests'); END;
    CREATE TRIGGER giving_back_what_is_leased AFTER INSERT ON given_back
        WHEN EXISTS (SELECT 1 FROM leases WHERE NEW.item IN (ipv4, ipv6))
        BEGIN SELECT RAISE(ABORT, 'the address is leased'); END
    """,
    """
    CREATE TABLE promises (
        item      TEXT NOT NULL PRIMARY KEY,
        namespace TEXT NOT NULL,
        name      TEXT NOT NULL,
        network   TEXT NOT NULL,
        ifname    TEXT NOT NULL,
        until     REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE milestones (
        name TEXT NOT NULL PRIMARY KEY,
        at   REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER giving_back_what_is_promised AFTER INSERT ON given_back
        WHEN EXISTS (SELECT 1 FROM promises WHERE item = NEW.item AND until > NEW.since)
        BEGIN SELECT RAISE(ABORT, 'the address waits for its pod'); END
    """,
)


class Remembered(msgspec.Struct, frozen=True):
    """Everything that was durable when the database was opened."""

    leases: list[Lease]
    resting: dict[Ip, float]
    given_back: list[Ip]
    promises: dict[Ip, Promise] = {}
    milestones: frozenset[str] = frozenset()


class Store:
    """Each method is durable when it returns. Unavailable: nothing has happened (disk full, I/O error)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file. Refused: it is not ours, or a newer program's.

        One that is broken is set aside and begun anew: what is wired says who has which address (services/ipam/owners).
        """
        try:
            database = await Database.open(path, MIGRATIONS)
        except Refused as error:
            if not _broken(error.__cause__):
                raise
            why = error.message
        else:
            if not (why := await database.read(_damage)):
                return cls(database)
            await database.close()
        aside = await asyncio.to_thread(_set_aside, path)
        log.error("database_broken", because=why, kept_as=str(aside))
        return cls(await Database.open(path, MIGRATIONS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._database.close()

    async def load(self, latest: float, latest_promise: float = math.inf) -> Remembered:
        """Everything. Internal: a row cannot be read.

        No rest can end after `latest`, and no promise after `latest_promise`, but one that was written before the clock
        was set back; it is shortened.
        """

        def read(connection: sqlite3.Connection) -> Remembered:
            connection.execute("UPDATE resting SET until = ? WHERE until > ?", (latest, latest))
            connection.execute("UPDATE promises SET until = ? WHERE until > ?", (latest_promise, latest_promise))
            try:
                leases = [msgspec.json.decode(text, type=Lease) for (text,) in connection.execute(_ALL_LEASES)]
            except msgspec.DecodeError as error:
                raise Internal(f"{self._database.path} holds a lease that cannot be read: {error}") from error
            resting = dict(map(tuple, connection.execute("SELECT item, until FROM resting")))
            given_back = [item for (item,) in connection.execute("SELECT item FROM given_back ORDER BY since")]
            promises = {
                item: Promise(PodKey(namespace, name), network, ifname, until)
                for item, namespace, name, network, ifname, until in connection.execute(_ALL_PROMISES)
            }
            milestones = frozenset(name for (name,) in connection.execute("SELECT name FROM milestones"))
            return Remembered(leases, resting, given_back, promises, milestones)

        return await self._database.write(read)

    async def grant(self, lease: Lease, item: Ip, now: float) -> None:
        """A sandbox has this address. Internal: it is in use, given back, or rests at `now` and not for its pod."""
        text = msgspec.json.encode(lease).decode()
        key = lease.key

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_END_REST, (item, now, lease.pod.namespace, lease.pod.name, key.network, key.ifname))
            connection.execute("DELETE FROM promises WHERE item = ?", (item,))
            connection.execute(
                "INSERT INTO leases (network, container_id, ifname, lease) VALUES (?, ?, ?, ?)",
                (key.network, key.container_id, key.ifname, text),
            )
            crashpoint("ipam.acquire.before_commit")

        await self._write(write, f"lease {item} to {lease.pod}", outlasts_power=False)

    async def adopt(self, lease: Lease, item: Ip) -> None:
        """A sandbox has this address already, whatever is written here. Internal: another lease has it."""
        text, key = msgspec.json.encode(lease).decode(), lease.key

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM resting WHERE item = ?", (item,))
            connection.execute("DELETE FROM promises WHERE item = ?", (item,))
            connection.execute("DELETE FROM given_back WHERE item = ?", (item,))
            connection.execute(
                "INSERT INTO leases (network, container_id, ifname, lease) VALUES (?, ?, ?, ?)",
                (key.network, key.container_id, key.ifname, text),
            )
            crashpoint("ipam.adopt.before_commit")

        await self._write(write, f"adopt the lease of {item} to {lease.pod}", outlasts_power=False)

    async def relimit(self, lease: Lease) -> None:
        """The sandbox has other limits."""
        text, key = msgspec.json.encode(lease).decode(), lease.key

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE leases SET lease = ? WHERE network = ? AND container_id = ? AND ifname = ?",
                (text, key.network, key.container_id, key.ifname),
            )
            crashpoint("ipam.limit.before_commit")

        await self._write(write, f"limit {lease.pod}", outlasts_power=False)

    async def release(self, key: AttachmentKey, item: Ip, until: float, promise: Promise | None = None) -> None:
        """The sandbox has it no more; it rests, and waits for its pod where there is a promise."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM leases WHERE network = ? AND container_id = ? AND ifname = ?",
                (key.network, key.container_id, key.ifname),
            )
            connection.execute(_REST, (item, until))
            if promise is not None:
                pod = promise.pod
                row = (item, pod.namespace, pod.name, promise.network, promise.ifname, promise.until)
                connection.execute("INSERT OR REPLACE INTO promises VALUES (?, ?, ?, ?, ?, ?)", row)
            crashpoint("ipam.release.before_commit")

        await self._write(write, f"release {item}", outlasts_power=False)

    async def mark(self, items: Sequence[Ip], now: float) -> None:
        """Nobody gets these any more. Internal: one is leased."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT INTO given_back VALUES (?, ?)", [(item, now) for item in items])
            crashpoint("ipam.give_back.before_mark")

        await self._write(write, f"mark {', '.join(items)} to be given back")

    async def unmark(self, items: Sequence[Ip], until: float) -> None:
        """eni_manager keeps these; they rest."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM given_back WHERE item = ?", [(item,) for item in items])
            connection.executemany(_REST, [(item, until) for item in items])
            crashpoint("ipam.give_back.before_unmark")

        await self._write(write, f"keep {', '.join(items)}")

    async def forget(self, items: Iterable[Ip]) -> None:
        """The cloud has these back."""
        gone = [(item,) for item in items]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM given_back WHERE item = ?", gone)
            connection.executemany("DELETE FROM resting WHERE item = ?", gone)
            connection.executemany("DELETE FROM promises WHERE item = ?", gone)
            crashpoint("ipam.give_back.before_forget")

        await self._write(write, "forget what was given back")

    async def reach(self, milestone: str, now: float) -> None:
        """This node has come so far, and need not again."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR IGNORE INTO milestones VALUES (?, ?)", (milestone, now))

        await self._write(write, f"remember {milestone}")

    async def _write(self, fn: Callable[[sqlite3.Connection], T], doing: str, *, outlasts_power: bool = True) -> T:
        """`outlasts_power` False: about sandboxes, which a power cut ends too; any other death the write survives."""
        try:
            return await self._database.write(fn, outlasts_power=outlasts_power)
        except sqlite3.IntegrityError as error:
            raise Internal(f"the database refuses to {doing}: {error}") from error
        except sqlite3.Error as error:
            raise Unavailable(f"the database cannot {doing}: {error}") from error


def _broken(error: BaseException | None) -> bool:
    """Is the file's content at fault, and not the disk or the rights?"""
    codes = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return isinstance(error, sqlite3.DatabaseError) and (error.sqlite_errorcode & 0xFF) in codes


def _damage(connection: sqlite3.Connection) -> str:
    """What SQLite finds wrong with the file; empty: nothing."""
    try:
        [said] = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if not _broken(error):
            raise
        return str(error)
    return "" if said == "ok" else str(said)


def _set_aside(path: Path) -> Path:
    """Rename the file, and what SQLite keeps beside it, for people; the first free name is taken."""
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.broken-{n}").exists())
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(f"{path.name}.broken-{number}{suffix}"))
    return path.with_name(f"{path.name}.broken-{number}")


_ALL_LEASES: Final = "SELECT lease FROM leases ORDER BY network, container_id, ifname"
_ALL_PROMISES: Final = "SELECT item, namespace, name, network, ifname, until FROM promises"
_END_REST: Final = """
    DELETE FROM resting WHERE item = ?1 AND (until <= ?2 OR EXISTS (
        SELECT 1 FROM promises WHERE item = ?1 AND until > ?2 AND (namespace, name, network, ifname) = (?3, ?4, ?5, ?6)
    ))
"""
_REST: Final = "INSERT INTO resting VALUES (?, ?) ON CONFLICT (item) DO UPDATE SET until = excluded.until"
