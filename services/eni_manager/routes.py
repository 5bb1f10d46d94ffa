"""Keeps the VPC's route table in step with this node's pod ranges (mode vpc-route, terway.md §5.6).

    API server: the node's ranges ─┐
    table's entries ───────────────┼─► core/route_table.plan ─► intent ─► call ─► look again ─► ranges for ipam
    attachments ───────────────────┘

One loop does all of it, so its calls never overlap. Each call is written down with its token before it is made; an
intent that a crash left open is closed by what the table shows, or made again with the same token. In another mode the
loop runs only where entries were left, and takes them away.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import msgspec

from services.eni_manager.adapters.journal import Intent, Journal
from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.reactions import INHIBIT_S, RETRIED, Reaction
from services.eni_manager.core.route_table import LONGEST_NODE_NAME, Entry, Known, Owner, Plan, Watchers, plan
from services.eni_manager.core.wiring.vpc_route import Nat
from services.eni_manager.world import World
from shared import log as logs
from shared.contracts.eni import PodRange
from shared.crashpoint import crashpoint
from shared.errors import NotFound, SuiteError, Unavailable
from shared.health import Condition, Health
from shared.model import Cidr, Ip, Mode
from shared.reconcile import ReconcileLoop

SUBJECT: Final = "routes"
"""What intents, troubles and notices of the route table are filed under."""
NOTE: Final = "pod routes"
NAT_SETTLE_S: Final = 0.05
"""A new node's pods come seconds after it."""

log = logs.get(__name__)


class RouteTable(Protocol):
    """The VPC; adapters.vpc. Everything raises CloudError."""

    async def system_table(self, vpc: str) -> str: ...

    async def entries(self, table: str) -> list[Entry]: ...

    async def create(
        self, table: str, destination: Cidr, instance: str, *, name: str, description: str, token: str
    ) -> None: ...

    async def delete(self, table: str, entry: Entry) -> None: ...


class Cluster(Protocol):
    """The API server; adapters.nodes. Every SuiteError of it may come out."""

    async def run(self, changed: Callable[[str], None]) -> None: ...

    @property
    def known(self) -> frozenset[Cidr]: ...

    async def cluster(self) -> str: ...

    async def ranges(self, node: str) -> tuple[Cidr, ...]: ...


class Remembered(msgspec.Struct, frozen=True):
    """What a start without cloud or API server goes by. `routed`: had their entry when last seen."""

    cluster: str = ""
    ranges: tuple[Cidr, ...] = ()
    routed: tuple[Cidr, ...] = ()


async def left_behind(journal: Journal) -> bool:
    """May entries of this node be in the table, made when its mode was vpc-route?"""
    kept = await journal.noted(NOTE)
    return kept is not None and msgspec.json.decode(kept, type=Remembered) != Remembered()


class Surroundings(msgspec.Struct, frozen=True):
    """Facts of the VPC. `outside` of `inside` and the cluster's ranges, pods bear the node's address."""

    vpc: str
    inside: tuple[Cidr, ...]
    table: str = ""
    """As configured; empty: the VPC's own."""


class Routes:
    """See the module's docstring."""

    def __init__(
        self,
        world: World,
        table: RouteTable,
        cluster: Cluster,
        node_name: str,
        surroundings: Surroundings,
        *,
        dual: bool,
        in_sync: Condition,
    ) -> None:
        self._world, self._cloud, self._cluster, self._node = world, table, cluster, node_name
        self._surroundings, self._dual, self._in_sync = surroundings, dual, in_sync
        self._serving = world.fleet.mode is Mode.VPC_ROUTE
        self._table = surroundings.table
        self._known = Remembered()
        self._recalled = False
        self._watchers = Watchers()
        self._inside: frozenset[Cidr] = frozenset()
        """The cluster's pod ranges, as the table has them."""
        self._refused: dict[Cidr, tuple[float, str]] = {}
        """What the cloud has refused, until when it is not asked again, and why."""

    async def run(self, health: Health) -> None:
        """Until cancelled."""
        period = float(self._world.conf.ip_pool_sync_period)
        reporter = health.reporter("routes", deadline_s=4 * period + 300)
        keep = ReconcileLoop("routes", self.keep, resync_s=period, reporter=reporter)
        translate = ReconcileLoop("routes-nat", self.translate, settle_s=NAT_SETTLE_S)

        def changed(node: str) -> None:
            translate.poke()
            if node == self._node:
                keep.poke()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep.run(), name="routes-keep")
            if self._serving:
                tasks.create_task(translate.run(), name="routes-nat")
                tasks.create_task(self._cluster.run(changed), name="routes-nodes")

    async def keep(self) -> None:
        """One look, and all that it takes until nothing is to be done."""
        await self._recall()
        if not self._serving and self._known == Remembered():
            return  # all that there was is gone
        try:
            await self._keep()
        except SuiteError as error:
            self._world.fleet.set_trouble(SUBJECT, error.message)
            if not self._known.routed:
                self._in_sync.missing(error.message)
            self._show(self._known.ranges, self._known.routed)  # what was routed is believed
            raise

    async def _recall(self) -> None:
        if not self._recalled:
            kept = await self._world.journal.noted(NOTE)
            self._known = Remembered() if kept is None else msgspec.json.decode(kept, type=Remembered)
            self._recalled = True

    async def _remember(self, known: Remembered) -> None:
        if known != self._known:
            await self._world.journal.note(NOTE, msgspec.json.encode(known))
            self._known = known

    async def _keep(self) -> None:
        wanted = await self._wanted()
        own = Owner(self._known.cluster, self._node)
        if not self._table:
            self._table = await self._cloud.system_table(self._surroundings.vpc)
        for pause in (0.0, *self._world.backoffs["wait_route_entry"].attempts(random.random)):
            await asyncio.sleep(pause)
            entries = await self._cloud.entries(self._table)
            await self._close_intents(entries, wanted)
            found = await self._plan(own, wanted, entries)
            if not (found.create or found.delete or found.waiting):
                break
            await self._act(found, own)
        else:
            raise Unavailable(
                f"the route table's entries of {', '.join(found.waiting or wanted)} are still on their way"
            )
        await self._settle(found, wanted, entries)
        await self._sweep(own, entries)

    # ---- what is wanted

    async def _wanted(self) -> tuple[Cidr, ...]:
        """This node's ranges; those that it had last where the API server does not know it any more."""
        if not self._known.cluster:
            await self._remember(msgspec.structs.replace(self._known, cluster=await self._cluster.cluster()))
        if not self._serving:
            return ()
        if len(self._node) > LONGEST_NODE_NAME:
            raise Unavailable(f"the name of node {self._node} does not fit a route entry's description")
        try:
            ranges = await self._cluster.ranges(self._node)
        except NotFound:
            if not self._known.ranges:
                raise
            self._world.notice(SUBJECT, f"the API server has no node {self._node}; its ranges stay as they were")
            ranges = self._known.ranges
        ranges = tuple(cidr for cidr in ranges if self._dual or ":" not in cidr)
        if not ranges:
            raise Unavailable(
                f"node {self._node} has no spec.podCIDR, where mode vpc-route takes its pods' addresses from: "
                "kube-controller-manager gives it one with --allocate-node-cidrs"
            )
        return ranges

    async def _in_use(self) -> list[Ip]:
        return [ip for one in await self._world.journal.attachments() for ip in one.lease.addresses]

    async def _plan(self, own: Owner, wanted: Collection[Cidr], entries: Sequence[Entry]) -> Plan:
        known: Known = {}
        in_use, instance = await self._in_use(), self._world.node.instance
        while True:
            now = self._world.clock()
            self._refused = {cidr: what for cidr, what in self._refused.items() if what[0] > now}
            found = plan(own, instance, wanted=wanted, in_use=in_use, table=entries, known=known)
            if not found.ask:
                break
            known = {**known, **await self._ask(found.ask)}
        refused = {cidr: why for cidr, (_, why) in self._refused.items() if cidr in found.create}
        create = tuple(cidr for cidr in found.create if cidr not in refused)
        return msgspec.structs.replace(found, create=create, blocked={**found.blocked, **refused})

    async def _ask(self, names: Collection[str]) -> Known:
        """What the API server says of these nodes now; None: there is no such one."""
        answers: dict[str, Collection[Cidr] | None] = {}
        for name in sorted(names):
            try:
                answers[name] = await self._cluster.ranges(name)
            except NotFound:
                answers[name] = None
        return answers

    # ---- calls

    async def _act(self, found: Plan, own: Owner) -> None:
        for entry, why in found.delete:
            await self._delete(entry, why)
        if found.delete or found.waiting:
            return  # a table that changes takes no further change
        for cidr in found.create:
            await self._create(cidr, own)
            return

    async def _create(self, cidr: Cidr, own: Owner) -> None:
        world = self._world
        if cidr in self._known.routed:
            world.notice(SUBJECT, f"the entry that leads {cidr} here is gone from {self._table}; it is made again")
        intent = await world.journal.begin(SUBJECT, f"create {cidr}", {"destination": cidr}, now=world.clock())
        crashpoint("eni.route.before_create")
        try:
            await self._cloud.create(
                self._table,
                cidr,
                world.node.instance,
                name=f"terway-{self._node}",
                description=own.description,
                token=intent.token,
            )
        except CloudError as error:
            await self._not_made(error, intent, cidr)
            return
        crashpoint("eni.route.after_create")
        await world.record([], ends=intent)
        log.info("route_made", destination=cidr, table=self._table)

    async def _not_made(self, error: CloudError, intent: Intent, cidr: Cidr) -> None:
        if error.reaction in RETRIED:
            raise error  # the effect may have happened: the same token again
        await self._world.record([], ends=intent, outcome=error.cloud_code)
        if error.reaction in (Reaction.NEW_TOKEN, Reaction.LOOK):
            return
        why = f"the VPC's route table does not take {cidr}: {error.message}"
        seconds = INHIBIT_S.get(error.reaction, INHIBIT_S[Reaction.REFUSED])
        self._refused[cidr] = (self._world.clock() + seconds, why)
        self._world.notice(SUBJECT, why)

    async def _delete(self, entry: Entry, why: str) -> None:
        world = self._world
        params = {"destination": entry.destination, "entry": entry.id}
        intent = await world.journal.begin(SUBJECT, f"delete {entry.id}", params, now=world.clock())
        crashpoint("eni.route.before_delete")
        try:
            await self._cloud.delete(self._table, entry)
        except CloudError as error:
            if error.reaction not in RETRIED:
                await world.record([], ends=intent, outcome=error.cloud_code)
            raise
        crashpoint("eni.route.after_delete")
        await world.record([], ends=intent)
        log.info("route_deleted", destination=entry.destination, entry=entry.id, because=why)

    async def _close_intents(self, entries: Sequence[Entry], wanted: Collection[Cidr]) -> None:
        """Of calls whose answer we missed, those that the table answers, or that nobody wants any more."""
        here = {entry.destination for entry in entries if entry.hop == self._world.node.instance}
        listed = {entry.id for entry in entries if entry.status != "Deleting"}
        for intent in await self._world.journal.open_intents(SUBJECT):
            entry, destination = intent.params.get("entry"), intent.params["destination"]
            if (entry is None and destination in here) or (entry is not None and entry not in listed):
                await self._world.record([], ends=intent, outcome="ok, as the table shows")
            elif entry is None and destination not in wanted:
                await self._world.record([], ends=intent, outcome="not wanted any more")

    # ---- what is known

    async def _settle(self, found: Plan, wanted: tuple[Cidr, ...], entries: Sequence[Entry]) -> None:
        """Remember it, and tell ipam and people."""
        world = self._world
        await self._remember(Remembered(self._known.cluster, wanted, found.routed))
        world.fleet.set_trouble(SUBJECT, "; ".join(found.blocked[cidr] for cidr in sorted(found.blocked)))
        self._show(wanted, found.routed)
        if self._serving:
            if missing := [found.blocked[cidr] for cidr in wanted if cidr in found.blocked]:
                self._in_sync.missing("; ".join(missing))
            else:
                self._in_sync.met()
            cluster = self._known.cluster
            self._inside = frozenset(one.destination for one in entries if one.owner and one.owner.cluster == cluster)
            await self.translate()
        elif not found.routed:
            await self._remember(Remembered())

    async def translate(self) -> None:
        """Have packets to anywhere but the VPC and the cluster's pods bear the node's address.

        Whoever hears of a new node calls it, so that its pods are met by their own addresses from the first packet on.
        Until anything is known of other nodes, what an earlier life has set stays.
        """
        sources = frozenset({*self._known.ranges, *self._known.routed})
        if self._serving and sources and (self._inside or self._cluster.known):
            inside = {*self._surroundings.inside, *self._inside, *self._cluster.known, *sources}
            await self._world.wires.set_nat(Nat(sources=sources, inside=frozenset(inside)))

    def _show(self, ranges: Collection[Cidr], routed: Collection[Cidr]) -> None:
        if self._serving and ranges:
            self._world.fleet.set_ranges(tuple(PodRange(cidr, usable=cidr in routed) for cidr in ranges))

    # ---- nodes that are gone

    async def _sweep(self, own: Owner, entries: Sequence[Entry]) -> None:
        """Take part in removing entries of nodes that the API server has no more."""
        if not self._serving:
            return
        watched = self._watchers.watched(own, entries)
        known = await self._ask({owner.node for entry in watched if (owner := entry.owner) is not None})
        for entry in self._watchers.removable(watched, known):
            assert entry.owner is not None
            self._world.notice(
                SUBJECT, f"node {entry.owner.node} is gone; its entry for {entry.destination} is removed"
            )
            await self._delete(entry, f"node {entry.owner.node} is gone")
