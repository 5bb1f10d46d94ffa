"""One namespace's network stack: list what there is, make so what is wanted, take away what is not.

Everything here blocks for as long as the kernel holds its rtnl lock, so it runs in the dataplane's own thread.
"""

import errno
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import msgspec

from services.eni_manager.adapters import classifiers, netns, sysctl
from services.eni_manager.adapters.netlink_intake import get_redirects, put_redirect, seen_redirect
from services.eni_manager.adapters.netlink_links import (
    get_link,
    get_links,
    get_netns_number,
    seen_link,
    seen_netns_number,
)
from services.eni_manager.adapters.netlink_socket import Outcome, RouteSocket
from services.eni_manager.adapters.netlink_values import (
    drop,
    get_route,
    listings,
    put,
    rule_listings,
    seen_hop,
    seen_local,
    seen_rules,
)
from services.eni_manager.adapters.netlink_wire import Request
from services.eni_manager.core.wiring.difference import Change, Put
from services.eni_manager.core.wiring.standing import SeenLink
from services.eni_manager.core.wiring.values import (
    Classifier,
    Ingress,
    Item,
    Link,
    Redirect,
    Rule,
    Side,
    Sysctl,
    link_of,
)
from shared.model import Ip
from shared.netlink import Message as Frame

ABSENT = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EINVAL)
"""What the kernel answers when what is to go is not there (EINVAL: a qdisc that is not)."""
_IS_SO = (errno.EEXIST,)
_MENDED = (errno.EEXIST, errno.ENODEV)
"""A link may end with its sandbox between a look and what the look leads to; nothing is missing on it then."""


class Listing(msgspec.Struct, frozen=True):
    """What a namespace holds: the values on the links asked for, and of all plain rules those that bear our mark."""

    side: Side
    marked: tuple[Rule, ...] = ()


class Stack:
    """The stack of one namespace, by a socket made in it. Host and pod differ only in how they are opened."""

    def __init__(self, home_fd: int, netns_fd: int | None = None) -> None:
        """`netns_fd` None: the calling thread's own namespace. Closing the stack leaves both descriptors open."""
        self._home_fd = home_fd
        self._netns_fd = netns_fd
        if netns_fd is None:
            self._socket = RouteSocket()
        else:
            with netns.inside(netns_fd, home_fd):
                self._socket = RouteSocket()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, *requests: Request) -> Outcome:
        """Requests as they are, in one system call; look at the outcome."""
        return self._socket.batch(requests)

    def dump(self, request: Request) -> list[Frame]:
        """All that a request asks for."""
        return self._socket.dump(request)

    # ---- links

    def link(self, which: str | int) -> SeenLink | None:
        """One link by name or ifindex, or None."""
        outcome = self._socket.batch((get_link(which),)).expect(errno.ENODEV)
        return next((seen for frame in outcome.frames if (seen := seen_link(frame)) is not None), None)

    def links(self) -> list[SeenLink]:
        """All links."""
        return [seen for frame in self._socket.dump(get_links()) if (seen := seen_link(frame)) is not None]

    def netns_number(self, netns_fd: int) -> int | None:
        """The number by which this namespace knows another (SeenLink.peer_netns); None: it knows it not, or it is none.

        A file below /run/netns is none as long as nothing is mounted on it.
        """
        outcome = self._socket.batch((get_netns_number(netns_fd),)).expect(errno.EINVAL)
        return next((found for frame in outcome.frames if (found := seen_netns_number(frame)) is not None), None)

    def way_out(self, index: int | None = None, *, v6: bool = False) -> tuple[int, Ip] | None:
        """The ifindex and the gateway of a family's default route, or of that by the link `index`; None: there is none.

        The address that is asked for is one for examples.
        """
        example = Ip("3fff::1" if v6 else "192.0.2.1")
        outcome = self._socket.batch((get_route(example, index),)).expect(errno.ENETUNREACH, errno.EHOSTUNREACH)
        return next((hop for frame in outcome.frames if (hop := seen_hop(frame)) is not None), None)

    def is_own(self, ip: Ip) -> bool:
        """Would a packet to this address be taken in here?"""
        outcome = self._socket.batch((get_route(ip),)).expect(errno.ENETUNREACH, errno.EHOSTUNREACH)
        return any(seen_local(frame) for frame in outcome.frames)

    # ---- values

    def make(self, items: Iterable[Item], indices: dict[str, int]) -> None:
        """Make everything so without looking first, in one batch; `indices`: the ifindex of each link concerned."""
        settings: list[Sysctl] = []
        redirects: list[Redirect] = []
        programs: list[Classifier] = []
        requests: list[Request] = []
        for item in items:
            match item:
                case Sysctl():
                    settings.append(item)
                case Redirect():
                    redirects.append(item)
                case Classifier():
                    programs.append(item)
                case _:
                    requests.append(put(item, _index(item, indices)))
        if settings:
            self._write(settings)
        self._socket.batch(requests).expect(*_IS_SO)
        self._redirect(redirects, indices)
        classifiers.put(self._socket, programs, indices)

    def mend(self, changes: Iterable[Change], indices: dict[str, int]) -> None:
        """Carry out changes; a missing link cannot be made here, so what is to be on it is passed over."""
        kernel: list[Change] = []
        settings: list[Sysctl] = []
        redirects: list[Redirect] = []
        programs: list[Classifier] = []
        for change in changes:
            if isinstance(change.item, Sysctl):
                settings.append(change.item)
            elif isinstance(change.item, Redirect):
                redirects.append(change.item)
            elif isinstance(change.item, Classifier):
                programs.append(change.item)
            elif isinstance(change.item, Rule) or link_of(change.item) in indices:
                kernel.append(change)
        if settings:
            self._write(settings)
        outcome = self._socket.batch(
            [(put if isinstance(change, Put) else drop)(change.item, _index(change.item, indices)) for change in kernel]
        )
        for position, refusal in sorted(outcome.refused.items()):
            if refusal.errno not in (_MENDED if isinstance(kernel[position], Put) else ABSENT):
                raise refusal
        self._redirect(redirects, indices)
        classifiers.put(self._socket, programs, indices)

    def _redirect(self, items: Iterable[Redirect], indices: dict[str, int]) -> None:
        for item in items:
            if {item.link, item.to} <= indices.keys():
                gone, fresh = put_redirect(item, indices[item.link], indices[item.to])
                self._socket.batch((gone,)).expect(*ABSENT)
                self._socket.batch((fresh,)).expect()

    def listing(
        self,
        links: dict[str, SeenLink],
        settings: tuple[Sysctl, ...] = (),
        programs: tuple[Classifier, ...] = (),
        *,
        v6: bool,
    ) -> Listing:
        """What stands on these links now, and all rules. `settings` and `programs` say which to read, and look for."""
        names = {seen.index: name for name, seen in links.items()}
        found: list[Item] = [Link(name, seen.mtu, seen.up, seen.noarp) for name, seen in links.items()]
        for request, decode in listings(v6=v6):
            found += [item for frame in self._socket.dump(request) if (item := decode(frame, names)) is not None]
        for index in [links[item.link].index for item in found if isinstance(item, Ingress)]:
            filters = self._socket.dump(get_redirects(index))
            found += [item for frame in filters if (item := seen_redirect(frame, names)) is not None]
        found += classifiers.seen(self._socket, programs, {name: link.index for name, link in links.items()})
        rules = [seen for request in rule_listings(v6=v6) for seen in seen_rules(self._socket.dump(request))]
        return Listing(
            side=Side.of([*self._read(settings), *found, *(rule for rule, _ in rules)]),
            marked=tuple(rule for rule, marked in rules if marked),
        )

    # ---- settings

    def _write(self, settings: Iterable[Sysctl]) -> None:
        if self._netns_fd is None:
            sysctl.write(settings)
        else:
            with netns.inside(self._netns_fd, self._home_fd):
                sysctl.write(settings)

    def _read(self, settings: Iterable[Sysctl]) -> tuple[Sysctl, ...]:
        if self._netns_fd is None:
            return sysctl.read(settings)
        with netns.inside(self._netns_fd, self._home_fd):
            return sysctl.read(settings)


def _index(item: Item, indices: dict[str, int]) -> int:
    return 0 if isinstance(item, Rule) else indices[link_of(item)]
