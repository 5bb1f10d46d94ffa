"""ENIs that pods have to themselves: found by their MAC wherever they are, moved into a pod, and brought home.

A physical device whose namespace ends comes back to the machine's first namespace by itself; one whose namespace lives
on, because something holds it, does not, and neither does one of a plug that failed half-way. So what is not at home is
looked for in every namespace that this node's stack has had to do with, and fetched.
"""

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

from services.eni_manager.adapters import netns
from services.eni_manager.adapters.netlink import ABSENT, Stack
from services.eni_manager.adapters.netlink_intake import drop_redirect
from services.eni_manager.adapters.netlink_links import create_ifb, delete_link, move_link
from services.eni_manager.core.wiring.difference import Drop, Put, changes
from services.eni_manager.core.wiring.exclusive import IFB
from services.eni_manager.core.wiring.marks import key_of
from services.eni_manager.core.wiring.standing import SeenLink, is_retired
from services.eni_manager.core.wiring.values import Ingress, Nic, Side, Wiring
from shared.crashpoint import crashpoint
from shared.errors import Conflict, NotFound, Unavailable
from shared.model import Mac

_KINDS: Final = frozenset({"", "veth"})
"""Hardware has no kind; the lab's ENIs are veths. Others with an ENI's MAC are its slaves."""
_TRIES: Final = 8
"""To find a name at home that nobody takes in the same moment."""


class Nics:
    """Of one node. Use it in the thread that `host` belongs to."""

    def __init__(self, host: Stack, home_fd: int) -> None:
        self._host, self._home_fd = host, home_fd

    # ---- where it is

    def at_home(self, mac: Mac) -> SeenLink | None:
        """The ENI, if it is in the node's namespace."""
        return next((link for link in self._host.links() if is_nic(link, mac)), None)

    @contextmanager
    def away(self, mac: Mac) -> Iterator[tuple[Stack, SeenLink, int] | None]:
        """The ENI in another namespace, that one's stack while the body runs, and the number it is known by."""
        for netns_fd in netns.every_netns():
            # Only where a link of this node has led to: other nodes of a lab have namespaces and MACs of their own.
            try:
                if (number := self._host.netns_number(netns_fd)) is None:
                    continue
                stack = Stack(self._home_fd, netns_fd)
            except OSError:  # it ended, or is not for us to enter
                continue
            with stack:
                if (found := next((link for link in stack.links() if is_nic(link, mac)), None)) is not None:
                    yield stack, found, number
                    return
        yield None

    def serves(self, number: int) -> str:
        """The host link of ours that leads to a namespace, by its number, and is not retired; empty: none does."""
        ours = (link for link in self._host.links() if key_of(link.alias) and not is_retired(link))
        return next((link.name for link in ours if link.peer_netns == number), "")

    # ---- moving

    def enter(self, nic: Nic, pod: Stack, netns_fd: int) -> None:
        """Move the ENI into a pod, where it may be already. NotFound: it is nowhere. Conflict: another pod has it."""
        there = pod.link(nic.name)
        if there is not None and is_nic(there, nic.mac):
            return
        if there is not None:
            raise Conflict(f"interface {nic.name} already exists in the sandbox (CNI specification, section 2, ADD)")
        if (seen := next((link for link in pod.links() if is_nic(link, nic.mac)), None)) is not None:
            self._home(pod, seen)  # under another name: something has renamed it, or an attempt died
        seen = self.at_home(nic.mac) or self.fetch(nic.mac)
        if seen is None:
            raise NotFound(f"the ENI with MAC {nic.mac} is in no namespace of this node", retry_after=1.0)
        crashpoint("eni.nic.before_enter")
        self._host.send(*move_link(seen.index, nic.name, netns_fd)).expect()
        crashpoint("eni.nic.after_enter")

    def fetch(self, mac: Mac) -> SeenLink | None:
        """Bring an ENI home from wherever it is; None: it is nowhere. Conflict: a sandbox that lives has it."""
        with self.away(mac) as found:
            if found is None:
                return self.at_home(mac)  # it may have come by itself meanwhile
            stack, link, number = found
            if holder := self.serves(number):
                raise Conflict(f"the ENI with MAC {mac} is in the sandbox that {holder} leads to")
            self._home(stack, link)
        return self.at_home(mac)

    def leave(self, pod: Stack, macs: Collection[Mac], names: Collection[str]) -> list[Mac]:
        """Bring home every ENI of a pod's namespace: those of these MACs, and what bears one of these names."""
        found = [
            link
            for link in pod.links()
            if link.kind in _KINDS and not _slave(link) and (link.mac in macs or link.name in names)
        ]
        for link in found:
            self._home(pod, link)
        return [link.mac for link in found]

    def _home(self, pod: Stack, link: SeenLink) -> None:
        """Bring one home, under a name that is free there. Its addresses, routes and qdiscs stay behind."""
        crashpoint("eni.nic.before_home")
        for _ in range(_TRIES):
            outcome = pod.send(*move_link(link.index, self._free_name(), self._home_fd))
            codes = {refused.errno for refused in outcome.refused.values()}
            if codes <= {errno.ENODEV}:
                break  # or it is gone: with its namespace, or by the cloud
            if errno.EEXIST not in codes:
                outcome.expect(errno.ENODEV)
        else:
            raise Unavailable(f"{link.name} with MAC {link.mac} finds no free name at home")
        crashpoint("eni.nic.after_home")

    def _free_name(self) -> str:
        taken = {link.name for link in self._host.links()}
        return next(name for number in count() if (name := f"eth{number}") not in taken)

    # ---- what comes in, queued

    def ensure_ifb(self, wiring: Wiring, pod: Stack) -> None:
        """The link for it, where there is a limit."""
        if wiring.ifb and pod.link(wiring.ifb) is None:
            pod.send(create_ifb(wiring.ifb, wiring.veth.mtu)).expect(errno.EEXIST)

    def limit(self, wiring: Wiring, pod: Stack) -> None:
        """The limits that are wanted, and no others; a foreign qdisc stays where no limit is wanted."""
        self.ensure_ifb(wiring, pod)
        wanted = wiring.pod
        names = {link.name for link in wanted.links} | {IFB}
        links = {name: seen for name in names if (seen := pod.link(name)) is not None}
        there = pod.listing(links, v6=False).side
        indices = {name: link.index for name, link in links.items()}
        limited = {shaper.link for shaper in wanted.shapers}
        if not wiring.ifb:
            led = [redirect for redirect in there.redirects if redirect.to == IFB]
            pod.send(*(drop_redirect(each, indices[each.link]) for each in led)).expect(*ABSENT)
            kept = {intake.link for intake in wanted.intakes}
            pod.mend([Drop(Ingress(each.link)) for each in led if each.link not in kept], indices)
            if IFB in links:
                pod.send(delete_link(links[IFB].index)).expect(*ABSENT)
        pod.mend([Drop(item) for item in there.shapers if item.link not in limited | {IFB}], indices)
        queues = Side(shapers=wanted.shapers, intakes=wanted.intakes, redirects=wanted.redirects)
        links_up = [Put(link) for link in wanted.links if link.name == IFB]
        pod.mend([*links_up, *changes(queues, there)], indices)


def is_nic(link: SeenLink, mac: Mac) -> bool:
    """Is this link the ENI of that MAC itself, and none that is made of it or bears one of our marks?"""
    return link.mac == mac and link.kind in _KINDS and not link.alias and not _slave(link)


def _slave(link: SeenLink) -> bool:
    """Is it made of another link? A veth has a peer, which is none of its own making."""
    return bool(link.peer) and link.kind != "veth"
