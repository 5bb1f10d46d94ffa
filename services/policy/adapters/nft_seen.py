"""What the kernel has of a table, in terms that do not depend on who wrote it or how nft would print it."""

import errno
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from services.policy.adapters.nfnetlink import NfSocket, Rejected
from services.policy.adapters.nfnetlink_wire import GETCHAIN, GETRULE, be32, mapping, signed
from services.policy.adapters.nft_compiler import definitions, element_lists, inner_sets, is_anonymous, rule_of
from services.policy.adapters.nft_elements import Item, read
from services.policy.core.nft.model import Hook
from shared.netlink import string, text

HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}

Place = tuple[int, int, str, int] | tuple[()]
"""Number of the hook, priority, type, policy; empty: no base chain."""


class SeenChain(NamedTuple):
    """A chain, and the marks of its rules in order."""

    hook: Place
    rules: tuple[bytes, ...]


class Seen(msgspec.Struct):
    """All of one table; sets that are parts of rules are in the rules' marks."""

    chains: Mapping[str, SeenChain]
    sets: Mapping[str, bytes]
    items: Mapping[str, frozenset[Item]]


def hook_of(hook: Hook | None) -> Place:
    """A wanted hook in the kernel's terms."""
    if hook is None:
        return ()
    return HOOKS[hook.hook], hook.priority, hook.type, int(hook.policy == "accept")


def look(socket: NfSocket, table: str, *, ignoring: frozenset[str] = frozenset()) -> Seen:
    """The table as it is now; without the items of the sets in `ignoring`. One that does not exist is empty.

    What changes meanwhile is for the caller to notice, by the generation.
    """
    try:
        inner = inner_sets(socket, table)
    except Rejected as refused:
        if refused.errno == errno.ENOENT:
            return Seen({}, {}, {})
        raise
    rules: dict[str, list[bytes]] = {}
    for frame in socket.dump(GETRULE, text(1, table)):
        shown = mapping(frame.body)
        if string(shown[1]) == table:
            rules.setdefault(string(shown[2]), []).append(rule_of(frame.body, inner).mark)
    chains = {}
    for frame in socket.dump(GETCHAIN):
        shown = mapping(frame.body)
        if string(shown[1]) == table:
            name = string(shown[3])
            chains[name] = SeenChain(_place(shown), tuple(rules.get(name, ())))
    sets = {name: definition for name, definition in definitions(socket, table) if not is_anonymous(definition)}
    items = {
        name: frozenset(
            item
            for listed in element_lists(socket, table, name)
            for item in read(listed)
            if not item.end or any(item.key)  # nft itself marks the end of a nothing before the first interval
        )
        for name in sets
        if name not in ignoring
    }
    return Seen(chains, sets, items)


def _place(shown: Mapping[int, bytes]) -> Place:
    if 4 not in shown:
        return ()
    hook = mapping(shown[4])
    return be32(hook[1]), signed(hook[2]), string(shown[7]), be32(shown.get(5))
