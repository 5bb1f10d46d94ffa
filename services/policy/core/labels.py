"""Which selector matches which item, kept up to date at a cost that depends on the matches, not on the cluster.

Items with equal labels and equal parents (profiles, whose labels they inherit) form a **group**, and only groups are
matched: a Deployment of a thousand replicas is one. Two indexes keep the rest small:

    group created     its labels  -> buckets of selectors that demand one of them   -> evaluate only those
    selector created  its demands -> postings of groups that have such a label      -> evaluate only those
    parent changed    its groups  -> only selectors that mention a label that changed

Postings of a label are made when the first selector demands it: what is unique to a pod (the name of its Job, an id of
its controller) is hardly ever asked for, and then costs nothing.

A selector's *demands* (demands.py) are what must hold of single labels for it to match at all. A selector without any
is evaluated against everything.

Labels that are inherited have no postings of their own: a parent knows its groups, and that is enough.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from services.policy.core.demands import Demand, demands
from services.policy.core.few import Few, joined, without
from services.policy.core.selectors import Selector

K = TypeVar("K", bound=Hashable)
"""What a selector is called."""
I = TypeVar("I", bound=Hashable)  # noqa: E741
"""What is selected."""


class Group(Generic[K, I]):
    """Items with the same labels and parents, and the selectors that match them. Of each there may be one or thousands,
    and of groups a hundred thousand: see few.py."""

    __slots__ = ("items", "kind", "matches")

    def __init__(self, kind: tuple[Any, ...]) -> None:
        self.kind = kind
        """The parents, then name, value, name, value …, in the order of the names."""
        self.items: Few[I] = ()
        self.matches: Few[K] = ()

    @property
    def parents(self) -> tuple[str, ...]:
        """Whose labels are inherited."""
        parents: tuple[str, ...] = self.kind[0]
        return parents

    @property
    def labels(self) -> Iterator[tuple[str, str]]:
        """Names and values, in the order of the names."""
        return zip(self.kind[1::2], self.kind[2::2], strict=True)


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
        self.by_value: dict[str, Group[K, I] | set[Group[K, I]]] | None = None
        """None: nobody has asked yet."""
        self.total = 0

    def add(self, value: str, group: Group[K, I]) -> None:
        self.total += 1
        if self.by_value is not None:
            self.file(value, group)

    def file(self, value: str, group: Group[K, I]) -> None:
        assert self.by_value is not None
        held = self.by_value.get(value)
        if held is None:
            self.by_value[value] = group
        elif isinstance(held, Group):
            self.by_value[value] = {held, group}
        else:
            held.add(group)

    def discard(self, value: str, group: Group[K, I]) -> None:
        self.total -= 1
        if self.by_value is None:
            return
        held = self.by_value[value]
        if isinstance(held, Group):
            del self.by_value[value]
        else:
            held.remove(group)
            if not held:
                del self.by_value[value]

    def groups(self, wanted: Demand) -> Iterator[Group[K, I]]:
        assert self.by_value is not None
        for value in self.by_value if wanted is None else wanted:
            held = self.by_value.get(value)
            if isinstance(held, Group):
                yield held
            elif held is not None:
                yield from held

    def count(self, wanted: Demand) -> int:
        if wanted is None:
            return self.total
        assert self.by_value is not None
        held = (self.by_value.get(value, ()) for value in wanted)
        return sum(1 if isinstance(groups, Group) else len(groups) for groups in held)


_NO_LABELS: Final[Mapping[str, str]] = {}

_shared: Final = lru_cache(maxsize=4096)(str)
"""One text for many groups. Interning would remember also each of the texts that only one pod has."""


class LabelIndex(Generic[K, I]):
    """The two indexes. `started` and `stopped` are told of each selector and group that begin and cease to match."""

    def __init__(self, started: Callable[[K, Group[K, I]], None], stopped: Callable[[K, Group[K, I]], None]) -> None:
        self._started = started
        self._stopped = stopped
        self._groups: dict[tuple[Any, ...], Group[K, I]] = {}
        self._postings: dict[str, _Postings[K, I]] = {}
        self._parents: dict[str, _Parent[K, I]] = {}
        self._carriers: dict[str, set[str]] = {}
        """Label -> parents that hand it down."""
        self._entries: dict[K, _Entry[K, I]] = {}
        self._buckets: dict[str, _Bucket[K]] = {}
        self._undemanding: set[K] = set()

    # ---- items

    def add(self, item: I, labels: Mapping[str, str], parents: tuple[str, ...]) -> Group[K, I]:
        """Put the item into its group, which is returned."""
        group = self.group(labels, parents)
        self.join(item, group)
        return group

    def group(self, labels: Mapping[str, str], parents: tuple[str, ...]) -> Group[K, I]:
        """The group of these labels and parents; a new one is matched first. Something must join it."""
        kind = (parents, *chain.from_iterable(sorted(labels.items())))
        return self._groups.get(kind) or self._create(kind)

    def join(self, item: I, group: Group[K, I]) -> None:
        """Put the item into the group."""
        group.items = joined(group.items, item)

    def remove(self, item: I, group: Group[K, I]) -> None:
        """Take the item out; an empty group ceases to match and to exist."""
        group.items = without(group.items, item)
        if not group.items:
            self._drop(group)

    def _create(self, kind: tuple[Any, ...]) -> Group[K, I]:
        kind = (kind[0], *map(_shared, kind[1:]))
        group: Group[K, I] = Group(kind)
        self._groups[kind] = group
        for name, value in group.labels:
            postings = self._postings.get(name)
            if postings is None:
                postings = self._postings[name] = _Postings()
            postings.add(value, group)
        for parent in group.parents:
            self._parent(parent).groups.add(group)
        labels = self._effective(group)
        for key in self._candidates(labels):
            if self._entries[key].selector.matches(labels.get):
                group.matches = joined(group.matches, key)
                self._started(key, group)
        return group

    def _drop(self, group: Group[K, I]) -> None:
        for key in group.matches:
            self._stopped(key, group)
        for name, value in group.labels:
            postings = self._postings[name]
            postings.discard(value, group)
            if not postings.total:
                del self._postings[name]
        for parent in set(group.parents):
            self._parents[parent].groups.remove(group)
            self._forget(parent)
        del self._groups[group.kind]

    def _effective(self, group: Group[K, I]) -> dict[str, str]:
        """All labels, inherited ones too: the own win, then those of the first parent."""
        labels: dict[str, str] = {}
        for parent in reversed(group.parents):
            labels.update(self._parents[parent].labels)
        labels.update(group.labels)
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
                group.matches = joined(group.matches, key)
                self._started(key, group)
        for key in stopped:
            group.matches = without(group.matches, key)
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
                group.matches = joined(group.matches, key)
                self._started(key, group)
        for group in set(old).difference(new):
            group.matches = without(group.matches, key)
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
            group.matches = without(group.matches, key)
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
        postings = self._posted(label)
        own = postings.count(wanted) if postings is not None else 0
        return own + sum(len(parent.groups) for parent in self._handing_down(label, wanted))

    def _having(self, label: str, wanted: Demand) -> set[Group[K, I]]:
        postings = self._posted(label)
        found = set(postings.groups(wanted)) if postings is not None else set()
        for parent in self._handing_down(label, wanted):
            found |= parent.groups
        return found

    def _posted(self, label: str) -> _Postings[K, I] | None:
        """The label's postings, filled at the first demand; None: no group has the label."""
        postings = self._postings.get(label)
        if postings is not None and postings.by_value is None:
            postings.by_value = {}
            for kind, group in self._groups.items():
                if label in kind:
                    for name, value in group.labels:
                        if name == label:
                            postings.file(value, group)
        return postings

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
