"""What an account holds, and what the world must do about it.

CREATING ─► AVAILABLE ─► ATTACHING ─► IN_USE ─► DETACHING ─► AVAILABLE ─► DELETING ─► gone
"""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

import msgspec

from compose.lab.cloud.core.spread import LogNormal, Spread
from shared.model import Cidr, Ip, Mac


class EniStatus(StrEnum):
    """`Status` of a network interface."""

    CREATING = "Creating"
    AVAILABLE = "Available"
    ATTACHING = "Attaching"
    IN_USE = "InUse"
    DETACHING = "Detaching"
    DELETING = "Deleting"


class EniType(StrEnum):
    """`Type` of a network interface. A member is one that a trunk carries under a VLAN id."""

    PRIMARY = "Primary"
    SECONDARY = "Secondary"
    TRUNK = "Trunk"
    MEMBER = "Member"


class Tag(msgspec.Struct, frozen=True):
    """A key and a value that a customer has put on a resource."""

    key: str
    value: str = ""


class VSwitch(msgspec.Struct, frozen=True):
    """A subnet of the VPC in one zone."""

    id: str
    zone: str
    cidr: str
    ipv6_cidr: str = ""

    @property
    def network(self) -> IPv4Network:
        """The IPv4 range as a value."""
        return IPv4Network(self.cidr)

    @property
    def gateway(self) -> Ip:
        """The third address from the end (terway.md §5.1.5)."""
        return Ip(str(self.network[-3]))

    @property
    def gateway6(self) -> Ip:
        """The same for IPv6; empty without."""
        return Ip(str(IPv6Network(self.ipv6_cidr)[-3])) if self.ipv6_cidr else Ip("")


class Direction(StrEnum):
    """Seen from the network interface that a rule guards."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Rule(msgspec.Struct, frozen=True):
    """One permission of a security group. Exactly one of the three peers is given.

    Of the rules that fit a packet the one with the least `priority` number decides, and of equal ones a drop.
    """

    id: str
    direction: Direction
    protocol: str
    """TCP, UDP, ICMP, ICMPv6, GRE or ALL."""
    ports: str = "-1/-1"
    """`80/90`: destination ports of TCP and UDP; `-1/-1`: any."""
    peer_cidr: str = ""
    peer_cidr6: str = ""
    peer_group: str = ""
    """Whoever is in this group."""
    accept: bool = True
    priority: int = 1
    """1 to 100."""
    source_ports: str = "-1/-1"
    own_cidr: str = ""
    """Only for this part of the interface's own addresses (`DestCidrIp` of an ingress rule)."""
    description: str = ""
    created_at: float = 0.0


class SecurityGroup(msgspec.Struct, frozen=True):
    """Who may talk to whom; a change makes a new one.

    Where no rule fits: a normal group lets its members in and everything out; an enterprise group nobody in
    and nothing out.
    """

    id: str
    name: str = ""
    rules: tuple[Rule, ...] = ()
    kind: str = "normal"
    """normal or enterprise."""
    description: str = ""
    tags: tuple[Tag, ...] = ()
    resource_group: str = ""
    created_at: float = 0.0


class RouteStatus(StrEnum):
    """`Status` of a route entry."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    DELETING = "Deleting"


class RouteEntry(msgspec.Struct):
    """A customer's entry of the VPC's route table. Those that the cloud makes itself are not kept."""

    id: str
    table: str
    destination: Cidr
    next_hop_type: str
    """Instance or NetworkInterface."""
    next_hop: str
    eni: str
    """The network interface that packets go to: the next hop itself, or the instance's primary one."""
    created_at: float
    status: RouteStatus = RouteStatus.PENDING
    name: str = ""
    description: str = ""


class Eni(msgspec.Struct):
    """An elastic network interface. `ipv4` starts with the primary address."""

    id: str
    mac: Mac
    type: EniType
    vswitch: str
    zone: str
    ipv4: list[Ip]
    security_groups: list[str]
    created_at: float
    status: EniStatus = EniStatus.CREATING
    ipv6: list[Ip] = []
    ipv4_prefixes: list[Cidr] = []
    ipv6_prefixes: list[Cidr] = []
    name: str = ""
    description: str = ""
    tags: list[Tag] = []
    resource_group: str = ""
    instance: str | None = None
    delete_on_release: bool = True
    source_dest_check: bool = False
    traffic_mode: str = "Standard"
    trunk: str | None = None
    """Of a member: the trunk that carries it."""
    vlan: int = 0
    """Of a member: its `DeviceIndex`."""
    served: "Served | None" = None
    """What the metadata service says of it; lags behind by `Delays.metadata`. None: it is not listed."""

    @property
    def primary_ip(self) -> Ip:
        """The address that it was born with and keeps."""
        return self.ipv4[0]

    @property
    def everything(self) -> "tuple[Ip | Cidr, ...]":
        """All that packets may come from and go to: addresses of both families, and prefixes."""
        return (*self.ipv4, *self.ipv6, *self.ipv4_prefixes, *self.ipv6_prefixes)


class Served(msgspec.Struct, frozen=True):
    """Addresses as the metadata service lists them."""

    ipv4: tuple[Ip, ...]
    ipv6: tuple[Ip, ...]
    ipv4_prefixes: tuple[Cidr, ...] = ()
    ipv6_prefixes: tuple[Cidr, ...] = ()


class Instance(msgspec.Struct, frozen=True):
    """A machine: a node of the cluster. `name` is the node's and unique in the lab."""

    id: str
    name: str
    type: str
    vswitch: str
    zone: str
    primary_eni: str
    created_at: float


class AccessKey(msgspec.Struct, frozen=True):
    """Who may call. With a token it is a role's temporary key."""

    id: str
    secret: str
    token: str | None = None
    expires_at: float | None = None
    active: bool = True
    """False: its owner has switched it off."""
    forbidden: tuple[str, ...] = ()
    """Actions that its policy does not allow."""


class Delays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the cloud takes, in seconds: (least, most), evenly spread, or a distribution of `spread.py`."""

    create: Spread = (0.0, 0.0)
    attach: Spread = (0.05, 0.1)
    detach: Spread = (0.05, 0.1)
    delete: Spread = (0.02, 0.05)
    metadata: Spread = (0.02, 0.05)
    """How far the metadata service lags behind."""
    route: Spread = (0.0, 0.0)
    """Until an entry of a route table is available, or gone."""


DELAYS: dict[str, Delays] = {
    "none": Delays(*[(0.0, 0.0)] * 6),
    "fast": Delays(),
    "real": Delays(
        create=(0.2, 0.8), attach=(3, 8), detach=(2, 5), delete=(0.3, 1), metadata=(0.3, 1.5), route=(0.5, 2)
    ),
    "rough": Delays(
        create=LogNormal(0.5, 4),
        attach=LogNormal(5, 60),
        detach=LogNormal(3, 40),
        delete=LogNormal(0.5, 10),
        metadata=LogNormal(0.7, 15),
        route=LogNormal(1, 20),
    ),
}
"""By name, for the command line. `real` and `rough` are estimates: the cloud publishes none (terway.md §6.5)."""


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the account may have at most; None: as much as it likes."""

    enis: int = 100_000
    private_ips_per_vswitch: int | None = None
    """In use at the same time, whatever the vSwitch's size."""
    security_groups: int = 100
    rules_per_group: int = 200
    groups_per_eni: int = 5
    enis_per_group: int | None = None
    """The cloud's own is 2,000 private addresses in a normal group."""
    route_entries: int = 200
    tags: int = 20


class AddNode(msgspec.Struct, frozen=True):
    """A machine is born."""

    node: str


class RemoveNode(msgspec.Struct, frozen=True):
    """A machine is gone for ever."""

    node: str


class Plug(msgspec.Struct, frozen=True):
    """The network interface appears in the machine; answer with `Account.plugged`."""

    eni: str
    mac: Mac
    vswitch: str
    node: str
    addresses: tuple[Ip | Cidr, ...]
    primary: bool
    groups: tuple[str, ...] = ()


class Appear(msgspec.Struct, frozen=True):
    """The device of a network interface that a fault has held back appears in the machine, if it still should."""

    eni: str
    node: str


class Unplug(msgspec.Struct, frozen=True):
    """The network interface vanishes from the machine; answer with `Account.unplugged`."""

    eni: str


class Assign(msgspec.Struct, frozen=True):
    """Packets for and from these addresses and prefixes pass from now on."""

    eni: str
    addresses: tuple[Ip | Cidr, ...]


class Unassign(msgspec.Struct, frozen=True):
    """Packets for and from these addresses and prefixes no longer pass."""

    eni: str
    addresses: tuple[Ip | Cidr, ...]


class Guard(msgspec.Struct, frozen=True):
    """The network interface that is plugged in is in these security groups from now on."""

    eni: str
    groups: tuple[str, ...]


class DefineGroup(msgspec.Struct, frozen=True):
    """A security group is new, or has other rules."""

    group: SecurityGroup


class ForgetGroup(msgspec.Struct, frozen=True):
    """A security group that nobody is in is gone."""

    group: str


class Route(msgspec.Struct, frozen=True):
    """Packets in the VPC for `destination` go to `eni`; None: as if there had never been such an entry."""

    destination: Cidr
    eni: str | None


Effect = AddNode | RemoveNode | Plug | Appear | Unplug | Assign | Unassign | Guard | DefineGroup | ForgetGroup | Route
