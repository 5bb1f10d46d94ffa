"""An IP set and its members, counted: two endpoints may share an address, and it leaves with the last of them."""

from collections.abc import Iterable

from services.policy.core.rules import SetSpec


class IPSet:
    """Members with the number of their contributors, and what changed since the dataplane was told."""

    __slots__ = ("added", "counts", "removed", "sent", "spec")

    def __init__(self, spec: SetSpec) -> None:
        self.spec = spec
        self.counts: dict[str, int] = {}
        self.sent = False
        """Whether the dataplane knows the set; until then it needs no difference."""
        self.added: set[str] = set()
        self.removed: set[str] = set()

    def add(self, members: Iterable[str]) -> bool:
        """One more contributor for each; says whether there is now something to tell."""
        counts = self.counts
        for member in members:
            count = counts.get(member, 0)
            counts[member] = count + 1
            if count == 0 and self.sent:
                if member in self.removed:
                    self.removed.remove(member)
                else:
                    self.added.add(member)
        return self.sent

    def remove(self, members: Iterable[str]) -> bool:
        """One contributor less for each; says whether there is now something to tell."""
        counts = self.counts
        for member in members:
            count = counts[member] - 1
            if count:
                counts[member] = count
                continue
            del counts[member]
            if self.sent:
                if member in self.added:
                    self.added.remove(member)
                else:
                    self.removed.add(member)
        return self.sent
