"""Waiting for something to become true: never for a time, always for the thing itself, with a limit.

All limits of the lab are for a machine that runs its own code. TERWAY_LAB_PATIENCE multiplies them where it does not:
a guest that QEMU translates is some fifteen times slower.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from shared.errors import DeadlineExceeded, Invalid

PATIENCE: Final = "TERWAY_LAB_PATIENCE"


def patient(seconds: float) -> float:
    """A limit, as long as it is on this machine. Invalid: the environment's factor is none."""
    given = os.environ.get(PATIENCE, "1")
    try:
        factor = float(given)
    except ValueError:
        factor = 0.0
    if not 1.0 <= factor <= 1000.0:
        raise Invalid(f"{PATIENCE}: expected a number from 1 to 1000, got {given!r}; leave it out for 1")
    return seconds * factor


async def until(missing: Callable[[], Awaitable[str]], *, what: str, within_s: float, every_s: float = 0.05) -> None:
    """Ask what is missing again and again until the answer is empty.

    DeadlineExceeded after `patient(within_s)` names `what` and the last answer.
    """
    within_s = patient(within_s)
    limit = time.monotonic() + within_s
    while last := await missing():
        if time.monotonic() >= limit:
            raise DeadlineExceeded(f"{what}: not so after {within_s:g} s: {last}")
        await asyncio.sleep(every_s * max(1.0, patient(1.0) / 4))  # asking, too, takes longer there
