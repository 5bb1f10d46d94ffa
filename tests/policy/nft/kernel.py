"""A kernel that objects: it carries out the text of a transaction as nftables would, and refuses what nftables refuses.

A reference before its referent, a removal of what is in use, an element twice or one that is not there, networks that
overlap, a chain that can jump to itself. All of a transaction holds, or none of it.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from services.policy.core.nft.model import Chain, Element, Hook, Set, Table

_SET = re.compile(r"(?P<name>\S+) \{ type (?P<key>[^;:]+?)(?: : (?P<data>\w+))?;(?: flags (?P<flags>[\w,]+);)?")
_HOOK = re.compile(r"\{ type (\w+) hook (\w+) priority (-?\d+); policy (\w+); \}")
_JUMP = re.compile(r"\b(?:jump|goto) (\S+)")
_NAME = re.compile(r"[A-Za-z_.][A-Za-z0-9/_.-]{,254}", re.ASCII)
_LOOKUP = re.compile(r"@(\S+)")


class Refused(Exception):
    """The kernel does not take it."""


class Kernel:
    """One table's worth of nftables."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.sets: dict[str, Set] = {}
        self.elements: dict[str, set[Element]] = {}
        self.transactions = 0

    @property
    def table(self) -> Table:
        """What it holds."""
        return Table(chains=self.chains, sets=self.sets, elements={n: e for n, e in self.elements.items() if e})

    def load(self, text: str) -> None:
        """One transaction."""
        before = dict(self.chains), dict(self.sets), {name: set(held) for name, held in self.elements.items()}
        try:
            for line in text.splitlines():
                self._carry_out(line)
            self._no_loops()
        except Refused as error:
            self.chains, self.sets, self.elements = before
            raise Refused(f"{error}: {line}") from None
        self.transactions += 1

    def _carry_out(self, line: str) -> None:
        for start, carry_out in self._commands():
            if line.startswith(start):
                carry_out(line[len(start) :])
                return
        raise Refused("no such command")

    def _commands(self) -> Iterator[tuple[str, Callable[[str], None]]]:
        at = "inet terway"
        yield f"add table {at}", lambda _: None
        yield f"delete table {at}", lambda _: self._clear()
        yield f"add set {at} ", self._add_set
        yield f"add map {at} ", self._add_set
        yield f"delete set {at} ", self._delete_set
        yield f"delete map {at} ", self._delete_set
        yield f"add chain {at} ", self._add_chain
        yield f"delete chain {at} ", self._delete_chain
        yield f"flush chain {at} ", self._flush_chain
        yield f"add rule {at} ", self._add_rule
        yield f"add element {at} ", self._add_elements
        yield f"delete element {at} ", self._delete_elements

    def _clear(self) -> None:
        self.chains, self.sets, self.elements = {}, {}, {}

    # ---- sets

    def _add_set(self, rest: str) -> None:
        found = _SET.match(rest)
        if found is None:
            raise Refused("no definition")
        name, flags = found["name"], frozenset((found["flags"] or "").split(",")) - {""}
        one = Set(name, found["key"], flags, found["data"], counter=" counter;" in rest)
        if not _NAME.fullmatch(name):
            raise Refused("nft has no such names")
        if self.sets.get(name, one) != one:
            raise Refused("exists, and is another")
        self.sets[name] = one
        self.elements.setdefault(name, set())

    def _delete_set(self, name: str) -> None:
        if name not in self.sets:
            raise Refused("no such set")
        if any(name in _LOOKUP.findall(rule) for chain in self.chains.values() for rule in chain.rules):
            raise Refused("the set is in use")
        del self.sets[name], self.elements[name]

    def _add_elements(self, rest: str) -> None:
        name, listed = self._elements(rest)
        for element in listed:
            if isinstance(element, tuple):
                self._refer(element[1])
                if any(isinstance(held, tuple) and held[0] == element[0] for held in self.elements[name]):
                    raise Refused("two values for one key")
            if element in self.elements[name]:
                raise Refused("the element is there")
            self.elements[name].add(element)
        if "interval" in self.sets[name].flags:
            self._no_overlaps(name)

    def _delete_elements(self, rest: str) -> None:
        name, listed = self._elements(rest)
        for element in listed:
            if element not in self.elements[name]:
                raise Refused("no such element")
            self.elements[name].remove(element)

    def _elements(self, rest: str) -> tuple[str, list[Element]]:
        name, _, listed = rest.partition(" ")
        if name not in self.sets:
            raise Refused("no such set")
        read: list[Element] = []
        for text in listed.removeprefix("{ ").removesuffix(" }").split(", "):
            key, colon, data = text.partition(" : ")
            read.append((key, data) if colon else key)
        return name, read

    def _no_overlaps(self, name: str) -> None:
        networks = sorted(ipaddress.ip_network(element) for element in self.elements[name])  # type: ignore[type-var, arg-type]
        for one, other in pairwise(networks):
            if one.overlaps(other):  # type: ignore[arg-type]
                raise Refused(f"{one} and {other} overlap")

    # ---- chains

    def _add_chain(self, rest: str) -> None:
        name, _, hook = rest.partition(" ")
        found = _HOOK.fullmatch(hook) if hook else None
        if hook and found is None:
            raise Refused("no hook")
        if name in self.chains:
            raise Refused("the chain is there")
        if not _NAME.fullmatch(name):
            raise Refused("nft has no such names")
        self.chains[name] = Chain(name, (), Hook(found[1], found[2], int(found[3]), found[4]) if found else None)

    def _delete_chain(self, name: str) -> None:
        self._known(name)
        if any(name in _JUMP.findall(rule) for chain in self.chains.values() for rule in chain.rules):
            raise Refused("a rule jumps to it")
        if any(isinstance(e, tuple) and name in _JUMP.findall(e[1]) for held in self.elements.values() for e in held):
            raise Refused("a map leads to it")
        del self.chains[name]

    def _flush_chain(self, name: str) -> None:
        self._known(name)
        self.chains[name] = Chain(name, (), self.chains[name].hook)

    def _add_rule(self, rest: str) -> None:
        name, _, rule = rest.partition(" ")
        self._known(name)
        self._refer(rule)
        self.chains[name] = Chain(name, (*self.chains[name].rules, rule), self.chains[name].hook)

    def _refer(self, text: str) -> None:
        for target in _JUMP.findall(text):
            self._known(target)
        for name in _LOOKUP.findall(text):
            if name not in self.sets:
                raise Refused("no such set")

    def _known(self, name: str) -> None:
        if name not in self.chains:
            raise Refused(f"no chain {name}")

    def _no_loops(self) -> None:
        leads = {
            name: {target for rule in chain.rules for target in self._targets(rule)}
            for name, chain in self.chains.items()
        }
        while leads:
            ends = [name for name, targets in leads.items() if not targets & leads.keys()]
            if not ends:
                raise Refused(f"a loop among {sorted(leads)}")
            for name in ends:
                del leads[name]

    def _targets(self, rule: str) -> Iterator[str]:
        yield from _JUMP.findall(rule)
        for name in _LOOKUP.findall(rule):
            for element in self.elements[name]:
                if isinstance(element, tuple):
                    yield from _JUMP.findall(element[1])
