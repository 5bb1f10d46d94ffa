"""Connect and disconnect sandboxes: the order in which things are done in the node's namespace and the pod's.

    connect     netns ─► ENI ─► veth into the netns ─► node: alias, settings, route, rules ─► pod: address, route, …
    disconnect  rules, route ─► link down, its name free, marked for deletion       deletion follows, for many at once

An ENI that a pod has to itself goes in after the veth, which says whose it is, and comes home before that is retired.

Runs in one thread of its own: it enters namespaces, and the kernel lets only one at a time change links anyway.
"""

from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress

import msgspec
from msgspec.structs import replace

from services.eni_manager.adapters import netns
from services.eni_manager.adapters.netlink import ABSENT, Listing, Stack
from services.eni_manager.adapters.netlink_links import (
    alias_link,
    create_veth,
    delete_link,
    retire_link,
)
from services.eni_manager.adapters.netlink_node import NodeSide, links_of
from services.eni_manager.adapters.netlink_values import forget_rule
from services.eni_manager.adapters.nics import is_nic
from services.eni_manager.adapters.settling import wait_until_it_listens, wait_until_it_sends
from services.eni_manager.core.wiring import WITHOUT_ENI, wire
from services.eni_manager.core.wiring.difference import (
    Change,
    Drop,
    Put,
    changes,
    stale_rules,
    superseded_rules,
)
from services.eni_manager.core.wiring.exclusive import IFB, host_peer
from services.eni_manager.core.wiring.marks import alias_of, key_of
from services.eni_manager.core.wiring.standing import SeenLink, Standing, belongs, is_retired, stand
from services.eni_manager.core.wiring.values import (
    MAIN_TABLE,
    PODS_TABLE,
    Item,
    Priority,
    Route,
    Rule,
    Shaper,
    Side,
    Wiring,
    link_of,
)
from services.eni_manager.core.wiring.veth import host_cidr, to_pods
from shared.contracts.ipam import Lease
from shared.crashpoint import crashpoint
from shared.errors import Conflict, NotFound, Unavailable
from shared.model import AttachmentKey, Ip, Mac, Mode

_TO_PODS = (MAIN_TABLE, PODS_TABLE)
"""Tables with ways to pods."""


class Repaired(msgspec.Struct, frozen=True):
    """What a repair mended, one sentence each, and which sandboxes it could not see to, with the reason."""

    mended: list[str]
    skipped: dict[str, str]


class Plumbing(NodeSide):
    """Sandboxes on top of the node's side. Make it and use it in one and the same thread."""

    # ---- one sandbox

    def connect(self, lease: Lease, netns_path: str, mtu: int | None) -> Wiring:
        """Wire a sandbox; a repeat changes only what differs. Raises NotFound (namespace, ENI) and Conflict."""
        with self._pod(netns_path) as (pod, netns_fd):
            wiring = self._wiring(lease, mtu)
            if self._make_way(wiring, pod) is Standing.WIRED:
                self._alias(wiring)
                self._ensure_turn(wiring.uplink)
                self._converge(self._host, wiring.uplink, wiring.host)
                with self._moved_in(wiring, pod, netns_fd):
                    self._converge(pod, wiring.pod)
                return wiring
            crashpoint("eni.plug.before_links")
            self._host.send(create_veth(wiring.veth, netns_fd)).expect()
            crashpoint("eni.plug.after_links")
            host_index = self._alias(wiring)
            self._forget_rules(lease.addresses)
            self._ensure_rules(wiring.uplink)
            indices = {wiring.veth.host: host_index}
            if wiring.eni is not None:
                indices[wiring.eni.name] = wiring.eni.index
            else:
                self._ensure_turn(wiring.uplink)
                indices |= {link.name: link_in(self._host, link.name).index for link in wiring.uplink.links}
            self._host.make((*replace(wiring.uplink, rules=()).items, *wiring.host.items), indices)
            crashpoint("eni.plug.after_node")
            with self._moved_in(wiring, pod, netns_fd):
                pod.make(wiring.pod.items, {link.name: link_in(pod, link.name).index for link in wiring.pod.links})
            crashpoint("eni.plug.after_sandbox")
            if lease.host_peer:
                wait_until_it_sends(self._host, wiring.veth.host)
            if lease.ipv6 is not None:
                wait_until_it_listens(pod, lease.ipv6)
            return wiring

    def check(self, lease: Lease, netns_path: str, mtu: int | None) -> list[str]:
        """What differs from what the lease wants, one sentence each."""
        try:
            with self._pod(netns_path) as (pod, _):
                wiring = self._wiring(lease, mtu)
                on_node, inside = self._amiss_on_node(lease, wiring), self._amiss_inside(lease, wiring, pod)
                return [*(f"node: {problem}" for problem in on_node), *(f"sandbox: {problem}" for problem in inside)]
        except NotFound as missing:
            return [missing.message]

    def _amiss_on_node(self, lease: Lease, wiring: Wiring) -> list[str]:
        problems = [str(change) for change in self._differences(self._host, wiring.uplink, wiring.host)]
        host = self._host.link(lease.host_link)
        if host is not None and not belongs(host, lease.key):
            problems.append(f"link {host.name} is not this sandbox's")
        return problems

    def _amiss_inside(self, lease: Lease, wiring: Wiring, pod: Stack) -> list[str]:
        problems = [str(change) for change in self._differences(pod, wiring.pod)]
        seen = None if wiring.nic is None else pod.link(wiring.nic.name)
        if wiring.nic is not None and seen is not None and not is_nic(seen, wiring.nic.mac):
            problems.append(f"link {seen.name} is not the ENI with MAC {wiring.nic.mac}")
        return problems

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
        routes = [Drop(Route(host_link, host_cidr(ip), table=table)) for ip in addresses for table in _TO_PODS]
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
                _limit(pod, link_in(pod, wiring.veth.pod), wiring.pod.shapers)

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
        self._ensure_turn(wanted)
        links = {link.name: link for link in self._host.links()}
        marked = {name: link for name, link in links.items() if key_of(link.alias) and not is_retired(link)}
        concerned = marked | {link.name: links[link.name] for link in wanted.links if link.name in links}
        listing = self._host.listing(concerned, wanted.sysctls, wanted.classifiers, v6=self._with_v6(wanted))
        routed = {route.to for route in listing.side.routes if route.link in marked}
        indices = {name: link.index for name, link in concerned.items()}
        todo = changes(wanted, listing.side)
        self._host.mend(todo, indices)
        # Only now, and not at all where the kernel refused something: no packet may find neither the old nor the new.
        unwanted = self._unwanted_rules(wanted, listing, used=routed | {host_cidr(ip) for ip in in_use})
        self._host.mend(unwanted, indices)
        return Repaired(mended=[str(change) for change in (*todo, *unwanted)], skipped=skipped)

    def _unwanted_rules(self, wanted: Side, listing: Listing, *, used: Set[str]) -> list[Change]:
        standing = set(wanted.rules)
        if self._node.mode is Mode.SHARED_VETH:
            standing |= {to_pods(v6=False), to_pods(v6=True)}
        stale = stale_rules(listing.marked, used, standing)
        self._standing_rules.difference_update(stale)
        return [Drop(rule) for rule in dict.fromkeys((*stale, *superseded_rules(listing.side.rules, wanted.rules)))]

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

    def _mend_pod(self, pod: Stack, lease: Lease, link: SeenLink) -> list[str]:
        """`link`: one whose MTU is the sandbox's."""
        wanted = self._wiring(lease, link.mtu).pod
        links = links_of(pod, wanted)
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
        link = link_in(self._host, wiring.veth.host)
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
        return tuple(dict.fromkeys(Ip(route.to.partition("/")[0]) for route in routes if route.via is None))


def _limit(stack: Stack, link: SeenLink, wanted: tuple[Shaper, ...]) -> None:
    """This limit on a link, or none; a foreign qdisc stays where no limit is wanted."""
    present = stack.listing({link.name: link}, v6=False).side.shapers
    todo: list[Change] = [Put(shaper) for shaper in wanted if shaper not in present]
    if not wanted:
        todo = [Drop(shaper) for shaper in present]
    stack.mend(todo, {link.name: link.index})


def link_in(stack: Stack, name: str) -> SeenLink:
    """A link that has just been seen or made. Raises Unavailable: it is gone again."""
    link = stack.link(name)
    if link is None:  # its namespace ended under us
        raise Unavailable(f"link {name} vanished while it was being set up")
    return link
