"""Totals of what rules have counted. A rule's counter in the kernel begins anew when its chain is filled anew; a total
only grows, for as long as its chain is wanted.

A rule is told by its handle, which no later rule of the table has: a handle that is new counts from nothing. A table
that was removed and made anew has a handle of its own, too, and everything in it is new.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple


class Count(NamedTuple):
    """What has passed."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: object) -> "Count":
        if not isinstance(other, Count):
            return NotImplemented
        return Count(self.packets + other.packets, self.bytes + other.bytes)

    def since(self, before: "Count | None") -> "Count":
        """What has come to it; everything if it has begun anew."""
        if before is None or self.packets < before.packets or self.bytes < before.bytes:
            return self
        return Count(self.packets - before.packets, self.bytes - before.bytes)


class RuleSeen(NamedTuple):
    """A rule with a counter, as the kernel shows it. `action`: allow, deny, pass or log."""

    chain: str
    handle: int
    comment: str
    action: str
    passed: Count


class Line(NamedTuple):
    """What a total is of: lines of a rule that was rendered as several are one."""

    chain: str
    comment: str
    action: str


class Denial(NamedTuple):
    """What a shared chain has denied by an endpoint's link."""

    chain: str
    link: str


class Totals:
    """Of one table."""

    def __init__(self) -> None:
        self.lines: dict[Line, Count] = {}
        self.denials: dict[Denial, Count] = {}
        self._rules: dict[tuple[str, int], tuple[Line, Count]] = {}
        self._links: dict[Denial, Count] = {}
        self._table = 0

    def of_table(self, handle: int) -> None:
        """Which table is read from now on. In another one of the same name, handles are other rules'."""
        if handle != self._table:
            self._table = handle
            self._rules, self._links = {}, {}

    def read(self, rules: Iterable[RuleSeen], chains: Collection[str] | None = None) -> None:
        """All rules of the table, or of these chains. What is not among them is no more."""
        seen: dict[tuple[str, int], tuple[Line, Count]] = {}
        for rule in rules:
            key, line = (rule.chain, rule.handle), Line(rule.chain, rule.comment, rule.action)
            known = self._rules.get(key)
            grown = rule.passed.since(known[1] if known is not None and known[0] == line else None)
            self.lines[line] = self.lines.get(line, Count()) + grown
            seen[key] = (line, rule.passed)
        kept = {} if chains is None else {key: held for key, held in self._rules.items() if key[0] not in chains}
        self._rules = kept | seen

    def read_denials(self, found: Mapping[Denial, Count]) -> None:
        """All that the sets of denials hold."""
        for denial, count in found.items():
            grown = count.since(self._links.get(denial))
            self.denials[denial] = self.denials.get(denial, Count()) + grown
        self._links = dict(found)

    def keep(self, chains: Collection[str], links: Collection[str]) -> None:
        """Forget totals of chains that are not wanted any more, and of links that are gone.

        One that is wanted again has all that it has counted since it was made.
        """
        self._rules = {key: held for key, held in self._rules.items() if key[0] in chains}
        self.lines = {line: count for line, count in self.lines.items() if line.chain in chains}
        self.denials = {
            denial: count for denial, count in self.denials.items() if denial.chain in chains and denial.link in links
        }

    def copy(self) -> "Totals":
        """What has been counted up to now, and nothing of how."""
        made = Totals()
        made.lines, made.denials = dict(self.lines), dict(self.denials)
        return made

    def add(self, other: "Totals") -> None:
        """What a table has counted that is gone."""
        for line, count in other.lines.items():
            self.lines[line] = self.lines.get(line, Count()) + count

    def of(self, chain: str) -> Iterator[tuple[Line, Count]]:
        """The lines of a chain."""
        return ((line, count) for line, count in self.lines.items() if line.chain == chain)


def rule_number(comment: str) -> int | None:
    """Which rule of its policy or profile a line is of; None: it is no policy's."""
    word, _, rest = comment.partition(" ")
    number = rest.partition(" ")[0]
    return int(number) if word == "rule" and number.isascii() and number.isdecimal() else None
