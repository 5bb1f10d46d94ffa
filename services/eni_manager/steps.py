"""Each Do of an ENI's machine, carried out: intent, call, facts, and the event that is fed back (driver.py).

A step is called again after it has failed; an intent that is still open then is looked up first, and made again with
the same token.
"""

import asyncio
import random
from contextlib import suppress
from typing import NamedTuple

from services.eni_manager.adapters.journal import Intent
from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.drift import CloudEni
from services.eni_manager.core.machine import Do, Event
from services.eni_manager.core.model import (
    BATCH,
    Eni,
    Fact,
    Ipv6Added,
    Made,
    Placed,
    SlotsAdded,
    SlotsMarked,
    SlotState,
)
from services.eni_manager.core.placement import CREATION, bulk
from services.eni_manager.core.reactions import Reaction
from services.eni_manager.world import World
from shared.backoff import Backoff
from shared.crashpoint import crashpoint
from shared.errors import NotFound, SuiteError, Unavailable
from shared.model import EniId, Mac

DEVICE_PATIENCE = 6
"""Times that a new ENI may fail to appear in the kernel before it is disposed of (terway.md §13 R7)."""

UNTIL_CREATED = Backoff(0.2, 1.5, 0.3, cap_s=1.0, steps=8)
"""A new ENI is Available within a second or so; the waits of terway.md §6.8 begin only with its attachment."""

CREATED_WITHIN_S = 1.0
"""So long after the answer a new ENI is attached without a look at it: what is too early is refused and looked at."""

NEWS_WITHIN_S = 15.0
"""So long the metadata service, which costs nothing, is asked for a new attachment before the API is."""
NEWS_EVERY_S = 0.5


class Outcome(NamedTuple):
    """What carrying out a Do has come to; `ends` closes the intent with `code`."""

    event: Event
    note: str
    facts: tuple[Fact, ...] = ()
    ends: Intent | None = None
    code: str = "ok"


class Steps:
    """Of one ENI; `do` is all that its keeper calls."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self._world = name, world
        self._device_failures = 0
        self._available_at: float | None = None
        """When an ENI that we have just made can be attached; on the loop's clock."""
        self._accepted = False
        """Its attachment was accepted just now."""

    @property
    def _eni(self) -> Eni:
        return self._world.fleet.enis[self.name]

    async def do(self, do: Do) -> Outcome:
        """Carry it out. What fails in passing is an Outcome, too."""
        match do:
            case Do.CREATE:
                return await self._create()
            case Do.ATTACH:
                return await self._attach()
            case Do.AWAIT_IN_USE:
                return await self._await_in_use()
            case Do.CONFIGURE:
                return await self._configure()
            case Do.DETACH:
                return await self._detach()
            case Do.DELETE:
                return await self._delete()

    async def _create(self) -> Outcome:
        eni, world = self._eni, self._world
        intent = await world.journal.begin(self.name, "create", {"addresses": eni.initial}, now=world.clock())
        crashpoint("eni.create.before_call")
        try:
            made = await self._made_before() if intent.repeated else None
            if made is None:
                made = await world.cloud.create_eni(
                    name=self.name,
                    token=intent.token,
                    vswitch=eni.vswitch,
                    security_groups=eni.security_groups,
                    addresses=eni.initial,
                    tags=world.owner.tags,
                    resource_group=world.conf.resource_group_id,
                    ipv6=eni.initial if world.dual else 0,
                )
        except CloudError as error:
            return self._not_created(error, intent)
        crashpoint("eni.create.after_call")
        self._available_at = None if intent.repeated else _now() + CREATED_WITHIN_S * (made.status == "Creating")
        world.allocated(self.name, len(made.slots))
        facts: tuple[Fact, ...] = (
            Made(self.name, made.id, made.mac, made.vswitch or eni.vswitch, made.security_groups),
            SlotsAdded(self.name, made.pairs if world.dual else made.slots),
        )
        if world.dual:
            facts = (*facts, Ipv6Added(self.name, made.ipv6))  # those of pairs are known by now
        return Outcome(Event.CREATED, f"made as {made.id} in {eni.vswitch}", facts, intent)

    async def _made_before(self) -> CloudEni | None:
        """The ENI, when a call whose answer we missed has made it."""
        for seen in await self._world.cloud.describe_enis(name=self.name):
            if seen.name == self.name and self._world.owner.owns(seen) and seen.status != "Deleting":
                return seen
        return None

    def _not_created(self, error: CloudError, intent: Intent) -> Outcome:
        if error.reaction in (Reaction.AGAIN, Reaction.NEW_CREDENTIALS):
            return Outcome(Event.FAILED, error.message)
        self._world.allocated(self.name, 0)
        if error.reaction is Reaction.NEW_TOKEN:
            return Outcome(Event.FAILED, error.message, ends=intent, code=error.cloud_code)
        if error.reaction is Reaction.NO_ADDRESSES and self._eni.initial > BATCH:  # fewer may be had
            self._world.inhibit(bulk(self._eni.vswitch), error)
            return Outcome(Event.REFUSED, error.message, ends=intent, code=error.cloud_code)
        vswitch_s_fault = error.reaction in (Reaction.NO_ADDRESSES, Reaction.NO_IPV6)
        self._world.inhibit(self._eni.vswitch if vswitch_s_fault else CREATION, error)
        return Outcome(Event.REFUSED, error.message, ends=intent, code=error.cloud_code)

    async def _attach(self) -> Outcome:
        world, eni_id = self._world, self._id
        intent = await world.journal.begin(self.name, "attach", {"instance": world.node.instance}, now=world.clock())
        crashpoint("eni.attach.before_call")
        try:
            seen = await self._once_created(intent)
            if intent.repeated and (known := _attached(seen, world.node.instance)) is not None:
                return Outcome(known, "attached before, as the cloud lists it", ends=intent)
            await world.cloud.attach_eni(eni_id, world.node.instance, token=intent.token)
        except CloudError as error:
            return await self._not_attached(error, intent)
        crashpoint("eni.attach.after_call")
        self._accepted = True
        return Outcome(Event.ACCEPTED, f"attaching to {world.node.instance}", ends=intent)

    async def _once_created(self, intent: Intent) -> CloudEni | None:
        """How the cloud lists it when it is listed and no longer Creating, in which state nobody can attach it.

        None: not known, or not asked for one that we have just made, since the time alone will do.
        """
        available_at, self._available_at = self._available_at, None
        if available_at is not None and not intent.repeated:
            await asyncio.sleep(available_at - _now())
            return None
        for pause in (0.0, *UNTIL_CREATED.delays(random.random)):
            await asyncio.sleep(pause)
            seen = await self._look()
            if seen is not None and seen.status != "Creating":
                return seen
        return None

    async def _not_attached(self, error: CloudError, intent: Intent) -> Outcome:
        match error.reaction:
            case Reaction.AGAIN | Reaction.NEW_CREDENTIALS:
                return Outcome(Event.FAILED, error.message)
            case Reaction.NEW_TOKEN:
                return Outcome(Event.FAILED, error.message, ends=intent, code=error.cloud_code)
            case Reaction.LOOK:
                known = _attached(await self._look(), self._world.node.instance)
                return Outcome(known or Event.FAILED, error.message, ends=intent if known else None)
            case Reaction.GONE:
                return Outcome(Event.LOST, error.message, ends=intent, code=error.cloud_code)
            case _:
                self._world.inhibit(CREATION, error)
                return Outcome(Event.REFUSED, error.message, ends=intent, code=error.cloud_code)

    async def _await_in_use(self) -> Outcome:
        seen: CloudEni | None = None
        first, *pauses = self._world.backoffs["wait_eni_status"].attempts(random.random)
        try:
            await self._news_of_attachment(every_s=min(NEWS_EVERY_S, max(first, 0.05)))
            for pause in (0.0, *pauses):
                await asyncio.sleep(pause)
                seen = await self._look()
                if _attached(seen, self._world.node.instance) is Event.IN_USE:
                    crashpoint("eni.attach.in_use")
                    return Outcome(Event.IN_USE, "in use, as the cloud says")
        except CloudError as error:
            return Outcome(Event.FAILED, error.message)
        if seen is None:
            return Outcome(Event.LOST, "is not listed any more")
        if seen.status == "Available":
            return Outcome(Event.REFUSED, "was accepted for attachment and is still Available")
        return Outcome(Event.FAILED, f"{self.name} is still {seen.status}")

    async def _news_of_attachment(self, *, every_s: float) -> None:
        """Wait until the metadata service lists a new attachment: the sooner, and one look at the API is enough."""
        accepted, self._accepted = self._accepted, False
        ends = _now() + NEWS_WITHIN_S if accepted else 0.0
        while _now() < ends:
            with suppress(SuiteError):
                if await self._world.metadata.eni_id(self._mac) == self._id:
                    return
            await asyncio.sleep(every_s)

    async def _configure(self) -> Outcome:
        eni, world = self._eni, self._world
        mac = self._mac
        try:
            if (absent := await self._absent_in_metadata(mac)) is not None:
                return absent
            subnet4 = await world.metadata.subnet4(mac)
            subnet6 = await world.metadata.subnet6(mac) if world.dual else None
            device = await self._wire(mac, Placed(self.name, subnet4, subnet6))
            if isinstance(device, Outcome):
                return device
            listed = await world.served(eni)
        except SuiteError as error:
            return Outcome(Event.FAILED, f"{self.name}: {error.message}")
        there = tuple(item for item in eni.slots if item in listed)
        not_there = tuple(item for item in eni.slots if item not in listed)
        facts = (
            Placed(self.name, subnet4, subnet6),
            SlotsMarked(self.name, there, to=SlotState.VALID, frm=(SlotState.PENDING,)),
            SlotsMarked(self.name, not_there, to=SlotState.PENDING, frm=(SlotState.VALID,)),
        )
        crashpoint("eni.configure.before_ready")
        return Outcome(Event.CONFIGURED, f"wired as {device}", facts)

    async def _absent_in_metadata(self, mac: Mac) -> Outcome | None:
        """Wait until the metadata service lists the ENI. An absence there alone destroys nothing."""
        for pause in self._world.backoffs["meta_assign_private_ip"].attempts(random.random):
            await asyncio.sleep(pause)
            try:
                if await self._world.metadata.eni_id(mac) == self._id:
                    return None
            except NotFound:
                continue
        seen = await self._look()
        if seen is None or seen.status in ("Available", "Detaching", "Deleting"):
            how = "is gone from the cloud" if seen is None else f"is {seen.status} in the cloud"
            return Outcome(Event.LOST, f"{how}, and the metadata service does not list it")
        return Outcome(Event.FAILED, f"{self.name} is not known to the metadata service yet")

    async def _wire(self, mac: Mac, placed: Placed) -> str | Outcome:
        """The link's name, once it is there and set up."""
        try:
            await self._world.wires.wait_for_link(mac, self._world.device_wait_s)
        except Unavailable as error:
            self._device_failures += 1
            if self._device_failures < DEVICE_PATIENCE:
                return Outcome(Event.FAILED, f"{self.name}: {error.message}")
            self._device_failures = 0
            return Outcome(Event.REFUSED, f"its device never came: {error.message}")
        self._device_failures = 0
        return (await self._world.wires.ensure_eni(mac, placed.subnet4, placed.subnet6)).name

    async def _detach(self) -> Outcome:
        world, eni_id = self._world, self._id
        if users := await world.users(eni_id):
            return Outcome(Event.FAILED, f"{self.name} is not detached while {users} is attached with it")
        intent = await world.journal.begin(self.name, "detach", {"instance": world.node.instance}, now=world.clock())
        crashpoint("eni.detach.before_call")
        try:
            if not intent.repeated or _here(await self._look(), world.node.instance):
                await world.cloud.detach_eni(eni_id, world.node.instance)
            crashpoint("eni.detach.after_call")
        except CloudError as error:
            if error.reaction not in (Reaction.GONE, Reaction.LOOK):
                return Outcome(Event.FAILED, error.message)
        try:
            for pause in (0.0, *world.backoffs["wait_eni_status"].attempts(random.random)):
                await asyncio.sleep(pause)
                seen = await self._look()
                if not _here(seen, world.node.instance):
                    return Outcome(Event.DETACHED, "detached", ends=intent)
        except CloudError as error:
            return Outcome(Event.FAILED, error.message)
        return Outcome(Event.FAILED, f"{self.name} is still attached")

    async def _delete(self) -> Outcome:
        world = self._world
        intent = await world.journal.begin(self.name, "delete", {}, now=world.clock())
        crashpoint("eni.delete.before_call")
        try:
            await world.cloud.delete_eni(self._id)
            crashpoint("eni.delete.after_call")
            for pause in (0.0, *world.backoffs["eni_delete_confirm"].attempts(random.random)):
                await asyncio.sleep(pause)
                if await self._look() is None:
                    return Outcome(Event.DELETED, "deleted", ends=intent)
        except CloudError as error:
            if error.reaction is Reaction.GONE:
                return Outcome(Event.DELETED, "was gone already", ends=intent)
            return await self._not_deleted(error, intent)
        return Outcome(Event.FAILED, f"{self.name} is deleted and still listed")

    async def _not_deleted(self, error: CloudError, intent: Intent) -> Outcome:
        if error.reaction is Reaction.LOOK:
            seen = await self._look()
            if seen is None:
                return Outcome(Event.DELETED, "was gone already", ends=intent)
            if seen.instance == self._world.node.instance:
                return Outcome(Event.IN_USE, error.message, ends=intent, code=error.cloud_code)
            if seen.instance:
                return Outcome(Event.DELETED, f"left to {seen.instance}, which has it now", ends=intent)
        return Outcome(Event.FAILED, error.message)

    # ---- small things

    @property
    def _id(self) -> EniId:
        eni_id = self._eni.id
        assert eni_id is not None, f"{self.name} has no id in state {self._eni.state}"
        return eni_id

    @property
    def _mac(self) -> Mac:
        mac = self._eni.mac
        assert mac is not None, f"{self.name} has no MAC in state {self._eni.state}"
        return mac

    async def _look(self) -> CloudEni | None:
        """How the cloud lists the ENI now; None: it does not."""
        return await self._world.look(self._id)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _attached(seen: CloudEni | None, instance: str) -> Event | None:
    """What a listing says of an attachment to `instance`; None: it has not begun."""
    if seen is None or (seen.instance not in ("", instance)):
        return Event.LOST
    match seen.status:
        case "InUse":
            return Event.IN_USE
        case "Attaching":
            return Event.ACCEPTED
        case "Detaching" | "Deleting":
            return Event.LOST
        case _:
            return None


def _here(seen: CloudEni | None, instance: str) -> bool:
    """Is it still attached to `instance`, or about to be or no longer to be?"""
    return seen is not None and seen.instance == instance and seen.status in ("InUse", "Attaching", "Detaching")
