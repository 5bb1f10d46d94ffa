"""Tables of nftables as values, and the difference of two as one transaction.

Rules and elements are text in the form in which `nft --stateless --numeric list table` prints them, so that what was
read back compares by equality. A rule's text has no handle, a counter no value.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

import msgspec

TABLE = "terway"
FAMILY = "inet"

Element = str | tuple[str, str]
"""A key, or a key and its data. Parts of a concatenation are joined by ` . `, interface names are in double quotes."""


class Hook(msgspec.Struct, frozen=True):
    """Where a base chain sits."""

    type: str
    hook: str
    priority: int
    policy: str = "accept"


class Chain(msgspec.Struct, frozen=True):
    """A chain with all its rules in order; a base chain has a hook."""

    name: str
    rules: tuple[str, ...] = ()
    hook: Hook | None = None


class Set(msgspec.Struct, frozen=True):
    """A set's or map's definition. `key` is nft's type (parts joined by ` . `), `data` makes it a map.

    The kernel fills a set with the flag `dynamic` itself: no elements of it are ever wanted or compared.
    """

    name: str
    key: str
    flags: frozenset[str] = frozenset()
    data: str | None = None
    counter: bool = False


class Table(msgspec.Struct, frozen=True):
    """All of one table. A set without elements may be missing in `elements`."""

    chains: Mapping[str, Chain] = {}
    sets: Mapping[str, Set] = {}
    elements: Mapping[str, AbstractSet[Element]] = {}
    name: str = TABLE
    family: str = FAMILY


class Change(msgspec.Struct, frozen=True):
    """How one table becomes another, object by object.

    `replace`: the old table goes as a whole and everything is in `*_added`; for a set or a hook that is another under
    the same name, which the kernel cannot change in place. It is one transaction all the same.
    """

    sets_added: tuple[Set, ...] = ()
    chains_added: tuple[Chain, ...] = ()
    chains_changed: tuple[Chain, ...] = ()
    chains_removed: tuple[str, ...] = ()
    sets_removed: tuple[Set, ...] = ()
    elements_added: Mapping[str, tuple[Element, ...]] = {}
    elements_removed: Mapping[str, tuple[Element, ...]] = {}
    replace: bool = False
    name: str = TABLE
    family: str = FAMILY

    def empty(self) -> bool:
        """Nothing to do."""
        return not (self.replace or self.structural() or self.elements_added or self.elements_removed)

    def structural(self) -> bool:
        """Whether anything but elements of sets that stay is touched; if not, deltas of elements are all of it."""
        return bool(
            self.replace
            or self.sets_added
            or self.sets_removed
            or self.chains_added
            or self.chains_changed
            or self.chains_removed
        )

    def text(self) -> str:
        """The transaction for `nft -f`. Whatever is referred to exists before, whatever is removed is free by then."""
        return "".join(f"{line}\n" for line in self.lines())

    def lines(self) -> Iterator[str]:
        """One command per line, in order."""
        at = f"{self.family} {self.name}"
        yield f"add table {at}"
        if self.replace:
            yield f"delete table {at}"
            yield f"add table {at}"
        for one in self.sets_added:
            yield f"add {_definition(one, at)}"
        for chain in self.chains_added:
            yield f"add chain {at} {chain.name}{_hook(chain.hook)}"
        for set_name, elements in self.elements_removed.items():
            yield f"delete element {at} {set_name} {_braces(elements)}"
        for set_name, elements in self.elements_added.items():
            yield f"add element {at} {set_name} {_braces(elements)}"
        for chain in self.chains_changed:
            yield f"flush chain {at} {chain.name}"
        for chain in (*self.chains_added, *self.chains_changed):
            for rule in chain.rules:
                yield f"add rule {at} {chain.name} {rule}"
        # Chains that go may jump to each other.
        for name in self.chains_removed:
            yield f"flush chain {at} {name}"
        for name in self.chains_removed:
            yield f"delete chain {at} {name}"
        for one in self.sets_removed:
            yield f"delete {'set' if one.data is None else 'map'} {at} {one.name}"


def difference(old: Table, new: Table) -> Change:
    """What makes `new` of `old`."""
    if any(old.sets[name] != one for name, one in new.sets.items() if name in old.sets) or any(
        old.chains[name].hook != chain.hook for name, chain in new.chains.items() if name in old.chains
    ):
        return msgspec.structs.replace(difference(Table(name=new.name, family=new.family), new), replace=True)
    gone = [one for name, one in old.sets.items() if name not in new.sets]
    added, removed = {}, {}
    for name, one in new.sets.items():
        if "dynamic" in one.flags:
            continue
        before, now = old.elements.get(name, frozenset()), new.elements.get(name, frozenset())
        if more := now - before:
            added[name] = in_order(more)
        if less := before - now:
            removed[name] = in_order(less)
    # The elements of a map that goes hold on to chains, which go before it.
    removed |= {one.name: in_order(old.elements.get(one.name, ())) for one in gone if one.data is not None}
    return Change(
        sets_added=tuple(one for name, one in new.sets.items() if name not in old.sets),
        chains_added=tuple(chain for name, chain in new.chains.items() if name not in old.chains),
        chains_changed=tuple(c for n, c in new.chains.items() if n in old.chains and old.chains[n].rules != c.rules),
        chains_removed=tuple(name for name in old.chains if name not in new.chains),
        sets_removed=tuple(gone),
        elements_added=added,
        elements_removed={name: elements for name, elements in removed.items() if elements},
        name=new.name,
        family=new.family,
    )


def whole(table: Table) -> Change:
    """The table from nothing, whatever is there under its name: as one transaction."""
    return msgspec.structs.replace(difference(Table(name=table.name, family=table.family), table), replace=True)


def in_order(elements: Iterable[Element]) -> tuple[Element, ...]:
    """Elements in an order that does not depend on hashes, so that equal changes have equal texts."""
    return tuple(sorted(elements, key=lambda element: element if isinstance(element, tuple) else (element, "")))


def _definition(one: Set, at: str) -> str:
    data = "" if one.data is None else f" : {one.data}"
    flags = f" flags {','.join(sorted(one.flags))};" if one.flags else ""
    counter = " counter;" if one.counter else ""
    return f"{'set' if one.data is None else 'map'} {at} {one.name} {{ type {one.key}{data};{flags}{counter} }}"


def _hook(hook: Hook | None) -> str:
    if hook is None:
        return ""
    return f" {{ type {hook.type} hook {hook.hook} priority {hook.priority}; policy {hook.policy}; }}"


def _braces(elements: Iterable[Element]) -> str:
    listed = ", ".join(element if isinstance(element, str) else f"{element[0]} : {element[1]}" for element in elements)
    return f"{{ {listed} }}"
