"""Durable state: one SQLite file, one writer thread, group commit; never on the event loop.

Writes that arrive while a commit is under way share the next one: a pod pays one fsync, fifty pods at once pay a few.
Each write runs inside a savepoint, so one that fails takes back its own changes and nobody else's.
"""

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

from shared.errors import Refused, Unavailable

T = TypeVar("T")

BATCH: Final = 512
"""Writes per commit at most, so that nobody waits behind an endless stream."""

Outcome = tuple[Any, BaseException | None]


class _Job(NamedTuple):
    fn: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    outlasts_power: bool = True


class Database:
    """One open file. Made by `open`; an async context manager that closes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loop = asyncio.get_running_loop()
        self._batches = _Batches()
        self._writer = _Thread(path, self._loop, self._batches.perform, name=f"{path.stem}-sqlite-writer")
        self._reader = _Thread(path, self._loop, _read_batch, name=f"{path.stem}-sqlite-reader")

    @classmethod
    async def open(cls, path: str | Path, migrations: Sequence[str]) -> Self:
        """Open or create; bring the schema up to date.

        `migrations[n]` is an SQL script that leads from schema version n to n+1; a script never changes once released.
        Refused: the file was written by a newer program, is no database, or cannot be opened.
        """
        database = cls(Path(path))
        try:
            await database._writer.start(lambda connection: database._prepare(connection, migrations))
            await database._reader.start(_query_only)
        except (sqlite3.Error, OSError) as error:
            await database.close()
            raise Refused(f"{path}: {error}") from error
        except BaseException:
            await database.close()
            raise
        return database

    async def write(self, fn: Callable[[sqlite3.Connection], T], *, outlasts_power: bool = True) -> T:
        """Run `fn` in the writer thread and return its result once it is on the disk.

        `outlasts_power` False is for what is about things that a power cut ends too (the kernel's state): it survives
        the death of this process, as everything here does, and does not wait for the disk.

        What `fn` raises is raised here, its changes undone. `fn` cannot begin or commit, and its only effect is on the
        database, since it may be run twice. Unavailable: the commit failed (disk full, I/O error), nothing has
        happened. A write whose caller was cancelled may happen.
        """
        return await self._writer.submit(fn, outlasts_power)  # type: ignore[no-any-return]

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in the reader thread; it cannot write, and sees one moment after every write that has returned."""
        return await self._reader.submit(fn)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Finish what was submitted and close the file. Closing again is free."""
        await self._reader.stop()
        await self._writer.stop()  # last: the last connection to close folds the WAL into the file

    def _prepare(self, connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
        _migrate(connection, migrations, self.path)
        self._batches.setup(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Thread:
    """A thread with its own connection, and the queue of what it is to do."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        perform: Callable[[sqlite3.Connection, list[_Job]], list[Outcome]],
        *,
        name: str,
    ) -> None:
        self._path = path
        self._loop = loop
        self._perform = perform
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._setup: Callable[[sqlite3.Connection], None] = _query_only
        self._opened: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._accepting = False

    async def start(self, setup: Callable[[sqlite3.Connection], None]) -> None:
        self._setup = setup
        self._thread.start()
        await asyncio.shield(self._opened)
        self._accepting = True

    async def submit(self, fn: Callable[[sqlite3.Connection], Any], outlasts_power: bool = True) -> Any:
        if not self._accepting:
            raise Unavailable(f"{self._path} is closed")
        future = self._loop.create_future()
        self._jobs.put(_Job(fn, future, outlasts_power))
        return await future

    async def stop(self) -> None:
        self._accepting = False
        if self._thread.ident is None:  # never started
            return
        self._jobs.put(None)
        await asyncio.shield(self._ended)  # the thread's last word; joining it would block the loop for nothing

    # in the thread

    def _work(self) -> None:
        try:
            connection = _connect(self._path)
        except BaseException as error:
            self._tell(self._opened, None, error)
            self._tell(self._ended, None, None)
            return
        try:
            self._setup(connection)
        except BaseException as error:
            self._tell(self._opened, None, error)
        else:
            self._tell(self._opened, None, None)
            self._serve(connection)
        finally:
            connection.close()
            self._tell(self._ended, None, None)

    def _serve(self, connection: sqlite3.Connection) -> None:
        ending = False
        while not ending:
            batch: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                if not job.future.cancelled():
                    batch.append(job)
                if len(batch) >= BATCH:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            ending = job is None
            if batch:
                self._settle(batch, self._outcomes(connection, batch))

    def _outcomes(self, connection: sqlite3.Connection, batch: list[_Job]) -> list[Outcome]:
        try:
            return self._perform(connection, batch)
        except BaseException as error:  # whatever it is, nobody waits for ever
            return [(None, error)] * len(batch)

    def _settle(self, batch: list[_Job], outcomes: list[Outcome]) -> None:
        def settle() -> None:
            for job, (result, error) in zip(batch, outcomes, strict=True):
                _resolve(job.future, result, error)

        self._loop.call_soon_threadsafe(settle)

    def _tell(self, future: "asyncio.Future[None]", result: None, error: BaseException | None) -> None:
        self._loop.call_soon_threadsafe(_resolve, future, result, error)


def _resolve(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never open and close a file that SQLite has open: POSIX takes away all of the process's locks on it, and the next
    # foreign reader, believing itself alone, deletes the WAL under us.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str], path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # an ENI outlives our power cut, so its record must too
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise Refused(f"{path} has schema version {version}; this program knows up to {len(migrations)}: it is too old")
    for number, script in enumerate(migrations[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _query_only(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")


class _Batches:
    """Performs writes together; keeps each from ending the transaction that it shares."""

    def __init__(self) -> None:
        self._guarded = False

    def setup(self, connection: sqlite3.Connection) -> None:
        # Once and for all: each change of the authorizer makes SQLite prepare all statements anew.
        connection.set_authorizer(self._authorize)

    def perform(self, connection: sqlite3.Connection, batch: list[_Job]) -> list[Outcome]:
        try:
            return self._transaction(connection, batch)
        except BaseException as error:
            if len(batch) > 1:  # one of them brought all down; alone, each fails or succeeds by itself
                return [self.perform(connection, [job])[0] for job in batch]
            failure = Unavailable(f"the database cannot commit: {error}")
            failure.__cause__ = error
            return [(None, failure)]

    def _transaction(self, connection: sqlite3.Connection, batch: list[_Job]) -> list[Outcome]:
        # In WAL mode NORMAL commits without fsync; the next FULL commit takes along all that came before it.
        connection.execute(_FULL if any(job.outlasts_power for job in batch) else _NORMAL)
        connection.execute(_BEGIN)
        try:
            self._guarded = True
            try:
                outcomes = [_in_savepoint(connection, job) for job in batch]
            finally:
                self._guarded = False
            connection.execute(_COMMIT)
        except BaseException:
            if connection.in_transaction:
                connection.execute(_ROLLBACK)
            raise
        return outcomes

    def _authorize(self, action: int, *_: object) -> int:
        """A job's COMMIT would commit its neighbours' halves, and its ROLLBACK lose what they have answered."""
        return sqlite3.SQLITE_DENY if self._guarded and action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


_FULL: Final = "PRAGMA synchronous = FULL"
_NORMAL: Final = "PRAGMA synchronous = NORMAL"
_BEGIN: Final = "BEGIN IMMEDIATE /* of a batch */"
_COMMIT: Final = "COMMIT /* of a batch */"
_ROLLBACK: Final = "ROLLBACK /* of a batch */"
"""Texts that no job uses: a statement that was prepared while it was allowed is kept, and found again by its text."""


def _in_savepoint(connection: sqlite3.Connection, job: _Job) -> Outcome:
    connection.execute("SAVEPOINT job")
    try:
        result = job.fn(connection)
    except Exception as error:
        if not connection.in_transaction:  # the disk is full, say, and SQLite itself has rolled back everything
            raise
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return None, error
    connection.execute("RELEASE job")
    return result, None


def _read_batch(connection: sqlite3.Connection, batch: list[_Job]) -> list[Outcome]:
    return [_in_snapshot(connection, job) for job in batch]


def _in_snapshot(connection: sqlite3.Connection, job: _Job) -> Outcome:
    """All that one `fn` reads is of one moment."""
    connection.execute("BEGIN")
    try:
        return job.fn(connection), None
    except Exception as error:
        return None, error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
