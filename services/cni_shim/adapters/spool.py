"""DELs that had to wait: one file each, written by a shim that found no gateway, or by us for a missing neighbour.

A file is complete or not there (written under another name, then renamed), and stays until its DEL has been done.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

from services.cni_shim import alone
from services.cni_shim.core.frame import BadFrame, Call, note_of, read_call
from services.cni_shim.core.request import Del, parse
from services.cni_shim.core.spec import CniError
from shared import log as logs
from shared.errors import Unavailable

log = logs.get(__name__)

MARGIN_NS: Final = 100_000_000
"""Ten times the coarsest tick that Linux has."""


class Note(NamedTuple):
    """One deferred DEL."""

    path: Path
    request: Del


class Spool:
    """The directory of notes. What may wait for a disk is done in threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[Path, Note] = {}
        self._seen: int | None = None

    @property
    def waiting(self) -> int:
        """How many notes the last look saw, for people."""
        return len(self._known)

    async def leave(self, call: Call) -> None:
        """Keep the DEL of a call's attachment; durable when this returns. Unavailable: it could not be kept."""
        try:
            await asyncio.to_thread(alone.write_note, bytes(self.directory), note_of(call))
        except OSError as error:
            raise Unavailable(f"no note can be left in {self.directory}: {error}") from error

    async def notes(self) -> list[Note]:
        """Every DEL that waits. What cannot be read as one is set aside as `.bad`, since it never will be.

        Unavailable: the directory cannot be read.
        """
        try:
            stamp = self._stamp()
            if stamp is None or stamp != self._seen:
                self._known = await asyncio.to_thread(self._read, self._known)
                self._seen = stamp
        except OSError as error:
            raise Unavailable(f"the spool {self.directory} cannot be read: {error}") from error
        return list(self._known.values())

    def _stamp(self) -> int | None:
        """When something last came or went: one stat on the loop, so that an ADD does not pay for a thread.

        None: so lately that the kernel's clock could give the same stamp to what comes next.
        """
        try:
            changed = os.stat(self.directory).st_mtime_ns
        except FileNotFoundError:
            return 0
        return changed if time.time_ns() - changed > MARGIN_NS else None

    async def holds(self, note: Note) -> bool:
        """Does it still wait?"""
        return await asyncio.to_thread(note.path.exists)

    async def done(self, note: Note) -> None:
        """Forget one."""
        await asyncio.to_thread(note.path.unlink, missing_ok=True)

    def _read(self, known: dict[Path, Note]) -> dict[Path, Note]:
        """A note never changes, so only new names are opened."""
        notes = {}
        try:
            names = [name for name in os.listdir(self.directory) if name.endswith(".del")]
        except FileNotFoundError:
            return {}
        for name in sorted(names):
            path = self.directory / name
            note = known.get(path) or self._read_one(path)
            if note is not None:
                notes[path] = note
        return notes

    def _read_one(self, path: Path) -> Note | None:
        try:
            call = read_call(path.read_bytes())
            if call is None:
                raise BadFrame("it is cut short")
            request = parse(call.env, call.stdin)
            if not isinstance(request, Del):
                raise BadFrame(f"it is no DEL but {type(request).__name__}")
        except FileNotFoundError:
            return None  # done by somebody else meanwhile
        except (BadFrame, CniError) as error:
            log.error("note_unreadable", path=str(path), error=str(error), kept=f"{path.name}.bad")
            path.rename(path.with_name(f"{path.name}.bad"))
            return None
        return Note(path, request)
