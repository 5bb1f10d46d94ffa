"""Every pool item of this node, and what becomes of it.

Theory of operation
-------------------
A pool item is an address (pair) of an ENI, called by its IPv4 address, or by its IPv6 address where it has no other.
Three parties have a say in it, and each owns one thing that is kept here, so that no two can contradict each other:

* eni_manager's inventory says which items exist and are usable (`items`);
* a sandbox holds items, one per attachment key (`holds`);
* ipam itself lets an item rest after use (`resting`), promises some to the pod that had them (`promises`), and marks
  what it gives back to the cloud (`marks`).

What an item is *now* follows from these by `state()`; there is no stored state that could drift from them:

    unusable <-> idle --reserve--> granting --commit--> leased --retire--> releasing --cool--> cooling --time--> idle
                  | ^                 |                   ^                    |                  ^
                  | +-----abandon-----+                   +------keep----------+                  |
                  |                                                                               |
                  +--mark--> marking --marked--> given back --refused-----------------------------+
                  ^            |                     |
                  +---unmark---+                     +--leaves the inventory, forget--> absent

A sticky pod's item goes through `promised` on its way from releasing to idle: until the promise lapses it is idle for
a pod of that name alone, which need not wait for the end of the rest either: peers that still believe in the last owner
are right. Others get it only when `allocate.choose` finds the node at its capacity, and never before it has rested.

granting, releasing and marking are the times in which the database writes: the item is locked, and what the world may
see changes only when the write is done (commit, cool, marked) or has failed (abandon, keep, unmark).

An inventory that is not synced proves the presence of what it lists and nothing about the rest: items that it does not
list stay known, but nobody is given one. A held item that a synced inventory lacks is a difference to report; the hold
stays, for the pod still uses the address.

Times are seconds on one clock that the caller passes in; a resting item's time is on that same clock.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from services.ipam.core.ranges import expanded
from shared.contracts.eni import EniView, Inventory
from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, EniId, Ip, Mode, PodKey

STORY_LENGTH = 16
"""Events remembered per item, for people."""


class BrokenInvariant(Exception):
    """The pool contradicts itself: a bug of ours, and never a reason to go on granting."""


class Phase(StrEnum):
    """How far a hold is in the database."""

    GRANTING = "granting"
    LEASED = "leased"
    RELEASING = "releasing"


class Mark(StrEnum):
    """How far the giving back of an item is."""

    MARKING = "marking"
    MARKED = "marked"
    ACCEPTED = "accepted"


class ItemState(StrEnum):
    """What an item is now; see the drawing in the module's docstring."""

    ABSENT = "absent"
    UNUSABLE = "unusable"
    IDLE = "idle"
    COOLING = "cooling"
    PROMISED = "promised"
    GRANTING = "granting"
    LEASED = "leased"
    RELEASING = "releasing"
    GIVEN_BACK = "given-back"


class Item(msgspec.Struct, frozen=True):
    """One pool item as the inventory describes it."""

    id: Ip
    eni: EniId
    ipv4: Ip | None
    ipv6: Ip | None
    primary: bool
    usable: bool
    gone: bool = False

    @property
    def addresses(self) -> tuple[Ip, ...]:
        """The addresses that there are, IPv4 first."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


class Promise(msgspec.Struct, frozen=True):
    """Whose an item is, until then, when they come back: a pod by name, on one network, with one interface."""

    pod: PodKey
    network: str
    ifname: str
    until: float

    def covers(self, pod: PodKey, key: AttachmentKey) -> bool:
        """Is this the pod that it was given to?"""
        return (self.pod, self.network, self.ifname) == (pod, key.network, key.ifname)


class Hold(msgspec.Struct, frozen=True):
    """One sandbox's lease and how durable it is."""

    lease: Lease
    phase: Phase


class StoryLine(msgspec.Struct, frozen=True):
    """Something that happened to an item."""

    at: float
    event: str


def item_id(lease: Lease) -> Ip:
    """The pool item that a lease is of."""
    address = lease.ipv4 or lease.ipv6
    if address is None:
        raise BrokenInvariant(f"the lease of {lease.key} has no address")
    return address


class Pool:
    """See the module's docstring. Only the methods below change it; each leaves every invariant of check() true."""

    def __init__(self) -> None:
        self.epoch = ""
        self.generation = -1
        self.synced = False
        self.mode: Mode | None = None
        """None until the first inventory."""
        self.capacity = 0
        self.mode_refused = ""
        """Why nothing may be given in this mode."""
        self.blocked = ""
        self.blocked_retry_after: float | None = None
        self.enis: dict[EniId, EniView] = {}
        self.items: dict[Ip, Item] = {}
        self.holds: dict[AttachmentKey, Hold] = {}
        self.holders: dict[Ip, AttachmentKey] = {}
        """Each held address, of both families, and who holds it."""
        self.host_links: dict[str, AttachmentKey] = {}
        self.resting: dict[Ip, float] = {}
        """When an item that was used may be used again. Kept after that time too: it orders the idle ones."""
        self.promises: dict[Ip, Promise] = {}
        """Kept when they have lapsed, too, as long as the item's rest is."""
        self.marks: dict[Ip, Mark] = {}
        self.dual = True
        """Leases have the IPv6 addresses of their items."""
        self.per_eni = 0
        """How many items one ENI can hold; 0: not known."""
        self.stories: dict[Ip, deque[StoryLine]] = {}

    # ---- questions

    def state(self, item: Ip, now: float) -> ItemState:
        """What this item is at `now`."""
        key = self.holders.get(item)
        if key is not None:
            return ItemState(self.holds[key].phase.value)
        if item in self.marks:
            return ItemState.GIVEN_BACK
        known = self.items.get(item)
        if known is None:
            return ItemState.ABSENT
        if not known.usable or any(address in self.holders for address in known.addresses):
            return ItemState.UNUSABLE
        if self._promised(item, now):
            return ItemState.PROMISED
        return ItemState.COOLING if self.resting.get(item, now) > now else ItemState.IDLE

    def idle(self, now: float) -> list[Item]:
        """What a sandbox may be given, longest unused first, otherwise in the inventory's order."""
        found = [item for item in self.items.values() if self.state(item.id, now) is ItemState.IDLE]
        found.sort(key=lambda item: self.resting.get(item.id, 0.0))
        return found

    def kept_for(self, pod: PodKey, key: AttachmentKey, now: float) -> Item | None:
        """The item that waits for this pod, the one that it had last."""
        found = [item for item in self._in_state(ItemState.PROMISED, now) if self.promises[item.id].covers(pod, key)]
        return max(found, key=lambda item: self.promises[item.id].until, default=None)

    def breakable(self, now: float) -> Item | None:
        """The promised item that could go to another pod: it has rested, and its promise lapses soonest."""
        found = [item for item in self._in_state(ItemState.PROMISED, now) if self.resting.get(item.id, now) <= now]
        return min(found, key=lambda item: self.promises[item.id].until, default=None)

    def next_cooled(self, now: float) -> float | None:
        """When time alone next changes what an item is, or who may have it; None: it will not."""
        times = [self.resting[item.id] for item in self._in_state(ItemState.COOLING, now)]
        for item in self._in_state(ItemState.PROMISED, now):
            rested = self.resting.get(item.id, now)
            times.append(rested if rested > now else self.promises[item.id].until)
        return min(times, default=None)

    def differences(self) -> dict[AttachmentKey, str]:
        """The leases that a synced inventory contradicts, one sentence each. They are reported, never replaced."""
        if not self.synced:
            return {}
        found: dict[AttachmentKey, str] = {}
        for key, hold in self.holds.items():
            item = self.items.get(item_id(hold.lease))
            if item is None:
                found[key] = f"{item_id(hold.lease)} is leased to {hold.lease.pod}, but this node no longer has it"
            elif item.gone:
                found[key] = f"{item.id} is leased to {hold.lease.pod}, but the cloud has taken it away from {item.eni}"
            elif item.eni != hold.lease.eni_id:
                found[key] = f"{item.id} is leased to {hold.lease.pod} on {hold.lease.eni_id}, but is on {item.eni} now"
            elif hold.lease.ipv6 not in (None, item.ipv6):
                found[key] = (
                    f"{hold.lease.ipv6} is leased to {hold.lease.pod} with {item.id}, but the cloud has taken it away "
                    f"from {item.eni}"
                )
        return found

    def departed(self) -> list[Ip]:
        """Marked items that a synced inventory no longer lists: the cloud has taken them back."""
        if not self.synced:
            return []
        return [item for item, mark in self.marks.items() if mark is not Mark.MARKING and item not in self.items]

    def rested_elsewhere(self, now: float) -> list[Ip]:
        """Items that a synced inventory no longer lists, whose rest is over: nothing needs to be known of them."""
        if not self.synced:
            return []
        gone = self.resting.keys() - self.items.keys() - self.marks.keys()
        return sorted(item for item in gone if self.resting[item] <= now and not self._promised(item, now))

    # ---- what eni_manager says

    def observe(self, inventory: Inventory, now: float) -> None:
        """Take over an inventory."""
        inventory = expanded(inventory)
        # The cloud may give an address again that it took from another ENI of ours: then it is where it is usable.
        every = sorted((item for eni in inventory.enis for item in _items(eni)), key=lambda item: not item.gone)
        listed = {item.id: item for item in every}
        enis = {eni.id: eni for eni in inventory.enis}
        if not inventory.synced:
            unproven = {i: msgspec.structs.replace(item, usable=False) for i, item in self.items.items()}
            listed = unproven | listed
            enis = self.enis | enis
        for item in listed.keys() - self.items.keys():
            self.tell(item, now, f"appeared on {listed[item].eni}")
        for item in self.items.keys() - listed.keys():
            self.tell(item, now, f"left {self.items[item].eni}")
        self.items, self.enis = listed, enis
        if inventory.epoch != self.epoch:  # another eni_manager, which may not know what the last one accepted
            self.marks = {i: Mark.MARKED if mark is Mark.ACCEPTED else mark for i, mark in self.marks.items()}
        self.epoch, self.generation, self.synced = inventory.epoch, inventory.generation, inventory.synced
        self.mode, self.capacity = inventory.mode, inventory.capacity
        self.mode_refused = inventory.refused
        self.blocked, self.blocked_retry_after = inventory.blocked, inventory.blocked_retry_after
        self.per_eni, self.dual = inventory.addresses_per_eni, inventory.dual
        for item in self.stories.keys() - self.items.keys() - self.holders.keys() - self.marks.keys():
            del self.stories[item]

    # ---- what the database said at start

    def restore(
        self,
        leases: Iterable[Lease],
        resting: dict[Ip, float],
        marks: Iterable[Ip],
        now: float,
        promises: Mapping[Ip, Promise] = {},
    ) -> None:
        """Take over what was durable when ipam stopped; once, before anything else."""
        for lease in leases:
            self._hold(lease, Phase.LEASED)
            self.tell(item_id(lease), now, f"leased to {lease.pod} since before the restart")
        self.resting, self.promises = dict(resting), dict(promises)
        self.marks = dict.fromkeys(marks, Mark.MARKED)
        self.check()

    # ---- leases

    def adopt(self, lease: Lease, now: float) -> None:
        """A lease that was lost, and whose sandbox is there, is durable again."""
        self._hold(lease, Phase.LEASED)
        item = item_id(lease)
        self.resting.pop(item, None)
        self.promises.pop(item, None)
        self.marks.pop(item, None)
        self.tell(item, now, f"leased to {lease.pod} as its wiring shows: the database had lost it")

    def reserve(self, lease: Lease, now: float) -> None:
        """Lock the lease's item while the lease is being written."""
        item = item_id(lease)
        if self.state(item, now) is not ItemState.IDLE and not self._may_be_taken(item, lease, now):
            raise BrokenInvariant(f"{item} is {self.state(item, now)}, not idle: {self.story(item)}")
        self._hold(lease, Phase.GRANTING)

    def commit(self, key: AttachmentKey, now: float) -> None:
        """The lease is durable."""
        lease = self._move(key, Phase.GRANTING, Phase.LEASED)
        self.resting.pop(item_id(lease), None)
        self.promises.pop(item_id(lease), None)
        self.tell(item_id(lease), now, f"leased to {lease.pod} ({key})")

    def abandon(self, key: AttachmentKey, now: float) -> None:
        """The lease could not be written: its item is as it was before."""
        lease = self._move(key, Phase.GRANTING, Phase.GRANTING)
        self._drop(lease)
        self.tell(item_id(lease), now, f"not leased to {lease.pod}: the database refused")

    def relimit(self, lease: Lease, now: float) -> None:
        """A lease that holds has other limits, and that is durable."""
        hold = self.holds[lease.key]
        if msgspec.structs.replace(hold.lease, bandwidth=lease.bandwidth) != lease:
            raise BrokenInvariant(f"{lease.key} may have other limits, but not become another lease")
        self.holds[lease.key] = Hold(lease, hold.phase)
        self.tell(item_id(lease), now, f"limits of {lease.pod} are {lease.bandwidth}")

    def retire(self, key: AttachmentKey) -> Lease:
        """Lock a lease while its end is being written."""
        return self._move(key, Phase.LEASED, Phase.RELEASING)

    def keep(self, key: AttachmentKey) -> None:
        """The end of the lease could not be written: it goes on."""
        self._move(key, Phase.RELEASING, Phase.LEASED)

    def cool(self, key: AttachmentKey, until: float, now: float, promise: Promise | None = None) -> None:
        """The end of the lease is durable: its item rests until `until`, and may be promised to its pod."""
        lease = self._move(key, Phase.RELEASING, Phase.RELEASING)
        self._drop(lease)
        self.resting[item_id(lease)] = until
        if promise is not None:
            self.promises[item_id(lease)] = promise
        self.tell(item_id(lease), now, f"released by {lease.pod} ({key}), rests for {max(until - now, 0.0):.0f} s")

    # ---- giving back

    def mark(self, items: Iterable[Ip], now: float) -> None:
        """Lock idle items while the decision to give them back is being written."""
        for item in items:
            if self.state(item, now) is not ItemState.IDLE:
                raise BrokenInvariant(f"{item} is {self.state(item, now)}, not idle: {self.story(item)}")
            self.marks[item] = Mark.MARKING

    def unmark(self, items: Iterable[Ip]) -> None:
        """The decision could not be written: the items are idle as before."""
        for item in items:
            del self.marks[item]

    def marked(self, items: Iterable[Ip], now: float) -> None:
        """The decision is durable: nobody is given these items any more."""
        for item in items:
            self.marks[item] = Mark.MARKED
            self.tell(item, now, "marked to be given back")

    def accepted(self, items: Iterable[Ip]) -> None:
        """eni_manager will return these to the cloud; unknown ones are passed over."""
        for item in items:
            if item in self.marks:
                self.marks[item] = Mark.ACCEPTED

    def refused(self, item: Ip, until: float, now: float, *, why: str) -> None:
        """eni_manager keeps this one, and that is durable: it rests as if it had been used."""
        del self.marks[item]
        self.resting[item] = until
        self.tell(item, now, f"not given back: {why}")

    def forget(self, items: Iterable[Ip]) -> None:
        """These are gone from the cloud, and that is durable."""
        for item in items:
            self.marks.pop(item, None)
            self.resting.pop(item, None)
            self.promises.pop(item, None)

    # ---- for people

    def tell(self, item: Ip, now: float, event: str) -> None:
        """Add a line to an item's story."""
        self.stories.setdefault(item, deque(maxlen=STORY_LENGTH)).append(StoryLine(now, event))

    def story(self, item: Ip) -> list[StoryLine]:
        """What happened to an item, oldest first."""
        return list(self.stories.get(item, ()))

    # ---- invariants

    def check(self) -> None:
        """Raise BrokenInvariant when the pool contradicts itself."""
        held = [(address, key) for key, hold in self.holds.items() for address in hold.lease.addresses]
        if dict(held) != self.holders or len(held) != len(self.holders):
            raise BrokenInvariant(f"an address is held twice, or by nobody: {held} against {self.holders}")
        links = {hold.lease.host_link: key for key, hold in self.holds.items()}
        if links != self.host_links or len(links) != len(self.holds):
            raise BrokenInvariant(f"a host link is held twice, or by nobody: {self.host_links}")
        if any(key != hold.lease.key for key, hold in self.holds.items()):
            raise BrokenInvariant("a lease is filed under another's key")
        if both := self.marks.keys() & self.holders.keys():
            raise BrokenInvariant(f"given back while held: {sorted(both)}")
        for hold in self.holds.values():
            if hold.phase is not Phase.GRANTING and item_id(hold.lease) in self.resting:
                raise BrokenInvariant(f"{item_id(hold.lease)} rests while {hold.lease.key} holds it")
        if unrested := self.promises.keys() - self.resting.keys():
            raise BrokenInvariant(f"promised without a rest, so for ever: {sorted(unrested)}")

    def _in_state(self, state: ItemState, now: float) -> list[Item]:
        return [item for item in self.items.values() if self.state(item.id, now) is state]

    def _promised(self, item: Ip, now: float) -> bool:
        promise = self.promises.get(item)
        return promise is not None and promise.until > now

    def _may_be_taken(self, item: Ip, lease: Lease, now: float) -> bool:
        """A promised item: by its pod at any time, by another once it has rested (who, is not ours to say)."""
        if self.state(item, now) is not ItemState.PROMISED:
            return False
        return self.promises[item].covers(lease.pod, lease.key) or self.resting.get(item, now) <= now

    def contradicts(self, lease: Lease) -> str | None:
        """Why this lease cannot be beside those that there are, in one sentence."""
        if lease.key in self.holds:
            return f"{lease.key} holds {self.holds[lease.key].lease.addresses} already"
        if taken := [a for a in lease.addresses if a in self.holders]:
            return f"{taken} is held by {self.holders[taken[0]]}, wanted by {lease.key}"
        if lease.host_link in self.host_links:
            return f"{lease.host_link} belongs to {self.host_links[lease.host_link]}"
        return None

    def _hold(self, lease: Lease, phase: Phase) -> None:
        if (why := self.contradicts(lease)) is not None:
            raise BrokenInvariant(why)
        self.holds[lease.key] = Hold(lease, phase)
        self.host_links[lease.host_link] = lease.key
        for address in lease.addresses:
            self.holders[address] = lease.key

    def _drop(self, lease: Lease) -> None:
        del self.holds[lease.key]
        del self.host_links[lease.host_link]
        for address in lease.addresses:
            del self.holders[address]

    def _move(self, key: AttachmentKey, start: Phase, end: Phase) -> Lease:
        hold = self.holds.get(key)
        if hold is None or hold.phase is not start:
            raise BrokenInvariant(f"{key} is {hold.phase if hold else 'without a lease'}, not {start}")
        self.holds[key] = Hold(hold.lease, end)
        return hold.lease


def _items(eni: EniView) -> Iterable[Item]:
    for address in eni.addresses:
        name = address.ipv4 or address.ipv6
        if name is not None:
            yield Item(name, eni.id, address.ipv4, address.ipv6, address.primary, address.usable, address.gone)
