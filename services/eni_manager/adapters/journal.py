"""The journal: what was meant, what came of it, and what is wired. SQLite, durable before anybody relies on it.

An intent is written with its ClientToken before a cloud call and closed with the facts that the call established, in
one transaction. One that is still open after a crash says that the call may have been made: it is looked up, or made
again with the same token, which the cloud answers as it did the first time.

Attachments are kept here too, so that one transaction decides between "plug this address" and "give this address
back": whichever comes first wins, and the other is refused.
"""

import sqlite3
import uuid
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from services.eni_manager.core.machine import State
from services.eni_manager.core.model import Eni, Fact, SlotState, Wanted, applied
from shared.contracts.ipam import Lease
from shared.errors import Conflict
from shared.model import AttachmentKey, EniId, Ip
from shared.sqlite import Database

MIGRATIONS: Final = (
    """
    CREATE TABLE eni (
        name TEXT PRIMARY KEY, id TEXT UNIQUE, mac TEXT UNIQUE, state TEXT NOT NULL, body TEXT NOT NULL
    ) STRICT;
    CREATE TABLE intent (
        number INTEGER PRIMARY KEY, eni TEXT NOT NULL, action TEXT NOT NULL, token TEXT NOT NULL,
        params TEXT NOT NULL, begun REAL NOT NULL, ended REAL, outcome TEXT
    ) STRICT;
    CREATE UNIQUE INDEX one_open_intent ON intent (eni, action) WHERE ended IS NULL;
    CREATE TABLE attachment (
        network TEXT NOT NULL, container_id TEXT NOT NULL, ifname TEXT NOT NULL,
        ipv4 TEXT, ipv6 TEXT, netns TEXT NOT NULL, mtu INTEGER, lease BLOB NOT NULL,
        PRIMARY KEY (network, container_id, ifname)
    ) STRICT;
    CREATE INDEX attachment_ipv4 ON attachment (ipv4);
    CREATE INDEX attachment_ipv6 ON attachment (ipv6);
    CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    """,
)

KEPT_INTENTS: Final = 500
"""Closed intents that are kept, for people who ask what happened."""


class Intent(msgspec.Struct, frozen=True):
    """A cloud call that is about to be made. `repeated`: it may have been made before."""

    number: int
    eni: str
    action: str
    token: str
    params: dict[str, Any]
    repeated: bool = False


class Wired(msgspec.Struct, frozen=True):
    """An attachment as it was last plugged; `mtu` None: the configured one."""

    lease: Lease
    netns: str
    mtu: int | None = None


class Journal:
    """The open file; an async context manager."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @classmethod
    async def open(cls, path: str | Path) -> Self:
        """Open or create. Refused: written by a newer program, or no database."""
        return cls(await Database.open(path, MIGRATIONS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._db.close()

    # ---- ENIs

    async def load(self) -> dict[str, Eni]:
        """Every ENI as it was last written, by name."""
        return await self._db.read(lambda c: {eni.name: eni for eni in _enis(c)})

    async def record(
        self, facts: Iterable[Fact], *, now: float, ends: Intent | None = None, outcome: str = "ok"
    ) -> None:
        """Write facts and close the intent that brought them, all or nothing."""
        facts = tuple(facts)

        def write(c: sqlite3.Connection) -> None:
            for fact in facts:
                _record(c, fact)
            if ends is not None:
                c.execute("UPDATE intent SET ended = ?, outcome = ? WHERE number = ?", (now, outcome, ends.number))

        await self._db.write(write)

    async def give_back(self, items: Sequence[Ip], *, of: str | None = None) -> tuple[list[Ip], dict[Ip, str]]:
        """Mark items as returning unless an attachment uses them: those marked, and why the others are not.

        An item of no ENI is in the first list: the cloud has it back already. `of`: as items of this ENI only; the
        cloud may have given an address that it took from one of our ENIs to another of them.
        """

        def write(c: sqlite3.Connection) -> tuple[list[Ip], dict[Ip, str]]:
            enis = [eni for eni in _enis(c) if of in (None, eni.name)]
            only = None if of is None else {eni.id for eni in enis}
            users = {item: user for item in items if (user := _user(c, item, only))}
            for eni in enis:
                marked = {
                    item: msgspec.structs.replace(slot, state=SlotState.RETURNING)
                    for item, slot in eni.slots.items()
                    if item in items and item not in users
                }
                if marked:
                    _put(c, msgspec.structs.replace(eni, slots=eni.slots | marked))
            return [item for item in items if item not in users], users

        return await self._db.write(write)

    # ---- intents

    async def begin(self, eni: str, action: str, params: dict[str, Any], *, now: float) -> Intent:
        """The open intent of this ENI and action, with its own parameters, or a new one with these and a new token."""

        def write(c: sqlite3.Connection) -> Intent:
            standing = _open_intent(c, eni, action)
            if standing is not None:
                return standing
            token = str(uuid.uuid4())
            cursor = c.execute(
                "INSERT INTO intent (eni, action, token, params, begun) VALUES (?, ?, ?, ?, ?)",
                (eni, action, token, msgspec.json.encode(params).decode(), now),
            )
            number = cursor.lastrowid
            assert number is not None
            c.execute("DELETE FROM intent WHERE ended IS NOT NULL AND number <= ?", (number - KEPT_INTENTS,))
            return Intent(number, eni, action, token, params)

        return await self._db.write(write)

    async def open_intent(self, eni: str, action: str) -> Intent | None:
        """The intent whose outcome is not known, if there is one."""
        return await self._db.read(lambda c: _open_intent(c, eni, action))

    async def open_intents(self, eni: str) -> list[Intent]:
        """All intents about a subject whose outcome is not known, oldest first."""

        def read(c: sqlite3.Connection) -> list[Intent]:
            rows = c.execute("SELECT action FROM intent WHERE eni = ? AND ended IS NULL ORDER BY number", (eni,))
            return [intent for row in rows if (intent := _open_intent(c, eni, row["action"])) is not None]

        return await self._db.read(read)

    async def recent(self, most: int = 50) -> list[dict[str, Any]]:
        """The latest intents, newest first, for people."""

        def read(c: sqlite3.Connection) -> list[dict[str, Any]]:
            rows = c.execute(
                "SELECT number, eni, action, params, begun, ended, outcome FROM intent ORDER BY number DESC LIMIT ?",
                (most,),
            )
            return [dict(row) for row in rows]

        return await self._db.read(read)

    # ---- attachments

    async def put_attachment(self, lease: Lease, *, netns: str, mtu: int | None = None) -> None:
        """Write down that a sandbox is about to be wired; one of the same key is replaced.

        Conflict: ipam has given the address back, so no sandbox may have it.
        """

        def write(c: sqlite3.Connection) -> None:
            row = c.execute("SELECT body FROM eni WHERE id = ?", (lease.eni_id,)).fetchone()
            if row is not None:
                slots = _eni(row["body"]).slots
                for address in lease.addresses:
                    if address in slots and slots[address].state is SlotState.RETURNING:
                        raise Conflict(f"{address} was given back to the cloud and cannot be used by {lease.pod}")
            c.execute(
                "INSERT OR REPLACE INTO attachment VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*_key(lease.key), lease.ipv4, lease.ipv6, netns, mtu, msgspec.msgpack.encode(lease)),
            )

        await self._db.write(write, outlasts_power=False)  # a power cut ends the sandbox too

    async def drop_attachment(self, key: AttachmentKey) -> bool:
        """Write down that nothing of it is wired any more; False: nothing was written under the key."""

        def write(c: sqlite3.Connection) -> bool:
            where = "network = ? AND container_id = ? AND ifname = ?"
            return c.execute(f"DELETE FROM attachment WHERE {where}", _key(key)).rowcount > 0  # noqa: S608 constant text

        return await self._db.write(write, outlasts_power=False)

    async def attachments(self) -> list[Wired]:
        """Everything that is plugged, or was about to be when we died."""
        return await self._db.read(lambda c: [_wired(row) for row in c.execute("SELECT * FROM attachment")])

    # ---- notes: what is worth remembering over a restart, by name

    async def note(self, name: str, value: bytes) -> None:
        """Keep a JSON text under a name."""
        await self._db.write(lambda c: c.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, value.decode())))

    async def noted(self, name: str) -> bytes | None:
        """What was kept under a name."""
        row = await self._db.read(lambda c: c.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone())
        return None if row is None else str(row["value"]).encode()


def _eni(body: str) -> Eni:
    return msgspec.json.decode(body, type=Eni)


def _enis(c: sqlite3.Connection) -> list[Eni]:
    return [_eni(row["body"]) for row in c.execute("SELECT body FROM eni ORDER BY name")]


def _put(c: sqlite3.Connection, eni: Eni) -> None:
    other = c.execute(
        "SELECT name, id, mac FROM eni WHERE name != ? AND (id = ? OR mac = ?)", (eni.name, eni.id, eni.mac)
    ).fetchone()
    if other is not None:
        same = f"the id {eni.id}" if other["id"] == eni.id else f"the MAC {eni.mac}"
        raise Conflict(
            f"{eni.name} ({eni.id}, {eni.mac}) has {same} of {other['name']} ({other['id']}, {other['mac']}) in the "
            "journal, which is of another cloud or instance, or older than the ENI: stop eni_manager and move its "
            "database away; ENIs that are attached are taken in again"
        )
    c.execute(
        "INSERT INTO eni VALUES (:name, :id, :mac, :state, :body) "
        "ON CONFLICT (name) DO UPDATE SET id = :id, mac = :mac, state = :state, body = :body",
        {
            "name": eni.name,
            "id": eni.id,
            "mac": eni.mac,
            "state": str(eni.state),
            "body": msgspec.json.encode(eni).decode(),
        },
    )


def _record(c: sqlite3.Connection, fact: Fact) -> None:
    """The same as model.apply, on rows."""
    name = fact.eni.name if isinstance(fact, Wanted) else fact.name
    row = c.execute("SELECT body FROM eni WHERE name = ?", (name,)).fetchone()
    match fact:
        case Wanted(eni=eni):
            if row is None:
                _put(c, eni)
        case _ if row is None:
            return
        case _:
            eni = applied(_eni(row["body"]), fact)
            if eni.state is State.GONE:
                c.execute("DELETE FROM eni WHERE name = ?", (name,))
                c.execute("UPDATE intent SET ended = begun, outcome = 'gone' WHERE eni = ? AND ended IS NULL", (name,))
            else:
                _put(c, eni)


def _open_intent(c: sqlite3.Connection, eni: str, action: str) -> Intent | None:
    row = c.execute(
        "SELECT number, token, params FROM intent WHERE eni = ? AND action = ? AND ended IS NULL", (eni, action)
    ).fetchone()
    if row is None:
        return None
    return Intent(row["number"], eni, action, row["token"], msgspec.json.decode(row["params"]), repeated=True)


def _user(c: sqlite3.Connection, item: Ip, enis: Collection[EniId | None] | None) -> str:
    """Who uses an item, of one of `enis` if they are given, in words; empty: nobody."""
    for row in c.execute("SELECT lease FROM attachment WHERE ipv4 = ?1 OR ipv6 = ?1", (item,)):
        lease = msgspec.msgpack.decode(row["lease"], type=Lease)
        if enis is None or lease.eni_id in enis:
            return f"{lease.pod} is attached with it"
    return ""


def _wired(row: sqlite3.Row) -> Wired:
    return Wired(msgspec.msgpack.decode(row["lease"], type=Lease), row["netns"], row["mtu"])


def _key(key: AttachmentKey) -> tuple[str, str, str]:
    return (key.network, key.container_id, key.ifname)
