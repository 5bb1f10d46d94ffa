"""Beliefs about the node's ENIs, and the facts that change them.

`apply` is the only way from one belief to the next: the journal writes the same facts as rows, so that what is loaded
after a restart equals what memory held (a test compares the two). Facts about an address say from which states they
move it, so that two facts that cross each other end the same in either order.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from services.eni_manager.core.machine import LEAVING, ON_THE_WAY, State
from shared.model import EniId, Ip, Mac, Subnet

STORY_LENGTH = 24
BATCH = 10
"""The most addresses that one OpenAPI call brings or takes (terway.md §6.12)."""


class SlotState(StrEnum):
    """What is known of one pool item."""

    PENDING = "pending"
    """The cloud has assigned it; the metadata service does not list it yet."""
    VALID = "valid"
    """Cloud and metadata service both list it."""
    RETURNING = "returning"
    """ipam has given it back for ever; it leaves the cloud as soon as the call succeeds."""
    MISSING = "missing"
    """It was valid and the cloud no longer lists it: reported, never given to a pod."""


LIVE = frozenset({SlotState.PENDING, SlotState.VALID})


class Slot(msgspec.Struct, frozen=True):
    """One pool item: an address, or a pair of one per family, of an ENI."""

    ipv4: Ip | None = None
    ipv6: Ip | None = None
    primary: bool = False
    state: SlotState = SlotState.PENDING
    lost6: Ip | None = None
    """The IPv6 address that the cloud took from this pair, until it has another or the same one again."""

    @property
    def item(self) -> Ip:
        """What ipam calls it: its IPv4 address, or its IPv6 address where there is none."""
        item = self.ipv4 or self.ipv6
        assert item is not None, "a slot without any address"
        return item


class Eni(msgspec.Struct, frozen=True):
    """One ENI as we believe it to be. `name` is ours, chosen before the cloud knows of it, and never changes."""

    name: str
    state: State
    vswitch: str
    initial: int
    """Addresses, primary included, that it is made with."""
    max_slots: int
    id: EniId | None = None
    mac: Mac | None = None
    subnet4: Subnet | None = None
    subnet6: Subnet | None = None
    security_groups: tuple[str, ...] = ()
    slots: dict[Ip, Slot] = {}
    story: tuple[str, ...] = ()
    spare6: tuple[Ip, ...] = ()
    """IPv6 addresses of the ENI that are in no pair: the next pairs take them."""

    def count(self, states: Iterable[SlotState] = LIVE) -> int:
        """How many slots are in one of `states`."""
        wanted = frozenset(states)
        return sum(slot.state in wanted for slot in self.slots.values())

    def in_state(self, state: SlotState) -> list[Slot]:
        """The slots in `state`, in a stable order."""
        return [slot for _, slot in sorted(self.slots.items()) if slot.state is state]

    @property
    def halves(self) -> list[Slot]:
        """Live slots that lack their IPv6 address: in dual stack no pod may have them yet."""
        return [slot for _, slot in sorted(self.slots.items()) if slot.state in LIVE and slot.ipv6 is None]

    @property
    def expected(self) -> int:
        """Live addresses that it has, or will have once it is made."""
        if self.state is State.WANTED:
            return self.initial
        return 0 if self.state in LEAVING or self.state is State.DRAINING else self.count()

    @property
    def room(self) -> int:
        """How many more addresses the cloud would let it have."""
        if self.state is State.WANTED:
            return max(0, self.max_slots - self.initial)
        # What is left of a pair that has lost its IPv4 address keeps its place among the IPv6 ones.
        taken = sum(slot.state is not SlotState.MISSING or slot.ipv6 is not None for slot in self.slots.values())
        return max(0, self.max_slots - taken)

    @property
    def grows(self) -> bool:
        """May it be given more addresses, now or once it is ready?"""
        return self.state in ON_THE_WAY or self.state in (State.READY, State.REJOINING)


# ---- facts


class Wanted(msgspec.Struct, frozen=True):
    """A new ENI was decided, or one of ours that we did not know was found."""

    eni: Eni


class Moved(msgspec.Struct, frozen=True):
    """An ENI came to a new state; `note` says why, for its story."""

    name: str
    state: State
    note: str


class Made(msgspec.Struct, frozen=True):
    """What the cloud says the ENI is."""

    name: str
    id: EniId
    mac: Mac
    vswitch: str
    security_groups: tuple[str, ...] = ()


class Placed(msgspec.Struct, frozen=True):
    """The ranges and gateways of the ENI's vSwitch, from the metadata service."""

    name: str
    subnet4: Subnet | None
    subnet6: Subnet | None


class Sized(msgspec.Struct, frozen=True):
    """How many addresses it may have, which the node's mode decides, too."""

    name: str
    max_slots: int


class SlotsAdded(msgspec.Struct, frozen=True):
    """Addresses that the cloud has assigned; those already known stay as they are."""

    name: str
    slots: tuple[Slot, ...]


class SlotsMarked(msgspec.Struct, frozen=True):
    """Addresses that come to state `to`, if they are in one of `frm`."""

    name: str
    items: tuple[Ip, ...]
    to: SlotState
    frm: tuple[SlotState, ...]


class SlotsDropped(msgspec.Struct, frozen=True):
    """Addresses that the cloud confirms it no longer assigns to the ENI."""

    name: str
    items: tuple[Ip, ...]


class Ipv6Added(msgspec.Struct, frozen=True):
    """IPv6 addresses that the cloud has assigned. A pair that lost one of them has it again, the others are spare."""

    name: str
    addresses: tuple[Ip, ...]


class Paired(msgspec.Struct, frozen=True):
    """Spare IPv6 addresses that join slots which have none: (item, IPv6 address) each."""

    name: str
    pairs: tuple[tuple[Ip, Ip], ...]


class Ipv6Dropped(msgspec.Struct, frozen=True):
    """IPv6 addresses that the cloud no longer assigns to the ENI: their pairs are halves from now on."""

    name: str
    addresses: tuple[Ip, ...]


Fact = (
    Wanted | Moved | Made | Placed | Sized | SlotsAdded | SlotsMarked | SlotsDropped | Ipv6Added | Paired | Ipv6Dropped
)


def apply(enis: dict[str, Eni], fact: Fact) -> None:
    """Change the beliefs by one fact. A fact about an ENI that is gone changes nothing."""
    if isinstance(fact, Wanted):
        enis.setdefault(fact.eni.name, fact.eni)
        return
    eni = enis.get(fact.name)
    if eni is None:
        return
    if isinstance(fact, Moved) and fact.state is State.GONE:
        del enis[fact.name]
        return
    enis[fact.name] = applied(eni, fact)


def applied(eni: Eni, fact: Fact) -> Eni:
    """The ENI after a fact about it."""
    match fact:
        case Moved(state=state, note=note):
            return msgspec.structs.replace(eni, state=state, story=(*eni.story, f"{state}: {note}")[-STORY_LENGTH:])
        case Made(id=id_, mac=mac, vswitch=vswitch, security_groups=groups):
            return msgspec.structs.replace(eni, id=id_, mac=mac, vswitch=vswitch, security_groups=groups)
        case Placed(subnet4=subnet4, subnet6=subnet6):
            return msgspec.structs.replace(eni, subnet4=subnet4, subnet6=subnet6)
        case Sized(max_slots=most):
            return msgspec.structs.replace(eni, max_slots=most)
        case SlotsAdded(slots=slots):
            return msgspec.structs.replace(eni, slots={slot.item: slot for slot in slots} | eni.slots)
        case SlotsMarked(items=items, to=to, frm=frm):
            moved = {
                item: msgspec.structs.replace(slot, state=to) if item in items and slot.state in frm else slot
                for item, slot in eni.slots.items()
            }
            return msgspec.structs.replace(eni, slots=moved)
        case SlotsDropped(items=items):
            kept = {item: slot for item, slot in eni.slots.items() if item not in items}
            return msgspec.structs.replace(eni, slots=kept)
        case Ipv6Added(addresses=addresses):
            return _with_ipv6(eni, addresses)
        case Paired(pairs=pairs):
            return _with_pairs(eni, pairs)
        case Ipv6Dropped(addresses=addresses):
            return _without_ipv6(eni, frozenset(addresses))
        case Wanted():
            return eni


def _with_ipv6(eni: Eni, addresses: Iterable[Ip]) -> Eni:
    known = {slot.ipv6 for slot in eni.slots.values()} | set(eni.spare6)
    fresh = [address for address in dict.fromkeys(addresses) if address not in known]
    losers = {slot.lost6: item for item, slot in eni.slots.items() if slot.lost6 is not None and slot.ipv6 is None}
    back = {losers[address]: address for address in fresh if address in losers}
    slots = {
        item: msgspec.structs.replace(slot, ipv6=back[item], lost6=None) if item in back else slot
        for item, slot in eni.slots.items()
    }
    spare = (*eni.spare6, *(address for address in fresh if address not in losers))
    return msgspec.structs.replace(eni, slots=slots, spare6=spare)


def _with_pairs(eni: Eni, pairs: Iterable[tuple[Ip, Ip]]) -> Eni:
    slots, spare = dict(eni.slots), list(eni.spare6)
    for item, address in pairs:
        slot = slots.get(item)
        if slot is not None and slot.ipv6 is None and address in spare:
            slots[item] = msgspec.structs.replace(slot, ipv6=address, lost6=None)
            spare.remove(address)
    return msgspec.structs.replace(eni, slots=slots, spare6=tuple(spare))


def _without_ipv6(eni: Eni, gone: frozenset[Ip]) -> Eni:
    slots = {
        item: msgspec.structs.replace(
            slot,
            ipv6=None,
            lost6=slot.ipv6,
            state=SlotState.PENDING if slot.state is SlotState.VALID else slot.state,
        )
        if slot.ipv6 in gone
        else slot
        for item, slot in eni.slots.items()
    }
    spare = tuple(address for address in eni.spare6 if address not in gone)
    return msgspec.structs.replace(eni, slots=slots, spare6=spare)


# ---- what the node can hold


class InstanceType(msgspec.Struct, frozen=True):
    """What the cloud says of the node's instance type (DescribeInstanceTypes)."""

    name: str
    enis: int
    """A: with the primary one."""
    ipv4_per_eni: int
    """P"""
    ipv6_per_eni: int = 0
    """V"""
    eni_total: int = 0
    """T: with the members of a trunk"""
    trunk: bool = False
    eri: int = 0
    """E"""
    cpus: int = 0
    """0: not known."""


class Limits(msgspec.Struct, frozen=True):
    """The most ENIs of ours, and addresses on each (terway.md §7)."""

    enis: int
    per_eni: int

    @property
    def capacity(self) -> int:
        """The most pool items in shared mode."""
        return self.enis * self.per_eni


def limits(kind: InstanceType, *, most: int, foreign: int = 0, exclusive: bool = False) -> Limits:
    """`most` is what the configuration makes of the type; ENIs of others take places of the type's own number.

    `exclusive`: a pod has an ENI to itself, with its primary address.
    """
    per_eni = min(1, kind.ipv4_per_eni) if exclusive else kind.ipv4_per_eni
    return Limits(enis=max(0, min(most, kind.enis - 1 - foreign)), per_eni=per_eni)
