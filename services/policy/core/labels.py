"""Which selector matches which item, kept up to date at a cost that depends on the matches, not on the cluster.

Items with equal labels and equal parents (profiles, whose labels they inherit) form a **group**, and only groups are
matched: a Deployment of a thousand replicas is one. Two indexes keep the rest small:

    group created     its labels  -> buckets of selectors that demand one of them   -> evaluate only those
    selector created  its demands -> postings of groups that have such a label      -> evaluate only those
    parent changed    its groups  -> only selectors that mention a label that changed

A selector's *demands* are what must hold of single labels for it to match at all: `a == "x" && has(b)` demands of `a`
that it is "x", and of `b` that it is there. A selector without demands is evaluated against everything.

Labels that are inherited have no postings of their own: a parent knows its groups, and that is enough.
"""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, Generic, TypeVar

from services.policy.core.selectors import Compare, Has, Joined, Member, Node, Not, Selector

K = TypeVar("K", bound=Hashable)
"""What a selector is called."""
I = TypeVar("I", bound=Hashable)  # noqa: E741
"""What is selected."""

Demand = frozenset[str] | None
"""The values a label must have one of; None: any, as long as the label is there."""


def demands(node: Node) -> dict[str, Demand]:
    """What must hold of single labels for the term to be true; never more than that."""
    match node:
        case Has(label=label):
            return {label: None}
        case Compare(label=label, operator="==", value=value):
            return {label: frozenset((value,))}
        case Compare(label=label, operator=operator) if operator != "!=":
            return {label: None}
        case Member(label=label, values=values, negated=False):
            return {label: values}
        case Not(term=Compare(label=label, operator="!=", value=value)):
            return {label: frozenset((value,))}
        case Not(term=Member(label=label, values=values, negated=True)):
            return {label: values}
        case Joined(operator="&&", terms=terms):
            return _all_of(map(demands, terms))
        case Joined(operator="||", terms=terms):
            return _any_of([demands(term) for term in terms])
    return {}


def _all_of(terms: Iterable[dict[str, Demand]]) -> dict[str, Demand]:
    joined: dict[str, Demand] = {}
    for term in terms:
        for label, wanted in term.items():
            known = joined.get(label)
            joined[label] = wanted if known is None else known if wanted is None else known & wanted
    return joined


def _any_of(terms: list[dict[str, Demand]]) -> dict[str, Demand]:
    joined: dict[str, Demand] = {}
    for label in set(terms[0]).intersection(*terms[1:]):
        wanted = [term[label] for term in terms]
        known = [values for values in wanted if values is not None]
        joined[label] = frozenset().union(*known) if len(known) == len(wanted) else None
    return joined


class Group(Generic[K, I]):
    """Items with the same labels and parents, and the selectors that match them."""

    __slots__ = ("items", "labels", "matches", "parents")

    def __init__(self, labels: tuple[str, ...], parents: tuple[str, ...]) -> None:
        self.labels = labels
        """Name, value, name, value …, in the order of the names."""
        self.parents = parents
        self.items: set[I] = set()
        self.matches: set[K] = set()


class _Parent(Generic[K, I]):
    __slots__ = ("groups", "labels")

    def __init__(self) -> None:
        self.labels: Mapping[str, str] = _NO_LABELS
        self.groups: set[Group[K, I]] = set()


class _Entry(Generic[K, I]):
    """A selector, what it demands, and the bucket that it is kept in."""

    __slots__ = ("bucket", "demands", "labels", "selector")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.labels = selector.labels()
        self.demands = demands(selector.root)
        self.bucket: str | None = None
        """The label; None: it demands nothing, or what cannot be."""


class _Bucket(Generic[K]):
    """Selectors that demand something of one label."""

    __slots__ = ("present", "values")

    def __init__(self) -> None:
        self.present: set[K] = set()
        self.values: dict[str, set[K]] = {}


class _Postings(Generic[K, I]):
    """Groups by the value of one label of their own. A value of a single group, as unique ones are, costs no set."""

    __slots__ = ("by_value", "total")

    def __init__(self) -> None:
        self.by_value: dict[str, Group[K, I] | set[Group[K, I]]] = {}
        self.total = 0

    def add(self, value: str, group: Group[K, I]) -> None:
        held = self.by_value.get(value)
        if held is None:
            self.by_value[value] = group
        elif isinstance(held, Group):
            self.by_value[value] = {held, group}
        else:
            held.add(group)
        self.total += 1

    def discard(self, value: str, group: Group[K, I]) -> None:
        held = self.by_value[value]
        if isinstance(held, Group):
            del self.by_value[value]
        else:
            held.remove(group)
            if not held:
                del self.by_value[value]
        self.total -= 1

    def groups(self, wanted: Demand) -> Iterator[Group[K, I]]:
        for value in self.by_value if wanted is None else wanted:
            held = self.by_value.get(value)
            if isinstance(held, Group):
                yield held
            elif held is not None:
                yield from held

    def count(self, wanted: Demand) -> int:
        if wanted is None:
            return self.total
        held = (self.by_value.get(value, ()) for value in wanted)
        return sum(1 if isinstance(groups, Group) else len(groups) for groups in held)


_NO_LABELS: Final[Mapping[str, str]] = {}


class LabelIndex(Generic[K, I]):
    """The two indexes. `started` and `stopped` are told of each selector and group that begin and cease to match."""

    def __init__(self, started: Callable[[K, Group[K, I]], None], stopped: Callable[[K, Group[K, I]], None]) -> None:
        self._started = started
        self._stopped = stopped
        self._groups: dict[tuple[tuple[str, ...], tuple[str, ...]], Group[K, I]] = {}
        self._postings: dict[str, _Postings[K, I]] = {}
        self._parents: dict[str, _Parent[K, I]] = {}
        self._carriers: dict[str, set[str]] = {}
        """Label -> parents that hand it down."""
        self._entries: dict[K, _Entry[K, I]] = {}
        self._buckets: dict[str, _Bucket[K]] = {}
        self._undemanding: set[K] = set()

    # ---- items

    def add(self, item: I, labels: Mapping[str, str], parents: tuple[str, ...]) -> Group[K, I]:
        """Put the item into its group, which is returned; a new group is matched first."""
        flat = tuple(chain.from_iterable(sorted(labels.items())))
        group = self._groups.get((flat, parents))
        if group is None:
            group = self._create(flat, parents)
        group.items.add(item)
        return group

    def remove(self, item: I, group: Group[K, I]) -> None:
        """Take the item out; an empty group ceases to match and to exist."""
        group.items.remove(item)
        if not group.items:
            self._drop(group)

    def _create(self, flat: tuple[str, ...], parents: tuple[str, ...]) -> Group[K, I]:
        flat, parents = tuple(map(sys.intern, flat)), tuple(map(sys.intern, parents))
        group: Group[K, I] = Group(flat, parents)
        self._groups[flat, parents] = group
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            postings = self._postings.get(name)
            if postings is None:
                postings = self._postings[name] = _Postings()
            postings.add(value, group)
        for parent in parents:
            self._parent(parent).groups.add(group)
        labels = self._effective(group)
        for key in self._candidates(labels):
            if self._entries[key].selector.matches(labels.get):
                group.matches.add(key)
                self._started(key, group)
        return group

    def _drop(self, group: Group[K, I]) -> None:
        for key in group.matches:
            self._stopped(key, group)
        for name, value in zip(group.labels[::2], group.labels[1::2], strict=True):
            postings = self._postings[name]
            postings.discard(value, group)
            if not postings.total:
                del self._postings[name]
        for parent in set(group.parents):
            self._parents[parent].groups.remove(group)
            self._forget(parent)
        del self._groups[group.labels, group.parents]

    def _effective(self, group: Group[K, I]) -> dict[str, str]:
        """All labels, inherited ones too: the own win, then those of the first parent."""
        labels: dict[str, str] = {}
        for parent in reversed(group.parents):
            labels.update(self._parents[parent].labels)
        labels.update(zip(group.labels[::2], group.labels[1::2], strict=True))
        return labels

    def _candidates(self, labels: Mapping[str, str]) -> list[K]:
        """Selectors whose bucket's demand these labels meet; each once, as it is in one bucket."""
        found = list(self._undemanding)
        buckets = self._buckets
        for name in labels.keys() & buckets.keys():
            bucket = buckets[name]
            found.extend(bucket.present)
            found.extend(bucket.values.get(labels[name], ()))
        return found

    # ---- parents

    def set_parent(self, name: str, labels: Mapping[str, str] | None) -> None:
        """The labels that a parent hands down; None: it is unknown, and hands down nothing."""
        labels = labels or _NO_LABELS
        parent = self._parent(name)
        before = parent.labels
        changed = {label for label, _ in before.items() ^ labels.items()}
        parent.labels = labels
        for label in before.keys() - labels.keys():
            self._carriers[label].remove(name)
            if not self._carriers[label]:
                del self._carriers[label]
        for label in labels.keys() - before.keys():
            self._carriers.setdefault(label, set()).add(name)
        if changed:
            for group in parent.groups:
                self._rematch(group, changed)
        self._forget(name)

    def _rematch(self, group: Group[K, I], changed: set[str]) -> None:
        """Judge anew what mentions a label that changed. What starts comes before what stops, so nothing flaps."""
        labels = self._effective(group)
        entries = self._entries
        stopped = [
            key
            for key in group.matches
            if not entries[key].labels.isdisjoint(changed) and not entries[key].selector.matches(labels.get)
        ]
        for key in self._candidates(labels):
            if key not in group.matches and entries[key].selector.matches(labels.get):
                group.matches.add(key)
                self._started(key, group)
        for key in stopped:
            group.matches.remove(key)
            self._stopped(key, group)

    def _parent(self, name: str) -> _Parent[K, I]:
        parent = self._parents.get(name)
        if parent is None:
            parent = self._parents[name] = _Parent()
        return parent

    def _forget(self, name: str) -> None:
        parent = self._parents[name]
        if not parent.groups and not parent.labels:
            del self._parents[name]

    # ---- selectors

    def set_selector(self, key: K, selector: Selector) -> None:
        """Create the selector, or change it; an equal one changes nothing."""
        before = self._entries.get(key)
        if before is not None and before.selector.text == selector.text:
            return
        entry: _Entry[K, I] = _Entry(selector)
        new = [group for group in self._wanted(entry.demands) if selector.matches(self._effective(group).get)]
        old = [] if before is None else self._matched(key, before)
        if before is not None:
            self._unfile(key, before)
        self._entries[key] = entry
        self._file(key, entry)
        for group in new:
            if key not in group.matches:
                group.matches.add(key)
                self._started(key, group)
        for group in set(old).difference(new):
            group.matches.remove(key)
            self._stopped(key, group)

    def drop_selector(self, key: K) -> None:
        """Forget the selector."""
        entry = self._entries.get(key)
        if entry is None:
            return
        matched = self._matched(key, entry)
        self._unfile(key, entry)
        del self._entries[key]
        for group in matched:
            group.matches.remove(key)
            self._stopped(key, group)

    def _matched(self, key: K, entry: _Entry[K, I]) -> list[Group[K, I]]:
        return [group for group in self._wanted(entry.demands) if key in group.matches]

    def _wanted(self, wanted: dict[str, Demand]) -> Iterable[Group[K, I]]:
        """The groups that meet the demand that the fewest meet."""
        best: str | None = None
        least = len(self._groups)
        for label, values in wanted.items():
            count = self._count(label, values)
            if count < least:
                best, least = label, count
        return list(self._groups.values()) if best is None else self._having(best, wanted[best])

    def _count(self, label: str, wanted: Demand) -> int:
        postings = self._postings.get(label)
        own = postings.count(wanted) if postings is not None else 0
        return own + sum(len(parent.groups) for parent in self._handing_down(label, wanted))

    def _having(self, label: str, wanted: Demand) -> set[Group[K, I]]:
        postings = self._postings.get(label)
        found = set(postings.groups(wanted)) if postings is not None else set()
        for parent in self._handing_down(label, wanted):
            found |= parent.groups
        return found

    def _handing_down(self, label: str, wanted: Demand) -> Iterator[_Parent[K, I]]:
        for name in self._carriers.get(label, ()):
            parent = self._parents[name]
            if wanted is None or parent.labels[label] in wanted:
                yield parent

    def _file(self, key: K, entry: _Entry[K, I]) -> None:
        """Into the bucket that is least full, so that a common demand (orchestrator == k8s) never gathers them all."""
        if not entry.demands:
            self._undemanding.add(key)
            return
        if frozenset() in entry.demands.values():
            return  # no value can meet that: it never matches
        label = entry.bucket = min(entry.demands, key=lambda label: self._fullness(label, entry.demands[label]))
        bucket = self._buckets.setdefault(label, _Bucket())
        wanted = entry.demands[label]
        if wanted is None:
            bucket.present.add(key)
        else:
            for value in wanted:
                bucket.values.setdefault(value, set()).add(key)

    def _fullness(self, label: str, wanted: Demand) -> int:
        bucket = self._buckets.get(label)
        if bucket is None:
            return 0 if wanted is not None else 1
        if wanted is None:
            return 2 * len(bucket.present) + 1
        return max((len(bucket.values.get(value, ())) for value in wanted), default=0)

    def _unfile(self, key: K, entry: _Entry[K, I]) -> None:
        if entry.bucket is None:
            self._undemanding.discard(key)
            return
        bucket = self._buckets[entry.bucket]
        bucket.present.discard(key)
        for value in entry.demands[entry.bucket] or ():
            held = bucket.values[value]
            held.discard(key)
            if not held:
                del bucket.values[value]
        if not bucket.present and not bucket.values:
            del self._buckets[entry.bucket]
