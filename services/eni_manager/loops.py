"""What runs without being asked: learning the node, placement, the comparison with the cloud, the keepers.

start: node's facts ─► journal's ENIs get keepers ─► first listing ─► synced
then:  decide (poked by demand and by every fact, gathered) and compare (on a timer)
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from services.eni_manager.adapters.imds import Metadata
from services.eni_manager.adapters.journal import Journal
from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core import capacity
from services.eni_manager.core.drift import CloudEni, foreign_attached, strange_groups, strangers
from services.eni_manager.core.machine import State
from services.eni_manager.core.model import BATCH, Eni, InstanceType, Sized, SlotState, Wanted, limits
from services.eni_manager.core.node import Node
from services.eni_manager.core.placement import AT_BIRTH, Creation, VSwitch, order_vswitches, plan
from services.eni_manager.driver import Keeper
from services.eni_manager.world import Cloud, World
from shared import log as logs
from shared.backoff import Backoff
from shared.eni_conf import EniConf
from shared.errors import Conflict, SuiteError
from shared.health import Condition
from shared.model import EniId, Mode

VSWITCH_TTL_S: Final = 600.0
"""How long a count of free addresses is believed (terway.md §6.6)."""
LEARN_RETRY: Final = Backoff(1.0, 2.0, 0.3, cap_s=30.0)
SETTLE_S: Final = 30.0
"""How long the first answer to `synced?` waits for ENIs that rejoin."""

log = logs.get(__name__)


class _Primary(msgspec.Struct, frozen=True):
    """What is kept of the primary ENI and the type, for starts without the cloud."""

    kind: InstanceType
    security_groups: tuple[str, ...]


async def learn_node(cloud: Cloud, metadata: Metadata, journal: Journal, conf: EniConf, region: str) -> Node:
    """The node's facts. Raises SuiteError where something is missing that was never learnt."""
    instance, zone = await metadata.instance_id(), await metadata.zone()
    type_name = await metadata.instance_type()
    configured = conf.all_security_groups
    try:
        kind = await cloud.describe_instance_type(type_name)
        groups = configured or await _primary_groups(cloud, instance)
        await journal.note(f"primary of {instance}", msgspec.json.encode(_Primary(kind, groups)))
    except CloudError as error:
        kept = await journal.noted(f"primary of {instance}")
        if kept is None:
            raise
        primary = msgspec.json.decode(kept, type=_Primary)
        if primary.kind.name != type_name:  # the instance has been given another type since
            raise
        kind, groups = primary.kind, configured or primary.security_groups
        log.warning("node_facts_remembered", because=error.message)
    vswitches = tuple(conf.vswitches.get(zone) or [await metadata.vswitch()])
    return Node(instance, region, zone, kind, vswitches, groups)


async def _primary_groups(cloud: Cloud, instance: str) -> tuple[str, ...]:
    for eni in await cloud.describe_enis(instance=instance):
        if eni.type == "Primary":
            return eni.security_groups
    return ()


class Loops:
    """The two reconciliations and the keepers. `tasks` owns the keepers; `unique` gives names to new ENIs."""

    def __init__(
        self,
        world: World,
        tasks: asyncio.TaskGroup,
        *,
        in_sync: Condition,
        unique: Callable[[], str] = lambda: secrets.token_hex(3),
    ) -> None:
        self._world, self._tasks, self._in_sync, self._unique = world, tasks, in_sync, unique
        self.keepers: dict[str, Keeper] = {}
        self._vswitches: dict[str, tuple[float, VSwitch]] = {}
        self._wake_at: asyncio.TimerHandle | None = None
        self._listed = False
        self._strange: frozenset[EniId] = frozenset()
        """ENIs whose security groups were strange in the last listing: said when the next one shows it, too (R25)."""
        exclusive = world.fleet.mode is Mode.EXCLUSIVE_ENI
        mode = capacity.PodMode.EXCLUSIVE if exclusive else capacity.PodMode.SHARED
        shortcomings = enumerate(capacity.shortcomings(world.node.kind, mode))
        world.fleet.set_warnings("type", {str(number): text for number, text in shortcomings})
        world.fleet.set_warnings("zone", {"vswitches": text} if (text := world.node.unnamed_zone(world.conf)) else {})

    def resume(self) -> None:
        """A keeper for each ENI that the journal knows."""
        for name in sorted(self._world.fleet.enis):
            self._keep(name)

    def poke(self, name: str | None = None) -> None:
        """Something may have to be done about an ENI, or about all."""
        for keeper in self.keepers.values() if name is None else filter(None, [self.keepers.get(name)]):
            keeper.poke()

    def _keep(self, name: str) -> None:
        if name not in self.keepers:
            self.keepers[name] = Keeper(name, self._world)
            self._tasks.create_task(self._kept(self.keepers[name]), name=f"keeper-{name}")

    async def _kept(self, keeper: Keeper) -> None:
        await keeper.run()
        del self.keepers[keeper.name]
        self._world.decide()

    # ---- placement

    async def decide(self) -> None:
        """Meet the demand: targets for the ENIs that are there, and new ones."""
        world, fleet = self._world, self._world.fleet
        if not self._listed:  # an ENI that we do not know yet may hold what is asked for
            return
        decided = plan(
            fleet.enis.values(),
            total=fleet.total,
            limits=fleet.limits,
            in_flight=fleet.in_flight,
            blocks=fleet.blocks,
            vswitches=await self._ordered_vswitches() if fleet.short_of_demand else (),
            policy=world.conf.eni_selection_policy,
            now=world.clock(),
            stuck=fleet.stuck(world.clock()),
            at_birth=BATCH if world.dual else AT_BIRTH,
        )
        fleet.set_plan(decided)
        for creation in decided.creations:
            await self._create(creation)
        self.poke()
        self._again_when_a_block_ends()

    async def _create(self, creation: Creation) -> None:
        world = self._world
        name = f"{world.conf.prefix or 'eni-cni-'}{self._unique()}"
        eni = Eni(
            name=name,
            state=State.WANTED,
            vswitch=creation.vswitch,
            initial=creation.initial,
            max_slots=world.fleet.limits.per_eni,
            security_groups=world.node.security_groups,
            story=(f"wanted: {creation.initial} addresses in {creation.vswitch}",),
        )
        await world.record([Wanted(eni)])
        log.info("eni_wanted", eni=name, vswitch=creation.vswitch, addresses=creation.initial)
        self._keep(name)

    def _again_when_a_block_ends(self) -> None:
        world = self._world
        if self._wake_at is not None:
            self._wake_at.cancel()
            self._wake_at = None
        standing = world.fleet.blocks.standing(world.clock())
        if standing:
            wait = min(block.until for block in standing.values()) - world.clock()
            self._wake_at = asyncio.get_running_loop().call_later(max(0.0, wait) + 0.01, world.decide)

    async def _ordered_vswitches(self) -> tuple[VSwitch, ...]:
        world = self._world
        known = [await self._vswitch(vswitch) for vswitch in world.node.vswitches]
        self._block_unfit(known)
        return order_vswitches(known, world.conf.vswitch_selection_policy, random.random)

    async def _vswitch(self, vswitch: str, *, described: bool = False) -> VSwitch:
        """With its count of free addresses, from the cache or the cloud; without one where it is of no use or unknown.

        `described`: for what else the cloud says of it. It is looked at again from then on.
        Node roles made before 2020 may lack the permission: then the configured order stays (terway.md §6.12).
        """
        by_chance = self._world.conf.vswitch_selection_policy == "random"
        uncounted = by_chance or len(self._world.node.vswitches) == 1
        if uncounted and not self._world.dual and not described and vswitch not in self._vswitches:
            return VSwitch(vswitch)
        now = self._world.clock()
        until, known = self._vswitches.get(vswitch, (0.0, VSwitch(vswitch)))
        if until <= now:
            try:
                known = await self._world.cloud.describe_vswitch(vswitch)
            except CloudError as error:
                log.warning("vswitch_not_counted", vswitch=vswitch, because=error.message)
                known = VSwitch(vswitch)
            self._vswitches[vswitch] = (now + VSWITCH_TTL_S, known)
        return known

    async def _look_at_vswitches(self) -> None:
        """Once at the start: a typing error is said at once, not when the pool first runs short.

        The primary ENI's own vSwitch, which serves where none is configured, is there and in its zone.
        """
        world = self._world
        if world.dual or world.conf.vswitches.get(world.node.zone):
            self._block_unfit([await self._vswitch(vswitch, described=True) for vswitch in world.node.vswitches])

    def _block_unfit(self, known: Sequence[VSwitch]) -> None:
        """Nothing is asked of a vSwitch that cannot serve this node; people are told, at once and as long as so."""
        world = self._world
        unfit = {vswitch.id: vswitch.unfit(world.node.zone, dual=world.dual) for vswitch in known}
        unfit = {vswitch: why for vswitch, why in unfit.items() if why}
        for vswitch, why in unfit.items():
            world.fleet.blocks.put(vswitch, until=world.clock() + VSWITCH_TTL_S, why=why)
        world.fleet.set_warnings("vswitch", unfit)

    # ---- the comparison with the cloud

    async def compare(self) -> None:
        """List what the cloud has of ours, take in strangers, let every keeper weigh what is listed of its ENI."""
        world, fleet = self._world, self._world.fleet
        before = dict(fleet.enis)
        try:
            listing = await self._list()
        except SuiteError as error:
            self._in_sync.missing(error.message)
            fleet.set_trouble("cloud", error.message)
            await self._vouch()
            raise
        fleet.set_trouble("cloud", "")
        contradictions = []
        for eni in strangers(fleet.enis, listing, world.owner, max_slots=fleet.limits.per_eni):
            try:
                await world.record([Wanted(eni)])
            except Conflict as error:  # nothing is done with this one until people have looked; the others go on
                contradictions.append(error.message)
                continue
            world.notice(eni.name, eni.story[-1])
            self._keep(eni.name)
        fleet.set_trouble("journal", "; ".join(contradictions))
        seen = {eni.id: eni for eni in listing}
        for name, eni in before.items():
            if eni.id is not None and name in self.keepers:
                self.keepers[name].sight(eni, seen.get(eni.id))
        strange = strange_groups(listing, world.owner, world.node.security_groups)
        fleet.set_warnings("groups", {eni: text for eni, text in strange.items() if eni in self._strange})
        self._strange = frozenset(strange)
        foreign = foreign_attached(fleet.enis, listing, world.owner)
        most = world.conf.max_enis(world.node.kind.enis)
        exclusive = fleet.mode is Mode.EXCLUSIVE_ENI
        fleet.set_limits(limits(world.node.kind, most=most, foreign=foreign, exclusive=exclusive))
        await self._size()
        if not self._listed:
            await self._look_at_vswitches()
            await self._settle()
            fleet.set_synced(True)
            self._listed = True
            log.info("synced", enis=len(fleet.enis), capacity=fleet.limits.capacity, foreign=foreign)
        if contradictions:
            self._in_sync.missing(contradictions[0])
        else:
            self._in_sync.met()
        await self._return_what_no_pod_can_have()
        world.decide()

    async def _return_what_no_pod_can_have(self) -> None:
        """What an earlier mode left goes back: in mode vpc-route every ENI, in mode exclusive-eni all but primaries."""
        world, mode = self._world, self._world.fleet.mode
        if mode not in (Mode.VPC_ROUTE, Mode.EXCLUSIVE_ENI):
            return
        slots = [slot for eni in world.fleet.enis.values() for slot in eni.slots.values()]
        wanted = {slot.item for slot in slots if slot.primary and mode is Mode.EXCLUSIVE_ENI}
        if unwanted := [s.item for s in slots if s.item not in wanted and s.state is not SlotState.RETURNING]:
            await world.give_back(unwanted)
            self.poke()

    async def _size(self) -> None:
        """An ENI holds what the mode lets it, though it was made in another one."""
        world, most = self._world, self._world.fleet.limits.per_eni
        wrong = [eni.name for eni in world.fleet.enis.values() if eni.max_slots != most]
        if wrong and world.fleet.mode is not Mode.VPC_ROUTE:
            await world.record([Sized(name, most) for name in wrong])

    async def _list(self) -> list[CloudEni]:
        """What is attached here, and what bears this node's tag."""
        world = self._world
        attached = await world.cloud.describe_enis(instance=world.node.instance)
        tagged = await world.cloud.describe_enis(tags=world.owner.marks)
        return list({eni.id: eni for eni in (*tagged, *attached)}.values())

    async def _vouch(self) -> None:
        """Without the OpenAPI: what journal and metadata agree on may serve pods meanwhile; nothing is bought."""
        await self._settle()
        enis = self._world.fleet.enis.values()
        if any(eni.state is State.READY for eni in enis) and all(eni.state is not State.REJOINING for eni in enis):
            self._world.fleet.set_synced(True)

    async def _settle(self) -> None:
        """Wait for ENIs that were in use before the start, so that the first inventory shows what they hold."""
        enis = self._world.fleet.enis
        was_ready = (State.READY, State.REJOINING)
        rejoining = [keeper for name, keeper in self.keepers.items() if name in enis and enis[name].state in was_ready]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                for keeper in rejoining:
                    await keeper.settled.wait()


def learn_pauses() -> Iterator[float]:
    """Between attempts to learn the node's facts, without end."""
    return LEARN_RETRY.delays(random.random)


def backoffs(conf: EniConf, table: Mapping[str, Backoff]) -> dict[str, Backoff]:
    """The table with eni_conf's `backoff_override`."""
    return {**table, **conf.backoff_override}
