"""The node's side of all plumbing: its ENIs, what stands once per node, and the ways into pods' namespaces.

Plumbing (netlink_plumbing.py) connects sandboxes on top of it.
"""

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from msgspec.structs import replace

from services.eni_manager.adapters import classifiers, netns, nft
from services.eni_manager.adapters.netlink import ABSENT, Stack
from services.eni_manager.adapters.netlink_links import create_ifb, delete_link
from services.eni_manager.adapters.nics import Nics, is_nic
from services.eni_manager.adapters.settling import wait_until_it_sends
from services.eni_manager.core.wiring.difference import Change, Drop, changes
from services.eni_manager.core.wiring.exclusive import masquerade as exclusive_masquerade
from services.eni_manager.core.wiring.exclusive import without_masquerade as exclusive_nothing
from services.eni_manager.core.wiring.standing import SeenLink
from services.eni_manager.core.wiring.symmetric import (
    TERWAYS,
    Marking,
    no_way_by,
    outdated,
    ruleset,
    symmetric,
    without_ruleset,
)
from services.eni_manager.core.wiring.turning import LINK as TURN
from services.eni_manager.core.wiring.turning import turn
from services.eni_manager.core.wiring.values import EniLink, Node, Rule, Side
from services.eni_manager.core.wiring.veth import uplink
from services.eni_manager.core.wiring.vpc_route import Nat, masquerade
from shared.errors import Conflict, NotFound
from shared.model import Mac, Mode, Subnet


class NodeSide:
    """The node's stack and the way into pods'. Make it and use it in one and the same thread."""

    def __init__(self, node: Node) -> None:
        self._node = replace(node, own_address=node.own_address and self._can_show_own_address(node.mode))
        self._home_fd = netns.own_netns()
        self._host = Stack(self._home_fd)
        self._eni_indices: dict[Mac, int] = {}
        self._nics = Nics(self._host, self._home_fd)
        self._own_nics: set[Mac] = set()
        """ENIs that are pods' to have; those that were asked about since the start."""
        self._standing_rules: set[Rule] = set()
        """Rules that stand once per node and have been seen to."""

    def know(self, node: Node) -> None:
        """What is known of the node from now on; pods that are wired already follow with the next repair."""
        self._node = replace(node, own_address=node.own_address and self._can_show_own_address(node.mode))

    def _can_show_own_address(self, mode: Mode) -> bool:
        """Can this kernel have Services' backends see pods' own addresses?"""
        return mode is Mode.EXCLUSIVE_ENI and classifiers.able()

    def close(self) -> None:
        """Let go of the node's namespace."""
        self._host.close()
        os.close(self._home_fd)

    # ---- ENIs

    def find(self, mac: Mac) -> SeenLink | None:
        """The node's link of this MAC, pods' links aside; one that mode exclusive-eni left elsewhere comes home."""
        seen = next((link for link in self._host.links() if link.mac == mac and not link.alias), None)
        if seen is None:
            with suppress(Conflict):
                seen = self._nics.fetch(mac)
        return seen

    def eni(self, mac: Mac) -> EniLink:
        """The link that is this ENI now. Raises NotFound when the node has none."""
        known = self._eni_indices.get(mac)
        seen = None if known is None else self._host.link(known)
        if seen is None or seen.mac != mac:
            seen = self.find(mac)
        if seen is None:
            self._eni_indices.pop(mac, None)
            raise NotFound(f"no link of this node has MAC {mac}", retry_after=1.0)
        self._eni_indices[mac] = seen.index
        return EniLink(seen.name, seen.index)

    def whereabouts(self, mac: Mac, *, held: bool, netns_path: str | None = None) -> SeenLink | None:
        """A device that a pod may have to itself: at home, or, if `held`, with its pod. What strayed is brought home.

        `held`: an attachment that lives has it, so it stays where it is. `netns_path`: where it is wanted, and may be.
        """
        self._own_nics.add(mac)
        if (seen := self._nics.at_home(mac)) is not None:
            return seen
        if netns_path is not None:
            with self._pod(netns_path) as (pod, _):
                if (seen := next((link for link in pod.links() if is_nic(link, mac)), None)) is not None:
                    return seen
        with self._nics.away(mac) as found:
            if found is not None and (held or self._nics.serves(found[2])):
                return found[1]
        return self._nics.fetch(mac)

    def fetch_strays(self, held: Collection[Mac]) -> list[Mac]:
        """Bring home the ENIs that are nobody's and elsewhere: something keeps their namespaces. Those that came."""
        home = {link.mac for link in self._host.links() if is_nic(link, link.mac)}
        came: list[Mac] = []
        for mac in sorted(self._own_nics - home - set(held)):
            with suppress(Conflict):
                came += [mac] if self._nics.fetch(mac) is not None else []
        return came

    def ensure_eni(self, mac: Mac, subnet4: Subnet | None, subnet6: Subnet | None) -> EniLink:
        """Make an ENI ready for pods: up, the node's address alone on it, its routing table."""
        eni = self.eni(mac)
        wanted = uplink(self._node, eni, subnet4, subnet6, mtu=self._node.mtu)
        if self._node.mode is not Mode.SHARED_VETH:  # an ENI that goes; pods that are left on it see to their rules
            wanted = replace(wanted, rules=())
        self._converge(self._host, wanted)
        self._standing_rules.update(wanted.rules)
        wait_until_it_sends(self._host, eni.name)
        return eni

    def _ensure_rules(self, wanted: Side) -> None:
        """The rules of an ENI's side, looked for only when they are new: kernels before 4.8 would keep each repeat."""
        if not self._standing_rules.issuperset(wanted.rules):
            self._converge(self._host, Side(rules=wanted.rules))
            self._standing_rules.update(wanted.rules)

    def ensure_symmetric(self, marking: Marking = TERWAYS, *, wanted: bool) -> list[str]:
        """Have answers leave by the primary interface that the question came in by, or no more; what was mended.

        What an earlier configuration's marks, priority or table have left goes. Raises NotFound: no default route
        leads by the interface that is named.
        """
        families = (False,) if self._node.ipv6 is None else (False, True)
        return [sentence for v6 in families for sentence in self._symmetric(marking, wanted=wanted, v6=v6)]

    def _symmetric(self, marking: Marking, *, wanted: bool, v6: bool) -> list[str]:
        named = self._host.link(marking.interface) if marking.interface else None
        missing = wanted and marking.interface and named is None
        hop = None if missing else self._host.way_out(None if named is None else named.index, v6=v6)
        link = None if hop is None else self._host.link(hop[0])
        if wanted and marking.interface and link is None:
            raise NotFound(no_way_by(marking, v6=v6))
        if hop is None or link is None:
            return []
        side = symmetric(link.name, hop[1], marking)
        there = self._host.listing({link.name: link}, v6=v6)
        old = outdated(there.marked, side.rules if wanted else (), v6=v6)
        tables = {rule.table for rule in old} - ({marking.table} if wanted else set())
        left = [replace(route, table=table) for route in side.routes for table in sorted(tables)]
        todo = [*(changes(side, there.side) if wanted else ()), *(Drop(rule) for rule in old)]
        todo = list(dict.fromkeys((*todo, *(Drop(route) for route in left if route in there.side.routes))))
        self._host.mend(todo, {link.name: link.index})
        if wanted or todo:
            nft.apply(ruleset(link.name, marking, v6=v6) if wanted else without_ruleset(v6=v6))
        return [str(change) for change in todo]

    def ensure_masquerade(self, nat: Nat) -> None:
        """Have pods' packets to elsewhere bear the node's address, where pods have addresses of the node's range."""
        nft.apply(masquerade(nat))

    def ensure_node_passes_on(self, *, wanted: bool) -> None:
        """Have what the node passes on turned, or bear its address, where pods have ENIs to themselves; or no more."""
        side = turn(self._node) if wanted and self._node.shows_own_address(Mode.EXCLUSIVE_ENI) else Side()
        self._ensure_turn(side)
        self._converge(self._host, side)
        nft.apply(exclusive_masquerade(self._node) if wanted else exclusive_nothing(self._node))
        if not side.links and (seen := self._host.link(TURN)) is not None:
            self._host.mend([Drop(rule) for rule in turn(self._node).rules], {})
            self._host.send(delete_link(seen.index)).expect(*ABSENT)

    def _ensure_turn(self, wanted: Side) -> None:
        """The link by which Services' packets go back to their pods, where it is wanted."""
        for link in wanted.links:
            if link.name == TURN and self._host.link(TURN) is None:
                self._host.send(create_ifb(TURN, link.mtu)).expect(errno.EEXIST)

    # ---- ways into pods' namespaces

    @contextmanager
    def _pod(self, path: str) -> Iterator[tuple[Stack, int]]:
        # Nothing stays open: a kept socket would keep the namespace, and with it the host link, alive.
        netns_fd = netns.open_netns(path)
        try:
            with Stack(self._home_fd, netns_fd) as stack:
                yield stack, netns_fd
        finally:
            os.close(netns_fd)

    @contextmanager
    def _across(self, host: SeenLink) -> Iterator[Stack]:
        """The namespace that a host link leads to, found among those of this machine: nobody tells its path twice."""
        for netns_fd in netns.every_netns():
            if host.peer_netns is not None and self._host.netns_number(netns_fd) == host.peer_netns:
                with Stack(self._home_fd, netns_fd) as stack:
                    yield stack
                return
        raise NotFound(f"the namespace that {host.name} leads to is held by no process or file here", retry_after=1.0)

    # ---- what differs, and mending it

    def _converge(self, stack: Stack, *sides: Side) -> None:
        wanted = Side.of(item for side in sides for item in side.items)
        links = links_of(stack, wanted)
        found = self._changes(stack, wanted, links)
        stack.mend(found, {name: link.index for name, link in links.items()})

    def _differences(self, stack: Stack, *sides: Side) -> list[Change]:
        wanted = Side.of(item for side in sides for item in side.items)
        return self._changes(stack, wanted, links_of(stack, wanted))

    def _changes(self, stack: Stack, wanted: Side, links: dict[str, SeenLink]) -> list[Change]:
        listing = stack.listing(links, wanted.sysctls, wanted.classifiers, v6=self._with_v6(wanted))
        return changes(wanted, listing.side)

    def _with_v6(self, wanted: Side) -> bool:
        return self._node.ipv6 is not None or any(":" in address.ip for address in wanted.addresses)


def links_of(stack: Stack, wanted: Side) -> dict[str, SeenLink]:
    """Those of the wanted links that are there."""
    return {link.name: seen for link in wanted.links if (seen := stack.link(link.name)) is not None}
