"""All that eni_manager knows of the node at one moment, and how ipam sees it. Changed by facts only."""

from collections.abc import Callable, Iterable, Mapping

from services.eni_manager.core.machine import LEAVING, State
from services.eni_manager.core.model import Eni, Fact, Limits, SlotState, apply
from services.eni_manager.core.placement import Blocks, Plan, ipv6_of
from shared.contracts.eni import EniAddress, EniView, Inventory, PodRange
from shared.model import Ip, Mode

GIVING_BACK = (
    "UnassignPrivateIpAddresses",
    "UnassignIpv6Addresses",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "DeleteRouteEntries",
)
"""Calls that make the node hold less."""


class Fleet:
    """The node's ENIs. `on_change` is called after everything that changes the inventory."""

    def __init__(self, *, epoch: str, mode: Mode, on_change: Callable[[], None] = lambda: None) -> None:
        self.enis: dict[str, Eni] = {}
        self.epoch, self.mode, self.on_change = epoch, mode, on_change
        self.generation = 0
        self.synced = False
        self.limits = Limits(0, 0)
        self.dual = False
        """Pool items are pairs of an IPv4 and an IPv6 address."""
        self.partners: dict[Ip, Ip] | None = None
        """Pairs that pods have, as ipam says; None: it has not said anything yet."""
        self.total = 0
        self.waiting = 0
        self.targets: dict[str, int] = {}
        self.in_flight: dict[str, int] = {}
        self.blocks = Blocks()
        self.plan = Plan()
        self.troubles: dict[str, str] = {}
        self.warnings: dict[str, str] = {}
        self.ranges: tuple[PodRange, ...] = ()
        """Of mode vpc-route; empty until they are known."""
        self.refused = ""
        """Why the mode may not run here now; empty: it may."""

    def apply(self, facts: Iterable[Fact]) -> None:
        """Take over facts that the journal has written."""
        for fact in facts:
            apply(self.enis, fact)
        self.changed()

    def changed(self) -> None:
        """The inventory differs from what was last shown."""
        self.generation += 1
        self.on_change()

    def set_synced(self, synced: bool) -> None:
        """Beliefs have been compared with the cloud once."""
        if self.synced != synced:
            self.synced = synced
            self.changed()

    def set_limits(self, limits: Limits) -> None:
        """What the instance type allows, less what foreign ENIs take."""
        if self.limits != limits:
            self.limits = limits
            self.changed()

    def set_refused(self, why: str) -> None:
        """The mode may not run, so nothing is given to pods; empty: it may."""
        if self.refused != why:
            self.refused = why
            self.changed()

    def set_ranges(self, ranges: tuple[PodRange, ...]) -> None:
        """The node's pod ranges, and whether the VPC routes them here."""
        if self.ranges != ranges:
            self.ranges = ranges
            self.changed()

    def set_plan(self, plan: Plan) -> None:
        """What placement decided last. Only what blocks it shows in the inventory."""
        before, self.plan, self.targets = self.plan, plan, dict(plan.targets)
        if (before.blocked, before.retry_at) != (plan.blocked, plan.retry_at):
            self.changed()

    @property
    def short_of_demand(self) -> bool:
        """Is more asked for than there is and will be?"""
        there = sum(eni.expected + self.in_flight.get(name, 0) for name, eni in self.enis.items())
        return self.total > there - sum(self.stuck(0.0).values())

    def stuck(self, now: float) -> dict[str, int]:
        """How many addresses of each ENI no pod can be given, because the cloud refuses it IPv6 addresses."""
        if not self.dual:
            return {}
        held_up = {name: eni for name, eni in self.enis.items() if self.blocks.get(ipv6_of(name), now) is not None}
        return {name: len(eni.halves) for name, eni in held_up.items() if eni.state not in LEAVING and eni.halves}

    def set_trouble(self, subject: str, why: str) -> None:
        """A call about `subject` (an ENI's name, or the node) fails in a way that passes; empty: it has worked."""
        if self.troubles.get(subject, "") == why:
            return
        if why:
            self.troubles[subject] = why
        else:
            del self.troubles[subject]
        self.changed()

    def set_warnings(self, about: str, found: Mapping[str, str]) -> None:
        """What people should mend about `about`, all of it: subject -> a sentence."""
        others = {subject: text for subject, text in self.warnings.items() if not subject.startswith(f"{about} ")}
        now = others | {f"{about} {subject}": text for subject, text in found.items()}
        if now != self.warnings:
            self.warnings = now
            self.changed()

    @property
    def blocked(self) -> str:
        """Why demand cannot be met now; empty while nothing is in the way."""
        if self.refused:
            return self.refused
        if self.mode is Mode.VPC_ROUTE:
            routed = self.ranges and all(one.usable for one in self.ranges)
            return "" if routed else "; ".join(sorted(set(self.troubles.values())))
        if self.plan.blocked:
            return self.plan.blocked
        held = sum(eni.count((SlotState.VALID,)) for eni in self.enis.values() if eni.state is State.READY)
        return "; ".join(sorted(set(self.troubles.values()))) if held < self.total else ""

    @property
    def releasing(self) -> list[str]:
        """Calls that give something back to the cloud and fail now, with the reason."""
        return [f"{action}: {why}" for action in GIVING_BACK if (why := self.troubles.get(f"call {action}"))]

    def inventory(self, now: float) -> Inventory:
        """What ipam is told. ENIs that the cloud has not made yet hold nothing and are left out."""
        retry_at = self.plan.retry_at
        return Inventory(
            epoch=self.epoch,
            generation=self.generation,
            synced=not self.refused and (bool(self.ranges) if self.mode is Mode.VPC_ROUTE else self.synced),
            mode=self.mode,
            capacity=self.limits.capacity,
            enis=[
                _view(eni, dual=self.dual, exclusive=self.mode is Mode.EXCLUSIVE_ENI)
                for _, eni in sorted(self.enis.items())
                if eni.id is not None and eni.slots and not self.refused
            ],
            blocked=self.blocked,
            blocked_retry_after=None if retry_at is None else max(0.0, retry_at - now),
            addresses_per_eni=self.limits.per_eni,
            warnings=sorted(self.warnings.values()),
            releasing=self.releasing,
            ranges=list(self.ranges),
            refused=self.refused,
            dual=self.dual or self.mode is Mode.VPC_ROUTE,  # whose ranges are those that pods may have
        )


def _view(eni: Eni, *, dual: bool, exclusive: bool) -> EniView:
    """`exclusive`: the ENI is the item, by its primary address; others, of an earlier mode, are on their way out."""
    assert eni.id is not None and eni.mac is not None
    addresses = [
        EniAddress(
            ipv4=slot.ipv4,
            ipv6=slot.ipv6,
            primary=slot.primary,
            usable=eni.state is State.READY and slot.state is SlotState.VALID and (slot.ipv6 is not None or not dual),
            gone=eni.state is State.DRAINING or slot.state is SlotState.MISSING,
        )
        for _, slot in sorted(eni.slots.items())
        if slot.primary or not exclusive
    ]
    return EniView(
        id=eni.id,
        mac=eni.mac,
        state=str(eni.state),
        addresses=addresses,
        max_addresses=eni.max_slots,
        vswitch=eni.vswitch,
        subnet4=eni.subnet4,
        subnet6=eni.subnet6,
        spare6=list(eni.spare6),
    )
