"""Bandwidth limits as tbf parameters (terway.md §9.2)."""

from math import ceil

from services.eni_manager.core.wiring.values import Shaper

TICKS_PER_SECOND = 15_625_000
"""The kernel's packet scheduler ticks of 64 ns; fixed since Linux 2.6.31."""
QUEUE_S = 0.025
TIMER_S = 0.004
"""One tick at HZ=250. Terway's bucket lasts 1 ms; a machine whose cores are busy comes later than that to refill it,
and 1 Gbit/s is missed by up to a tenth. The queue is as long as Terway's."""
_MOST = (1 << 32) - 1
"""The kernel's fields have 32 bits: rates under 11 bytes or over 170 gigabytes a second are limited by that."""


def shaper(link: str, rate: int | None, mtu: int) -> tuple[Shaper, ...]:
    """The limit of `rate` bytes per second on a link, or nothing when there is none."""
    if not rate:
        return ()
    least = mtu + 1500
    burst = ceil(max(rate * TIMER_S, least))
    return (
        Shaper(
            link=link,
            rate=rate,
            limit=min(int(rate * QUEUE_S) + ceil(max(rate / 1000, least)), _MOST),
            buffer_ticks=min(burst * TICKS_PER_SECOND // rate, _MOST),
        ),
    )
