"""Counters as people read them: by policy and rule, by endpoint with who dropped, and what nobody's policy dropped."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from services.policy.core import messages as m
from services.policy.core.counts import Count, Totals, rule_number

Owner = m.PolicyID | m.ProfileID | m.WorkloadEndpointID | str

K = TypeVar("K")

_INWARD = ("pi-", "pri-", "tw-", "hi-", "hfi-", "hpi-", "hui-")
_DENIED = "a rule denies it"
_OUTWARD = ("po-", "pro-", "fw-", "ho-", "hfo-", "huo-")


class RuleCount(msgspec.Struct, frozen=True):
    """A rule by its place in its policy, from 0. `action`: allow, deny, pass or log."""

    direction: str
    rule: int
    action: str
    packets: int
    bytes: int


class PolicyCount(msgspec.Struct, frozen=True):
    """What the rules of a policy or profile matched on this node, whichever endpoint asked them."""

    kind: str
    """policy or profile"""
    name: str
    rules: list[RuleCount]
    tier: str = ""

    @property
    def text(self) -> str:
        """As other pages call it."""
        return f"{self.tier}/{self.name}" if self.tier else self.name


class Drop(msgspec.Struct, frozen=True):
    """What was dropped of an endpoint's. `by`: the policy or profile that denied it, else empty, and `why` says it."""

    direction: str
    by: str
    why: str
    packets: int
    bytes: int


class EndpointDrops(msgspec.Struct, frozen=True):
    """`endpoint`: NAMESPACE/POD, a host endpoint's chain, or an interface of the node."""

    endpoint: str
    drops: list[Drop]


class Tally(msgspec.Struct, frozen=True):
    """All of a node. `others`: packets that no endpoint's word dropped, by reason, such as forged sources."""

    read_at: float
    policies: list[PolicyCount]
    endpoints: list[EndpointDrops]
    others: dict[str, int]


class Read(NamedTuple):
    """The totals of one table. `pods`: whose each link there is; `of`: the pod whose own table it is."""

    totals: Totals
    pods: Mapping[str, str]
    of: str = ""


def tally(read: Iterable[Read], owners: Mapping[str, Owner], read_at: float) -> Tally:
    """Policies of several tables are added up, and so is what was dropped of an endpoint."""
    rules: dict[Owner, dict[tuple[str, int, str], Count]] = {}
    drops: dict[str, dict[tuple[str, str, str], Count]] = {}
    others: dict[str, int] = {}
    for totals, pods, of in read:
        for line, count in totals.lines.items():
            owner, direction = owners.get(line.chain), direction_of(line.chain)
            number = rule_number(line.comment)
            if isinstance(owner, m.PolicyID | m.ProfileID):
                if number is not None:
                    _add(rules.setdefault(owner, {}), (direction, number, line.action), count)
                if of and line.action == "deny" and count.packets:
                    _add(drops.setdefault(of, {}), (direction, text_of(owner), _DENIED), count)
            elif line.action == "deny" and count.packets:
                if isinstance(owner, m.WorkloadEndpointID):
                    _add(drops.setdefault(owner.workload_id, {}), (direction, "", line.comment), count)
                elif direction:
                    _add(drops.setdefault(f"host:{line.chain}", {}), (direction, "", line.comment), count)
                else:
                    others[line.comment] = others.get(line.comment, 0) + count.packets
        for denial, count in totals.denials.items():
            owner = owners.get(denial.chain)
            if isinstance(owner, m.PolicyID | m.ProfileID):
                whose = pods.get(denial.link, f"host:{denial.link}")
                decided = direction_of(denial.chain), text_of(owner), _DENIED
                _add(drops.setdefault(whose, {}), decided, count)
    return Tally(
        read_at,
        sorted(_policies(rules), key=lambda one: (one.kind, one.tier, one.name)),
        [EndpointDrops(name, _drops(found)) for name, found in sorted(drops.items())],
        dict(sorted(others.items())),
    )


def text_of(owner: m.PolicyID | m.ProfileID) -> str:
    """A policy's or profile's name as pages show it."""
    return owner.text if isinstance(owner, m.PolicyID) else owner.name


def direction_of(chain: str) -> str:
    """ingress or egress; empty: of a chain that is of neither."""
    if chain.startswith(_INWARD):
        return "ingress"
    return "egress" if chain.startswith(_OUTWARD) else ""


def _add(held: dict[K, Count], key: K, count: Count) -> None:
    held[key] = held.get(key, Count()) + count


def _policies(rules: Mapping[Owner, Mapping[tuple[str, int, str], Count]]) -> Iterator[PolicyCount]:
    for owner, found in rules.items():
        listed = [RuleCount(*key, *count) for key, count in sorted(found.items())]
        if isinstance(owner, m.PolicyID):
            yield PolicyCount("policy", owner.name, listed, owner.tier)
        elif isinstance(owner, m.ProfileID):
            yield PolicyCount("profile", owner.name, listed)


def _drops(found: Mapping[tuple[str, str, str], Count]) -> list[Drop]:
    return [Drop(*key, *count) for key, count in sorted(found.items(), key=lambda one: -one[1].packets)]


# ---- series


class Series:
    """At most so many label sets that are ever shown by themselves: who comes first is; all others are one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._shown: dict[tuple[str, ...], None] = {}
        self._last: dict[tuple[str, ...], Count] = {}
        self.rest = Count()

    def show(self, found: Mapping[tuple[str, ...], Count]) -> dict[tuple[str, ...], Count]:
        """Those that have a series of their own. Nothing that has counted nothing takes a place."""
        self._shown = {labels: None for labels in self._shown if labels in found}
        turned_away: dict[tuple[str, ...], Count] = {}
        for labels, count in found.items():
            if labels in self._shown or not count.packets:
                continue
            if labels not in self._last and len(self._shown) < self._most:
                self._shown[labels] = None
                continue
            self.rest += count.since(self._last.get(labels))
            turned_away[labels] = count
        self._last = turned_away
        return {labels: found[labels] for labels in self._shown}
