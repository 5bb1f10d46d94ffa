"""What has to change so that what is becomes what is wanted. ADD does it, CHECK says it, repair does it again."""

from collections.abc import Iterable, Iterator

import msgspec

from services.eni_manager.core.wiring.values import (
    MAIN_TABLE,
    Address,
    Diversion,
    Item,
    Link,
    Priority,
    Redirect,
    Rule,
    Shaper,
    Side,
    Sysctl,
)
from shared.model import Cidr


class Put(msgspec.Struct, frozen=True):
    """Make this so. `found` is what stands there instead, where that can be said."""

    item: Item
    found: Item | None = None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.item} is missing"
        return f"{self.found} should be {self.item}"


class Drop(msgspec.Struct, frozen=True):
    """Take this away: it stands in the way of what is wanted."""

    item: Item

    def __str__(self) -> str:
        return f"{self.item} should not be there"


Change = Put | Drop

_OURS = frozenset(Priority)


def changes(wanted: Side, actual: Side) -> list[Change]:
    """Every difference that matters, in the order in which to mend them (drops just before what replaces them).

    What `actual` holds besides is left alone, except what would defeat the wanted: another global address of
    the same family on a managed link (§5.1.3), and a rule of the same priority for the same address.
    """
    return [
        *_sysctls(wanted.sysctls, actual.sysctls),
        *_links(wanted.links, actual.links),
        *_addresses(wanted.addresses, actual.addresses),
        *_missing(wanted.routes, actual.routes),
        *_rules(wanted.rules, actual.rules),
        *_missing(wanted.neighbours, actual.neighbours),
        *_shapers(wanted.shapers, actual.shapers),
        *_missing(wanted.intakes, actual.intakes),
        *_redirects(wanted.redirects, actual.redirects),
        *_missing(wanted.classifiers, actual.classifiers),
        *_diversions(wanted.diversions, actual.diversions),
    ]


def stale_rules(present: Iterable[Rule], used: Iterable[str], standing: Iterable[Rule] = ()) -> list[Rule]:
    """Rules of ours whose address no pod uses: what a pod left behind that nobody unplugged (§13 R5).

    Those for all packets are stale unless they are among the `standing` ones: an earlier mode left them.
    """
    in_use, keep = frozenset(used), frozenset(standing)
    ours = (rule for rule in present if rule.priority in _OURS and rule not in keep)
    return [rule for rule in ours if (rule.source or rule.to) not in in_use]


def superseded_rules(present: Iterable[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """Rules `to podIP lookup main` of pods that are found by one rule for all: an earlier release's, or Terway's own.

    They do no harm but to be walked past. Take them away only when what is wanted stands.
    """
    own = _own(wanted)
    return [rule for rule in present if _to_one_of(own, rule) and rule.table == MAIN_TABLE]


def _missing(wanted: Iterable[Item], actual: Iterable[Item]) -> Iterator[Put]:
    there = frozenset(actual)
    return (Put(item) for item in wanted if item not in there)


def _sysctls(wanted: Iterable[Sysctl], actual: Iterable[Sysctl]) -> Iterator[Put]:
    there = {item.path: item for item in actual}
    for item in wanted:
        # A setting whose link vanished meanwhile is nobody's difference (§5.1.4).
        if (found := there.get(item.path)) is not None and found != item:
            yield Put(item, found)


def _links(wanted: Iterable[Link], actual: Iterable[Link]) -> Iterator[Put]:
    there = {item.name: item for item in actual}
    for item in wanted:
        if (found := there.get(item.name)) != item:
            yield Put(item, found)


def _addresses(wanted: tuple[Address, ...], actual: tuple[Address, ...]) -> Iterator[Change]:
    managed = {(item.link, ":" in item.ip, item.host) for item in wanted}
    keep = frozenset(wanted)
    for item in actual:
        if item not in keep and (item.link, ":" in item.ip, item.host) in managed:
            yield Drop(item)
    yield from _missing(wanted, actual)


def _rules(wanted: tuple[Rule, ...], actual: tuple[Rule, ...]) -> Iterator[Change]:
    select = {_selector(item) for item in wanted if not item.for_all}
    own = _own(wanted)
    keep = frozenset(wanted)
    for item in actual:
        if item not in keep and (_selector(item) in select or (_to_one_of(own, item) and item.table != MAIN_TABLE)):
            yield Drop(item)
    yield from _missing(wanted, actual)


def _selector(rule: Rule) -> tuple[object, ...]:
    """What a rule is about. By address no rule of ours is about a link; by mark there is one for each."""
    return rule.priority, rule.source, rule.to, rule.mark, rule.mask, rule.v6, rule.iif if rule.mark else ""


def _own(wanted: Iterable[Rule]) -> frozenset[Cidr | None]:
    """Addresses of pods that are found by the one rule for all."""
    return frozenset(item.source for item in wanted if item.priority == Priority.FROM_POD)


def _to_one_of(own: frozenset[Cidr | None], rule: Rule) -> bool:
    return rule.priority == Priority.TO_POD and rule.to is not None and rule.to in own


def _shapers(wanted: Iterable[Shaper], actual: Iterable[Shaper]) -> Iterator[Put]:
    there = {item.link: item for item in actual}
    for item in wanted:
        if (found := there.get(item.link)) != item:
            yield Put(item, found)


def _redirects(wanted: Iterable[Redirect], actual: Iterable[Redirect]) -> Iterator[Put]:
    there = {item.link: item for item in actual}
    for item in wanted:
        if (found := there.get(item.link)) != item:
            yield Put(item, found)


def _diversions(wanted: Iterable[Diversion], actual: Iterable[Diversion]) -> Iterator[Put]:
    there = {item.link: item for item in actual}
    for item in wanted:
        if (found := there.get(item.link)) != item:
            yield Put(item, found)
