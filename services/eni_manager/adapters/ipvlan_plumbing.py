"""Connect and disconnect sandboxes in mode shared-ipvlan, where nothing on the node is a pod's alone but its routes.

    connect     ENI, the node's own slave ─► slave into the netns: alias, name ─► node: routes ─► pod: address, route, …
    disconnect  routes ─► the slave, wherever its namespace is

Whose a slave is stands in its alias, inside the pod's namespace. So what lives is found by looking into every namespace
that a file or a process holds here; a namespace that ended took its slave along.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress

from services.eni_manager.adapters import netns
from services.eni_manager.adapters.diversion import Diverter, can_keep_source
from services.eni_manager.adapters.netlink import ABSENT, Stack
from services.eni_manager.adapters.netlink_links import (
    alias_link,
    create_ipvlan,
    delete_link,
    rename_link,
    set_link,
)
from services.eni_manager.adapters.netlink_plumbing import Plumbing, Repaired, link_in
from services.eni_manager.adapters.netlink_socket import NetlinkError
from services.eni_manager.core.wiring import turning
from services.eni_manager.core.wiring.difference import Change, Drop, changes
from services.eni_manager.core.wiring.exclusive import IFB
from services.eni_manager.core.wiring.ipvlan import COMPANION, KIND, bare, companion, serves, slave_of, stand, uplink
from services.eni_manager.core.wiring.standing import SeenLink, Standing
from services.eni_manager.core.wiring.values import Diversion, EniLink, Item, Link, Node, Route, Rule, Side, Wiring
from services.eni_manager.core.wiring.veth import host_cidr
from shared.contracts.ipam import Lease
from shared.crashpoint import crashpoint
from shared.errors import NotFound, Unavailable
from shared.model import AttachmentKey, Ip, Mac, Mode, Subnet


def plumbing(node: Node) -> Plumbing:
    """The plumbing of a node: this one where pods are on slaves, or were before the mode was changed."""
    found = IpvlanPlumbing(node)
    if node.mode is Mode.SHARED_IPVLAN or found.companions():
        return found
    found.close()
    return Plumbing(node)


class IpvlanPlumbing(Plumbing):
    """Of a node with pods on slaves; pods of another mode, which live on after it was changed, are wired as ever.

    Make it and use it in one and the same thread.
    """

    def __init__(self, node: Node, *, by_bpf: bool | None = None) -> None:
        """`by_bpf`: the form of the diversion; None: as the kernel can."""
        self._by_bpf = by_bpf
        super().__init__(node)
        self._diverter = Diverter(self._host, by_bpf=by_bpf)

    def _can_show_own_address(self, mode: Mode) -> bool:
        if mode is Mode.SHARED_IPVLAN:
            return self._by_bpf is not False and can_keep_source()
        return super()._can_show_own_address(mode)

    # ---- ENIs

    def ensure_eni(self, mac: Mac, subnet4: Subnet | None, subnet6: Subnet | None) -> EniLink:
        """Make an ENI ready for pods: up and bare, the node's own slave beside them, Services diverted."""
        if self._node.mode is not Mode.SHARED_IPVLAN:
            return super().ensure_eni(mac, subnet4, subnet6)
        eni = self.eni(mac)
        self._ensure_uplink(eni, uplink(self._node, eni, v6=subnet6 is not None))
        return eni

    def _ensure_uplink(self, eni: EniLink, wanted: Side) -> list[str]:
        """What had to be mended."""
        made = self._ensure_companion(eni)
        found = self._host_changes(eni, wanted)
        self._mend_host(found)
        return ([f"link {companion(eni)} is missing"] if made else []) + [str(change) for change in found]

    def _ensure_companion(self, eni: EniLink) -> bool:
        name = companion(eni)
        there = self._host.link(name)
        if there is not None and there.kind == KIND and there.peer == eni.index:
            return False
        if there is not None:  # of an ENI that had this ifindex before
            self._host.send(delete_link(there.index)).expect(*ABSENT)
        crashpoint("eni.ipvlan.before_companion")
        self._host.send(create_ipvlan(name, eni.index, self._node.mtu, noarp=True)).expect(errno.EEXIST)
        crashpoint("eni.ipvlan.after_companion")
        return True

    # ---- one sandbox

    def connect(self, lease: Lease, netns_path: str, mtu: int | None) -> Wiring:
        """Wire a sandbox; a repeat changes only what differs. Raises NotFound (namespace, ENI) and Conflict."""
        if lease.mode is not Mode.SHARED_IPVLAN:
            return super().connect(lease, netns_path, mtu)
        with self._pod(netns_path) as (pod, netns_fd):
            wiring = self._wiring(lease, mtu)
            eni = _eni(wiring)
            if self._clear_the_way(wiring, pod, lease.host_link) is Standing.WIRED:
                self._ensure_uplink(eni, wiring.uplink)
                self._mend_host(self._host_changes(eni, wiring.host))
                self._nics.ensure_ifb(wiring, pod)
                self._converge(pod, wiring.pod)
                return wiring
            own = self._host.link(wiring.veth.host)
            if own is None or own.kind != KIND:
                self._ensure_uplink(eni, wiring.uplink)
                own = link_in(self._host, wiring.veth.host)
            crashpoint("eni.ipvlan.before_slave")
            # Under the lease's own name first: what has that name and no alias is ours, and half made.
            self._host.send(create_ipvlan(lease.host_link, eni.index, wiring.veth.mtu, netns_fd=netns_fd)).expect()
            crashpoint("eni.ipvlan.after_slave")
            slave = link_in(pod, lease.host_link)
            pod.send(alias_link(slave.index, wiring.veth.alias)).expect()
            crashpoint("eni.ipvlan.after_alias")
            pod.send(rename_link(slave.index, wiring.veth.pod)).expect()
            self._host.make(wiring.host.items, {wiring.veth.host: own.index})
            crashpoint("eni.ipvlan.after_node")
            self._nics.ensure_ifb(wiring, pod)
            self._furnish(wiring, pod)
            crashpoint("eni.ipvlan.after_sandbox")
            return wiring

    def _amiss_on_node(self, lease: Lease, wiring: Wiring) -> list[str]:
        if lease.mode is not Mode.SHARED_IPVLAN:
            return super()._amiss_on_node(lease, wiring)
        side = Side.of((*wiring.uplink.items, *wiring.host.items))
        return [str(change) for change in self._host_changes(_eni(wiring), side)]

    def _amiss_inside(self, lease: Lease, wiring: Wiring, pod: Stack) -> list[str]:
        problems = super()._amiss_inside(lease, wiring, pod)
        seen = pod.link(wiring.veth.pod) if lease.mode is Mode.SHARED_IPVLAN else None
        if seen is not None and not serves(seen, lease.eni_mac):
            problems.append(f"link {seen.name} is not on the ENI with MAC {lease.eni_mac}")
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
        """Withdraw a sandbox's routes, and delete its slave. False: nothing of it was there.

        `addresses` None: those that its slave has. `kept` are addresses that another sandbox has by now.
        """
        found = super().disconnect(key, host_link, addresses, kept, nic=nic, netns_path=netns_path)
        with suppress(NotFound), self._holding(key, netns_path) as (pod, slave):
            found = True
            if addresses is None:
                addresses = _addresses(pod, slave)
        crashpoint("eni.ipvlan.before_withdraw")
        found = self._withdraw_routes(ip for ip in addresses or () if ip not in kept) or found
        crashpoint("eni.ipvlan.after_withdraw")
        with suppress(NotFound), self._holding(key, netns_path) as (pod, slave):
            gone = [delete_link(slave.index)]
            if (queue := pod.link(IFB)) is not None:
                gone.append(delete_link(queue.index))
            pod.send(*gone).expect(*ABSENT)
        crashpoint("eni.ipvlan.after_delete")
        return found

    def limit(self, lease: Lease) -> None:
        """Give a sandbox that is wired its lease's limits, and no others. Raises NotFound: it is gone."""
        if lease.mode is not Mode.SHARED_IPVLAN:
            super().limit(lease)
            return
        with self._holding(lease.key, None) as (pod, slave):
            self._nics.limit(self._wiring(lease, slave.mtu), pod)

    # ---- all sandboxes

    def repair(self, wired: Iterable[Lease], in_use: Set[Ip]) -> Repaired:
        """Make the node's side of all sandboxes whole again, and take away routes of pods that are no more.

        Of those on slaves, too, whose namespace has ended: nothing here tells that, and a route to nobody harms nobody.
        """
        leases = list(wired)
        others = super().repair((lease for lease in leases if lease.mode is not Mode.SHARED_IPVLAN), in_use)
        mended, skipped = list(others.mended), dict(others.skipped)
        wanted: dict[EniLink, list[Item]] = {}
        for lease in leases:
            if lease.mode is not Mode.SHARED_IPVLAN:
                continue
            try:
                wiring = self._wiring(lease, None)
            except NotFound as gone:
                skipped[str(lease.key)] = gone.message
                continue
            wanted.setdefault(_eni(wiring), []).extend((*wiring.uplink.items, *wiring.host.items))
        for eni, items in wanted.items():
            mended += self._ensure_uplink(eni, Side.of(items))
        used = {host_cidr(ip) for ip in in_use}
        stale: list[Drop] = [Drop(route) for route in self._pod_routes() if route.to not in used]
        stale += [Drop(rule) for rule in self._rules_without_eni()]
        self._mend_host(stale)
        return Repaired(mended=[*mended, *(str(drop) for drop in stale)], skipped=skipped)

    def mend_inside(self, wired: Iterable[Lease]) -> list[str]:
        """As for other sandboxes; those on slaves are found by their slaves."""
        leases = list(wired)
        mended = super().mend_inside(lease for lease in leases if lease.mode is not Mode.SHARED_IPVLAN)
        within = {lease.key: lease for lease in leases if lease.mode is Mode.SHARED_IPVLAN}
        for pod, slave, (key, _) in self._slaves() if within else ():
            if (lease := within.pop(key, None)) is not None:
                with suppress(NotFound):  # it is ending
                    mended += self._mend_pod(pod, lease, slave)
        return mended

    def marked_links(self) -> dict[AttachmentKey, str]:
        """The attachments that serve a sandbox: those with a host link, and those with a slave in some namespace."""
        return super().marked_links() | dict(found for _, _, found in self._slaves())

    def companions(self) -> dict[str, SeenLink]:
        """The node's own slaves."""
        return {link.name: link for link in self._host.links() if link.kind == KIND and link.name.startswith(COMPANION)}

    # ---- steps

    def _slaves(self) -> Iterator[tuple[Stack, SeenLink, tuple[AttachmentKey, str]]]:
        """Every slave of ours, and the stack of its namespace for as long as the caller looks at it."""
        enis = {link.index: link.mac for link in self._host.links()}
        for netns_fd in netns.every_netns():
            try:
                stack = Stack(self._home_fd, netns_fd)
            except OSError:  # it ended, or is not for us to enter
                continue
            with stack:
                for link in stack.links():
                    # Another node's pods may be on this machine, too: a lab's. Their ENIs have other MACs.
                    if (found := slave_of(link)) is not None and enis.get(link.peer) == link.mac:
                        yield stack, link, found

    @contextmanager
    def _holding(self, key: AttachmentKey, path: str | None) -> Iterator[tuple[Stack, SeenLink]]:
        """The namespace that an attachment's slave is in, and the slave. Raises NotFound."""
        if path is not None:
            with suppress(NotFound), self._pod(path) as (pod, _):
                for link in pod.links():
                    if (found := slave_of(link)) is not None and found[0] == key:
                        yield pod, link
                        return
        for stack, link, found in self._slaves():
            if found[0] == key:
                yield stack, link
                return
        raise NotFound(f"the slave of {key} is in no namespace that a process or file holds here", retry_after=1.0)

    def _clear_the_way(self, wiring: Wiring, pod: Stack, half_made: str) -> Standing:
        """See what is in the sandbox, and delete what a dead attempt left. Raises Conflict: it is somebody's."""
        if (left := pod.link(half_made)) is not None and left.kind == KIND:
            pod.send(delete_link(left.index)).expect(*ABSENT)
        there = pod.link(wiring.veth.pod)
        standing = stand(wiring, _eni(wiring).index, there)
        if standing is Standing.REMAINS and there is not None:
            pod.send(delete_link(there.index)).expect(*ABSENT)
        return standing

    def _furnish(self, wiring: Wiring, pod: Stack) -> None:
        """Everything inside the sandbox. Unavailable: an address is still on the slave of one that is ending."""
        try:
            pod.make(wiring.pod.items, {link.name: link_in(pod, link.name).index for link in wiring.pod.links})
        except NetlinkError as refused:
            if refused.errno != errno.EADDRINUSE:
                raise
            raise Unavailable(f"{refused}: its sandbox has not ended yet", retry_after=1.0) from refused

    def _host_changes(self, eni: EniLink, wanted: Side) -> list[Change]:
        """The node's differences, with those that only this mode has: diversions, and an address on the ENI."""
        # A pod's route is on the node's own slave, which its side does not name among its links.
        names = {eni.name, companion(eni)}
        links = {name: seen for name in names if (seen := self._host.link(name)) is not None}
        side = self._host.listing(links, wanted.sysctls, v6=self._with_v6(wanted)).side
        diverted = [
            found
            for item in wanted.diversions
            if item.link in links and (found := self._diverter.seen(item.link, links[item.link].index)) is not None
        ]
        stray = bare(eni, side) if wanted.links else []
        return [*stray, *changes(wanted, Side.of((*side.items, *diverted)))]

    def _mend_host(self, todo: Sequence[Change]) -> None:
        items = [change.item for change in todo]
        names = {name for item in items for name in _links_of(item)}
        indices = {name: seen.index for name in names if (seen := self._host.link(name)) is not None}
        # The driver takes NOARP away whenever such a link goes up: said again, it stays.
        links = [item for item in items if isinstance(item, Link) and item.noarp and item.name in indices]
        self._host.send(*(set_link(item, indices[item.name]) for item in links)).expect()
        self._host.mend([change for change in todo if not isinstance(change.item, Diversion)], indices)
        for item in items:
            if isinstance(item, Diversion) and item.link in indices and (item.to in indices or not item.ranges):
                self._diverter.put(item, indices[item.link], indices.get(item.to, 0))

    def _pod_routes(self) -> list[Route]:
        """The routes to pods there are, by whichever ENI."""
        routes = self._host.listing(self.companions(), v6=self._node.ipv6 is not None).side.routes
        # The kernel makes some by itself: to the node's own IPv6 address, and to link-local ones.
        own_ips = {host_cidr(ip) for ip in (self._node.ipv4, self._node.ipv6) if ip is not None}
        return [
            route
            for route in routes
            if route.via is None
            and route.to.endswith(("/32", "/128"))
            and route.to not in own_ips
            and not route.to.startswith("fe80:")
        ]

    def _rules_without_eni(self) -> list[Rule]:
        """What sends pods' packets to Services out again by ENIs that are gone, or where nobody wants it any more."""
        ours = [
            rule for rule in self._host.listing({}, v6=True).marked if rule.priority == turning.PRIORITY and rule.iif
        ]
        there = self.companions() if self._node.shows_own_address(Mode.SHARED_IPVLAN) else {}
        return [rule for rule in ours if rule.iif not in there]

    def _withdraw_routes(self, addresses: Iterable[Ip]) -> bool:
        unwanted = {host_cidr(ip) for ip in addresses}
        found: list[Change] = [Drop(route) for route in self._pod_routes() if route.to in unwanted]
        self._mend_host(found)
        return bool(found)


def _eni(wiring: Wiring) -> EniLink:
    assert wiring.eni is not None, "slaves are of an ENI"
    return wiring.eni


def _links_of(item: Item) -> tuple[str, ...]:
    match item:
        case Diversion(link=link, to=to):
            return (link, to)
        case _:
            name = getattr(item, "link", getattr(item, "name", ""))
            return (name,) if name else ()


def _addresses(pod: Stack, slave: SeenLink) -> tuple[Ip, ...]:
    return tuple(address.ip for address in pod.listing({slave.name: slave}, v6=True).side.addresses)
