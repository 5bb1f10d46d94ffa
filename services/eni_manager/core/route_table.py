"""The VPC's route table in mode vpc-route: which entries this node wants, which are whose, what has to change.

    the node's pod ranges ─┐
    addresses pods use   ──┼─► plan() ─► create · delete · wait · blocked, and which ranges are routed
    the table's entries  ──┘

An entry says in its description whose it is: of which cluster (the UID of its namespace kube-system) and which node.
Without that it is foreign, and nothing here ever changes it; a foreign one that leads to this node, as a cloud
controller makes them, is as good as ours.

Who removes what
----------------
* Its own node: what leads to a range that is the node's no more and that no pod uses, and what an earlier instance of
  the same name left.
* The node whose range an entry takes: when the API server says that the entry's node is gone or has other ranges now.
* For a node that is gone for good, a few others: `Watchers`. Who watches an entry follows from a hash of the entry and
  the names in the table, which all nodes compute alike, so nobody is elected and each node asks the API server for two
  or three names, however large the cluster. What was gone at two looks in a row is removed; to remove what another has
  just removed is success. The hash changes with every few looks, so dead watchers of dead nodes hold nothing up.
"""

import hashlib
import re
from bisect import bisect
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from shared.model import Cidr, Ip

LONGEST_NODE_NAME = 180
"""A description may have 256 characters."""

WATCHERS = 3
LOOKS_PER_TURN = 4
CONFIRMING_LOOKS = 2

Known = Mapping[str, Collection[Cidr] | None]
"""What the API server said of some nodes: their pod ranges; None: there is no such node."""


class Owner(msgspec.Struct, frozen=True):
    """Whose an entry is."""

    cluster: str
    node: str

    @property
    def description(self) -> str:
        """What is written on an entry."""
        return f"terway: pods of node {self.node} of cluster {self.cluster}"


class Entry(msgspec.Struct, frozen=True):
    """A customer's entry of the table. `status`: Pending, Available, Modifying or Deleting."""

    id: str
    destination: Cidr
    hop: str
    status: str
    description: str = ""

    @property
    def owner(self) -> Owner | None:
        """Whose it says that it is; None: foreign."""
        found = _DESCRIPTION.fullmatch(self.description)
        return None if found is None else Owner(cluster=found["cluster"], node=found["node"])


class Plan(msgspec.Struct, frozen=True):
    """What has to be done, and what holds now. Deletions come with their reason and go before creations."""

    routed: tuple[Cidr, ...] = ()
    create: tuple[Cidr, ...] = ()
    delete: tuple[tuple[Entry, str], ...] = ()
    waiting: tuple[Cidr, ...] = ()
    """Their entries are on their way, in either direction."""
    blocked: Mapping[Cidr, str] = {}
    ask: frozenset[str] = frozenset()
    """Nodes that would have to be known to decide more."""


_DESCRIPTION = re.compile(r"terway: pods of node (?P<node>\S+) of cluster (?P<cluster>\S+)")


def plan(
    own: Owner,
    instance: str,
    *,
    wanted: Collection[Cidr],
    in_use: Collection[Ip],
    table: Sequence[Entry],
    known: Known,
) -> Plan:
    """What this node has to do. Of nodes that are not `known` nothing is said to be stale."""
    routed: list[Cidr] = []
    create: list[Cidr] = []
    delete: list[tuple[Entry, str]] = []
    waiting: list[Cidr] = []
    blocked: dict[Cidr, str] = {}
    ask: set[str] = set()
    there = {entry.destination: entry for entry in table}
    for cidr in wanted:
        entry = there.get(cidr)
        if entry is None:
            create.append(cidr)
        elif entry.status != "Available":
            waiting.append(cidr)
        elif entry.hop == instance:
            routed.append(cidr)
        elif why := _stale(entry, own, known):
            delete.append((entry, why))
        else:
            blocked[cidr] = _taken(entry)
            if (owner := entry.owner) is not None and owner.cluster == own.cluster:
                ask.add(owner.node)
    for entry in table:
        if entry.owner != own or entry.destination in wanted:
            continue
        if entry.status != "Available":
            waiting.append(entry.destination)
        elif users := [ip for ip in in_use if ip_address(ip) in ip_network(entry.destination)]:
            routed.append(entry.destination)
            blocked.setdefault(entry.destination, f"{entry.destination} is used by {len(users)} pods still")
        else:
            delete.append((entry, "this node has other pod ranges now"))
    return Plan(tuple(routed), tuple(create), tuple(delete), tuple(waiting), blocked, frozenset(ask - known.keys()))


def _stale(entry: Entry, own: Owner, known: Known) -> str:
    """Why an entry that takes a range of ours and leads elsewhere may go; empty: it may not."""
    owner = entry.owner
    if owner is None or owner.cluster != own.cluster:
        return ""
    if owner.node == own.node:
        return f"it leads to {entry.hop}, an earlier instance of this node"
    ranges = known.get(owner.node, (entry.destination,))
    if ranges is None:
        return f"node {owner.node} is gone"
    return f"node {owner.node} has other pod ranges now" if entry.destination not in ranges else ""


def _taken(entry: Entry) -> str:
    owner = entry.owner
    whose = f"node {owner.node} of cluster {owner.cluster}" if owner else "somebody else"
    return (
        f"the route table leads {entry.destination} to {entry.hop}, by an entry of {whose} ({entry.id}): "
        "remove that entry, or give this node another pod range"
    )


# ---- entries of nodes that are gone


class Watchers:
    """This node's share in watching over the cluster's entries."""

    def __init__(self) -> None:
        self._looks = 0
        self._gone: dict[str, int] = {}
        """How often in a row the node of an entry was gone."""

    def watched(self, own: Owner, table: Sequence[Entry]) -> list[Entry]:
        """One more look: the entries whose nodes this node has to ask for, and those that it has doubts about."""
        turn = self._looks // LOOKS_PER_TURN
        self._looks += 1
        ours = [(one, owner) for one in table if (owner := one.owner) is not None and owner.cluster == own.cluster]
        watchers = _watchers(ours, {owner.node for _, owner in ours} | {own.node}, turn)
        self._gone = {entry.id: self._gone[entry.id] for entry, _ in ours if entry.id in self._gone}
        return [
            entry
            for entry, owner in ours
            if owner.node != own.node and (entry.id in self._gone or own.node in watchers[entry.id])
        ]

    def removable(self, watched: Sequence[Entry], known: Known) -> list[Entry]:
        """Take over what the API server said; the entries whose nodes were gone at enough looks."""
        for entry in watched:
            owner = entry.owner
            if owner is not None and owner.node in known:
                gone = known[owner.node] is None
                self._gone[entry.id] = self._gone.get(entry.id, 0) + 1 if gone else 0
        self._gone = {entry: times for entry, times in self._gone.items() if times}
        sure = {entry for entry, times in self._gone.items() if times >= CONFIRMING_LOOKS}
        return [entry for entry in watched if entry.id in sure and entry.status == "Available"]


def _watchers(entries: Sequence[tuple[Entry, Owner]], names: Collection[str], turn: int) -> dict[str, list[str]]:
    """Who watches each entry: the names that follow it on a ring of hashes, less its own node's."""
    ring = sorted((_place(turn, name), name) for name in names)
    places = [place for place, _ in ring]
    found = {}
    for entry, owner in entries:
        start = bisect(places, _place(turn, entry.id))
        following = (ring[(start + step) % len(ring)][1] for step in range(min(WATCHERS + 1, len(ring))))
        found[entry.id] = [name for name in following if name != owner.node][:WATCHERS]
    return found


def _place(turn: int, what: str) -> bytes:
    return hashlib.sha256(f"{turn} {what}".encode()).digest()
