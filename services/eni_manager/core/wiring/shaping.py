"""Bandwidth limits as tbf parameters (terway.md §9.2)."""

from math import ceil

from services.eni_manager.core.wiring.values import Shaper

TICKS_PER_SECOND = 15_625_000
"""The kernel's packet scheduler ticks of 64 ns; fixed since Linux 2.6.31."""
QUEUE_S = 0.025
_MOST = (1 << 32) - 1
"""The kernel's fields have 32 bits: rates under 11 bytes or over 170 gigabytes a second are limited by that."""


def shaper(link: str, rate: int | None, mtu: int) -> tuple[Shaper, ...]:
    """The limit of `rate` bytes per second on a link, or nothing when there is none."""
    if not rate:
        return ()
    burst = ceil(max(rate / 1000, mtu + 1500))
    return (
        Shaper(
            link=link,
            rate=rate,
            limit=min(int(rate * QUEUE_S) + burst, _MOST),
            buffer_ticks=min(burst * TICKS_PER_SECOND // rate, _MOST),
        ),
    )
