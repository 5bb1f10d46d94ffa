"""ipam and eni_manager as they are, on virtual time: their own loops, ledger, keepers and SQL; no socket, no thread.

Each runs one life after the other. A life ends at whatever it awaits; only its database is left. What a dead life
still tries to do, while its tasks are being torn down, reaches nothing: `kill -9` runs no finally.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, TypeVar, cast

from services.eni_manager.adapters.journal import MIGRATIONS as JOURNAL
from services.eni_manager.adapters.journal import Journal
from services.eni_manager.core.fleet import Fleet
from services.eni_manager.core.model import limits
from services.eni_manager.core.node import Node
from services.eni_manager.handlers import InventoryHandlers, News
from services.eni_manager.loops import Loops
from services.eni_manager.world import World
from services.ipam.adapters.enis import Enis
from services.ipam.adapters.store import MIGRATIONS as STORE
from services.ipam.adapters.store import Store
from services.ipam.core.pool import Pool
from services.ipam.driver import Ledger
from services.ipam.loops import Demand as DemandLoop
from services.ipam.loops import GiveBack as GiveBackLoop
from services.ipam.loops import watch_inventory
from services.ipam.owners import rebuild
from shared.backoff import TABLE
from shared.contracts.eni import Attachment, Demand, GiveBack, GivenBack, Inventory, Watch
from shared.eni_conf import EniConf
from shared.errors import Unavailable
from shared.health import Health
from shared.model import Ip, Mode
from shared.reconcile import ReconcileLoop
from shared.sqlite import Database
from tests.pool_and_enis.cloud import INSTANCE, KIND, Handle, ModelCloud

T = TypeVar("T")
CONF = EniConf(min_pool_size=1, max_pool_size=3, vswitches={"z": ["a", "b"]})
COOLDOWN_S = 30.0
STICKY_S = 300.0
COMPARE_EVERY_S = 60.0


class Disk:
    """A database that outlives its writers."""

    def __init__(self, migrations: tuple[str, ...]) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        for script in migrations:
            self.connection.executescript(script)


class Writer:
    """One life's hold on a disk; what shared.sqlite.Database offers, without its thread."""

    path = "memory"

    def __init__(self, disk: Disk) -> None:
        self._connection = disk.connection
        self.dead = False

    async def write(self, fn: Callable[[sqlite3.Connection], T], *, outlasts_power: bool = True) -> T:
        await self._pause()
        self._connection.execute("SAVEPOINT one")
        try:
            result = fn(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK TO one")
            raise
        finally:
            self._connection.execute("RELEASE one")
        await self._pause()
        return result

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await self._pause()
        return fn(self._connection)

    async def _pause(self) -> None:
        await asyncio.sleep(0.001)
        if self.dead:
            raise asyncio.CancelledError


class EniLife:
    """eni_manager from a start to a death."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, number: int, cloud: ModelCloud, disk: Disk, *, dual: bool = False
    ) -> None:
        self.number, self._names, self._dual = number, count(1), dual
        self._writer, self._handle = Writer(disk), Handle(cloud)
        self.journal = Journal(cast(Database, self._writer))
        self.news = News()
        self.fleet = Fleet(epoch=f"e{number}", mode=Mode.SHARED_VETH, on_change=self.news.publish)
        self.fleet.dual = dual
        self.rpc: InventoryHandlers | None = None
        self.world: World | None = None
        self.task = loop.create_task(self._live(), name=f"eni-manager-{number}")

    async def _live(self) -> None:
        fleet, health = self.fleet, Health()
        fleet.enis = await self.journal.load()
        fleet.set_limits(limits(KIND, most=CONF.max_enis(KIND.enis)))
        world = self.world = World(
            cloud=self._handle,
            metadata=self._handle,
            wires=self._handle,
            journal=self.journal,
            fleet=fleet,
            node=Node(INSTANCE, "r", "z", KIND, ("a", "b"), ("sg",)),
            conf=CONF,
            backoffs=TABLE,
            decide=lambda: decide.poke(),
            clock=asyncio.get_running_loop().time,
            dual=self._dual,
        )
        async with asyncio.TaskGroup() as tasks:
            loops = Loops(
                world, tasks, in_sync=health.condition("cloud"), unique=lambda: f"{self.number}-{next(self._names)}"
            )
            decide = ReconcileLoop("placement", loops.decide, settle_s=0.3, resync_s=15.0)
            compare = ReconcileLoop("comparison", loops.compare, resync_s=COMPARE_EVERY_S)
            self.rpc = InventoryHandlers(
                fleet, self.news, decide=decide.poke, take_back=world.give_back, tidy=loops.poke
            )
            loops.resume()
            tasks.create_task(decide.run())
            tasks.create_task(compare.run())

    def kill(self) -> None:
        self._writer.dead = self._handle.dead = True
        self.rpc = None
        self.task.cancel()


class Wire:
    """ipam's way to whichever eni_manager lives; what services.ipam.adapters.enis.Enis offers."""

    def __init__(self, now: Callable[[], EniLife | None]) -> None:
        self._now = now
        self.absent = ""

    async def watch(self, epoch: str, generation: int, wait_s: float) -> Inventory:
        try:
            inventory = await self._ask(lambda rpc: rpc.watch(Watch(epoch, generation, wait_s)))
        except Unavailable as error:
            self.absent = error.message
            raise
        self.absent = ""
        return inventory

    async def demand(self, total: int, waiting: int, pairs: dict[Ip, Ip]) -> None:
        await self._ask(lambda rpc: rpc.demand(Demand(total, waiting, pairs)))

    async def give_back(self, items: list[Ip]) -> GivenBack:
        return await self._ask(lambda rpc: rpc.give_back(GiveBack(items)))

    async def attachments(self) -> list[Attachment]:
        """All sandboxes live."""

        async def ask(rpc: InventoryHandlers) -> list[Attachment]:
            life = self._now()
            assert life is not None
            wired = await life.journal.attachments()
            return [Attachment(one.lease.key, one.lease.host_link, alive=True, lease=one.lease) for one in wired]

        return await self._ask(ask)

    async def _ask(self, call: Callable[[InventoryHandlers], Coroutine[Any, Any, T]]) -> T:
        """A call ends with the life that it was made to."""
        await asyncio.sleep(0.001)
        life = self._now()
        if life is None or life.rpc is None:
            raise Unavailable("eni_manager is away")
        asked = asyncio.ensure_future(call(life.rpc))
        try:
            await asyncio.wait([asked, life.task], return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise Unavailable("eni_manager has died")
            return asked.result()
        finally:
            asked.cancel()


class IpamLife:
    """ipam from a start to a death."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, wire: Wire, disk: Disk) -> None:
        self._writer, self._enis = Writer(disk), cast(Enis, wire)
        self.ledger: Ledger | None = None
        self.rebuilt = False
        """The leases are what they were, whatever became of the disk."""
        self.task = loop.create_task(self._live(), name=f"ipam-{number}")

    async def _live(self) -> None:
        store, clock, health = Store(cast(Database, self._writer)), asyncio.get_running_loop().time, Health()
        kept = await store.load(clock() + COOLDOWN_S, clock() + STICKY_S)
        pool = Pool()
        pool.restore(kept.leases, kept.resting, kept.given_back, clock(), kept.promises)
        async with asyncio.TaskGroup() as tasks:

            def changed() -> None:
                demanding.poke()
                if pool.marks:
                    handing_over.poke()

            ledger = Ledger(pool, store, clock, tasks, cooldown_s=COOLDOWN_S, sticky_s=STICKY_S, changed=changed)
            demand = DemandLoop(ledger, self._enis, CONF)
            give_back = GiveBackLoop(ledger, self._enis, demand)
            demanding = ReconcileLoop("demand", demand.tell, settle_s=0.03, retry_s=1.0, resync_s=60.0)
            handing_over = ReconcileLoop("give-back", give_back.hand_over, resync_s=60.0)
            watching = watch_inventory(
                ledger,
                self._enis,
                wait_s=30.0,
                synced=health.condition("inventory"),
                reporter=health.reporter("inventory", 60.0),
                reached=changed,
                first=lambda: self._rebuild(ledger),
            )
            shrinking = give_back.shrink(20.0, handing_over.poke, health.reporter("shrink", 600.0))
            for work in (watching, shrinking, demanding.run(), handing_over.run()):
                tasks.create_task(work)
            self.ledger = ledger

    async def _rebuild(self, ledger: Ledger) -> None:
        await rebuild(ledger, self._enis)
        self.rebuilt = True

    def kill(self) -> None:
        self._writer.dead = True
        self.ledger = None
        self.task.cancel()


def disks() -> tuple[Disk, Disk]:
    """ipam's and eni_manager's."""
    return Disk(STORE), Disk(JOURNAL)
