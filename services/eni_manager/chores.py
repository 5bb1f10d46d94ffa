"""What an ENI at rest does about its addresses: assign, wait until they are served, unassign."""

import asyncio
import random

from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.machine import State
from services.eni_manager.core.model import Eni, Slot, SlotsAdded, SlotsDropped, SlotsMarked, SlotState
from services.eni_manager.core.placement import Assign, Confirm, Leave, Unassign, next_chore
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
            self._resumed = True
        now = world.clock()
        blocked = world.fleet.blocks.get(self._name, now) or world.fleet.blocks.get(eni.vswitch, now)
        target = world.fleet.targets.get(self._name, 0)
        match next_chore(eni, target=target, growth_blocked=blocked is not None):
            case Assign(count=count):
                await self._assign(count)
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

    async def _confirm(self, items: tuple[Ip, ...]) -> None:
        """Wait until the metadata service lists all of them; each may be used as soon as it is listed."""
        world, missing = self._world, set(items)
        for pause in world.backoffs["meta_assign_private_ip"].attempts(random.random):
            await asyncio.sleep(pause)
            listed = await world.metadata.private_ipv4s(self._mac)
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
        await self._until_unserved(items)
        await world.record([SlotsDropped(self._name, items)], ends=intent)
        log.info("addresses_returned", eni=self._name, addresses=items)
        world.decide()

    async def _gone_of(self, items: tuple[Ip, ...]) -> tuple[Ip, ...]:
        seen = await self._world.look(self._id)
        listed = set() if seen is None else {address.ip for address in seen.ipv4}
        return tuple(item for item in items if item not in listed)

    async def _until_unserved(self, items: tuple[Ip, ...]) -> None:
        """The slot may be used again only when the metadata service has forgotten the address, too."""
        world = self._world
        for pause in (0.0, *world.backoffs["wait_eni_ip_removed"].attempts(random.random)):
            await asyncio.sleep(pause)
            if not (await world.metadata.private_ipv4s(self._mac)).intersection(items):
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
