"""What an account holds, and what the world must do about it.

CREATING ─► AVAILABLE ─► ATTACHING ─► IN_USE ─► DETACHING ─► AVAILABLE ─► DELETING ─► gone
"""

from enum import StrEnum
from ipaddress import IPv4Network

import msgspec

from shared.model import Ip, Mac


class EniStatus(StrEnum):
    """`Status` of a network interface."""

    CREATING = "Creating"
    AVAILABLE = "Available"
    ATTACHING = "Attaching"
    IN_USE = "InUse"
    DETACHING = "Detaching"
    DELETING = "Deleting"


class EniType(StrEnum):
    """`Type` of a network interface; members are for a trunk and not here yet."""

    PRIMARY = "Primary"
    SECONDARY = "Secondary"
    TRUNK = "Trunk"


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


class SecurityGroup(msgspec.Struct, frozen=True):
    """Who may talk to whom; its rules are not applied yet."""

    id: str
    name: str = ""


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
    name: str = ""
    description: str = ""
    tags: list[Tag] = []
    resource_group: str = ""
    instance: str | None = None
    delete_on_release: bool = True
    source_dest_check: bool = False
    traffic_mode: str = "Standard"
    served: "Served | None" = None
    """What the metadata service says of it; lags behind by `Delays.metadata`. None: it is not listed."""

    @property
    def primary_ip(self) -> Ip:
        """The address that it was born with and keeps."""
        return self.ipv4[0]


class Served(msgspec.Struct, frozen=True):
    """Addresses as the metadata service lists them."""

    ipv4: tuple[Ip, ...]
    ipv6: tuple[Ip, ...]


class Instance(msgspec.Struct, frozen=True):
    """A machine: a node of the cluster. `name` is the node's and unique in the lab."""

    id: str
    name: str
    type: str
    vswitch: str
    zone: str
    primary_eni: str
    security_groups: list[str]
    created_at: float


class AccessKey(msgspec.Struct, frozen=True):
    """Who may call. With a token it is a role's temporary key."""

    id: str
    secret: str
    token: str | None = None
    expires_at: float | None = None


class Delays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the cloud takes, in seconds, as (least, most); evenly spread between."""

    create: tuple[float, float] = (0.0, 0.0)
    attach: tuple[float, float] = (0.05, 0.1)
    detach: tuple[float, float] = (0.05, 0.1)
    delete: tuple[float, float] = (0.02, 0.05)
    metadata: tuple[float, float] = (0.02, 0.05)
    """How far the metadata service lags behind."""


DELAYS: dict[str, Delays] = {
    "none": Delays(*[(0.0, 0.0)] * 5),
    "fast": Delays(),
    "real": Delays(create=(0.2, 0.8), attach=(3, 8), detach=(2, 5), delete=(0.3, 1), metadata=(0.3, 1.5)),
}
"""By name, for the command line. `real` is an estimate: the cloud publishes none (terway.md §6.5)."""


# ---- what the world must do: carried out in this order, by whoever holds the fabric


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
    addresses: tuple[Ip, ...]
    primary: bool


class Unplug(msgspec.Struct, frozen=True):
    """The network interface vanishes from the machine; answer with `Account.unplugged`."""

    eni: str


class Assign(msgspec.Struct, frozen=True):
    """Packets for and from these addresses pass from now on."""

    eni: str
    addresses: tuple[Ip, ...]


class Unassign(msgspec.Struct, frozen=True):
    """Packets for and from these addresses no longer pass."""

    eni: str
    addresses: tuple[Ip, ...]


Effect = AddNode | RemoveNode | Plug | Unplug | Assign | Unassign
