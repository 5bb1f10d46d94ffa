"""Addresses and networks as canonical text, which is how Felix's messages carry them.

Text in, text out: the calculation compares and counts members, it never does arithmetic with them. The fast path is a
plain IPv4 address, of which a cluster has a hundred thousand; everything else goes through `ipaddress`.
"""

import ipaddress
import re
from collections.abc import Iterator

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LENGTH = re.compile(r"[0-9]{1,3}", re.ASCII)
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)

HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}
"""The kernel's interval sets cannot hold a /0, so a network set's /0 becomes its two halves."""


def address(text: str) -> str | None:
    """The address in canonical form (an IPv4-mapped IPv6 address is an IPv4 address); None: it is none."""
    if _IPV4.fullmatch(text):
        return text
    parsed = _address(text)
    return None if parsed is None else str(parsed)


def network(text: str, *, bare: bool = True) -> str | None:
    """`address/length`, host bits cleared. A bare address is a /32 or /128 when `bare`. None: it is no network."""
    host, slash, length = text.partition("/")
    if not slash:
        found = address(text) if bare else None
        return None if found is None else full(found)
    parsed = _address(host)
    if parsed is None or not _LENGTH.fullmatch(length) or int(length) > parsed.max_prefixlen:
        return None
    return str(ipaddress.ip_network((parsed, int(length)), strict=False))


def is_strict(text: str) -> bool:
    """Whether `text` is a network with a length and without host bits."""
    host, slash, length = text.partition("/")
    found = network(text)
    return bool(slash) and found is not None and found == f"{address(host)}/{int(length)}"


def full(canonical: str) -> str:
    """The /32 or /128 of a canonical address."""
    return f"{canonical}/128" if ":" in canonical else f"{canonical}/32"


def is_ipv6(canonical: str) -> bool:
    """Whether a canonical address or network is of the sixth version."""
    return ":" in canonical


def split_default(nets: tuple[str, ...]) -> Iterator[str]:
    """The networks, each /0 as two halves."""
    for net in nets:
        if net in HALVES:
            yield from HALVES[net]
        else:
            yield net


def contains(net: str, host: str) -> bool:
    """Whether the canonical network `net` contains the canonical address `host`."""
    return ipaddress.ip_address(host) in ipaddress.ip_network(net)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if "%" in text:  # a zone names an interface: no member of any set
        return None
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
