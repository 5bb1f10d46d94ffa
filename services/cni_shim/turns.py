"""Who may go when: one operation at a time per attachment, different ones at once, GC alone (CNI spec section 3)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import DeadlineExceeded
from shared.model import AttachmentKey


class Turns:
    """All on one event loop. Waiting ends with DeadlineExceeded at `ends`, on the loop's clock."""

    def __init__(self) -> None:
        self._locks: dict[AttachmentKey, asyncio.Lock] = {}
        self._interested: dict[AttachmentKey, int] = {}
        self._gate = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def of(self, key: AttachmentKey, ends: float) -> AsyncIterator[None]:
        """Alone with one attachment."""
        async with _taken(self._gate, ends, "GC"):  # kept only by `alone`
            self._interested[key] = self._interested.get(key, 0) + 1
            self._idle.clear()
        try:
            async with _taken(self._locks.setdefault(key, asyncio.Lock()), ends, f"another call for {key}"):
                yield
        finally:
            self._interested[key] -= 1
            if not self._interested[key]:
                del self._interested[key], self._locks[key]
            if not self._interested:
                self._idle.set()

    @asynccontextmanager
    async def alone(self, ends: float) -> AsyncIterator[None]:
        """Alone with everything: nobody who comes now begins before us, whoever has begun ends first."""
        async with _taken(self._gate, ends, "another GC"):
            try:
                async with asyncio.timeout_at(ends):
                    await self._idle.wait()
            except TimeoutError:
                raise DeadlineExceeded("calls for single attachments still run") from None
            yield


@asynccontextmanager
async def _taken(lock: asyncio.Lock, ends: float, holder: str) -> AsyncIterator[None]:
    if lock.locked():
        try:
            async with asyncio.timeout_at(ends):
                await lock.acquire()
        except TimeoutError:
            raise DeadlineExceeded(f"{holder} still runs") from None
    else:
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()
