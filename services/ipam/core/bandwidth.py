"""Bandwidth limits as pods ask for them (terway.md §9.1), in bytes per second. For each direction the first counts of

    the runtime's bandwidth capability      made from the pod's annotations by those runtimes that know it
    kubernetes.io/*-bandwidth               bits per second, a Kubernetes quantity
    k8s.aliyun.com/*-bandwidth              bytes per second, powers of 1024, a unit is required

At the ADD, that is. Later the annotations alone count, but for what the runtime stated without one.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

import msgspec

from shared.contracts.ipam import Bandwidth
from shared.errors import Invalid

INGRESS = "k8s.aliyun.com/ingress-bandwidth"
EGRESS = "k8s.aliyun.com/egress-bandwidth"
STANDARD_INGRESS = "kubernetes.io/ingress-bandwidth"
STANDARD_EGRESS = "kubernetes.io/egress-bandwidth"
ANNOTATIONS = frozenset({INGRESS, EGRESS, STANDARD_INGRESS, STANDARD_EGRESS})

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:([kmgt])(?:i?b)?|b)", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MOST = 1 << 62
"""More is not a rate, and would not fit the kernel's 64-bit counters."""


_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,2}))?", re.ASCII)
_FACTORS = {unit: Decimal(1000) ** power for power, unit in enumerate("num", start=-3)}
_FACTORS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)}
_FACTORS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)}
_SENSIBLE_BITS = (1000, 10**15)
"""Kubernetes itself takes no more and no less for a bandwidth."""


UNLIMITED = Bandwidth()


class Limits(msgspec.Struct, frozen=True):
    """The limits that could be read, and one sentence for each annotation that could not.

    `stated`: what of them the runtime stated and no annotation explains.
    """

    bandwidth: Bandwidth
    stated: Bandwidth = UNLIMITED
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


def parse_quantity(text: str) -> int:
    """Bytes per second from bits per second as Kubernetes writes them: `10M`, `1.5Gi`; Invalid says what is wrong."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise Invalid(f"{text!r} is not a quantity of bits per second, such as 10M")
    factor = Decimal(10) ** int(match[3]) if match[3] else _FACTORS.get(match[2] or "", Decimal(1))
    bits = Decimal(match[1]) * factor
    least, most = _SENSIBLE_BITS
    if not least <= bits <= most:
        raise Invalid(f"{text!r} is not a bandwidth: it is not between 1k and 1P bits per second")
    return int(bits) // 8


def read(annotations: Mapping[str, str], capability: Bandwidth | None, otherwise: Bandwidth = UNLIMITED) -> Limits:
    """A pod's limits. An annotation that cannot be read gives the limit in `otherwise`: the one in force, if any.

    At the ADD there is none in force, and the pod starts without (terway.md §9.1).
    """
    problems: list[str] = []
    capability = capability or UNLIMITED

    def limit(standard: str, own: str, stated: int | None, standing: int | None) -> int | None:
        if stated is not None:
            return stated
        for name, parse in ((standard, parse_quantity), (own, parse_rate)):
            if (text := annotations.get(name)) is not None:
                return _parsed(name, text, parse, standing, problems)
        return None

    return Limits(
        bandwidth=Bandwidth(
            ingress=limit(STANDARD_INGRESS, INGRESS, capability.ingress, otherwise.ingress),
            egress=limit(STANDARD_EGRESS, EGRESS, capability.egress, otherwise.egress),
        ),
        stated=Bandwidth(
            ingress=None if STANDARD_INGRESS in annotations else capability.ingress,
            egress=None if STANDARD_EGRESS in annotations else capability.egress,
        ),
        problems=tuple(problems),
    )


def _parsed(name: str, text: str, parse: Callable[[str], int], standing: int | None, problems: list[str]) -> int | None:
    try:
        return parse(text)
    except Invalid as error:
        problems.append(f"annotation {name}: {error.message}")
        return standing
