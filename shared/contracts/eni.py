"""What eni_manager serves: the node's ENIs and addresses, and the wiring of pods."""

import msgspec

from shared.contracts.ipam import Bandwidth, Lease
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, Subnet
from shared.rpc.method import Method

# ---- inventory: what the cloud has given this node, as ipam's pool sees it


class EniAddress(msgspec.Struct, frozen=True):
    """One pool item: an address (pair) of an ENI.

    `usable`: the cloud and the metadata service both know it and its ENI is wired up, so a pod may have it.
    `primary`: it leaves only together with the whole ENI. `gone`: the cloud has taken it away from this node; it stays
    listed while something may still use it.
    """

    ipv4: Ip | None = None
    ipv6: Ip | None = None
    primary: bool = False
    usable: bool = True
    gone: bool = False


class EniView(msgspec.Struct, frozen=True):
    """One ENI of ours. `state` is the machine's state name, for people; `usable` decides."""

    id: EniId
    mac: Mac
    state: str
    addresses: list[EniAddress]
    max_addresses: int
    vswitch: str = ""
    subnet4: Subnet | None = None
    subnet6: Subnet | None = None
    spare6: list[Ip] = []
    """IPv6 addresses of the ENI that are in no pair, for people: the next pairs take them."""


class PodRange(msgspec.Struct, frozen=True):
    """A range of pod addresses that is the node's own. `usable`: the VPC routes it to the node."""

    cidr: Cidr
    usable: bool = True


class Inventory(msgspec.Struct, frozen=True):
    """Everything at one moment. `epoch` changes when eni_manager restarts, `generation` with every change.

    `capacity` is the most pool items this node can ever hold in `mode` (terway.md §7); `blocked` says why the
    last demand cannot be met now, and empty when nothing is in the way.
    """

    epoch: str
    generation: int
    synced: bool
    """False until the first comparison with the cloud: absence means nothing yet."""
    mode: Mode
    capacity: int
    enis: list[EniView]
    blocked: str = ""
    blocked_retry_after: float | None = None
    addresses_per_eni: int = 0
    """What one ENI of this node can hold; 0: not known."""
    warnings: list[str] = []
    """What people should mend though pods are served: a sentence each, as long as it is so."""
    releasing: list[str] = []
    """Why what should go back to the cloud does not, a sentence each; it is being tried again."""
    dual: bool = True
    """Leases have the IPv6 addresses of their items. False: pods are given IPv4 only, whatever an item still has."""
    ranges: list[PodRange] = []
    """In mode vpc-route, where pods' addresses come from instead of ENIs, the IPv4 one first."""
    refused: str = ""
    """Why nothing is given to pods, and waiting does not help; empty: nothing stands against it."""


class Watch(msgspec.Struct, frozen=True):
    """Ask for the inventory; answered at once when it differs from (epoch, generation), else after `wait_s`."""

    epoch: str = ""
    generation: int = -1
    wait_s: float = 0.0


class Demand(msgspec.Struct, frozen=True):
    """How many pool items ipam wants the node to hold in all. Declarative: the last word counts, repeats are free.

    `waiting` of them are wanted by pods that wait now; their cloud calls go first.
    """

    total: int
    waiting: int = 0
    pairs: dict[Ip, Ip] = {}
    """Of leases, IPv4 -> IPv6 address: which belong together, should eni_manager have lost its journal."""


class Demanded(msgspec.Struct, frozen=True):
    """The demand is known; whether it can be met shows in the inventory."""


class GiveBack(msgspec.Struct, frozen=True):
    """ipam has marked these pool items unusable for ever (by their IPv4, or IPv6 where there is none).

    eni_manager may now return them to the cloud; a primary goes when all addresses of its ENI are given back.
    They leave the inventory when the cloud has confirmed it. Repeating is free.
    """

    items: list[Ip]


class GivenBack(msgspec.Struct, frozen=True):
    """`refused`: item -> why it stays (an attachment still uses it); ipam may use it again."""

    accepted: list[Ip]
    refused: dict[Ip, str] = {}


WATCH = Method("eni.watch", Watch, Inventory, deadline_s=90.0)
DEMAND = Method("eni.demand", Demand, Demanded)
GIVE_BACK = Method("eni.give_back", GiveBack, GivenBack)

# ---- wiring: links, addresses, routes, rules, tc


class Plug(msgspec.Struct, frozen=True):
    """Connect a sandbox: `netns` is a path that eni_manager can open (often `/proc/<pid>/fd/<n>`)."""

    lease: Lease
    netns: str
    mtu: int | None = None
    """None: the configured one."""
    host_stack: tuple[Cidr, ...] | None = None
    """What pods of this node reach by its own stack, as the CNI configuration states it; None: it was not asked."""


class Plugged(msgspec.Struct, frozen=True):
    """What the pod got."""

    mac: Mac
    """of the pod's interface"""
    host_mac: Mac
    mtu: int


class Unplug(msgspec.Struct, frozen=True):
    """Disconnect. `netns` None or gone: only the host's side is left to withdraw, which is success."""

    key: AttachmentKey
    lease: Lease | None = None
    netns: str | None = None
    unless_alive: bool = False
    """Only clear away what is left of it; Conflict when its link still exists."""


class Unplugged(msgspec.Struct, frozen=True):
    """Rules and routes are withdrawn, no packet for the address reaches the sandbox; links may die later."""

    found: bool = True


class Check(msgspec.Struct, frozen=True):
    """Compare a sandbox's wiring with what its lease wants (CNI CHECK)."""

    lease: Lease
    netns: str
    mtu: int | None = None


class Checked(msgspec.Struct, frozen=True):
    """One sentence per difference; empty when all is as wanted."""

    problems: list[str]


class Limit(msgspec.Struct, frozen=True):
    """Give a sandbox that is plugged other limits, and its attachment's lease with them. Repeating is free."""

    key: AttachmentKey
    bandwidth: Bandwidth


class Limited(msgspec.Struct, frozen=True):
    """The limits are in force in both directions."""


class ListAttachments(msgspec.Struct, frozen=True):
    """Ask for everything that is wired on this node."""


class Attachment(msgspec.Struct, frozen=True):
    """`alive`: the link's host end still exists, so the sandbox's namespace does too.

    `lease`: as it was plugged; None: known by the marks in the kernel only.
    """

    key: AttachmentKey
    host_link: str
    alive: bool
    lease: Lease | None = None


class Attachments(msgspec.Struct, frozen=True):
    """Everything that eni_manager has wired or found wired by its marks."""

    attachments: list[Attachment]
    host_stack: tuple[Cidr, ...] = ()
    """What pods beside the node's stack (exclusive-eni, shared-ipvlan) reach by it, Services among it."""
    own: tuple[Ip, ...] = ()
    """The node's addresses, which what it passes on to such pods bears."""


PLUG = Method("eni.plug", Plug, Plugged, deadline_s=20.0)
"""Errors: Conflict (the interface name exists in the sandbox, CNI P7), NotFound (netns, ENI), Invalid."""
UNPLUG = Method("eni.unplug", Unplug, Unplugged, deadline_s=20.0)
CHECK = Method("eni.check", Check, Checked, deadline_s=20.0)
LIMIT = Method("eni.limit", Limit, Limited)
"""Errors: NotFound (no such attachment, its links or its namespace are gone)."""
ATTACHMENTS = Method("eni.attachments", ListAttachments, Attachments)
