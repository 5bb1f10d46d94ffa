"""How often the account may call: token buckets, per action and for all calls together."""

from typing import Annotated

import msgspec
from msgspec import Meta

from compose.lab.cloud.core.errors import CloudError


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`per_minute` calls in the long run, `burst` at once."""

    per_minute: Annotated[float, Meta(gt=0)]
    burst: Annotated[float, Meta(ge=1)] = 10


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None and missing: as often as they like."""

    account: Limit | None = None
    """All calls together; refused with `Throttling`."""
    each_action: Limit | None = None
    """Every action that has no own; refused with `Throttling.User`."""
    actions: dict[str, Limit] = {}


REAL = Limits(
    each_action=Limit(500),
    actions={
        "DescribeNetworkInterfaces": Limit(800),
        "DescribeNetworkInterfaceAttribute": Limit(2000),
        "DescribeVSwitches": Limit(300),
        **dict.fromkeys(
            (
                *("DetachNetworkInterface", "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"),
                *("AssignIpv6Addresses", "UnassignIpv6Addresses", "DescribeInstanceTypes"),
            ),
            Limit(400),
        ),
    },
)
"""What clients limit themselves to (terway.md §6.9); the cloud publishes its own limits per account only."""

LIMITS: dict[str, Limits] = {"none": Limits(), "real": REAL}
"""By name, for the command line."""


class Throttled(CloudError):
    """`retry_after_s`: when the next call would be let through, if nobody else calls."""

    def __init__(self, code: str, message: str, retry_after_s: float) -> None:
        super().__init__(code, message, 400)
        self.retry_after_s = retry_after_s


class _Bucket:
    def __init__(self, limit: Limit, now: float) -> None:
        self._limit, self._tokens, self._seen = limit, limit.burst, now

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0: there is one."""
        rate = self._limit.per_minute / 60
        self._tokens = min(self._limit.burst, self._tokens + max(0.0, now - self._seen) * rate)
        self._seen = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / rate

    def take(self) -> None:
        self._tokens -= 1


class Throttle:
    """Counts the calls of one account."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: dict[str, _Bucket] = {}

    @property
    def limits(self) -> Limits:
        """Those in force; when others are set, all buckets are full again."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets.clear()

    def admit(self, action: str, now: float) -> None:
        """Count this call. Raises Throttled, which costs nothing."""
        limits = self._limits
        mine = self._bucket(action, limits.actions.get(action, limits.each_action), now)
        everybody = self._bucket("", limits.account, now)
        if mine is not None and (wait := mine.wait(now)):
            raise Throttled("Throttling.User", "Request was denied due to user flow control.", wait)
        if everybody is not None and (wait := everybody.wait(now)):
            raise Throttled("Throttling", "Request was denied due to request throttling.", wait)
        for bucket in (mine, everybody):
            if bucket is not None:
                bucket.take()

    def _bucket(self, name: str, limit: Limit | None, now: float) -> _Bucket | None:
        if limit is None:
            return None
        if (bucket := self._buckets.get(name)) is None:
            bucket = self._buckets[name] = _Bucket(limit, now)
        return bucket
