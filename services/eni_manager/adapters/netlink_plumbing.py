"""Connect and disconnect sandboxes: the order in which things are done in the node's namespace and the pod's.

    connect     netns ─► ENI ─► veth into the netns ─► node: alias, settings, route, rules ─► pod: address, route, …
    disconnect  rules, route ─► link down, its name free, marked for deletion       deletion follows, for many at once

An ENI that a pod has to itself goes in after the veth, which says whose it is, and comes home before that is retired.

Runs in one thread of its own: it enters namespaces, and the kernel lets only one at a time change links anyway.
"""

import os
import time
from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from services.eni_manager.adapters import netns, nft
from services.eni_manager.adapters.netlink import ABSENT, Stack
from services.eni_manager.adapters.netlink_links import (
    alias_link,
    create_veth,
    delete_link,
    delete_retired,
    retire_link,
)
from services.eni_manager.adapters.netlink_values import forget_rule
from services.eni_manager.adapters.nics import Nics, is_nic
from services.eni_manager.core.wiring import WITHOUT_ENI, wire
from services.eni_manager.core.wiring.difference import Change, Drop, Put, changes, stale_rules
from services.eni_manager.core.wiring.exclusive import IFB, host_peer
from services.eni_manager.core.wiring.exclusive import masquerade as exclusive_masquerade
from services.eni_manager.core.wiring.exclusive import without_masquerade as exclusive_nothing
from services.eni_manager.core.wiring.marks import alias_of, key_of
from services.eni_manager.core.wiring.standing import SeenLink, Standing, belongs, is_retired, stand
from services.eni_manager.core.wiring.symmetric import ruleset, symmetric, without_ruleset
from services.eni_manager.core.wiring.values import (
    EniLink,
    Item,
    Node,
    Priority,
    Route,
    Rule,
    Shaper,
    Side,
    Wiring,
    link_of,
)
from services.eni_manager.core.wiring.veth import host_cidr, uplink
from services.eni_manager.core.wiring.vpc_route import Nat, masquerade
from shared.contracts.ipam import Lease
from shared.crashpoint import crashpoint
from shared.errors import Conflict, NotFound, Unavailable
from shared.model import AttachmentKey, Ip, Mac, Subnet

_SEND_TRIES = 20
_SEND_PAUSE_S = 0.001
_LISTEN_TRIES = 200


class Repaired(msgspec.Struct, frozen=True):
    """What a repair mended, one sentence each, and which sandboxes it could not see to, with the reason."""

    mended: list[str]
    skipped: dict[str, str]


class Plumbing:
    """The node's stack and the way into pods'. Make it and use it in one and the same thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._home_fd = netns.own_netns()
        self._host = Stack(self._home_fd)
        self._eni_indices: dict[Mac, int] = {}
        self._nics = Nics(self._host, self._home_fd)
        self._own_nics: set[Mac] = set()
        """ENIs that are pods' to have; those that were asked about since the start."""

    def know(self, node: Node) -> None:
        """What is known of the node from now on; pods that are wired already follow with the next repair."""
        self._node = node

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
        self._converge(self._host, uplink(self._node, eni, subnet4, subnet6, mtu=self._node.mtu))
        _wait_until_it_sends(self._host, eni.name)
        return eni

    def ensure_symmetric(self, *, wanted: bool) -> list[str]:
        """Have answers leave by the primary interface that the question came in by, or no more; what was mended."""
        families = (False,) if self._node.ipv6 is None else (False, True)
        return [sentence for v6 in families for sentence in self._symmetric(wanted=wanted, v6=v6)]

    def _symmetric(self, *, wanted: bool, v6: bool) -> list[str]:
        hop = self._host.way_out(v6=v6)
        link = None if hop is None else self._host.link(hop[0])
        if hop is None or link is None:
            return []
        side = symmetric(link.name, hop[1])
        there = self._host.listing({link.name: link}, v6=v6)
        if wanted:
            todo = changes(side, there.side)
        else:
            todo = [Drop(rule) for rule in side.rules if rule in there.marked]
            todo += [Drop(route) for route in side.routes if todo and route in there.side.routes]
        self._host.mend(todo, {link.name: link.index})
        if wanted or todo:
            nft.apply(ruleset(link.name, v6=v6) if wanted else without_ruleset(v6=v6))
        return [str(change) for change in todo]

    def ensure_masquerade(self, nat: Nat) -> None:
        """Have pods' packets to elsewhere bear the node's address, where pods have addresses of the node's range."""
        nft.apply(masquerade(nat))

    def ensure_node_passes_on(self, *, wanted: bool) -> None:
        """Have what the node passes on bear its address, where pods have ENIs to themselves, or no more."""
        nft.apply(exclusive_masquerade(self._node) if wanted else exclusive_nothing(self._node))

    # ---- one sandbox

    def connect(self, lease: Lease, netns_path: str, mtu: int | None) -> Wiring:
        """Wire a sandbox; a repeat changes only what differs. Raises NotFound (namespace, ENI) and Conflict."""
        with self._pod(netns_path) as (pod, netns_fd):
            wiring = self._wiring(lease, mtu)
            if self._make_way(wiring, pod) is Standing.WIRED:
                self._alias(wiring)
                self._converge(self._host, wiring.uplink, wiring.host)
                with self._moved_in(wiring, pod, netns_fd):
                    self._converge(pod, wiring.pod)
                return wiring
            crashpoint("eni.plug.before_links")
            self._host.send(create_veth(wiring.veth, netns_fd)).expect()
            crashpoint("eni.plug.after_links")
            host_index = self._alias(wiring)
            self._forget_rules(lease.addresses)
            indices = {wiring.veth.host: host_index}
            if wiring.eni is not None:
                indices[wiring.eni.name] = wiring.eni.index
            self._host.make((*wiring.uplink.items, *wiring.host.items), indices)
            crashpoint("eni.plug.after_node")
            with self._moved_in(wiring, pod, netns_fd):
                pod.make(wiring.pod.items, {link.name: _there(pod, link.name).index for link in wiring.pod.links})
            crashpoint("eni.plug.after_sandbox")
            _wait_until_it_sends(self._host, wiring.veth.host)
            if lease.ipv6 is not None:
                _wait_until_it_listens(pod, lease.ipv6)
            return wiring

    def check(self, lease: Lease, netns_path: str, mtu: int | None) -> list[str]:
        """What differs from what the lease wants, one sentence each."""
        try:
            with self._pod(netns_path) as (pod, _):
                wiring = self._wiring(lease, mtu)
                host = self._host.link(lease.host_link)
                problems = [f"node: {change}" for change in self._differences(self._host, wiring.uplink, wiring.host)]
                if host is not None and not belongs(host, lease.key):
                    problems.append(f"node: link {host.name} is not this sandbox's")
                if wiring.nic is not None:
                    seen = pod.link(wiring.nic.name)
                    if seen is not None and not is_nic(seen, wiring.nic.mac):
                        problems.append(f"sandbox: link {seen.name} is not the ENI with MAC {wiring.nic.mac}")
                return problems + [f"sandbox: {change}" for change in self._differences(pod, wiring.pod)]
        except NotFound as missing:
            return [missing.message]

    def disconnect(
        self,
        key: AttachmentKey,
        host_link: str,
        addresses: tuple[Ip, ...] | None,
        kept: Set[Ip],
        *,
        nic: Mac | None = None,
        netns_path: str | None = None,
    ) -> bool:
        """Withdraw a sandbox's rules and routes, and retire its host link. False: nothing of it was there.

        `addresses` None: those that are routed to the link. `kept` are addresses that another sandbox has by now,
        so that their rules are that sandbox's. `nic`: the ENI that it has to itself, which comes home; `netns_path`:
        where from, if that is known.
        """
        seen = self._host.link(host_link)
        if seen is not None and not belongs(seen, key):
            seen = None
        unknown = addresses is None
        if addresses is None:
            addresses = () if seen is None else self._routed_to(seen)
        crashpoint("eni.unplug.before_withdraw")
        found = self._forget_rules(ip for ip in addresses if ip not in kept)
        if unknown and seen is not None and self._peer_of(seen) == host_peer(key.ifname):
            found = self._bring_home(seen, self._own_nics, (key.ifname,), netns_path) or found
        elif nic is not None:
            found = self._bring_home(seen, (nic,), (), netns_path) or found
        if seen is None:
            return found
        routes = [Drop(Route(host_link, host_cidr(ip))) for ip in addresses]
        self._host.mend(routes, {host_link: seen.index})
        crashpoint("eni.unplug.after_withdraw")
        self._host.send(*retire_link(seen.index)).expect(*ABSENT)
        crashpoint("eni.unplug.after_retire")
        return True

    def limit(self, lease: Lease) -> None:
        """Give a sandbox that is wired its lease's limits, and no others. Raises NotFound: it, or a part, is gone."""
        host = self._host.link(lease.host_link)
        if host is None or not belongs(host, lease.key):
            raise NotFound(f"host link {lease.host_link} of {lease.key} is gone")
        wiring = self._wiring(lease, host.mtu)
        _limit(self._host, host, wiring.host.shapers)
        with self._across(host) as pod:
            if wiring.nic is not None:
                self._nics.limit(wiring, pod)
            else:
                _limit(pod, _there(pod, wiring.veth.pod), wiring.pod.shapers)

    # ---- all sandboxes

    def repair(self, wired: Iterable[Lease], in_use: Set[Ip]) -> Repaired:
        """Make the node's side of all live sandboxes whole again, and take away rules of pods that are no more.

        The rules of addresses `in_use` stay in any case. A sandbox whose host link or ENI is gone is only reported.
        """
        links = {link.name: link for link in self._host.links()}
        items: list[Item] = []
        skipped: dict[str, str] = {}
        for lease in wired:
            host = links.get(lease.host_link)
            if host is None or not belongs(host, lease.key):
                skipped[str(lease.key)] = f"host link {lease.host_link} is gone"
                continue
            if not host.alias:  # its plug died before it could write one
                self._host.send(alias_link(host.index, alias_of(lease.key))).expect(*ABSENT)
            try:
                # The MTU that it was plugged with is the link's own; it is not for repair to say otherwise.
                wiring = self._wiring(lease, host.mtu)
            except NotFound as gone:
                skipped[str(lease.key)] = gone.message
                continue
            items += (*wiring.uplink.items, *wiring.host.items)
        wanted = Side.of(items)
        marked = {name: link for name, link in links.items() if key_of(link.alias) and not is_retired(link)}
        concerned = marked | {link.name: links[link.name] for link in wanted.links if link.name in links}
        listing = self._host.listing(concerned, wanted.sysctls, v6=self._with_v6(wanted))
        routed = {route.to for route in listing.side.routes if route.link in marked}
        stale = stale_rules(listing.marked, used=routed | {host_cidr(ip) for ip in in_use})
        todo = [*changes(wanted, listing.side), *(Drop(rule) for rule in stale)]
        self._host.mend(todo, {name: link.index for name, link in concerned.items()})
        return Repaired(mended=[str(change) for change in todo], skipped=skipped)

    def mend_inside(self, wired: Iterable[Lease]) -> list[str]:
        """Give live sandboxes back what they have lost of their own side; what was mended, one sentence each.

        Only what is missing comes back: what stands in a wanted place by somebody's hand (another MTU, a link that is
        down, a further address) may be a chained plugin's or the pod's own doing, and CHECK reports it. A sandbox whose
        namespace nobody holds here any more is about to end.
        """
        links = {link.name: link for link in self._host.links()}
        within: dict[int, tuple[Lease, SeenLink]] = {}
        for lease in wired:
            host = links.get(lease.host_link)
            if host is not None and host.peer_netns is not None and belongs(host, lease.key):
                within[host.peer_netns] = (lease, host)
        mended: list[str] = []
        for netns_fd in netns.every_netns() if within else ():
            number = self._host.netns_number(netns_fd)
            if number is not None and (found := within.pop(number, None)) is not None:
                with Stack(self._home_fd, netns_fd) as pod, suppress(NotFound):
                    mended += self._mend_pod(pod, *found)
        return mended

    def _mend_pod(self, pod: Stack, lease: Lease, host: SeenLink) -> list[str]:
        wanted = self._wiring(lease, host.mtu).pod
        links = _links(pod, wanted)
        ready = {name for name, link in links.items() if link.up}
        todo = [
            change
            for change in self._changes(pod, wanted, links)
            if isinstance(change, Put)
            and change.found is None
            and not isinstance(change.item, Rule)
            and link_of(change.item) in ready
        ]
        pod.mend(todo, {name: link.index for name, link in links.items()})
        return [f"{lease.pod}: {change}" for change in todo]

    def marked_links(self) -> dict[AttachmentKey, str]:
        """The host links of ours that serve a sandbox, by the key that is written on them."""
        return {
            key: link.name
            for link in self._host.links()
            if not is_retired(link) and (key := key_of(link.alias)) is not None
        }

    def unmarked_links(self) -> dict[Mac, str]:
        """Links without alias, by MAC: one may be the host end of a plug that died before it could write one."""
        return {link.mac: link.name for link in self._host.links() if not link.alias}

    # ---- steps

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
    def _moved_in(self, wiring: Wiring, pod: Stack, netns_fd: int) -> Iterator[None]:
        """With the ENI that is the pod's own in the pod; where the body fails it is brought home at once."""
        if wiring.nic is None:
            yield
            return
        try:
            self._nics.enter(wiring.nic, pod, netns_fd)
            self._nics.ensure_ifb(wiring, pod)
            yield
        except BaseException:
            self._nics.leave(pod, {wiring.nic.mac}, ())
            raise

    def _bring_home(
        self, host: SeenLink | None, nics: Collection[Mac], names: Collection[str], path: str | None
    ) -> bool:
        """The ENI that a sandbox had to itself, wherever it is by now. False: there was none to fetch.

        One whose namespace has ended comes by itself, and nobody waits for it here.
        """
        home: list[Mac] = []
        with suppress(NotFound), self._sandbox(host, path) as pod:
            home = self._nics.leave(pod, nics, names)
            if (ifb := pod.link(IFB)) is not None:
                pod.send(delete_link(ifb.index)).expect(*ABSENT)
        if home or len(nics) != 1:
            return bool(home)
        (nic,) = nics
        with suppress(Conflict):  # another sandbox has it by now
            return self._nics.at_home(nic) is None and self._nics.fetch(nic) is not None
        return False

    @contextmanager
    def _sandbox(self, host: SeenLink | None, path: str | None) -> Iterator[Stack]:
        """A sandbox's namespace by its path, unless its host link leads to another; else by that. Raises NotFound."""
        with ExitStack() as opened:
            pod = None if path is None else self._by_path(opened, host, path)
            if pod is None and host is None:
                raise NotFound("neither a link nor a path leads to the sandbox")
            if pod is None and host is not None:
                pod = opened.enter_context(self._across(host))
            assert pod is not None
            yield pod

    def _by_path(self, opened: ExitStack, host: SeenLink | None, path: str) -> Stack | None:
        with suppress(NotFound):
            pod, netns_fd = opened.enter_context(self._pod(path))
            if host is None or host.peer_netns in (None, self._host.netns_number(netns_fd)):
                return pod
        return None

    def _peer_of(self, host: SeenLink) -> str:
        """What the other end of a host link is called; empty: its namespace has ended."""
        with suppress(NotFound), self._across(host) as pod:
            other = pod.link(host.peer)
            return "" if other is None else other.name
        return ""

    def _wiring(self, lease: Lease, mtu: int | None) -> Wiring:
        eni = None if lease.mode in WITHOUT_ENI else self.eni(lease.eni_mac)
        return wire(lease, self._node, eni, mtu=mtu)

    @contextmanager
    def _across(self, host: SeenLink) -> Iterator[Stack]:
        """The namespace that a host link leads to, found among those of this machine: nobody tells its path twice."""
        for netns_fd in netns.every_netns():
            if host.peer_netns is not None and self._host.netns_number(netns_fd) == host.peer_netns:
                with Stack(self._home_fd, netns_fd) as stack:
                    yield stack
                return
        raise NotFound(f"the namespace that {host.name} leads to is held by no process or file here", retry_after=1.0)

    def _make_way(self, wiring: Wiring, pod: Stack) -> Standing:
        """See what is there, and delete what a dead attempt or sandbox left. Raises Conflict: it is somebody's."""
        there = pod.link(wiring.veth.pod)
        across = self._host.link(there.peer) if there is not None and there.peer else None
        host = self._host.link(wiring.veth.host)
        standing = stand(wiring.key, wiring.veth, host, there, across)
        if standing is Standing.REMAINS:
            for index in {link.index for link in (host, across) if link is not None}:
                self._host.send(delete_link(index)).expect(*ABSENT)
        return standing

    def _alias(self, wiring: Wiring) -> int:
        """Write on the host link whose it is; its ifindex."""
        link = _there(self._host, wiring.veth.host)
        if link.alias != wiring.veth.alias:
            self._host.send(alias_link(link.index, wiring.veth.alias)).expect()
        return link.index

    def _forget_rules(self, addresses: Iterable[Ip]) -> bool:
        """Delete every rule of our priorities for these addresses, whoever left it. False: there was none."""
        own = [host_cidr(ip) for ip in addresses]
        requests = [forget_rule(Priority.TO_POD, to=cidr) for cidr in own]
        requests += [forget_rule(Priority.FROM_POD, source=cidr) for cidr in own]
        found = False
        # Old kernels keep duplicates, and a stale rule may look up another table: on until nothing is left.
        while requests:
            refused = self._host.send(*requests).expect(*ABSENT).refused
            requests = [request for position, request in enumerate(requests) if position not in refused]
            found = found or bool(requests)
        return found

    def _routed_to(self, link: SeenLink) -> tuple[Ip, ...]:
        routes = self._host.listing({link.name: link}, v6=self._node.ipv6 is not None).side.routes
        return tuple(Ip(route.to.partition("/")[0]) for route in routes if route.via is None)

    def _converge(self, stack: Stack, *sides: Side) -> None:
        wanted = Side.of(item for side in sides for item in side.items)
        links = _links(stack, wanted)
        found = self._changes(stack, wanted, links)
        stack.mend(found, {name: link.index for name, link in links.items()})

    def _differences(self, stack: Stack, *sides: Side) -> list[Change]:
        wanted = Side.of(item for side in sides for item in side.items)
        return self._changes(stack, wanted, _links(stack, wanted))

    def _changes(self, stack: Stack, wanted: Side, links: dict[str, SeenLink]) -> list[Change]:
        return changes(wanted, stack.listing(links, wanted.sysctls, v6=self._with_v6(wanted)).side)

    def _with_v6(self, wanted: Side) -> bool:
        return self._node.ipv6 is not None or any(":" in address.ip for address in wanted.addresses)


def _links(stack: Stack, wanted: Side) -> dict[str, SeenLink]:
    return {link.name: seen for link in wanted.links if (seen := stack.link(link.name)) is not None}


def _limit(stack: Stack, link: SeenLink, wanted: tuple[Shaper, ...]) -> None:
    """This limit on a link, or none; a foreign qdisc stays where no limit is wanted."""
    present = stack.listing({link.name: link}, v6=False).side.shapers
    todo: list[Change] = [Put(shaper) for shaper in wanted if shaper not in present]
    if not wanted:
        todo = [Drop(shaper) for shaper in present]
    stack.mend(todo, {link.name: link.index})


def _wait_until_it_sends(stack: Stack, name: str) -> None:
    """Until the kernel has noticed that both ends are up, a link drops what it is to send: the ARP question first.

    That would come again only after a second. Since Linux 6.8 asking for the link settles it; before, a worker of
    the kernel does so soon.
    """
    for _ in range(_SEND_TRIES):
        link = stack.link(name)
        if link is None or link.sends:
            return
        time.sleep(_SEND_PAUSE_S)


def _wait_until_it_listens(stack: Stack, ip: Ip) -> None:
    """A new IPv6 address takes packets in only when a worker of the kernel has seen to it, `nodad` or not.

    That worker needs the lock that all changes of links need, so on a busy node it may be late.
    """
    for _ in range(_LISTEN_TRIES):
        if stack.is_own(ip):
            return
        time.sleep(_SEND_PAUSE_S)


def _there(stack: Stack, name: str) -> SeenLink:
    link = stack.link(name)
    if link is None:  # its namespace ended under us
        raise Unavailable(f"link {name} vanished while it was being set up")
    return link


class Reaper:
    """Deletes retired links. It has a thread of its own, since the kernel takes 15 ms or more over it."""

    def __init__(self) -> None:
        self._home_fd = netns.own_netns()
        self._host = Stack(self._home_fd)

    def close(self) -> None:
        """Let go of the node's namespace."""
        self._host.close()
        os.close(self._home_fd)

    def delete_retired(self) -> None:
        """Delete all retired links; those that went with their namespaces are gone already."""
        self._host.send(delete_retired()).expect(*ABSENT)
