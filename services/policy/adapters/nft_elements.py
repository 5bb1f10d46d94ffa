"""Elements of sets: nft's text to the kernel's bytes. Pure.

An element is one item on the wire, but in an interval set of single keys two: where it begins, and, marked as an end,
the first key behind it. Two elements are the same when their items are, however they are written.
"""

import socket
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from services.policy.adapters.nfnetlink_wire import be32, mapping, nested, number, signed
from services.policy.core.nft.model import Element, Set
from shared.netlink import attribute, attributes, string

TABLE, SET, ELEMENTS, SET_ID = 1, 2, 3, 4
LIST_ELEMENT: Final = 1
_KEY, _DATA, _FLAGS, _KEY_END = 1, 2, 3, 10
_VALUE, _VERDICT = 1, 2
_CODE, _CHAIN = 1, 2
_END: Final = 1
"""NFT_SET_ELEM_INTERVAL_END"""

LENGTHS: Final = {"ipv4_addr": 4, "ipv6_addr": 16, "inet_proto": 1, "inet_service": 2, "ifname": 16, "mark": 4}
"""Bytes of a key's parts."""
PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "udplite": 136}
VERDICTS: Final = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
_VERDICT_NAMES: Final = {code: name for name, code in VERDICTS.items()}

CHUNK: Final = 60_000
"""Bytes of items in a message; an attribute ends at 65,535."""


class Item(NamedTuple):
    """One item, in the kernel's terms. `verdict` is nft's text of a map's data."""

    key: bytes
    end: bool = False
    key_end: bytes = b""
    verdict: str = ""


def items(one: Set, elements: Iterable[Element]) -> Iterator[Item]:
    """The items of a set's elements. ValueError: one is not of the set's type."""
    parts = one.key.split(" . ")
    plain = parts == ["ipv4_addr"] and not one.flags and one.data is None
    for element in elements:
        if plain and isinstance(element, str):  # nearly all there are
            yield Item(socket.inet_pton(socket.AF_INET, element))
        else:
            key, verdict = (element, "") if isinstance(element, str) else element
            yield from _items(one, parts, key, verdict)


def _items(one: Set, parts: list[str], key: str, verdict: str) -> Iterator[Item]:
    texts = key.split(" . ")
    if len(texts) != len(parts):
        raise ValueError(f"{key!r} is no {one.key}")
    pairs = [_range(kind, text) for kind, text in zip(parts, texts, strict=True)]
    if len(parts) > 1:
        first, last = (b"".join(_padded(pair[side]) for pair in pairs) for side in (0, 1))
        yield Item(first, key_end=last if "interval" in one.flags else b"", verdict=verdict)
        return
    [(low, high)] = pairs
    yield Item(low, verdict=verdict)
    if "interval" in one.flags:
        beyond = int.from_bytes(high, "big") + 1
        if beyond >> 8 * len(high) == 0:
            yield Item(beyond.to_bytes(len(high), "big"), end=True)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)


def _range(kind: str, text: str) -> tuple[bytes, bytes]:
    """First and last value that a part's text stands for."""
    if kind in ("ipv4_addr", "ipv6_addr"):
        return _addresses(kind, text)
    if kind == "ifname":
        name = text.strip('"').encode()
        if not 0 < len(name) < LENGTHS[kind]:
            raise ValueError(f"{text!r} is no interface's name")
        return (name.ljust(16, b"\0"),) * 2
    low, _, high = text.partition("-") if kind == "inet_service" else (text, "", "")
    size = LENGTHS.get(kind)
    if size is None:
        raise ValueError(f"no set of ours has keys of the type {kind}")
    order = "little" if kind == "mark" else "big"  # marks are in the machine's order
    values = [PROTOCOLS[one] if one in PROTOCOLS else int(one, 0) for one in (low, high or low)]
    return values[0].to_bytes(size, order), values[1].to_bytes(size, order)  # type: ignore[arg-type]


def _addresses(kind: str, text: str) -> tuple[bytes, bytes]:
    if "-" in text:
        low, _, high = text.partition("-")
        found = ip_address(low).packed, ip_address(high).packed
    elif "/" in text:
        net = ip_network(text)
        found = net.network_address.packed, net.broadcast_address.packed
    else:
        found = (ip_address(text).packed,) * 2
    if len(found[0]) != LENGTHS[kind]:
        raise ValueError(f"{text!r} is no {kind}")
    return found


# ---- on the wire


def packed(item: Item) -> bytes:
    """An item as a list's entry."""
    body = nested(_KEY, attribute(_VALUE, item.key))
    if item.key_end:
        body += nested(_KEY_END, attribute(_VALUE, item.key_end))
    if item.end:
        body += number(_FLAGS, _END)
    if item.verdict:
        word, _, chain = item.verdict.partition(" ")
        verdict = number(_CODE, VERDICTS[word])
        if chain:
            verdict += attribute(_CHAIN, chain.encode() + b"\0")
        body += nested(_DATA, nested(_VERDICT, verdict))
    return nested(LIST_ELEMENT, body)


def lists(found: Iterable[Item]) -> Iterator[bytes]:
    """Items as the payloads of as few messages as it takes."""
    chunk: list[bytes] = []
    size = 0
    for item in found:
        entry = packed(item)
        if size + len(entry) > CHUNK:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry)
    if chunk:
        yield b"".join(chunk)


def read(listed: bytes) -> Iterator[Item]:
    """The items of a NFTA_SET_ELEM_LIST_ELEMENTS. What is counted with them, or when they end, is left out."""
    for _, entry in attributes(listed):
        held = mapping(entry)
        verdict = ""
        if _DATA in held and _VERDICT in (data := mapping(held[_DATA])):
            said = mapping(data[_VERDICT])
            verdict = _VERDICT_NAMES.get(signed(said[_CODE]), "unknown")
            if _CHAIN in said:
                verdict += f" {string(said[_CHAIN])}"
        yield Item(
            mapping(held[_KEY])[_VALUE] if _KEY in held else b"",
            bool(be32(held.get(_FLAGS)) & _END),
            mapping(held[_KEY_END])[_VALUE] if _KEY_END in held else b"",
            verdict,
        )
