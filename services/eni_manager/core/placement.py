"""Demand -> which ENI is to hold how many addresses, and which ENIs are to be made (terway.md §6.3, §6.4, §6.6).

Existing ENIs first, those that are ready before those on the way; a new one only for what finds no room. Shrinking is
not decided here: addresses leave only because ipam gives them back.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from services.eni_manager.core.machine import HOLDS_A_SLOT, ON_THE_WAY, State
from services.eni_manager.core.model import BATCH, Eni, Limits, SlotState
from shared.model import Ip

MOST_CREATIONS = 3
"""ENIs on the way at the same time."""

AT_BIRTH = 50
"""Addresses that one creation may bring, the primary one included (terway.md §6.12); an assignment brings BATCH."""


def bulk(vswitch: str) -> str:
    """The subject of a block on calls for more than BATCH addresses of a vSwitch: it may have that few left."""
    return f"{vswitch} for more than {BATCH} addresses at once"


CREATION = "creation"
"""The subject of a block that concerns every new ENI."""


def ipv6_of(eni: str) -> str:
    """The subject of a block that keeps an ENI from getting IPv6 addresses."""
    return f"{eni} ipv6"


class Block(msgspec.Struct, frozen=True):
    """Something that was refused is not asked for again until then."""

    until: float
    why: str


class Blocks:
    """What must not be tried for now, by subject: a vSwitch, an ENI's name, or CREATION. Forgotten at a restart: the
    cloud then says it again."""

    def __init__(self) -> None:
        self._blocks: dict[str, Block] = {}

    def put(self, subject: str, *, until: float, why: str) -> None:
        """Block `subject`; the later end counts."""
        standing = self._blocks.get(subject)
        if standing is None or standing.until < until:
            self._blocks[subject] = Block(until, why)

    def get(self, subject: str, now: float) -> Block | None:
        """The block on `subject` that is in force."""
        block = self._blocks.get(subject)
        return block if block is not None and block.until > now else None

    def standing(self, now: float) -> dict[str, Block]:
        """All that are in force; the others are dropped."""
        self._blocks = {subject: block for subject, block in self._blocks.items() if block.until > now}
        return dict(self._blocks)


class VSwitch(msgspec.Struct, frozen=True):
    """A vSwitch as the cloud describes it; `free` None: the count is not known (no permission, no answer).

    `ipv6`: it has an IPv6 range; None: not known. `zone` None: not known; empty: there is no such vSwitch.
    """

    id: str
    free: int | None = None
    ipv6: bool | None = None
    zone: str | None = None

    def unfit(self, zone: str, *, dual: bool) -> str:
        """Why a node of `zone` can have no ENI there, a sentence; empty: nothing speaks against it."""
        if self.zone == "":
            return f"vSwitch {self.id} does not exist in this region; take it out of eni_conf.vswitches.{zone}"
        if self.zone is not None and self.zone != zone:
            return (
                f"vSwitch {self.id} is in zone {self.zone}, but eni_conf.vswitches lists it under {zone}, where this "
                "node is; an ENI must be in its node's zone"
            )
        if dual and self.ipv6 is False:
            return (
                f"vSwitch {self.id} has no IPv6 range, which ip_stack dual needs: turn IPv6 on in it, or configure "
                "another vSwitch or ip_stack ipv4"
            )
        return ""


class Creation(msgspec.Struct, frozen=True):
    """A new ENI: where, and with how many addresses, the primary one included."""

    vswitch: str
    initial: int


class Plan(msgspec.Struct, frozen=True):
    """What is to be. `targets`: live addresses per ENI name, only for those that must grow.

    `blocked` says why `short` addresses cannot be had now; it is empty while everything asked for is on its way.
    """

    targets: dict[str, int] = {}
    creations: tuple[Creation, ...] = ()
    short: int = 0
    blocked: str = ""
    retry_at: float | None = None


EniPolicy = Literal["most_ips", "least_ips"]
VSwitchPolicy = Literal["random", "ordered", "most"]


def plan(
    enis: Iterable[Eni],
    *,
    total: int,
    limits: Limits,
    in_flight: Mapping[str, int],
    blocks: Blocks,
    vswitches: Sequence[VSwitch],
    policy: EniPolicy = "most_ips",
    now: float,
    stuck: Mapping[str, int] = {},
    at_birth: int = BATCH,
) -> Plan:
    """Spread `total` over `enis` and new ones in `vswitches`, which are in the order of preference.

    `in_flight` counts per ENI the addresses that a call under way will bring; `stuck` those that it has and that no
    pod can be given for now. `at_birth`: how many the creation of an ENI brings at most.
    """
    enis = [eni for eni in enis if eni.state in HOLDS_A_SLOT]
    holding = {eni.name: eni.expected + in_flight.get(eni.name, 0) for eni in enis}
    need = total - sum(holding.values()) + sum(stuck.values())
    if need <= 0:
        return Plan()

    why: dict[str, float | None] = {}
    for name in stuck:
        if (block := blocks.get(ipv6_of(name), now)) is not None:
            why[block.why] = block.until
    targets: dict[str, int] = {}
    for eni in sorted(enis, key=lambda eni: _preference(eni, policy)):
        room = eni.room - in_flight.get(eni.name, 0)
        if not eni.grows or room <= 0:
            continue
        block = blocks.get(eni.name, now) or blocks.get(eni.vswitch, now) or blocks.get(ipv6_of(eni.name), now)
        if block is not None:
            why[block.why] = block.until
            continue
        targets[eni.name] = room
    targets = _spread(targets, need, holding=holding, policy=policy)
    need -= sum(targets[name] - holding[name] for name in targets)

    creations, short = _creations(
        need, enis, limits=limits, blocks=blocks, vswitches=vswitches, why=why, now=now, at_birth=at_birth
    )
    if not short:
        return Plan(targets=targets, creations=creations)
    ends = [until for until in why.values() if until is not None]
    return Plan(
        targets=targets, creations=creations, short=short, blocked="; ".join(why), retry_at=min(ends, default=None)
    )


def _preference(eni: Eni, policy: EniPolicy) -> tuple[int, int, str]:
    """Ready ones, then those on the way; packed or spread; then by name, so that the choice is stable."""
    weight = -eni.count() if policy == "most_ips" else eni.count()
    return (eni.state in ON_THE_WAY, weight, eni.name)


def _spread(room: dict[str, int], need: int, *, holding: Mapping[str, int], policy: EniPolicy) -> dict[str, int]:
    """Fill in the given order, or always the emptiest first; the targets of those that gain something."""
    gain = dict.fromkeys(room, 0)
    for _ in range(min(need, sum(room.values()))):
        open_ = [name for name in room if gain[name] < room[name]]
        chosen = open_[0] if policy == "most_ips" else min(open_, key=lambda name: holding[name] + gain[name])
        gain[chosen] += 1
    return {name: holding[name] + more for name, more in gain.items() if more}


def _creations(
    need: int,
    enis: Sequence[Eni],
    *,
    limits: Limits,
    blocks: Blocks,
    vswitches: Sequence[VSwitch],
    why: dict[str, float | None],
    now: float,
    at_birth: int,
) -> tuple[tuple[Creation, ...], int]:
    """New ENIs for what found no room, and how much of it cannot be had, for the reasons added to `why`."""
    made: list[Creation] = []
    under_way = sum(eni.state in ON_THE_WAY for eni in enis)
    taken: dict[str, int] = {}
    while need > 0:
        if len(enis) + len(made) >= limits.enis:
            why[f"the node has all {limits.enis} ENIs that it may have, with {limits.per_eni} addresses each"] = None
            break
        if (block := blocks.get(CREATION, now)) is not None:
            why[block.why] = block.until
            break
        if under_way + len(made) >= MOST_CREATIONS:
            return tuple(made), 0  # decided again when one of them is there
        open_ = [switch for switch in vswitches if blocks.get(switch.id, now) is None]
        for switch in vswitches:
            if (block := blocks.get(switch.id, now)) is not None:
                why[block.why] = block.until
        if not open_:
            if not vswitches:
                why["no vSwitch is configured for the node's zone"] = None
            break
        wish = min(need, limits.per_eni, at_birth)
        creation = _in_first_with_room(open_, wish, taken)
        if creation.initial > BATCH and blocks.get(bulk(creation.vswitch), now) is not None:
            creation = Creation(creation.vswitch, BATCH)
        taken[creation.vswitch] = taken.get(creation.vswitch, 0) + creation.initial
        made.append(creation)
        need -= min(need, limits.per_eni)  # what its birth does not bring fills up when it is ready
    return tuple(made), need


def _in_first_with_room(vswitches: Sequence[VSwitch], wish: int, taken: Mapping[str, int]) -> Creation:
    """The first whose known count covers the wish; else the fullest offer; where nothing is known, the first.

    A count of 0 may be stale, so when all say 0 the first is asked all the same: its refusal blocks it.
    """
    free = {
        switch.id: None if switch.free is None else max(0, switch.free - taken.get(switch.id, 0))
        for switch in vswitches
    }
    for switch in vswitches:
        known = free[switch.id]
        if known is None or known >= wish:
            return Creation(switch.id, wish)
    best = max(vswitches, key=lambda switch: free[switch.id] or 0)
    return Creation(best.id, min(wish, free[best.id] or 1))


def order_vswitches(
    vswitches: Sequence[VSwitch], policy: VSwitchPolicy, draw: Callable[[], float]
) -> tuple[VSwitch, ...]:
    """Most free addresses first, or by chance. Unknown counts rank as 0, so that without any the given order stays."""
    if policy == "random":
        return tuple(sorted(vswitches, key=lambda _: draw()))
    return tuple(sorted(vswitches, key=lambda switch: -(switch.free or 0)))


# ---- what one ENI at rest does next


class Assign(msgspec.Struct, frozen=True):
    """Ask the cloud for `count` more addresses."""

    count: int


class Unassign(msgspec.Struct, frozen=True):
    """Return these to the cloud."""

    items: tuple[Ip, ...]


class Leave(msgspec.Struct, frozen=True):
    """Every address is given back: the whole ENI goes."""


class Confirm(msgspec.Struct, frozen=True):
    """Ask the metadata service whether it lists these by now."""

    items: tuple[Ip, ...]


class Pair(msgspec.Struct, frozen=True):
    """Join slots that have no IPv6 address with ones that the ENI has and no slot uses."""

    pairs: tuple[tuple[Ip, Ip], ...]


class AssignIpv6(msgspec.Struct, frozen=True):
    """Ask the cloud for `count` more IPv6 addresses, for slots that have none."""

    count: int


Chore = Assign | Unassign | Leave | Confirm | Pair | AssignIpv6


def next_chore(
    eni: Eni,
    *,
    target: int,
    growth_blocked: bool,
    dual: bool = False,
    pairing_blocked: bool = False,
    held: Collection[Ip] = (),
) -> Chore | None:
    """What an ENI that is READY or DRAINING does next; None: nothing, until something changes.

    What a waiting pod needs comes before what is only tidy. `dual`: slots are pairs. `held`: items whose IPv6 address
    the cloud has taken from a pod that lives; they wait for that pod's end, or for the address to come back.
    """
    returning = eni.in_state(SlotState.RETURNING)
    if len(returning) == len(eni.slots):
        return Leave()
    if eni.state is not State.READY:
        return None
    pending = [slot for slot in eni.in_state(SlotState.PENDING) if slot.ipv6 is not None or not dual]
    if pending:
        return Confirm(tuple(slot.item for slot in pending))
    if dual and (chore := _completed(eni, blocked=pairing_blocked, held=held)) is not None:
        return chore
    more = min(target - eni.count(), eni.room, BATCH)
    if more > 0 and not growth_blocked:
        return Assign(more)
    secondary = [slot.item for slot in returning if not slot.primary]
    return Unassign(tuple(secondary[:BATCH])) if secondary else None


def _completed(eni: Eni, *, blocked: bool, held: Collection[Ip]) -> Pair | AssignIpv6 | None:
    """What makes pairs of slots that lack an IPv6 address; None: nothing is to be done, or can be."""
    halves = [slot.item for slot in eni.halves if slot.item not in held]
    if pairs := tuple(zip(halves, eni.spare6, strict=False)):
        return Pair(pairs)
    return AssignIpv6(min(len(halves), BATCH)) if halves and not blocked else None
