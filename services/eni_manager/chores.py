"""What an ENI at rest does about its addresses: assign, wait until they are served, unassign."""

import asyncio
import random

from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.machine import State
from services.eni_manager.core.model import (
    Eni,
    Ipv6Added,
    Paired,
    Slot,
    SlotsAdded,
    SlotsDropped,
    SlotsMarked,
    SlotState,
)
from services.eni_manager.core.placement import (
    Assign,
    AssignIpv6,
    Confirm,
    Leave,
    Pair,
    Unassign,
    ipv6_of,
    next_chore,
)
from services.eni_manager.core.reactions import Reaction
from services.eni_manager.world import World
from shared import log as logs
from shared.crashpoint import crashpoint
from shared.errors import SuiteError, Unavailable
from shared.model import EniId, Ip, Mac

log = logs.get(__name__)


class Chores:
    """One ENI's; its keeper calls them one after the other. A failure that passes is a trouble and a pause."""

    def __init__(self, name: str, world: World) -> None:
        self._name, self._world = name, world
        self._resumed = False
        self._reunited = False
        self._pauses = world.pauses()

    @property
    def _eni(self) -> Eni:
        return self._world.fleet.enis[self._name]

    async def leave(self) -> bool:
        """Is every address given back, so that the whole ENI goes?"""
        return isinstance(next_chore(self._eni, target=0, growth_blocked=True), Leave)

    async def next(self) -> bool:
        """Do what is most needed; False: nothing is."""
        try:
            done = await self._next()
        except SuiteError as error:
            self._world.fleet.set_trouble(self._name, error.message)
            pause = next(self._pauses)
            log.warning("eni_chore_failed", eni=self._name, because=error.message, again_in_s=round(pause, 1))
            await asyncio.sleep(pause)
            return True
        self._world.fleet.set_trouble(self._name, "")
        self._pauses = self._world.pauses()
        return done

    async def _next(self) -> bool:
        eni, world = self._eni, self._world
        if not self._resumed and eni.state is State.READY:
            if (unfinished := await world.journal.open_intent(self._name, "assign")) is not None:
                await self._assign(int(unfinished.params["count"]))
                return True
            if world.dual and await world.journal.open_intent(self._name, "assign-ipv6") is not None:
                await self._assign_ipv6(0)  # of the open intent's own count
                return True
            self._resumed = True
        now, blocks = world.clock(), world.fleet.blocks
        unpaired = world.dual and blocks.get(ipv6_of(self._name), now) is not None
        blocked = blocks.get(self._name, now) or blocks.get(eni.vswitch, now)
        chore = next_chore(
            eni,
            target=world.fleet.targets.get(self._name, 0),
            growth_blocked=blocked is not None or unpaired,
            dual=world.dual,
            pairing_blocked=unpaired,
            held=await self._held(),
        )
        if isinstance(chore, Pair | AssignIpv6) and not self._reunited:
            return await self._reunite()
        if world.dual and not eni.halves:
            world.fleet.set_trouble(ipv6_of(self._name), "")
        match chore:
            case Assign(count=count):
                await self._assign(count)
            case Pair(pairs=pairs):
                await world.record([Paired(self._name, pairs)])
            case AssignIpv6(count=count):
                await self._assign_ipv6(count)
            case Confirm(items=items):
                await self._confirm(items)
            case Unassign(items=items):
                await self._unassign(items)
            case _:
                return False
        return True

    async def _assign(self, count: int) -> None:
        world = self._world
        intent = await world.journal.begin(self._name, "assign", {"count": count}, now=world.clock())
        count = int(intent.params["count"])  # of the open intent: its token belongs to that count
        world.fleet.in_flight[self._name] = count
        try:
            crashpoint("eni.assign.before_call")
            with world.bringing():
                fresh = await world.cloud.assign_ipv4(self._id, count, token=intent.token)
            crashpoint("eni.assign.after_call")
            added = SlotsAdded(self._name, tuple(Slot(ipv4=address) for address in fresh))
            await world.record([added], ends=intent)
            world.allocated(self._name, len(fresh))
        except CloudError as error:
            if error.reaction in (Reaction.AGAIN, Reaction.NEW_CREDENTIALS, Reaction.LOOK):
                raise  # the effect may have happened: the same token again
            await world.record([], ends=intent, outcome=error.cloud_code)
            world.allocated(self._name, 0)
            if error.reaction is not Reaction.NEW_TOKEN:
                exhausted = error.reaction is Reaction.NO_ADDRESSES
                world.inhibit(self._eni.vswitch if exhausted else self._name, error)
        finally:
            world.fleet.in_flight.pop(self._name, None)
            world.decide()

    async def _reunite(self) -> bool:
        """Before anything is paired: what pods have as pairs, and the journal does not know as such, stays together."""
        world, eni, partners = self._world, self._eni, self._world.fleet.partners
        if partners is None:  # ipam has not said yet, and wakes us when it has
            return False
        self._reunited = True
        known = ((slot.item, partners.get(slot.item)) for slot in eni.halves)
        pairs = tuple((item, six) for item, six in known if six is not None and six in eni.spare6)
        if pairs:
            await world.record([Paired(self._name, pairs)])
        return True

    async def _held(self) -> frozenset[Ip]:
        """Items that have lost their IPv6 address while a pod has it: that pod's loss is shown, not papered over."""
        lost = {slot.item: slot.lost6 for slot in self._eni.halves if slot.lost6 is not None}
        if not lost or not self._world.dual:
            return frozenset()
        used = {one.lease.ipv6 for one in await self._world.journal.attachments() if one.lease.eni_id == self._eni.id}
        return frozenset(item for item, address in lost.items() if address in used)

    async def _assign_ipv6(self, count: int) -> None:
        """The other half of pairs. Which pair gets which address is decided when they are known."""
        world, subject = self._world, ipv6_of(self._name)
        intent = await world.journal.begin(self._name, "assign-ipv6", {"count": count}, now=world.clock())
        count = int(intent.params["count"])  # of the open intent: its token belongs to that count
        try:
            crashpoint("eni.assign_ipv6.before_call")
            with world.bringing():
                fresh = await world.cloud.assign_ipv6(self._id, count, token=intent.token)
            crashpoint("eni.assign_ipv6.after_call")
            await world.record([Ipv6Added(self._name, tuple(fresh))], ends=intent)
            world.fleet.set_trouble(subject, "")
        except CloudError as error:
            if error.reaction in (Reaction.AGAIN, Reaction.NEW_CREDENTIALS, Reaction.LOOK):
                raise  # the effect may have happened: the same token again
            await world.record([], ends=intent, outcome=error.cloud_code)
            if error.reaction is not Reaction.NEW_TOKEN:
                world.inhibit(subject, error)
                world.fleet.set_trouble(subject, f"{self._name} gets no IPv6 addresses: {error.message}")
                if error.reaction is Reaction.NO_IPV6:
                    await self._leave_vswitch(error)
        finally:
            world.decide()

    async def _leave_vswitch(self, error: CloudError) -> None:
        """Nothing in this vSwitch becomes a pair. Where there is another one, what no pod uses makes room for it."""
        world = self._world
        world.inhibit(self._eni.vswitch, error)
        if any(vswitch != self._eni.vswitch for vswitch in world.node.vswitches):
            await world.give_back([slot.item for slot in self._eni.halves], of=self._name)

    async def _confirm(self, items: tuple[Ip, ...]) -> None:
        """Wait until the metadata service lists all of them; each may be used as soon as it is listed."""
        world, missing = self._world, set(items)
        for pause in world.backoffs["meta_assign_private_ip"].attempts(random.random):
            await asyncio.sleep(pause)
            listed = await world.served(self._eni)
            if served := tuple(sorted(missing & listed)):
                marked = SlotsMarked(self._name, served, to=SlotState.VALID, frm=(SlotState.PENDING,))
                await world.record([marked])
                missing -= set(served)
            if not missing:
                return
        names = ", ".join(sorted(missing))
        raise Unavailable(f"{self._name}: the metadata service does not list {names} yet")

    async def _unassign(self, items: tuple[Ip, ...]) -> None:
        world = self._world
        intent = await world.journal.begin(self._name, "unassign", {"items": list(items)}, now=world.clock())
        items = tuple(intent.params["items"])
        crashpoint("eni.unassign.before_call")
        try:
            await world.cloud.unassign_ipv4(self._id, items)
        except CloudError as error:
            if error.reaction is not Reaction.GONE:
                raise
            items = await self._gone_of(items)  # all or none: one that is gone already keeps the others
        crashpoint("eni.unassign.after_call")
        items = await self._unassign_ipv6(items)
        await self._until_unserved(items)
        await world.record([SlotsDropped(self._name, items)], ends=intent)
        log.info("addresses_returned", eni=self._name, addresses=items)
        world.decide()

    async def _unassign_ipv6(self, items: tuple[Ip, ...]) -> tuple[Ip, ...]:
        """The other half of pairs that are being returned; those of `items` that nothing is left of."""
        slots = self._eni.slots
        halves = {slots[item].ipv6: item for item in items if item in slots}
        if not (addresses := tuple(address for address in halves if address is not None)):
            return items
        try:
            await self._world.cloud.unassign_ipv6(self._id, addresses)
        except CloudError as error:
            if error.reaction is not Reaction.GONE:
                raise
            seen = await self._world.look(self._id)
            left = set() if seen is None else {halves[address] for address in seen.ipv6 if address in halves}
            items = tuple(item for item in items if item not in left)
        crashpoint("eni.unassign_ipv6.after_call")
        return items

    async def _gone_of(self, items: tuple[Ip, ...]) -> tuple[Ip, ...]:
        seen = await self._world.look(self._id)
        listed = set() if seen is None else {address.ip for address in seen.ipv4}
        return tuple(item for item in items if item not in listed)

    async def _until_unserved(self, items: tuple[Ip, ...]) -> None:
        """The slot may be used again only when the metadata service has forgotten the address, too."""
        world, slots = self._world, self._eni.slots
        six = {slot.ipv6 for item in items if (slot := slots.get(item)) is not None and slot.ipv6 is not None}
        for pause in (0.0, *world.backoffs["wait_eni_ip_removed"].attempts(random.random)):
            await asyncio.sleep(pause)
            listed = await world.metadata.private_ipv4s(self._mac)
            if listed.intersection(items) or (six and six.intersection(await world.metadata.ipv6s(self._mac))):
                continue
            return
        raise Unavailable(f"{self._name}: the metadata service still lists addresses that were unassigned")

    @property
    def _id(self) -> EniId:
        eni_id = self._eni.id
        assert eni_id is not None
        return eni_id

    @property
    def _mac(self) -> Mac:
        mac = self._eni.mac
        assert mac is not None
        return mac
