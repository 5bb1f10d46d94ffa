"""Random lives of a pool: pods come and go, inventories change, time passes, ipam restarts."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.ipam.core import sizing
from services.ipam.core.allocate import Grant, choose, held
from services.ipam.core.pool import ItemState, Phase, Pool, Promise, item_id
from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, Ip
from tests.ipam.world import eni, inventory, item, key, wish

COOLDOWN = 30.0
STICKY = 100.0
CONTAINERS = st.sampled_from("abcdefgh")
ADDRESSES = st.sets(st.integers(1, 12))


class PoolLife(RuleBasedStateMachine):
    """`disk` is what the database would hold; a restart builds the pool anew from it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pool = Pool()
        self.leases: dict[AttachmentKey, Lease] = {}
        self.resting: dict[Ip, float] = {}
        self.marks: set[Ip] = set()
        self.promises: dict[Ip, Promise] = {}
        self.freed: dict[Ip, float] = {}
        self.generation = 0

    @rule(addresses=ADDRESSES, unusable=ADDRESSES, synced=st.booleans(), restarted=st.booleans())
    def inventory_changes(self, addresses: set[int], unusable: set[int], synced: bool, restarted: bool) -> None:
        self.generation += 1
        views = [
            eni(n, *(item(a, primary=a in (1, 7), usable=a not in unusable) for a in sorted(addresses) if a // 7 == n))
            for n in (0, 1)
        ]
        epoch = f"e{self.generation}" if restarted else self.pool.epoch
        self.pool.observe(
            inventory(*views, synced=synced, capacity=12, generation=self.generation, epoch=epoch), self.now
        )

    @rule(container=CONTAINERS, pod=st.sampled_from(["", "shared"]), durable=st.booleans())
    def add(self, container: str, pod: str, durable: bool) -> None:
        wanted = wish(container, pod=f"{pod}{container}" if not pod else pod)
        if wanted.key in self.pool.holds:
            answer = held(self.pool, wanted)
            assert isinstance(answer, Lease) == (self.leases[wanted.key].pod == wanted.pod)
            return
        got = choose(self.pool, wanted, self.now)
        if not isinstance(got, Grant):
            assert self.pool.mode is None or not self.pool.idle(self.now)
            return
        lease = got.lease
        name = item_id(lease)
        assert name in self.pool.items and self.pool.items[name].usable
        assert name not in self.marks
        promised = self.promises.get(name)
        if promised is not None and promised.until > self.now and promised.pod == lease.pod:
            pass  # its own address back, at any time
        else:
            assert self.freed.get(name, 0.0) <= self.now, "handed out before its rest was over"
            if promised is not None and promised.until > self.now:
                assert len(self.pool.items.keys() - self.marks) >= self.pool.capacity, "broken below capacity"
                assert not self.pool.idle(self.now), "broken while something was idle"
        assert name not in {item_id(other) for other in self.leases.values()}
        self.pool.reserve(lease, self.now)
        if durable:
            self.leases[lease.key] = lease
            self.resting.pop(name, None)
            self.promises.pop(name, None)
            self.pool.commit(lease.key, self.now)
        else:
            self.pool.abandon(lease.key, self.now)

    @rule(container=CONTAINERS, durable=st.booleans(), sticky=st.booleans())
    def delete(self, container: str, durable: bool, sticky: bool) -> None:
        if key(container) not in self.pool.holds:
            return
        lease = self.pool.retire(key(container))
        if not durable:
            self.pool.keep(lease.key)
            return
        until = self.now + COOLDOWN
        del self.leases[lease.key]
        self.resting[item_id(lease)] = self.freed[item_id(lease)] = until
        promise = Promise(lease.pod, lease.key.network, lease.key.ifname, self.now + STICKY) if sticky else None
        if promise is not None:
            self.promises[item_id(lease)] = promise
        self.pool.cool(lease.key, until, self.now, promise)

    @rule(number=st.integers(0, 12), durable=st.booleans())
    def give_back(self, number: int, durable: bool) -> None:
        items = sizing.surplus(self.pool, number, self.now)
        assert len(items) <= number
        self.pool.mark(items, self.now)
        if durable:
            self.marks |= set(items)
            self.pool.marked(items, self.now)
            self.pool.accepted(items)
        else:
            self.pool.unmark(items)

    @precondition(lambda self: self.marks)
    @rule(data=st.data())
    def eni_manager_keeps_one(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.marks)))
        self.marks.discard(name)
        self.resting[name] = self.now + COOLDOWN
        self.pool.refused(name, self.now + COOLDOWN, self.now, why="in use")

    @rule()
    def forget_what_departed(self) -> None:
        gone = self.pool.departed()
        self.marks -= set(gone)
        gone += self.pool.rested_elsewhere(self.now)
        for name in gone:
            self.resting.pop(name, None)
            self.promises.pop(name, None)
        self.pool.forget(gone)

    @rule(seconds=st.floats(0.0, 80.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.pool = Pool()
        self.pool.restore(self.leases.values(), self.resting, self.marks, self.now, self.promises)

    @invariant()
    def memory_is_what_is_durable(self) -> None:
        self.pool.check()
        assert {k: hold.lease for k, hold in self.pool.holds.items()} == self.leases
        assert all(hold.phase is Phase.LEASED for hold in self.pool.holds.values())
        assert self.pool.resting == self.resting
        assert self.pool.promises == self.promises
        assert set(self.pool.marks) == self.marks

    @invariant()
    def every_item_is_counted_once(self) -> None:
        counts = sizing.count(self.pool, 0, self.now)
        assert counts.kept + counts.given_back == len(self.pool.items)
        assert counts.idle == len(self.pool.idle(self.now))

    @invariant()
    def no_live_lease_is_forgotten(self) -> None:
        for lease in self.leases.values():
            assert self.pool.state(item_id(lease), self.now) is ItemState.LEASED
        if self.pool.synced:
            lost = {k for k, lease in self.leases.items() if item_id(lease) not in self.pool.items}
            assert lost <= self.pool.differences().keys()

    @invariant()
    def two_sandboxes_never_share(self) -> None:
        links = [lease.host_link for lease in self.leases.values()]
        addresses = [lease.ipv4 for lease in self.leases.values()]
        assert len(set(links)) == len(links)
        assert len(set(addresses)) == len(addresses)


TestPoolLife = PoolLife.TestCase
TestPoolLife.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
