"""ipam and eni_manager against a model of the cloud: whatever happens in whatever order, nothing doubles or leaks.

Pods come and go, repeatedly and out of order; either service dies at any await and starts again; answers are lost,
calls throttled, vSwitches exhausted; people delete ENIs and take addresses away; listings and metadata are old. After
each step the invariants below hold, and at the end, when the weather has cleared, both sides and the cloud agree.

POOL_AND_ENIS_STEPS sets how many steps are counted before the run ends (the nightly run makes 100,000); what was
done, how often, is printed (`pytest -s`).
"""

import asyncio
import logging
import os
import random
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.eni_manager.core.machine import State
from services.eni_manager.core.model import Eni, SlotState
from services.ipam.core import sizing
from services.ipam.core.allocate import Wish
from services.ipam.core.pool import Phase, item_id
from shared.contracts.ipam import Lease
from shared.errors import Conflict, Exhausted, SuiteError, Unavailable
from shared.model import AttachmentKey, Ip, PodKey
from tests.pool_and_enis.cloud import BEFELL, INSTANCE, ModelCloud
from tests.pool_and_enis.node import EniLife, IpamLife, Wire, disks
from tests.pool_and_enis.virtual_time import VirtualLoop

STEPS = int(os.environ.get("POOL_AND_ENIS_STEPS", "3000"))
STEPS_PER_LIFE = 50
ADD_WITHIN_S = 60.0
CONTAINERS = [f"c{n}" for n in range(16)]
WHICH = st.integers(0, 23)
PASSING = ("lost", "throttled", "unreachable")
TURNS = st.integers(0, 30)
"""Turns of the event loop after which a service dies: at whatever it, or the other one, awaits then."""

DONE: Counter[str] = Counter()
"""The steps: how often each thing was done, over all lives of the run. What finds nothing to do is no step."""


class Bugs(logging.Handler):
    """What our loops survive, but must not have to."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, SuiteError):
            self.seen.append(f"{record.msg}: {error!r}")


class Sandbox:
    """One sandbox's story as the gateway knows it."""

    def __init__(self, name: str, pod: str, sticky: bool) -> None:
        self.wish = Wish(AttachmentKey("terway", name, "eth0"), PodKey("default", pod), sticky=sticky)
        self.adding: asyncio.Task[Lease] | None = None
        self.ends = 0.0
        self.lease: Lease | None = None
        self.failed = ""


class PoolAndEnis(RuleBasedStateMachine):
    dual = False
    """Pool items are pairs (test_dual.py)."""

    @initialize(seed=st.integers(0, 2**32), room=st.sampled_from([None, None, None, 0]))
    def begin(self, seed: int, room: int | None) -> None:
        """`room`: what others have left of each vSwitch, if they were there before us."""
        self.loop = VirtualLoop()
        self.bugs = Bugs()
        logging.getLogger("services").addHandler(self.bugs)
        self.cloud = ModelCloud(random.Random(seed))
        if room is not None:
            for name in self.cloud.free:
                self.others_fill_a_vswitch(name, room)
        self.ipam_disk, self.eni_disk = disks()
        self.lives = 0
        self.lost = False
        """ipam has lost its database, and has not come to know the leases again."""
        self.eni: EniLife | None = None
        self.ipam: IpamLife | None = None
        self.wire = Wire(lambda: self.eni)
        self.sandboxes: dict[str, Sandbox] = {}
        self.start_eni_manager()
        self.start_ipam()
        self._let_pass(5.0)

    # ---- pods

    @rule(names=st.lists(st.sampled_from(CONTAINERS), min_size=1, max_size=6, unique=True))
    def adds(self, names: list[str]) -> None:
        """Pods come, several at once; one of them may be of a StatefulSet."""
        for name in names:
            self.add(name, "db-0" if name == "c0" else "")
        self._let_pass(0.05)

    def add(self, name: str, pod: str) -> None:
        """A new sandbox, or the runtime asks once more about one."""
        sandbox = self.sandboxes.setdefault(name, Sandbox(name, pod or f"pod-{name}", bool(pod)))
        if sandbox.adding is None and self.ipam is not None:
            DONE["ADD" if sandbox.lease is None else "ADD repeated"] += 1
            sandbox.ends = self.loop.time() + ADD_WITHIN_S
            sandbox.adding = self.loop.create_task(self._add(sandbox, self.ipam))

    async def _add(self, sandbox: Sandbox, ipam: IpamLife) -> Lease:
        """As gateway and ipam's handler do it: lease, attachment, answer; undone where it fails."""
        while ipam.ledger is None:
            if ipam.task.done():
                raise Unavailable("ipam has died")
            await asyncio.sleep(0.01)
        asked = asyncio.ensure_future(ipam.ledger.acquire(sandbox.wish, sandbox.ends))
        await asyncio.wait([asked, ipam.task], return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            asked.cancel()
            raise Unavailable("ipam has died")
        lease = asked.result()
        eni = self.eni
        if eni is None:
            raise Unavailable("eni_manager is away")
        await eni.journal.put_attachment(lease, netns="/n")
        return lease

    @rule(names=st.lists(st.sampled_from(CONTAINERS), min_size=1, max_size=4, unique=True))
    def deletes(self, names: list[str]) -> None:
        """Pods go, in any order."""
        for name in names:
            self.delete(name)

    def delete(self, name: str) -> None:
        """DEL, of whatever there is, perhaps once more; kept and repeated by the gateway while somebody is away."""
        if self.ipam is None or self.eni is None or self.ipam.ledger is None:
            return
        sandbox = self.sandboxes.get(name)
        if sandbox is None:
            DONE["DEL of the unknown"] += 1
            sandbox = Sandbox(name, f"pod-{name}", sticky=False)
        else:
            DONE["DEL" if sandbox.adding is None else "DEL during its ADD"] += 1
        gone = self.loop.create_task(self._delete(sandbox, self.ipam, self.eni))
        self._let_pass(0.1)
        if gone.done() and gone.exception() is None:
            self.collect()
            sandbox.lease = None
            self.sandboxes.pop(name, None)
        gone.cancel()

    async def _delete(self, sandbox: Sandbox, ipam: IpamLife, eni: EniLife) -> None:
        await eni.journal.drop_attachment(sandbox.wish.key)
        assert ipam.ledger is not None
        await ipam.ledger.release(sandbox.wish.key)

    # ---- time and deaths

    @rule(seconds=st.sampled_from([0.02, 0.3, 1.0, 3.0, 10.0, 40.0, 200.0]))
    def pass_time(self, seconds: float) -> None:
        DONE["time"] += 1
        self._let_pass(seconds)

    def _let_pass(self, seconds: float) -> None:
        self.cloud.snapshot()
        self.loop.advance(seconds)
        self.cloud.settle(self.loop.time())
        self.collect()

    @rule(who=st.sampled_from(["eni_manager", "ipam"]), after=st.sampled_from([0.0, 0.01, 0.2, 1.5]), turns=TURNS)
    def kill(self, who: str, after: float, turns: int) -> None:
        """One of the two dies, wherever it stands then."""
        life = self.eni if who == "eni_manager" else self.ipam
        if life is None:
            return
        self.loop.advance(after)
        self.loop.turn(turns)
        DONE[f"death of {who}"] += 1
        self._end(life)
        if life is self.eni:
            self.eni = None
        else:
            self.ipam = None

    @precondition(lambda self: self.ipam is None)
    @rule()
    def lose_ipams_database(self) -> None:
        """Its file is deleted, or broken, which comes to the same."""
        DONE["ipam's database lost"] += 1
        self.ipam_disk, _ = disks()
        self.lost = True

    @precondition(lambda self: self.eni is None or self.ipam is None)
    @rule(all_=st.booleans())
    def start(self, all_: bool) -> None:
        """Whoever is dead starts again, both at once or one after the other."""
        DONE["start"] += 1
        if self.eni is None:
            self.start_eni_manager()
            if not all_:
                return
        if self.ipam is None:
            self.start_ipam()

    def start_eni_manager(self) -> None:
        self.lives += 1
        self.eni = EniLife(self.loop, self.lives, self.cloud, self.eni_disk, dual=self.dual)

    def start_ipam(self) -> None:
        self.lives += 1
        self.ipam = IpamLife(self.loop, self.lives, self.wire, self.ipam_disk)

    def _end(self, life: EniLife | IpamLife) -> None:
        life.kill()
        self.loop.run_until_complete(_ended(life.task))
        self.loop.advance(0.01)
        self.collect()

    # ---- weather and people

    @rule(which=WHICH, faults=st.lists(st.sampled_from(PASSING), min_size=1, max_size=3))
    def weather(self, which: int, faults: list[str]) -> None:
        """Calls go wrong, or answers are old."""
        if which % 2:
            self.calls_go_wrong(faults)
        else:
            self.answers_are_old((which // 2) % 2, (which // 2) % 3)

    @rule(act=st.sampled_from(["delete", "take", "assign", "attach", "fill"]), which=WHICH, name=st.sampled_from("ab"))
    def people(self, act: str, which: int, name: str) -> None:
        """Somebody at the console, and other machines."""
        match act:
            case "delete":
                self.somebody_deletes_an_eni(which)
            case "take":
                self.somebody_takes_an_address(which)
            case "assign":
                self.somebody_assigns_an_address(which)
            case "attach":
                self.somebody_attaches_an_eni()
            case _:
                self.others_fill_a_vswitch(name, which % 4)

    def calls_go_wrong(self, faults: list[str]) -> None:
        if len(self.cloud.faults) < 6:
            DONE["faults"] += 1
            self.cloud.faults.extend(faults)

    def answers_are_old(self, listings: int, metadata: int) -> None:
        DONE["old answers"] += 1
        self.cloud.stale_listings, self.cloud.stale_metadata = listings, metadata

    def somebody_deletes_an_eni(self, which: int) -> None:
        if there := sorted(self.cloud.enis):
            DONE["ENI deleted outside"] += 1
            self.cloud.delete_outside(there[which % len(there)])

    def somebody_takes_an_address(self, which: int) -> None:
        there = sorted((eni.id, ip) for eni in self.cloud.ours() for ip in eni.ips[1:])
        if there:
            DONE["address taken outside"] += 1
            self.cloud.unassign_outside(*there[which % len(there)])

    def somebody_assigns_an_address(self, which: int) -> None:
        if there := sorted(eni.id for eni in self.cloud.ours() if eni.status == "InUse"):
            DONE["address assigned outside"] += 1
            self.cloud.assign_outside(there[which % len(there)])

    def somebody_attaches_an_eni(self) -> None:
        if sum(eni.tags.get("creator") != "terway" for eni in self.cloud.enis.values()) < 1:
            DONE["foreign ENI"] += 1
            self.cloud.foreign()

    def others_fill_a_vswitch(self, name: str, keep: int) -> None:
        DONE["vSwitch filled or emptied"] += 1
        hoard = self.cloud.hoards[name]
        if hoard:
            self.cloud.free[name] += hoard
            hoard.clear()
        else:
            hoard += self.cloud.free[name][keep:]
            del self.cloud.free[name][keep:]

    # ---- what must hold

    def collect(self) -> None:
        """Take over what came of the ADDs that have ended."""
        for sandbox in self.sandboxes.values():
            adding = sandbox.adding
            if adding is None or not adding.done():
                continue
            sandbox.adding = None
            error = adding.exception()
            sandbox.failed = repr(error)
            BEFELL["ADD answered" if error is None else f"ADD failed: {type(error).__name__}"] += 1
            if error is None:
                lease = adding.result()
                if sandbox.lease is None and not self.cloud.metadata_was_old:
                    self.is_served(lease)
                assert sandbox.lease is None or sandbox.lease.addresses == lease.addresses, (
                    "an ADD repeated moves a pod"
                )
                sandbox.lease = lease
            else:
                assert isinstance(error, Unavailable | Exhausted | Conflict), repr(error)

        if self.ipam is not None and self.ipam.rebuilt:
            self.lost = False

    def is_served(self, lease: Lease) -> None:
        """No pod is given an address before the metadata service lists it (terway.md §6.5)."""
        for eni in self.cloud.enis.values():
            for ip in set(lease.addresses) & {*eni.ips, *eni.ips6}:
                assert eni.shown_at.get(ip, 0.0) <= self.loop.time(), f"{ip} is not served yet"

    def leases(self) -> list[Lease]:
        rows = self.ipam_disk.connection.execute("SELECT lease FROM leases").fetchall()
        return [msgspec.json.decode(row[0], type=Lease) for row in rows]

    @invariant()
    def no_address_is_in_two_leases(self) -> None:
        for known in (self.leases(), [s.lease for s in self.sandboxes.values() if s.lease is not None]):
            held = [lease.ipv4 for lease in known]
            assert len(held) == len(set(held)), f"doubled: {sorted(map(str, held))}"

    @invariant()
    def what_was_answered_is_durable(self) -> None:
        if self.lost:
            return
        durable = {lease.key: lease.ipv4 for lease in self.leases()}
        for sandbox in self.sandboxes.values():
            if sandbox.lease is not None:
                assert durable.get(sandbox.wish.key) == sandbox.lease.ipv4

    @invariant()
    def a_leased_address_is_assigned_unless_people_took_it(self) -> None:
        here = self.cloud.here()
        for lease in self.leases():
            ip = item_id(lease)
            assert ip in here or ip in self.cloud.taken, f"{ip} of {lease.pod} is not assigned, and nobody took it"

    @invariant()
    def foreign_enis_are_never_touched(self) -> None:
        for eni in self.cloud.enis.values():
            if eni.tags.get("creator") != "terway":
                assert (eni.status, eni.instance, len(eni.ips)) == ("InUse", INSTANCE, 1)

    @invariant()
    def counts_equal_a_recount(self) -> None:
        if self.ipam is not None and self.ipam.ledger is not None:
            pool = self.ipam.ledger.pool
            pool.check()
            counts = sizing.count(pool, 0, self.loop.time())
            assert counts.kept + counts.given_back + counts.lost == len(pool.items)
            durable = {key for key, hold in pool.holds.items() if hold.phase is Phase.LEASED}
            assert durable <= {lease.key for lease in self.leases()}
        if self.eni is not None and self.eni.world is not None:
            self.recount(self.eni)

    def recount(self, life: EniLife) -> None:
        """ipam is shown what there is."""
        shown = [
            address.ipv4
            for view in life.fleet.inventory(0.0).enis
            for address in view.addresses
            if address.usable and address.ipv4
        ]
        ready = [eni for eni in life.fleet.enis.values() if eni.state is State.READY]
        assert sorted(shown) == sorted(slot.item for eni in ready for slot in eni.in_state(SlotState.VALID))

    @invariant()
    def every_add_ends_in_time(self) -> None:
        for sandbox in self.sandboxes.values():
            late = self.loop.time() - sandbox.ends
            assert sandbox.adding is None or late < 0.5, f"{sandbox.wish.key} has waited {late:.1f} s too long"

    @invariant()
    def nothing_has_died_of_a_bug(self) -> None:
        assert self.bugs.seen == []
        for life in (self.eni, self.ipam):
            if life is not None and life.task.done():
                life.task.result()
                raise AssertionError("a service has ended")

    # ---- the end

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self._clears_up()
        finally:
            for life in (self.eni, self.ipam):
                if life is not None:
                    self._end(life)
            logging.getLogger("services").removeHandler(self.bugs)
            self.loop.close()

    def _clears_up(self) -> None:
        """The weather clears, what was asked is repeated: all that is ours is known, and all that is known is there."""
        self.cloud.faults.clear()
        self.cloud.stale_listings = self.cloud.stale_metadata = 0
        for name, hoard in self.cloud.hoards.items():
            self.cloud.free[name] += hoard
            hoard.clear()
        if self.eni is None:
            self.start_eni_manager()
        if self.ipam is None:
            self.start_ipam()
        for _ in range(30):
            self._let_pass(60.0)
        self._agree()
        for name in list(self.sandboxes):
            self.delete(name)
        assert self.sandboxes == {}
        left = self.leases()
        assert left == [], "every sandbox is gone"
        for _ in range(20):
            self._let_pass(60.0)
        self._agree()
        unused = sum(len(eni.ips) for eni in self.cloud.ours())
        assert 1 <= unused <= 3 + 1, f"{unused} addresses are kept for nobody"
        self.add("c0", "")
        self._let_pass(20.0)
        assert self.sandboxes["c0"].lease is not None, f"a node at peace serves a pod: {self._pool_story()}"

    def _pool_story(self) -> object:
        assert self.ipam is not None
        assert self.ipam.ledger is not None
        pool, now = self.ipam.ledger.pool, self.loop.time()
        items = {ip: (item.eni, pool.state(ip, now), pool.story(ip)) for ip, item in pool.items.items()}
        assert self.eni is not None
        return self.sandboxes["c0"].failed, items, pool.capacity, pool.blocked, self.eni.fleet.enis

    def _agree(self) -> None:
        assert self.eni is not None
        assert self.ipam is not None
        assert self.ipam.ledger is not None
        fleet, pool = self.eni.fleet, self.ipam.ledger.pool
        believed = {eni.id: eni for eni in fleet.enis.values()}
        story: Any = {eni.name: (eni.state, sorted(eni.slots.items()), eni.story) for eni in fleet.enis.values()}
        assert fleet.synced, fleet.troubles
        journal = {row[0]: row[1] for row in self.eni_disk.connection.execute("SELECT name, body FROM eni")}
        assert {name: msgspec.json.decode(body, type=Eni) for name, body in journal.items()} == fleet.enis
        for seen in self.cloud.ours():
            assert seen.id in believed, f"{seen} is ours and nobody knows of it: {story}"
            eni = believed[seen.id]
            assert eni.state is State.READY, (seen, story, fleet.troubles)
            live = {item for item, slot in eni.slots.items() if slot.state is not SlotState.MISSING}
            assert live == set(seen.ips), (seen, story)
        here = self.cloud.here()
        reported = pool.differences()
        for lease in self.leases():
            ip = item_id(lease)
            if here.get(ip) != lease.eni_id:
                assert lease.key in reported, f"{ip} of {lease.pod} is lost, and nobody says so: {story}"
        kept: set[Ip] = {item for lease in self.leases() for item in [item_id(lease)]}
        for eni in fleet.enis.values():
            gone = eni.id not in self.cloud.enis
            assert not gone or kept & set(eni.slots), f"{eni.name} is gone, unused, and not forgotten: {story}"


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


MUST_BE_DONE = {
    *(
        "ADD",
        "ADD repeated",
        "DEL",
        "DEL during its ADD",
        "DEL of the unknown",
        "time",
        "start",
        "faults",
        "old answers",
    ),
    *("death of eni_manager", "death of ipam", "ipam's database lost", "ENI deleted outside", "address taken outside"),
    *("address assigned outside", "foreign ENI", "vSwitch filled or emptied"),
}
MUST_BEFALL = {
    *("ADD answered", "ADD failed: Exhausted", "ADD failed: Unavailable", "ADD failed: Conflict"),
    *("lost", "throttled", "unreachable", "IpNotEnough", "old listing", "old metadata"),
}


@pytest.mark.timeout(max(300, STEPS // 20))
def test_nothing_doubles_or_leaks() -> None:
    live_through_everything(PoolAndEnis, STEPS, MUST_BE_DONE)


def live_through_everything(machine: type[PoolAndEnis], steps: int, must: set[str]) -> None:
    """So many steps, and a few lives more where chance has left something out: what never befell is not survived."""
    done: set[str] = set()
    befell: set[str] = set()
    for more in (steps, *[300] * 10):
        live(machine, more)
        done |= DONE.keys()
        befell |= BEFELL.keys()
        if done == must and befell >= MUST_BEFALL:
            return
    raise AssertionError(f"never done: {sorted(must - done)}; never befell: {sorted(MUST_BEFALL - befell)}")


def live(machine: type[PoolAndEnis], steps: int) -> None:
    """Lives of a machine until so many steps are made; says what was done and what befell."""
    DONE.clear()
    BEFELL.clear()
    while DONE.total() < steps:
        lives = max(1, (steps - DONE.total()) // STEPS_PER_LIFE)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=lives,
                stateful_step_count=STEPS_PER_LIFE,
                deadline=None,
                derandomize=False,  # as Hypothesis does in CI: there, lives that are added would be the same again
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    print(f"\n{DONE.total()} steps:", *(f"{times:>8} {what}" for what, times in DONE.most_common()), sep="\n")
    print(*(f"{times:>8} {what}" for what, times in BEFELL.most_common()), sep="\n")
