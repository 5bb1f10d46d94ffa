"""Waiting for something to become true: never for a time, always for the thing itself, with a limit."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from shared.errors import DeadlineExceeded


async def until(missing: Callable[[], Awaitable[str]], *, what: str, within_s: float, every_s: float = 0.05) -> None:
    """Ask what is missing again and again until the answer is empty.

    DeadlineExceeded after `within_s` names `what` and the last answer.
    """
    limit = time.monotonic() + within_s
    while last := await missing():
        if time.monotonic() >= limit:
            raise DeadlineExceeded(f"{what}: not so after {within_s:g} s: {last}")
        await asyncio.sleep(every_s)
