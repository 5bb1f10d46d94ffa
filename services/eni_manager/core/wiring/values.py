"""What a wired pod is made of, as plain values: no netlink, no sockets, links by name.

The same values say what is wanted (the modes' files build them from a lease) and what there is (the netlink
adapter lists them), so that one comparison serves ADD, CHECK and repair.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Self

import msgspec

from services.eni_manager.core.bpf.own_address import Part
from shared.model import AttachmentKey, Cidr, Ip, Mac, Mode

MAIN_TABLE = 254
ENI_TABLE_BASE = 1000
"""The routing table of an ENI is this plus its ifindex (terway.md §5.1.2)."""
PODS_TABLE = 512
"""The ways to this node's pods and nothing else, where pods share ENIs; beside the same ways in the main table."""


GATEWAY4 = Ip("169.254.1.1")
GATEWAY6 = Ip("fe80::1")
"""What every pod routes to; the host end of its link answers to it (terway.md §5.1.2)."""


class Priority(IntEnum):
    """The two rule priorities that are ours (terway.md §5.1.2)."""

    TO_POD = 512
    FROM_POD = 2048


class Link(msgspec.Struct, frozen=True):
    """A link that has to exist, be up and have this MTU. `noarp`: it asks nobody for a MAC."""

    name: str
    mtu: int
    up: bool = True
    noarp: bool = False

    def __str__(self) -> str:
        state = f"{'up' if self.up else 'down'}{' noarp' if self.noarp else ''}"
        return f"link {self.name} mtu {self.mtu} {state}"


class Address(msgspec.Struct, frozen=True):
    """A global address on a link, or with `host` one that counts on this host only (IPv4 alone has that).

    The one link-local address that counts is GATEWAY6.
    """

    link: str
    ip: Ip
    prefix: int
    host: bool = False

    def __str__(self) -> str:
        return f"address {self.ip}/{self.prefix} dev {self.link}{' scope host' if self.host else ''}"


class Route(msgspec.Struct, frozen=True):
    """A unicast route. With `via` it is `onlink`, since no pod shares a subnet with its gateway; else of link scope.

    `onlink` False, of IPv6 only: the gateway has a route of its own in the same table. The kernel believes `onlink` of
    a global IPv6 address only as long as the main table does not know it on another link, as with two ENIs of one
    vSwitch.
    """

    link: str
    to: Cidr
    via: Ip | None = None
    table: int = MAIN_TABLE
    onlink: bool = True

    def __str__(self) -> str:
        to = "default" if self.to in ("0.0.0.0/0", "::/0") else self.to
        onlink = " onlink" if self.onlink else ""
        hop = f" via {self.via} dev {self.link}{onlink}" if self.via else f" dev {self.link} scope link"
        return f"route {to}{hop}" + ("" if self.table == MAIN_TABLE else f" table {self.table}")


class Rule(msgspec.Struct, frozen=True):
    """A policy routing rule: for one pod address (one of `source` and `to`), for all packets with a mark, or for all.

    `mark` is its own mask where `mask` is 0. A rule without address is about IPv4 packets, with `v6` about IPv6 ones.
    `iif` is wanted of rules by mark alone; of others it is read, because older Terways' have it (terway.md §5.2.9).
    """

    priority: int
    table: int
    source: Cidr | None = None
    to: Cidr | None = None
    iif: str = ""
    mark: int = 0
    mask: int = 0
    v6: bool = False

    @property
    def for_all(self) -> bool:
        """Is it about all packets of its family?"""
        return not (self.source or self.to or self.mark)

    def __str__(self) -> str:
        select = f"from {self.source}" if self.source else "from all"
        select += f" to {self.to}" if self.to else ""
        select += f" fwmark {self.mark:#x}/{self.mask or self.mark:#x}" if self.mark else ""
        iif = f" iif {self.iif}" if self.iif else ""
        table = "main" if self.table == MAIN_TABLE else str(self.table)
        return f"{'IPv6 ' if self.v6 else ''}rule {self.priority}: {select}{iif} lookup {table}"


class Neighbour(msgspec.Struct, frozen=True):
    """A permanent neighbour: nobody has to answer ARP for it."""

    link: str
    ip: Ip
    mac: Mac

    def __str__(self) -> str:
        return f"neighbour {self.ip} lladdr {self.mac} dev {self.link} permanent"


class Sysctl(msgspec.Struct, frozen=True):
    """A kernel setting by its path below /proc/sys, since link names may have dots in them."""

    path: str
    value: str

    def __str__(self) -> str:
        return f"sysctl {self.path} = {self.value}"


class Ingress(msgspec.Struct, frozen=True):
    """The qdisc that filters for what comes in hang on."""

    link: str

    def __str__(self) -> str:
        return f"qdisc ingress dev {self.link}"


class Redirect(msgspec.Struct, frozen=True):
    """Everything that comes in on a link, which has Ingress, goes through another one first, where it is queued."""

    link: str
    to: str

    def __str__(self) -> str:
        return f"filter dev {self.link} ingress: all redirected to {self.to}"


class Diversion(msgspec.Struct, frozen=True):
    """What leaves by a link for these ranges arrives on another link of this node instead (terway.md §5.3).

    `own_address`: what the node then sends out by the link for a pod bears the pod's address, and answers to it arrive
    on the other link, too (core/bpf/eni_path.py).
    """

    link: str
    to: str
    ranges: frozenset[Cidr]
    own_address: bool = False

    def __str__(self) -> str:
        ranges = ", ".join(sorted(self.ranges)) or "nothing"
        back = ", and answers back" if self.own_address else ""
        return f"classifier dev {self.link} egress: {ranges} diverted to {self.to}{back}"


class Classifier(msgspec.Struct, frozen=True):
    """A program of ours by which Services' backends see pods' own addresses (core/bpf/own_address.py).

    `to`: the link that it sends to; `own`: the pod's addresses; both where its part asks for them.
    """

    link: str
    part: Part
    to: str = ""
    own: tuple[Ip, ...] = ()

    def __str__(self) -> str:
        to = f" to {self.to}" if self.to else ""
        return f"classifier dev {self.link}: Services' packets, {self.part}{to}"


class Shaper(msgspec.Struct, frozen=True):
    """A root tbf qdisc in the kernel's units: bytes, bytes per second, ticks of 64 ns."""

    link: str
    rate: int
    limit: int
    buffer_ticks: int

    def __str__(self) -> str:
        return f"qdisc tbf dev {self.link} rate {self.rate} B/s limit {self.limit} B"


Item = Sysctl | Link | Address | Route | Rule | Neighbour | Shaper | Ingress | Redirect | Classifier | Diversion


def link_of(
    item: Link | Address | Route | Neighbour | Shaper | Ingress | Redirect | Classifier | Diversion | Sysctl,
) -> str:
    """The name of the link that a value is on; a setting is on none."""
    match item:
        case Link(name=name):
            return name
        case Sysctl():
            return ""
        case _:
            return item.link


class Side(msgspec.Struct, frozen=True):
    """Part of what one namespace holds. The order of the fields is the order in which things are set up (§5.1.3)."""

    sysctls: tuple[Sysctl, ...] = ()
    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    shapers: tuple[Shaper, ...] = ()
    intakes: tuple[Ingress, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    classifiers: tuple[Classifier, ...] = ()
    diversions: tuple[Diversion, ...] = ()

    @classmethod
    def of(cls, items: Iterable[Item]) -> Self:
        """The side that holds these, each once."""
        each = tuple(dict.fromkeys(items))
        return cls(
            sysctls=tuple(item for item in each if isinstance(item, Sysctl)),
            links=tuple(item for item in each if isinstance(item, Link)),
            addresses=tuple(item for item in each if isinstance(item, Address)),
            routes=tuple(item for item in each if isinstance(item, Route)),
            rules=tuple(item for item in each if isinstance(item, Rule)),
            neighbours=tuple(item for item in each if isinstance(item, Neighbour)),
            shapers=tuple(item for item in each if isinstance(item, Shaper)),
            intakes=tuple(item for item in each if isinstance(item, Ingress)),
            redirects=tuple(item for item in each if isinstance(item, Redirect)),
            classifiers=tuple(item for item in each if isinstance(item, Classifier)),
            diversions=tuple(item for item in each if isinstance(item, Diversion)),
        )

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything, in set-up order."""
        return (
            *self.sysctls,
            *self.links,
            *self.addresses,
            *self.routes,
            *self.rules,
            *self.neighbours,
            *self.shapers,
            *self.intakes,
            *self.redirects,
            *self.classifiers,
            *self.diversions,
        )


class Veth(msgspec.Struct, frozen=True):
    """The pair that joins a pod to the node. Both MACs are stated, so that neighbours need no reading back."""

    host: str
    pod: str
    host_mac: Mac
    pod_mac: Mac
    mtu: int
    alias: str
    """of the host end: how a restarted process knows the link as ours, and whose it is"""


class EniLink(msgspec.Struct, frozen=True):
    """An ENI as the node's kernel shows it."""

    name: str
    index: int

    @property
    def table(self) -> int:
        """The ENI's routing table."""
        return ENI_TABLE_BASE + self.index


class Node(msgspec.Struct, frozen=True):
    """What wiring has to know of the node: the primary addresses (source of the default route) and the usual MTU.

    `host_stack`: what pods reach by the node's own stack in the modes whose pods could bypass it: the Services' ranges
    and what else an operator lists (terway.md §5.3, §5.4).
    """

    ipv4: Ip | None = None
    ipv6: Ip | None = None
    mtu: int = 1500
    mode: Mode = Mode.SHARED_VETH
    host_stack: tuple[Cidr, ...] = ()
    own_address: bool = False
    """Backends of Services see pods' own addresses in those modes, and not the node's: it is wanted, and the kernel can
    (core/bpf/own_address.py)."""

    def shows_own_address(self, mode: Mode) -> bool:
        """Of pods of a mode; those that an earlier mode has left are masqueraded."""
        return self.own_address and self.mode is mode


class Nic(msgspec.Struct, frozen=True):
    """An ENI that is moved into the pod's namespace, and what it is called there."""

    mac: Mac
    name: str


class Wiring(msgspec.Struct, frozen=True):
    """Everything that one sandbox needs; ADD, CHECK, repair and DEL all read this one description.

    `veth`: the pair that joins pod and node; where the pod is on a slave of the ENI, that slave and the node's own one.

    `host` and `pod` come and go with the sandbox. `uplink` belongs to the ENI, which other pods share: a pod's
    ADD ensures it and no pod's DEL takes it away.
    """

    key: AttachmentKey
    mode: Mode
    veth: Veth
    host: Side
    pod: Side
    uplink: Side = Side()
    eni: EniLink | None = None
    """None: the mode puts pods on no ENI that stays with the node."""
    nic: Nic | None = None
    """The ENI that the pod has to itself."""
    ifb: str = ""
    """The link in the pod that what comes in is queued on; empty: there is no such limit."""

    @property
    def pod_mac(self) -> Mac:
        """Of the pod's interface."""
        return self.veth.pod_mac if self.nic is None else self.nic.mac
