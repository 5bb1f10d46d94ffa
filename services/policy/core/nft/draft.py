"""The wanted table while it changes: what is put in and taken out between flushes, against what the last flush said."""

from collections.abc import Iterable
from typing import TypeVar

from services.policy.core.nft.model import Chain, Change, Element, Set, Table, in_order

T = TypeVar("T", Chain, Set)


class Draft:
    """Cheap to change; a flush costs what was touched. What comes and goes between two flushes is never said."""

    def __init__(self) -> None:
        self._chains: dict[str, Chain] = {}
        self._sets: dict[str, Set] = {}
        self._elements: dict[str, set[Element]] = {}
        self._maps: dict[str, dict[str, str]] = {}
        self._staged_chains: dict[str, Chain | None] = {}
        self._staged_sets: dict[str, Set | None] = {}
        self._staged_elements: dict[str, dict[Element, bool]] = {}
        self.table = Table(chains=self._chains, sets=self._sets, elements=self._elements)

    # ---- changes

    def chain(self, chain: Chain) -> None:
        """This chain, whatever was there under its name."""
        self._staged_chains[chain.name] = chain

    def no_chain(self, name: str) -> None:
        """No chain of this name."""
        self._staged_chains[name] = None

    def set(self, wanted: Set, elements: Iterable[Element] = ()) -> None:
        """This set with exactly these elements; a definition never changes under its name."""
        self.no_set(wanted.name)
        self._staged_sets[wanted.name] = wanted
        self.change(wanted.name, elements, ())

    def no_set(self, name: str) -> None:
        """No set or map of this name."""
        self._staged_sets[name] = None
        self._maps.pop(name, None)
        staged = self._staged_elements[name] = {}
        for element in self._elements.get(name, ()):
            staged[element] = False

    def change(self, name: str, added: Iterable[Element], removed: Iterable[Element]) -> None:
        """Elements in and out of a set."""
        staged = self._staged_elements.setdefault(name, {})
        for element in removed:
            staged[element] = False
        for element in added:
            staged[element] = True

    def map(self, name: str, key: str, data: str | None) -> None:
        """A map's one entry; None: none."""
        held = self._maps.setdefault(name, {})
        before = held.pop(key, None)
        if data is not None:
            held[key] = data
        if before != data:
            self.change(name, () if data is None else ((key, data),), () if before is None else ((key, before),))

    @property
    def staged(self) -> bool:
        """Whether anything was said since the last flush; it may come to nothing."""
        return bool(self._staged_chains or self._staged_sets or self._staged_elements)

    # ---- the flush

    def flush(self) -> Change:
        """What changed since the last flush; the table is what is wanted from now on."""
        sets_added, _, sets_removed = _settle(self._sets, self._staged_sets)
        chains_added, chains_changed, chains_removed = _settle(self._chains, self._staged_chains)
        added: dict[str, tuple[Element, ...]] = {}
        removed: dict[str, tuple[Element, ...]] = {}
        gone = {one.name: one for one in sets_removed}
        for name, staged in self._staged_elements.items():
            live = self._elements.setdefault(name, set())
            more = [element for element, wanted in staged.items() if wanted and element not in live]
            less = [element for element, wanted in staged.items() if not wanted and element in live]
            live.difference_update(less)
            live.update(more)
            if more:
                added[name] = in_order(more)
            if less and (name not in gone or gone[name].data is not None):
                removed[name] = in_order(less)
            if not live:
                del self._elements[name]
        self._staged_elements.clear()
        return Change(
            sets_added=tuple(sets_added),
            chains_added=tuple(chains_added),
            chains_changed=tuple(chains_changed),
            chains_removed=tuple(one.name for one in chains_removed),
            sets_removed=tuple(sets_removed),
            elements_added=added,
            elements_removed=removed,
        )


def _settle(live: dict[str, T], staged: dict[str, T | None]) -> tuple[list[T], list[T], list[T]]:
    """Fold what is staged in; what came, changed and went of it."""
    added: list[T] = []
    changed: list[T] = []
    removed: list[T] = []
    for name, wanted in staged.items():
        before = live.pop(name, None)
        if wanted is None:
            if before is not None:
                removed.append(before)
            continue
        live[name] = wanted
        if before is None:
            added.append(wanted)
        elif before != wanted:
            changed.append(wanted)
    staged.clear()
    return added, changed, removed
