"""An IP set's members as elements of nftables' sets, one set per IP version.

    NET, addresses only      a hash of addresses
    NET, any network in it   an interval set, without members that another member contains: the kernel takes no overlaps
    IP_AND_PORT              a hash of address . protocol . port

A set that gets its first network becomes another set under another name, since the kernel cannot change a set's kind.
"""

import ipaddress
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from services.policy.core import nets
from services.policy.core.nft import names
from services.policy.core.nft.model import Set
from services.policy.core.verdict import NUMBERS

_BITS = {4: 32, 6: 128}

Net = tuple[int, int]
"""First address and prefix length: in this order a network comes before all that it contains."""


class Delta(msgspec.Struct):
    """What became of one nftables set. `replaces`: that one goes, and this one comes with all of `added`."""

    set: Set
    added: list[str]
    removed: list[str]
    replaces: Set | None = None


class IPSet:
    """One set of the calculation's, in one IP version."""

    def __init__(self, set_id: str, kind: str, family: int) -> None:
        self.id = set_id
        self.family = family
        self._with_ports = kind == "IP_AND_PORT"
        self._plain: set[str] = set()
        self._cover: Cover | None = None
        """In use while there is any member that is more than one address."""

    @property
    def definition(self) -> Set:
        """What it is to nftables, as of now."""
        key = f"ipv{self.family}_addr"
        if self._with_ports:
            return Set(names.ip_set(self.id, self.family, interval=False), f"{key} . inet_proto . inet_service")
        interval = self._cover is not None
        flags = frozenset({"interval"}) if interval else frozenset[str]()
        return Set(names.ip_set(self.id, self.family, interval=interval), key, flags)

    @property
    def elements(self) -> set[str]:
        """All that it holds, as of now."""
        return self._plain if self._cover is None else self._cover.elements

    def change(self, added: Iterable[str], removed: Iterable[str]) -> Delta:
        """Members, as messages write them, in and out; those of the other IP version are passed over."""
        return self._change(list(self._read(added)), list(self._read(removed)))

    def replace(self, members: Iterable[str]) -> Delta:
        """These members and no others."""
        wanted = set(self._read(members))
        held = self._plain if self._cover is None else self._cover.members
        return self._change(list(wanted - held), list(held - wanted))

    def _change(self, more: list[str], less: list[str]) -> Delta:
        before = self.definition
        if self._cover is None and not any("/" in one for one in more):
            new = [one for one in more if one not in self._plain]
            old = [one for one in less if one in self._plain]
            self._plain.difference_update(old)
            self._plain.update(new)
            return Delta(before, new, old)
        if self._cover is None:
            self._cover = Cover(self.family, self._plain)
            self._plain = set()
            self._cover.change(more, less)
            return Delta(self.definition, list(self._cover.elements), [], before)
        grown, shrunk = self._cover.change(more, less)
        if self._cover.networks:
            return Delta(before, list(grown), list(shrunk))
        self._plain = self._cover.elements
        self._cover = None
        return Delta(self.definition, list(self._plain), [], before)

    def _read(self, members: Iterable[str]) -> Iterator[str]:
        sixth = self.family == 6
        for member in members:
            if nets.is_ipv6(member.partition(",")[0]) != sixth:
                continue
            if self._with_ports:
                address, _, at = member.partition(",")
                protocol, _, port = at.partition(":")
                yield f"{address} . {NUMBERS[protocol]} . {port}"
            elif member in nets.HALVES:
                yield from nets.HALVES[member]
            else:
                yield member.removesuffix("/128" if sixth else "/32")


class Cover:
    """Networks and addresses, and those of them that no other contains."""

    def __init__(self, family: int, members: Iterable[str]) -> None:
        self._bits = _BITS[family]
        self._class = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
        self._texts: dict[Net, str] = {}
        self._order: list[Net] = []
        self._lengths: Counter[int] = Counter()
        self.elements: set[str] = set()
        self.members: set[str] = set()
        self.change(members, ())

    @property
    def networks(self) -> bool:
        """Whether any member is more than one address."""
        return any(count for length, count in self._lengths.items() if length < self._bits)

    def change(self, added: Iterable[str], removed: Iterable[str]) -> tuple[set[str], set[str]]:
        """Members in and out; what came and what went of the elements."""
        grown: set[str] = set()
        shrunk: set[str] = set()

        def put(text: str) -> None:
            self.elements.add(text)
            shrunk.discard(text) if text in shrunk else grown.add(text)

        def take(text: str) -> None:
            if text in self.elements:
                self.elements.remove(text)
                grown.discard(text) if text in grown else shrunk.add(text)

        for text in removed:
            if text in self.members:
                net = self._forget(text)
                if text in self.elements:
                    take(text)
                    for uncovered in self._uncovered(net):
                        put(self._texts[uncovered])
        for text in added:
            if text not in self.members:
                net = self._remember(text)
                if not self._covered(net):
                    for inner in self._inside(net):
                        take(self._texts[inner])
                    put(text)
        return grown, shrunk

    def _parse(self, text: str) -> Net:
        address, slash, length = text.partition("/")
        return int(self._class(address)), int(length) if slash else self._bits

    def _remember(self, text: str) -> Net:
        net = self._parse(text)
        self.members.add(text)
        self._texts[net] = text
        self._lengths[net[1]] += 1
        insort(self._order, net)
        return net

    def _forget(self, text: str) -> Net:
        net = self._parse(text)
        self.members.remove(text)
        del self._texts[net]
        self._lengths[net[1]] -= 1
        if not self._lengths[net[1]]:
            del self._lengths[net[1]]
        del self._order[bisect_left(self._order, net)]
        return net

    def _covered(self, net: Net) -> bool:
        first, length = net
        return any(
            (first >> (self._bits - wider) << (self._bits - wider), wider) in self._texts
            for wider in self._lengths
            if wider < length
        )

    def _inside(self, net: Net) -> list[Net]:
        first, length = net
        last = first + (1 << (self._bits - length)) - 1
        return self._order[bisect_left(self._order, net) : bisect_right(self._order, (last, self._bits))]

    def _uncovered(self, net: Net) -> Iterator[Net]:
        """The members inside what is no member any more, without those inside each other."""
        until = -1
        for first, length in self._inside(net):
            if first > until:
                until = first + (1 << (self._bits - length)) - 1
                yield first, length
