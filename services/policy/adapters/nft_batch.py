"""What is to be done to a table, and the one batch that does it. Pure; the compiler has what it refers to.

Change of the renderer  -- planned ---+
what the kernel shows  -- repairs ----+--> Plan --> requests --> one transaction
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from services.policy.adapters import nft_elements
from services.policy.adapters.nfnetlink import Request
from services.policy.adapters.nfnetlink_wire import (
    DELCHAIN,
    DELELEMENT,
    DELRULE,
    DELSET,
    DELTABLE,
    NEWCHAIN,
    NEWELEMENT,
    NEWRULE,
    NEWSET,
    NEWTABLE,
    nested,
    number,
)
from services.policy.adapters.nft_compiler import UNNAMED, Forms, referring, same_kind
from services.policy.adapters.nft_elements import Item
from services.policy.adapters.nft_seen import HOOKS, Seen, hook_of
from services.policy.core.nft.model import Chain, Change, Element, Hook, Set, Table
from shared.netlink import CREATE, attribute, text

_APPEND: Final = 0x800


class Plan(msgspec.Struct):
    """Steps in their order. `replace`: the table goes first, in the same transaction, and all comes anew."""

    replace: bool = False
    sets_added: list[Set] = []
    chains_added: list[Chain] = []
    items_removed: dict[str, list[Item]] = {}
    items_added: dict[str, list[Item]] = {}
    chains_filled: list[Chain] = []
    """Their rules go, and these come."""
    chains_removed: list[str] = []
    sets_removed: list[str] = []

    @property
    def steps(self) -> int:
        """How many objects and lists of items it touches; 0: nothing is to be done."""
        added = len(self.sets_added) + len(self.chains_added)
        items = len(self.items_removed) + len(self.items_added)
        gone = len(self.chains_removed) + len(self.sets_removed)
        return self.replace + added + items + len(self.chains_filled) + gone


def planned(change: Change, wanted: Table) -> Plan:
    """A change of the renderer. `wanted` is the table as it becomes."""
    gone = {one.name for one in change.sets_removed}
    definitions = {one.name: one for one in (*change.sets_added, *change.sets_removed)}

    def items(elements: Mapping[str, Iterable[Element]], but: Iterable[str]) -> dict[str, list[Item]]:
        return {
            name: list(nft_elements.items(definitions.get(name) or wanted.sets[name], listed))
            for name, listed in elements.items()
            if name not in but
        }

    return Plan(
        replace=change.replace,
        sets_added=list(change.sets_added),
        chains_added=list(change.chains_added),
        items_removed=items(change.elements_removed, gone),  # with a set, its items go
        items_added=items(change.elements_added, ()),
        chains_filled=list(change.chains_changed),
        chains_removed=list(change.chains_removed),
        sets_removed=[one.name for one in change.sets_removed],
    )


def complete(wanted: Table) -> Plan:
    """The whole table in the place of whatever is there under its name."""
    return Plan(
        replace=True,
        sets_added=list(wanted.sets.values()),
        chains_added=list(wanted.chains.values()),
        items_added={name: list(found) for name, found in wanted_items(wanted) if found},
    )


def wanted_items(wanted: Table) -> Iterator[tuple[str, list[Item]]]:
    """The items of each set that the kernel does not fill itself."""
    for name, one in wanted.sets.items():
        if "dynamic" not in one.flags:
            yield name, list(nft_elements.items(one, wanted.elements.get(name, ())))


def repairs(seen: Seen, wanted: Table, forms: Forms) -> Plan:
    """What makes `wanted` of what the kernel shows; everything of `wanted` must be prepared."""
    for name, one in wanted.sets.items():
        if name in seen.sets and not same_kind(seen.sets[name], forms.definition(one)):
            return complete(wanted)
    for name, chain in wanted.chains.items():
        if name in seen.chains and seen.chains[name].hook != hook_of(chain.hook):
            return complete(wanted)
    plan = Plan(
        sets_added=[one for name, one in wanted.sets.items() if name not in seen.sets],
        chains_added=[chain for name, chain in wanted.chains.items() if name not in seen.chains],
        chains_removed=[name for name in seen.chains if name not in wanted.chains],
        sets_removed=[name for name in seen.sets if name not in wanted.sets],
    )
    for name, chain in wanted.chains.items():
        there = seen.chains.get(name)
        if there is not None and there.rules != tuple(forms.rule(rule).mark for rule in chain.rules):
            plan.chains_filled.append(chain)
    for name, listed in wanted_items(wanted):
        before, now = seen.items.get(name, frozenset()), frozenset(listed)
        if before == now:
            continue
        if more := [item for item in listed if item not in before]:
            plan.items_added[name] = more
        if less := before - now:
            plan.items_removed[name] = sorted(less)
    return plan


# ---- the batch


def requests(plan: Plan, table: str, forms: Forms) -> Iterator[Request]:
    """The batch. Whatever is referred to exists before; whatever is removed is free by then."""
    numbers = iter(range(1, 1 << 31))
    here = text(1, table)
    yield Request(NEWTABLE, here + number(2, 0), CREATE, f"table {table}")
    if plan.replace:
        yield Request(DELTABLE, here, about=f"table {table}")
        yield Request(NEWTABLE, here + number(2, 0), CREATE, f"table {table}")
    for one in plan.sets_added:
        body = here + text(2, one.name) + forms.definition(one) + number(10, next(numbers))
        yield Request(NEWSET, body, CREATE, f"set {one.name}")
    for chain in plan.chains_added:
        yield Request(NEWCHAIN, here + text(3, chain.name) + _hook(chain.hook), CREATE, f"chain {chain.name}")
    for name, items in plan.items_removed.items():
        yield from _elements(DELELEMENT, here, name, items)
    for name, items in plan.items_added.items():
        yield from _elements(NEWELEMENT, here, name, items)
    for chain in plan.chains_filled:
        yield Request(DELRULE, here + text(2, chain.name), about=f"rules of {chain.name}")
    for chain in (*plan.chains_added, *plan.chains_filled):
        for rule in chain.rules:
            yield from _rule(here, chain.name, rule, forms, numbers)
    for name in plan.chains_removed:  # they may lead to each other
        yield Request(DELRULE, here + text(2, name), about=f"rules of {name}")
    for name in plan.sets_removed:  # a map holds on to chains
        yield Request(DELSET, here + text(2, name), about=f"set {name}")
    for name in plan.chains_removed:
        yield Request(DELCHAIN, here + text(3, name), about=f"chain {name}")


def emptying(table: str) -> list[Request]:
    """All rules of the table go; chains, sets and what is in them stay."""
    return [Request(DELRULE, text(1, table), about=f"rules of table {table}")]


def removal(table: str) -> list[Request]:
    """The table and all that is in it go, if it is there."""
    here = text(1, table)
    return [
        Request(NEWTABLE, here + number(2, 0), CREATE, f"table {table}"),
        Request(DELTABLE, here, about=f"table {table}"),
    ]


def _elements(kind: int, here: bytes, name: str, items: Iterable[Item]) -> Iterator[Request]:
    for listed in nft_elements.lists(items):
        body = here + text(nft_elements.SET, name) + nested(nft_elements.ELEMENTS, listed)
        yield Request(kind, body, CREATE if kind == NEWELEMENT else 0, f"elements of {name}")


def _rule(here: bytes, chain: str, written: str, forms: Forms, numbers: Iterator[int]) -> Iterator[Request]:
    rule = forms.rule(written)
    ids: dict[str, int] = {}
    about = f"{chain}: {written}"
    for inner in rule.inner:
        ids[inner.called] = next(numbers)
        named = here + text(2, UNNAMED)
        yield Request(NEWSET, named + inner.definition + number(10, ids[inner.called]), CREATE, about)
        for listed in inner.elements:
            body = named + number(nft_elements.SET_ID, ids[inner.called]) + nested(nft_elements.ELEMENTS, listed)
            yield Request(NEWELEMENT, body, CREATE, about)
    body = here + text(2, chain) + nested(4, referring(rule.expressions, ids))
    if rule.userdata:
        body += attribute(7, rule.userdata)
    yield Request(NEWRULE, body, CREATE | _APPEND, about)


def _hook(hook: Hook | None) -> bytes:
    if hook is None:
        return b""
    where = nested(4, number(1, HOOKS[hook.hook]) + number(2, hook.priority))
    return where + number(5, int(hook.policy == "accept")) + text(7, hook.type)
