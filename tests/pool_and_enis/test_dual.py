"""The same in dual stack: pool items are pairs, and each half has its own calls, its own people, its own losses.

What the machine of test_machine.py does and demands, it does and demands here too; below is what pairs add.
"""

import os
from collections.abc import Iterable

import pytest
from hypothesis.stateful import invariant

from services.eni_manager.core.machine import State
from services.eni_manager.core.model import SlotState
from services.ipam.core.pool import item_id
from shared.contracts.ipam import Lease
from shared.model import EniId, Ip
from tests.pool_and_enis.test_machine import DONE, MUST_BE_DONE, STEPS, PoolAndEnis, live_through_everything

DUAL_STEPS = int(os.environ.get("POOL_AND_ENIS_STEPS", "1500"))


class Pairs(PoolAndEnis):
    dual = True

    # ---- people, who know both families

    def somebody_takes_an_address(self, which: int) -> None:
        there = sorted((eni.id, ip) for eni in self.cloud.ours() for ip in eni.ips6)
        if which % 2 or not there:
            super().somebody_takes_an_address(which // 2)
            return
        DONE["IPv6 address taken outside"] += 1
        self.cloud.unassign6_outside(*there[which // 2 % len(there)])

    def somebody_assigns_an_address(self, which: int) -> None:
        there = sorted(eni.id for eni in self.cloud.ours() if eni.status == "InUse")
        if which % 3 == 0 or not there:
            super().somebody_assigns_an_address(which // 3)
            return
        DONE["IPv6 address assigned outside"] += 1
        eni = there[which // 3 % len(there)]
        self.cloud.assign6_outside(eni, self._lost_by_a_pod(eni) if which % 3 == 1 else None)

    def _lost_by_a_pod(self, eni: EniId) -> Ip | None:
        """What would make a pod whole again."""
        here = self._here6()
        lost = (lease.ipv6 for lease in self.leases() if lease.eni_id == eni)
        return next((ip for ip in lost if ip is not None and ip not in here), None)

    def _here6(self) -> dict[Ip, EniId]:
        return {ip: eni.id for eni in self.cloud.enis.values() if eni.instance for ip in eni.ips6}

    # ---- what must hold

    def _known(self) -> Iterable[list[Lease]]:
        return (self.leases(), [s.lease for s in self.sandboxes.values() if s.lease is not None])

    @invariant()
    def every_lease_is_of_a_pair_and_no_half_is_in_two(self) -> None:
        for known in self._known():
            held = [lease.ipv6 for lease in known]
            assert None not in held, f"an IPv4 address alone: {held}"
            assert len(held) == len(set(held)), f"doubled: {sorted(map(str, held))}"

    @invariant()
    def the_pair_that_was_answered_is_durable(self) -> None:
        durable = {lease.key: lease.addresses for lease in self.leases()}
        for sandbox in self.sandboxes.values():
            if sandbox.lease is not None and not self.lost:
                assert durable.get(sandbox.wish.key) == sandbox.lease.addresses

    @invariant()
    def a_leased_ipv6_address_is_assigned_unless_people_took_it(self) -> None:
        here = self._here6()
        for lease in self.leases():
            assert lease.ipv6 in here or lease.ipv6 in self.cloud.taken, f"{lease.ipv6} of {lease.pod} is not assigned"

    @invariant()
    def no_ipv6_address_is_in_two_pairs_and_only_whole_pairs_are_shown_usable(self) -> None:
        if self.eni is None:
            return
        for eni in self.eni.fleet.enis.values():
            of = [slot.ipv6 for slot in eni.slots.values() if slot.ipv6 is not None] + list(eni.spare6)
            assert len(of) == len(set(of)), eni
        shown = [a for view in self.eni.fleet.inventory(0.0).enis for a in view.addresses if a.usable]
        assert all(address.ipv6 is not None for address in shown)

    def _agree(self) -> None:
        super()._agree()
        assert self.eni is not None
        assert self.ipam is not None
        assert self.ipam.ledger is not None
        fleet, reported = self.eni.fleet, self.ipam.ledger.pool.differences()
        by_id = {eni.id: eni for eni in fleet.enis.values()}
        for seen in self.cloud.ours():
            eni = by_id[seen.id]
            known = {slot.ipv6 for slot in eni.slots.values() if slot.ipv6 is not None} | set(eni.spare6)
            assert known == set(seen.ips6), f"{eni}: {seen.ips6}"
        here = self._here6()
        for lease in self.leases():
            assert lease.ipv6 is not None
            if here.get(lease.ipv6) != lease.eni_id:
                assert lease.key in reported, f"{lease.ipv6} of {lease.pod} is lost, and nobody says so: {by_id}"
        losers = {item_id(lease) for lease in self.leases()}
        for eni in fleet.enis.values():
            halves = {slot.item for slot in eni.halves} if eni.state is State.READY else set()
            assert halves <= losers, f"halves that no pod keeps from being completed: {eni}"
            lost = [slot for slot in eni.slots.values() if slot.state is SlotState.MISSING]
            assert {slot.item for slot in lost} <= losers, f"lost, unused, and not forgotten: {eni}"


@pytest.mark.timeout(max(300, STEPS // 20))
def test_nothing_doubles_or_leaks_in_either_family() -> None:
    must = {*MUST_BE_DONE, "IPv6 address taken outside", "IPv6 address assigned outside"}
    live_through_everything(Pairs, DUAL_STEPS, must)
