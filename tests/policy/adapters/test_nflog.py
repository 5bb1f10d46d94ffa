"""The beginning of a packet, as nflog hands it over."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.adapters.nflog import Logged, packet

A4, B4 = ip_address("10.0.0.1").packed, ip_address("192.0.2.7").packed
A6, B6 = ip_address("fd00::1").packed, ip_address("fd00::2").packed
EXTENDED = bytes((60, 0)) + b"\0" * 6 + bytes((6, 1)) + b"\0" * 14
"""Hop-by-hop options, and destination options before TCP."""
PORTS = struct.pack("!HH", 40_000, 80)


def four(kind: int, rest: bytes, *, fragment: int = 0, options: bytes = b"") -> bytes:
    first = 0x45 + len(options) // 4
    return struct.pack("!BBHHHBBH", first, 0, 0, 0, fragment, 64, kind, 0) + A4 + B4 + options + rest


def six(kind: int, rest: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(rest), kind, 64) + A6 + B6 + rest


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (four(6, PORTS), ("10.0.0.1", "192.0.2.7", "tcp", 40_000, 80)),
        (four(17, PORTS, options=b"\1" * 8), ("10.0.0.1", "192.0.2.7", "udp", 40_000, 80)),
        (four(6, PORTS, fragment=100), ("10.0.0.1", "192.0.2.7", "tcp", 0, 0)),
        (four(1, b"\x08\0\0\0"), ("10.0.0.1", "192.0.2.7", "icmp", 0, 0)),
        (four(47, b""), ("10.0.0.1", "192.0.2.7", "47", 0, 0)),
        (six(132, PORTS), ("fd00::1", "fd00::2", "sctp", 40_000, 80)),
        (six(0, EXTENDED + PORTS), ("fd00::1", "fd00::2", "tcp", 40_000, 80)),
        (six(6, b"\0"), ("fd00::1", "fd00::2", "tcp", 0, 0)),
    ],
)  # fmt: skip
def test_what_it_tells(data: bytes, expected: tuple[object, ...]) -> None:
    assert packet("p", data) == Logged("p", *expected)  # type: ignore[arg-type]


@given(st.binary(max_size=80))
def test_anything_may_come(data: bytes) -> None:
    found = packet("p", data)
    assert found is None or found.prefix == "p"
