"""What the counters of a table show: of rules, and of the sets that rules fill with the links that they deny.

One dump of the table's rules, of which nothing is kept but counters; 15 µs a rule. Never on the event loop.
"""

import errno
from collections.abc import Iterable, Iterator
from struct import Struct
from sys import intern
from typing import Final

from services.policy.adapters.nfnetlink import NfSocket, Rejected, Request
from services.policy.adapters.nfnetlink_wire import DELELEMENT, GETELEMENT, GETRULE, GETTABLE, mapping, nested, signed
from services.policy.adapters.nft_elements import ELEMENTS, LIST_ELEMENT, SET, TABLE, VERDICTS, Item, lists
from services.policy.core.counts import Count, Denial, RuleSeen
from shared.netlink import attributes, string, text

_BE64: Final = Struct(">Q")
_TABLE_NAME, _TABLE_HANDLE = 1, 4
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER: Final = text(_EXPRESSION_NAME, "counter")
_IMMEDIATE: Final = text(_EXPRESSION_NAME, "immediate")
"""What such an expression begins with; no set of ours is called so."""
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE = 2, 2, 1
_COMMENT: Final = 0
"""NFTNL_UDATA_RULE_COMMENT"""
_KEY, _VALUE, _ELEMENT_EXPRESSION, _ELEMENT_EXPRESSIONS = 1, 1, 7, 11
_ACTIONS: Final = {
    VERDICTS["accept"]: "allow",
    VERDICTS["drop"]: "deny",
    VERDICTS["goto"]: "deny",  # a Deny of a shared chain goes on to where it is counted by link
    VERDICTS["return"]: "pass",
}


def counted(socket: NfSocket, table: str, chains: Iterable[str] | None = None) -> list[RuleSeen]:
    """The rules with counters, of all chains or of these; a table or chain that is not there has none."""
    wanted = [text(_RULE_TABLE, table)]
    if chains is not None:
        wanted = [text(_RULE_TABLE, table) + text(_RULE_CHAIN, chain) for chain in chains]
    found = []
    for body in wanted:
        for frame in _dumped(socket, GETRULE, body):
            seen = _rule(frame, table)
            if seen is not None and (chains is None or seen.chain in chains):
                found.append(seen)
    return found


def table_handle(socket: NfSocket, table: str) -> int:
    """What tells a table from an earlier one of that name; 0: it is not there."""
    for frame in socket.dump(GETTABLE):
        shown = mapping(frame.body)
        if string(shown[_TABLE_NAME]) == table:
            return int(_BE64.unpack(shown[_TABLE_HANDLE])[0]) if _TABLE_HANDLE in shown else 0
    return 0


def denied(socket: NfSocket, table: str, sets: Iterable[str], prefix: str) -> dict[Denial, Count]:
    """Who was denied what by each of the sets, whose names are the chains' behind `prefix`."""
    return {
        Denial(name.removeprefix(prefix), link): count
        for name in sets
        for frame in _dumped(socket, GETELEMENT, text(TABLE, table) + text(SET, name))
        for link, count in _links(frame)
    }


def forgetting(table: str, denials: Iterable[Denial], prefix: str) -> Iterator[Request]:
    """What takes links out of their sets."""
    for denial in denials:
        name = prefix + denial.chain
        key = Item(denial.link.encode().ljust(16, b"\0"))
        for listed in lists((key,)):
            body = text(TABLE, table) + text(SET, name) + nested(ELEMENTS, listed)
            yield Request(DELELEMENT, body, about=f"{denial.link} of the set {name}")


def _dumped(socket: NfSocket, kind: int, body: bytes) -> Iterator[bytes]:
    try:
        for frame in socket.dump(kind, body):
            yield frame.body
    except Rejected as refused:
        if refused.errno != errno.ENOENT:
            raise


def _rule(body: bytes, table: str) -> RuleSeen | None:
    """Of the expressions only what follows the counter is taken to pieces: there are ten thousand such rules."""
    shown = mapping(body)
    expressions = shown.get(_RULE_EXPRESSIONS, b"")
    at = expressions.find(_COUNTER)
    if at < 0 or string(shown[_RULE_TABLE]) != table:
        return None
    count = _count(mapping(expressions[at:])[_EXPRESSION_DATA])
    action, at = "log", expressions.find(_IMMEDIATE, at)
    if at >= 0:
        data = mapping(mapping(mapping(expressions[at:])[_EXPRESSION_DATA])[_IMMEDIATE_DATA])
        if _DATA_VERDICT in data:
            action = _ACTIONS.get(signed(mapping(data[_DATA_VERDICT])[_VERDICT_CODE]), "other")
    handle = int(_BE64.unpack(shown[_RULE_HANDLE])[0])
    chain, comment = string(shown[_RULE_CHAIN]), _comment(shown.get(_RULE_USERDATA, b""))
    # Tables of pods say the same again and again.
    return RuleSeen(intern(chain), handle, intern(comment), action, count)


def _count(data: bytes) -> Count:
    shown = mapping(data)
    return Count(_BE64.unpack(shown[_COUNTER_PACKETS])[0], _BE64.unpack(shown[_COUNTER_BYTES])[0])


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, size = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            return string(userdata[offset + 2 : offset + 2 + size])
        offset += 2 + size
    return ""


def _links(body: bytes) -> Iterator[tuple[str, Count]]:
    for _, entry in attributes(mapping(body).get(ELEMENTS, b"")):
        held = mapping(entry)
        expression = held.get(_ELEMENT_EXPRESSION)
        if expression is None and _ELEMENT_EXPRESSIONS in held:
            expression = mapping(held[_ELEMENT_EXPRESSIONS]).get(LIST_ELEMENT)
        if expression is not None and _KEY in held:
            yield string(mapping(held[_KEY])[_VALUE]), _count(mapping(expression)[_EXPRESSION_DATA])
