"""Waiting for something to become true: never for a time, always for the thing itself, with a limit."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from shared.errors import DeadlineExceeded


async def until(condition: Callable[[], Awaitable[bool]], *, what: str, within_s: float, every_s: float = 0.05) -> None:
    """Ask again and again until the answer is yes; DeadlineExceeded, naming `what`, after `within_s`."""
    limit = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() >= limit:
            raise DeadlineExceeded(f"{what}: not so after {within_s:g} s")
        await asyncio.sleep(every_s)
