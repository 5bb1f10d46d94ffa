"""Token buckets, one per OpenAPI action (terway.md §6.9): we slow ourselves before the cloud does."""

import asyncio
from collections.abc import Mapping
from typing import Final

PER_MINUTE: Final[Mapping[str, int]] = {
    "DescribeNetworkInterfaces": 800,
    "DescribeNetworkInterfaceAttribute": 2000,
    "DetachNetworkInterface": 400,
    "AssignPrivateIpAddresses": 400,
    "UnassignPrivateIpAddresses": 400,
    "AssignIpv6Addresses": 400,
    "UnassignIpv6Addresses": 400,
    "DescribeInstanceTypes": 400,
    "DescribeVSwitches": 300,
}
DEFAULT_PER_MINUTE: Final = 500
BURST: Final = 10


class Bucket:
    """`rate_s` tokens a second, at most `burst` of them saved. Who comes when it is empty waits its turn."""

    def __init__(self, rate_s: float, burst: int) -> None:
        self._rate, self._burst = rate_s, burst
        self._tokens, self._filled = float(burst), asyncio.get_running_loop().time()

    async def take(self) -> float:
        """Wait for a token; gives the seconds waited."""
        now = asyncio.get_running_loop().time()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate) - 1
        self._filled = now
        wait = max(0.0, -self._tokens / self._rate)
        if wait:
            try:
                await asyncio.sleep(wait)
            except asyncio.CancelledError:
                self._tokens += 1
                raise
        return wait


class Buckets:
    """A bucket per action, made when first asked for; `overrides` is eni_conf's `rate_limit`."""

    def __init__(self, overrides: Mapping[str, int]) -> None:
        self._overrides, self._buckets = overrides, dict[str, Bucket]()

    async def take(self, action: str) -> float:
        """Wait until one call of `action` may be made; gives the seconds waited."""
        bucket = self._buckets.get(action)
        if bucket is None:
            per_minute = self._overrides.get(action) or PER_MINUTE.get(action, DEFAULT_PER_MINUTE)
            bucket = self._buckets[action] = Bucket(per_minute / 60, min(BURST, max(1, per_minute // 60)))
        return await bucket.take()
