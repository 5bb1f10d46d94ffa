"""Keeps the account's calendar, and makes the fabric follow the account.

One task does both, so that links and addresses change in the order in which the account decided it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, assert_never

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.faults import DEVICE, FaultPlan
from compose.lab.cloud.core.model import (
    AddNode,
    Appear,
    Assign,
    DefineGroup,
    Effect,
    ForgetGroup,
    Guard,
    Plug,
    RemoveNode,
    Route,
    SecurityGroup,
    Unassign,
    Unplug,
)
from shared import log as logs
from shared.model import Cidr, Ip, Mac

log = logs.get(__name__)


class Fabric(Protocol):
    """The network under the cloud. Each call returns when packets feel it; repeating one is free."""

    async def add_node(self, node: str) -> None:
        """A machine without links."""

    async def remove_node(self, node: str) -> None:
        """The machine and everything in it goes."""

    async def plug(
        self, eni: str, *, mac: Mac, vswitch: str, node: str, addresses: tuple[Ip | Cidr, ...], primary: bool
    ) -> None:
        """A device with this MAC appears in the machine; the primary one is configured, too."""

    async def unplug(self, eni: str) -> None:
        """Its device vanishes, wherever it is."""

    async def assign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """Packets from and for these addresses (of both families) and prefixes pass."""

    async def unassign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """They no longer pass."""

    async def define_group(self, group: SecurityGroup) -> None:
        """This is what the group's rules are from now on; comes before anyone is in it."""

    async def forget_group(self, group: str) -> None:
        """Nobody is in it any more."""

    async def guard(self, eni: str, groups: tuple[str, ...]) -> None:
        """These groups' rules apply to its packets, both ways; comes before it is plugged, and at each change."""

    async def route(self, destination: Cidr, eni: str | None) -> None:
        """The VPC routes these packets to this interface, attached or not; None: as if nobody had said so."""


class NullFabric:
    """No network at all: for tests of clients, and for accounts too large for one machine."""

    async def add_node(self, node: str) -> None:
        """Nothing."""

    async def remove_node(self, node: str) -> None:
        """Nothing."""

    async def plug(
        self, eni: str, *, mac: Mac, vswitch: str, node: str, addresses: tuple[Ip | Cidr, ...], primary: bool
    ) -> None:
        """Nothing."""

    async def unplug(self, eni: str) -> None:
        """Nothing."""

    async def assign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """Nothing."""

    async def unassign(self, eni: str, addresses: tuple[Ip | Cidr, ...]) -> None:
        """Nothing."""

    async def define_group(self, group: SecurityGroup) -> None:
        """Nothing."""

    async def forget_group(self, group: str) -> None:
        """Nothing."""

    async def guard(self, eni: str, groups: tuple[str, ...]) -> None:
        """Nothing."""

    async def route(self, destination: Cidr, eni: str | None) -> None:
        """Nothing."""


class World:
    """Runs beside the HTTP faces; `settle` waits until everything decided so far is done."""

    def __init__(
        self, account: Account, fabric: Fabric, clock: Callable[[], float], faults: FaultPlan | None = None
    ) -> None:
        self._account = account
        self._fabric = fabric
        self._clock = clock
        self._faults = faults or FaultPlan()
        self._absent: set[str] = set()
        """Interfaces that the account believes to be plugged in; their devices are late, or never come."""
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self.failures: list[str] = []
        """What the fabric could not do: bugs of the lab, for its state page."""

    async def settle(self) -> None:
        """Return when the fabric has done all that the account has decided."""
        done = asyncio.get_running_loop().create_future()
        self._waiters.append(done)
        self._wake.set()
        await done

    async def run(self) -> None:
        """For ever."""
        while True:
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            try:
                self._account.advance(self._clock())
                while effects := self._account.take_effects():
                    for effect in effects:
                        await self._carry_out(effect)
            finally:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
            await self._until_due()

    async def _until_due(self) -> None:
        due = self._account.next_due
        wait = None if due is None else max(0.0, due - self._clock())
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _carry_out(self, effect: Effect) -> None:
        try:
            await self._apply(effect)
        except Exception as e:
            log.exception("fabric_failed", effect=str(effect))
            self.failures = [*self.failures[-99:], f"{effect}: {e}"]

    async def _apply(self, effect: Effect) -> None:
        match effect:
            case AddNode(node):
                await self._fabric.add_node(node)
            case RemoveNode(node):
                await self._fabric.remove_node(node)
            case Plug(eni):
                if effect.primary or not self._held_back(effect):
                    await self._plug(effect)
                self._account.plugged(eni, self._clock())
            case Appear(eni, node):
                plug = self._account.plug_of(eni)
                if eni in self._absent and plug is not None and plug.node == node:
                    self._absent.discard(eni)
                    await self._plug(plug)
            case Unplug(eni):
                if eni not in self._absent:
                    await self._fabric.unplug(eni)
                self._absent.discard(eni)
                self._account.unplugged(eni, self._clock())
            case Assign(eni, addresses):
                if eni not in self._absent:
                    await self._fabric.assign(eni, addresses)
            case Unassign(eni, addresses):
                if eni not in self._absent:
                    await self._fabric.unassign(eni, addresses)
            case DefineGroup(group):
                await self._fabric.define_group(group)
            case ForgetGroup(name):
                await self._fabric.forget_group(name)
            case Guard(eni, groups):
                if eni not in self._absent:
                    await self._fabric.guard(eni, groups)
            case Route(destination, to):
                await self._fabric.route(destination, to)
            case _:
                assert_never(effect)

    async def _plug(self, plug: Plug) -> None:
        await self._fabric.guard(plug.eni, plug.groups)
        await self._fabric.plug(
            plug.eni,
            mac=plug.mac,
            vswitch=plug.vswitch,
            node=plug.node,
            addresses=plug.addresses,
            primary=plug.primary,
        )

    def _held_back(self, plug: Plug) -> bool:
        """A fault keeps the device away, for a while or for ever."""
        eni = self._account.enis.get(plug.eni)
        nodes = (plug.node, eni.instance or "") if eni else (plug.node,)
        if (fault := self._faults.take(DEVICE, nodes)) is None:
            return False
        self._absent.add(plug.eni)
        if fault.kind == "late":
            late, appear = (fault.delay_s, fault.delay_s), Appear(plug.eni, plug.node)
            self._account.calendar.after(late, self._clock(), partial(self._account.emit, appear))
        return True
