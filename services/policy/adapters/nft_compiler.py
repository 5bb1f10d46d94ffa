"""nft's text to the kernel's own form: rules and definitions of sets, compiled in a namespace where nothing else is.

libnftables is the only compiler of its language, but before each run it reads all there is in its namespace: 160 ms
with a thousand policies, and what kube-proxy made besides. So it works in an empty namespace of its own, which no
packet ever sees, and what the kernel made of it there is copied: the very same expressions then go into one batch
with all else that changes (nft_batch.py). A rule of which a copy is known is not compiled again.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from services.policy.adapters.libnftables import Nftables
from services.policy.adapters.netns import fresh
from services.policy.adapters.nfnetlink import NfSocket
from services.policy.adapters.nfnetlink_wire import GETELEMENT, GETRULE, GETSET, be32, mapping, nested, number, pieces
from services.policy.core.nft.model import Chain, Change, Set
from shared.errors import Internal
from shared.netlink import attributes, string, text

SET_NAME, SET_FLAGS = 2, 3
ANONYMOUS: Final = 1
DYNAMIC: Final = 0x20
_SET_DESCRIPTION: Final = 9
_DEFINING: Final = frozenset((3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18))
"""Attributes of a set that say what it is; not its name, handle, or how much is in it."""
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 4, 7
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_LOOKUP_SET, _LOOKUP_SET_ID = 1, 4
_DYNSET_TIMEOUT: Final = 6
UNNAMED: Final = "__set%d"
"""The kernel puts a number for the `%d`."""
_STATEFUL: Final = frozenset(("counter", "quota", "last"))
"""Expressions whose content is what passed, not what was written."""
_BENCH: Final = "compiling"
"""The chain in which rules are compiled; no name of the renderer's."""

_SETS = re.compile(r"@([A-Za-z0-9_.:/\-+]+)")
_TARGETS = re.compile(r"\b(?:jump|goto) ([A-Za-z0-9_.:/\-+]+)")
_QUOTED = re.compile(r'"[^"]*"')


class Inner(NamedTuple):
    """A set without a name that a rule brings along: what defines it, and the lists of its elements."""

    called: str
    definition: bytes
    elements: tuple[bytes, ...]


class Rule(NamedTuple):
    """A rule as the kernel has it."""

    expressions: bytes
    userdata: bytes
    inner: tuple[Inner, ...]
    mark: bytes
    """equal for rules that do the same, whatever they have counted"""


class Forms:
    """What is compiled as of a moment, to be read by any thread: the compiler may forget, and these do not."""

    def __init__(self, rules: Mapping[str, Rule], sets: Mapping[Set, bytes]) -> None:
        self._rules, self._sets = rules, sets

    def rule(self, written: str) -> Rule:
        """A rule that was prepared."""
        return self._rules[written]

    def definition(self, one: Set) -> bytes:
        """A set's attributes but table, name and id; prepared before."""
        return self._sets[_nameless(one)]


class Compiler:
    """Made, used and closed by one thread, which stays in its own namespace."""

    def __init__(self) -> None:
        with fresh():
            self._nft = Nftables()
            self._socket = NfSocket()
        self._rules: dict[str, Rule] = {}
        self._sets: dict[Set, bytes] = {}

    def close(self) -> None:
        """The namespace ends with what is open in it."""
        self._nft.close()
        self._socket.close()

    def prepare(self, chains: Iterable[Chain], sets: Iterable[Set], known: Mapping[str, Set]) -> None:
        """Compile what is not yet: chains' rules, and definitions. `known`: every set that a rule may refer to."""
        rules = list(dict.fromkeys(rule for chain in chains for rule in chain.rules))
        self._compile([rule for rule in rules if rule not in self._rules], known)
        self._define([one for one in dict.fromkeys(map(_nameless, sets)) if one not in self._sets])

    @property
    def forms(self) -> Forms:
        """All that is prepared, and what will be until something is forgotten."""
        return Forms(self._rules, self._sets)

    def forget_all_but(self, chains: Iterable[Chain]) -> None:
        """Keep only what these chains use, as rules come and go for ever."""
        used = {rule for chain in chains for rule in chain.rules}
        self._rules = {written: rule for written, rule in self._rules.items() if written in used}

    @property
    def size(self) -> int:
        """Rules that are kept."""
        return len(self._rules)

    # ---- compiling

    def _compile(self, written: list[str], known: Mapping[str, Set]) -> None:
        if not written:
            return
        bare = [_QUOTED.sub("", rule) for rule in written]
        needed = sorted({name for rule in bare for name in _SETS.findall(rule)})
        targets = sorted({name for rule in bare for name in _TARGETS.findall(rule)} - {_BENCH})
        lacking = [name for name in needed if name not in known]
        if lacking:
            raise Internal(f"rules refer to sets that do not exist: {', '.join(lacking[:5])}")
        change = Change(
            sets_added=tuple(known[name] for name in needed),
            chains_added=(*map(Chain, targets), Chain(_BENCH, tuple(written))),
            name=_BENCH,
        )
        with self._made(change):
            inner = self._inner()
            body = text(_RULE_TABLE, _BENCH) + text(_RULE_CHAIN, _BENCH)
            found = [rule_of(frame.body, inner) for frame in self._socket.dump(GETRULE, body)]
        if len(found) != len(written):
            raise Internal(f"nftables made {len(found)} rules of {len(written)}")
        self._rules.update(zip(written, found, strict=True))

    def _define(self, wanted: list[Set]) -> None:
        if not wanted:
            return
        named = {f"s{number}": one for number, one in enumerate(wanted)}
        sets = tuple(msgspec.structs.replace(one, name=name) for name, one in named.items())
        with self._made(Change(sets_added=sets, name=_BENCH)):
            for called, definition in definitions(self._socket, _BENCH):
                if called in named:
                    self._sets[named[called]] = definition

    def _inner(self) -> dict[str, Inner]:
        return inner_sets(self._socket, _BENCH)

    def _made(self, change: Change) -> "_Made":
        return _Made(self._nft, change)


class _Made:
    """What a change makes, for as long as the context lasts."""

    def __init__(self, nft: Nftables, change: Change) -> None:
        self._nft, self._change = nft, change

    def __enter__(self) -> None:
        self._nft.run(self._change.text())

    def __exit__(self, *_: object) -> None:
        self._nft.run(f"delete table {self._change.family} {self._change.name}\n")


def _nameless(one: Set) -> Set:
    return msgspec.structs.replace(one, name="")


# ---- what the kernel shows


def definitions(socket: NfSocket, table: str) -> Iterator[tuple[str, bytes]]:
    """Name and definition of each set of a table."""
    for frame in socket.dump(GETSET, text(1, table)):
        yield (
            string(mapping(frame.body)[SET_NAME]),
            b"".join(raw for kind, raw in pieces(frame.body) if kind in _DEFINING),
        )


def is_anonymous(definition: bytes) -> bool:
    """Whether a set is part of a rule."""
    return bool(be32(mapping(definition).get(SET_FLAGS)) & ANONYMOUS)


def same_kind(one: bytes, other: bytes) -> bool:
    """Whether two definitions are of the same set. One that rules fill gets a size from the kernel with the first."""
    return one == other or _unsized(one) == _unsized(other)


def _unsized(definition: bytes) -> bytes:
    if not be32(mapping(definition).get(SET_FLAGS)) & DYNAMIC:
        return definition
    return b"".join(raw for kind, raw in pieces(definition) if kind != _SET_DESCRIPTION)


def inner_sets(socket: NfSocket, table: str) -> dict[str, Inner]:
    """The sets of a table that are parts of rules, by the names that the kernel gave them."""
    return {
        called: Inner(called, definition, tuple(element_lists(socket, table, called)))
        for called, definition in definitions(socket, table)
        if is_anonymous(definition)
    }


def element_lists(socket: NfSocket, table: str, called: str) -> Iterator[bytes]:
    """The lists of a set's elements, as they are sent too."""
    for frame in socket.dump(GETELEMENT, text(1, table) + text(2, called)):
        listed = mapping(frame.body).get(3)
        if listed:
            yield listed


def rule_of(body: bytes, inner: Mapping[str, Inner]) -> Rule:
    """What the kernel shows of a rule."""
    shown = mapping(body)
    expressions, userdata = _sendable(shown.get(_RULE_EXPRESSIONS, b"")), shown.get(_RULE_USERDATA, b"")
    used: list[Inner] = []
    digest = hashlib.blake2b(userdata, digest_size=16)
    for _, expression in attributes(expressions):
        held = mapping(expression)
        name, data = string(held[_EXPRESSION_NAME]), held.get(_EXPRESSION_DATA, b"")
        digest.update(held[_EXPRESSION_NAME])
        if name in _STATEFUL:
            continue
        if name == "lookup" and (called := string(mapping(data)[_LOOKUP_SET])) in inner:
            used.append(inner[called])
            digest.update(inner[called].definition)
            digest.update(b"".join(sorted(raw for listed in inner[called].elements for _, raw in pieces(listed))))
            data = b"".join(raw for kind, raw in pieces(data) if kind != _LOOKUP_SET)
        digest.update(data)
    return Rule(expressions, userdata, tuple(used), digest.digest())


def _sendable(expressions: bytes) -> bytes:
    """Expressions as they may be sent: of a set that rules fill, the kernel shows a timeout that it would refuse."""
    if b"dynset" not in expressions:
        return expressions
    entries = []
    for kind, expression in attributes(expressions):
        held = mapping(expression)
        if string(held[_EXPRESSION_NAME]) == "dynset":
            data = b"".join(
                raw for one, raw in pieces(held[_EXPRESSION_DATA]) if not (one == _DYNSET_TIMEOUT and not any(raw[4:]))
            )
            expression = text(_EXPRESSION_NAME, "dynset") + nested(_EXPRESSION_DATA, data)
        entries.append(nested(kind, expression))
    return b"".join(entries)


def referring(expressions: bytes, ids: Mapping[str, int]) -> bytes:
    """A rule's expressions with its inner sets named by their ids in a batch, instead of by another table's names."""
    if not ids:
        return expressions
    entries = []
    for kind, expression in attributes(expressions):
        held = mapping(expression)
        if string(held[_EXPRESSION_NAME]) == "lookup":
            data = held[_EXPRESSION_DATA]
            called = string(mapping(data)[_LOOKUP_SET])
            if called in ids:
                kept = b"".join(raw for one, raw in pieces(data) if one != _LOOKUP_SET)
                data = text(_LOOKUP_SET, UNNAMED) + kept + number(_LOOKUP_SET_ID, ids[called])
                expression = text(_EXPRESSION_NAME, "lookup") + nested(_EXPRESSION_DATA, data)
        entries.append(nested(kind, expression))
    return b"".join(entries)
