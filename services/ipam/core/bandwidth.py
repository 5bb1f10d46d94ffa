"""Bandwidth limits as pods ask for them (terway.md §9.1): bytes per second, powers of 1024, a unit is required."""

import re
from collections.abc import Mapping

import msgspec

from shared.contracts.ipam import Bandwidth
from shared.errors import Invalid

INGRESS = "k8s.aliyun.com/ingress-bandwidth"
EGRESS = "k8s.aliyun.com/egress-bandwidth"

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:([kmgt])(?:i?b)?|b)", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MOST = 1 << 62
"""More is not a rate, and would not fit the kernel's 64-bit counters."""


class Limits(msgspec.Struct, frozen=True):
    """The limits that could be read, and one sentence for each annotation that could not."""

    bandwidth: Bandwidth
    problems: tuple[str, ...] = ()


def parse_rate(text: str) -> int:
    """Bytes per second from `1m`, `1.5 GB`, `512KiB`; Invalid says what is wrong."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"{text!r} is not a rate: a number and a unit (B, K, M, G or T) are expected, such as 10M")
    number = float(match[1])
    rate = number * 1024 ** _POWERS[(match[2] or "").lower()]
    if not 1 <= rate <= _MOST:
        raise Invalid(f"{text!r} is not a rate: it is not between 1 B and 4 EiB per second")
    return int(rate)


def read(annotations: Mapping[str, str], capability: Bandwidth | None) -> Limits:
    """A pod's limits: what the runtime's bandwidth capability says wins, direction by direction.

    An annotation that cannot be read sets no limit, and the pod starts (terway.md §9.1).
    """
    problems: list[str] = []

    def limit(name: str, wanted: int | None) -> int | None:
        text = annotations.get(name)
        if wanted is not None or text is None:
            return wanted
        try:
            return parse_rate(text)
        except Invalid as error:
            problems.append(f"annotation {name}: {error.message}")
            return None

    capability = capability or Bandwidth()
    bandwidth = Bandwidth(ingress=limit(INGRESS, capability.ingress), egress=limit(EGRESS, capability.egress))
    return Limits(bandwidth, tuple(problems))
