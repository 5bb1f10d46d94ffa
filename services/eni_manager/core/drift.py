"""The cloud's listing × our beliefs -> what has happened behind our back (terway.md §6.5 ⚠, §8.3).

Ours is an ENI that bears our tags. One that is attached here needs `creator` only, because no other node can use it;
an unattached one must bear this node's tag as well. Anything else is foreign, counted and never touched.

An absence is believed when two listings in a row show it, each begun after the ENI last changed: Describe answers may
be old. A presence is believed at once.
"""

from collections.abc import Iterable, Mapping

import msgspec

from services.eni_manager.core.machine import Event, State
from services.eni_manager.core.model import (
    LIVE,
    Eni,
    Fact,
    Ipv6Added,
    Ipv6Dropped,
    Slot,
    SlotsAdded,
    SlotsMarked,
    SlotState,
)
from shared.model import EniId, Ip, Mac

CREATOR = {"creator": "terway"}
"""On every ENI that a Terway node daemon makes (terway.md §6.13)."""

NODE_TAG = "terway-instance"
"""Its value is the id of the instance that the ENI is made for."""


class CloudAddress(msgspec.Struct, frozen=True):
    """An address as the cloud lists it."""

    ip: Ip
    primary: bool = False


class CloudEni(msgspec.Struct, frozen=True):
    """An ENI as the cloud lists it. `status`: Available, Attaching, InUse, Detaching, Deleting."""

    id: EniId
    mac: Mac
    status: str
    type: str = "Secondary"
    name: str = ""
    instance: str = ""
    vswitch: str = ""
    zone: str = ""
    security_groups: tuple[str, ...] = ()
    ipv4: tuple[CloudAddress, ...] = ()
    ipv6: tuple[Ip, ...] = ()
    tags: dict[str, str] = {}

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Its addresses as pool items, not yet confirmed by the metadata service."""
        return tuple(Slot(ipv4=address.ip, primary=address.primary) for address in self.ipv4)

    @property
    def pairs(self) -> tuple[Slot, ...]:
        """The same of an ENI that no pod has used, in dual stack: one IPv6 address each, as far as there are any."""
        six = (*self.ipv6, *[None] * len(self.ipv4))
        return tuple(
            Slot(ipv4=address.ip, ipv6=other, primary=address.primary)
            for address, other in zip(self.ipv4, six, strict=False)
        )


class Owner(msgspec.Struct, frozen=True):
    """How to tell our ENIs. `tag_filter`: only those that bear all of these; `blocked`: never those that bear one."""

    instance: str
    tags: dict[str, str]
    """What ours are given: CREATOR, the configured ones, and NODE_TAG."""
    tag_filter: dict[str, str] = {}
    blocked: tuple[tuple[str, str], ...] = ()

    @property
    def marks(self) -> dict[str, str]:
        """The tags by which ENIs made for this node are found."""
        return {**CREATOR, NODE_TAG: self.instance}

    def owns(self, eni: CloudEni) -> bool:
        """Is it ours to use, and to delete?"""
        if eni.type != "Secondary" or not _bears(eni, CREATOR) or not _bears(eni, self.tag_filter):
            return False
        if any(eni.tags.get(key) == value for key, value in self.blocked):
            return False
        if eni.instance:
            return eni.instance == self.instance
        return eni.tags.get(NODE_TAG) == self.instance


def _bears(eni: CloudEni, tags: Mapping[str, str]) -> bool:
    return tags.items() <= eni.tags.items()


def strangers(beliefs: Mapping[str, Eni], listing: Iterable[CloudEni], owner: Owner, *, max_slots: int) -> list[Eni]:
    """Ours in the cloud, of which the journal knows nothing: the journal was lost, or an older one was put back.

    An attached one may serve pods and is taken in. An unattached one serves nobody and is deleted.
    """
    ids = {eni.id for eni in beliefs.values()}
    names = set(beliefs)
    found = []
    for seen in listing:
        if seen.id in ids or seen.name in names or not owner.owns(seen):
            continue
        match seen.status:
            case "InUse":
                state, note = State.REJOINING, "found attached, unknown to the journal: adopted"
            case "Attaching":
                state, note = State.ATTACHING, "found attaching, unknown to the journal: adopted"
            case "Available":
                state, note = State.DELETING, "found unattached, unknown to the journal: deleted"
            case _:
                continue
        found.append(
            Eni(
                name=seen.id,
                state=state,
                vswitch=seen.vswitch,
                initial=len(seen.slots),
                max_slots=max_slots,
                id=seen.id,
                mac=seen.mac,
                security_groups=seen.security_groups,
                slots={slot.item: slot for slot in seen.slots},
                spare6=seen.ipv6,
                story=(f"{state}: {note}",),
            )
        )
    return found


def foreign_attached(beliefs: Mapping[str, Eni], listing: Iterable[CloudEni], owner: Owner) -> int:
    """How many secondary ENIs of others take a place on this instance."""
    ids = {eni.id for eni in beliefs.values()}
    return sum(
        seen.instance == owner.instance and seen.type != "Primary" and seen.id not in ids and not owner.owns(seen)
        for seen in listing
    )


def strange_groups(listing: Iterable[CloudEni], owner: Owner, configured: Iterable[str]) -> dict[EniId, str]:
    """ENIs of ours here that have no configured security group, a sentence each. Reported, never changed (R9)."""
    wanted = frozenset(configured)
    return {
        seen.id: f"{seen.id} has none of the configured security groups: it has {_names(seen.security_groups)}, "
        f"configured are {_names(wanted)}; ENIs made before a change keep theirs"
        for seen in listing
        if wanted and seen.status == "InUse" and owner.owns(seen) and wanted.isdisjoint(seen.security_groups)
    }


class Verdict(msgspec.Struct, frozen=True):
    """What a listing says of one ENI at rest. `doubts` are carried to the next listing.

    `taken`: pool items that the cloud has taken away for certain. What no attachment uses of them may be forgotten.
    """

    event: Event | None = None
    facts: tuple[Fact, ...] = ()
    doubts: frozenset[str] = frozenset()
    notices: tuple[str, ...] = ()
    taken: tuple[Ip, ...] = ()


ABSENT = "the ENI itself"
"""The doubt about a whole ENI, among doubts about addresses."""


def judge(eni: Eni, seen: CloudEni | None, *, instance: str, doubts: frozenset[str], dual: bool = False) -> Verdict:
    """Compare an ENI that is READY or DRAINING with how the cloud lists it; None: it does not.

    `dual`: IPv6 addresses count, too; else they are nobody's business.
    """
    here = seen is not None and seen.status == "InUse" and seen.instance in ("", instance)
    if eni.state is State.DRAINING:
        if here:
            return Verdict(event=Event.FOUND, notices=("is in use here again",))
        return (
            Verdict(taken=tuple(eni.slots), doubts=frozenset({ABSENT}))
            if ABSENT in doubts
            else Verdict(doubts=frozenset({ABSENT}))
        )
    if eni.state is not State.READY:
        return Verdict()
    if seen is None or not here:
        if ABSENT not in doubts:
            return Verdict(doubts=frozenset({ABSENT}))
        how = "is gone from the cloud" if seen is None else f"is {seen.status} in the cloud"
        return Verdict(event=Event.LOST, notices=(f"{how}; its addresses reach nobody",))
    found = _addresses(eni, seen, doubts)
    return _with_ipv6(found, eni, seen, doubts) if dual else found


def _addresses(eni: Eni, seen: CloudEni, doubts: frozenset[str]) -> Verdict:
    listed = {slot.item: slot for slot in seen.slots}
    facts: list[Fact] = []
    notices: list[str] = []
    if new := tuple(slot for item, slot in listed.items() if item not in eni.slots):
        facts.append(SlotsAdded(eni.name, new))
        notices.append(f"has addresses that we did not ask for, adopted: {_names(slot.item for slot in new)}")
    absent = {slot.item for slot in eni.slots.values() if slot.state in LIVE and slot.item not in listed}
    if gone := tuple(sorted(item for item in absent if item in doubts)):
        facts.append(SlotsMarked(eni.name, gone, to=SlotState.MISSING, frm=tuple(LIVE)))
        notices.append(f"has lost addresses in the cloud: {_names(gone)}")
    taken = tuple(slot.item for slot in eni.in_state(SlotState.MISSING) if slot.item not in listed)
    back = tuple(slot.item for slot in eni.in_state(SlotState.MISSING) if slot.item in listed)
    if back:
        facts.append(SlotsMarked(eni.name, back, to=SlotState.PENDING, frm=(SlotState.MISSING,)))
        notices.append(f"has its lost addresses again: {_names(back)}")
    return Verdict(facts=tuple(facts), doubts=frozenset(absent) - set(gone), notices=tuple(notices), taken=taken)


def _with_ipv6(found: Verdict, eni: Eni, seen: CloudEni, doubts: frozenset[str]) -> Verdict:
    """The verdict with what there is to say of IPv6 addresses. A pair that loses its own stays, as a half."""
    ours = {slot.ipv6 for slot in eni.slots.values() if slot.ipv6 is not None} | set(eni.spare6)
    leaving = {slot.ipv6 for slot in eni.in_state(SlotState.RETURNING)}
    facts, notices = list(found.facts), list(found.notices)
    if new := tuple(address for address in seen.ipv6 if address not in ours):
        facts.append(Ipv6Added(eni.name, new))
        notices.append(f"has IPv6 addresses that we did not ask for, adopted: {_names(new)}")
    absent = ours - set(seen.ipv6) - leaving
    if gone := tuple(sorted(address for address in absent if address in doubts)):
        facts.append(Ipv6Dropped(eni.name, gone))
        notices.append(f"has lost IPv6 addresses in the cloud: {_names(gone)}")
    return msgspec.structs.replace(
        found,
        facts=tuple(facts),
        notices=tuple(notices),
        doubts=found.doubts | (frozenset(absent) - set(gone)),
    )


def _names(items: Iterable[str]) -> str:
    return ", ".join(sorted(items)) or "none"
