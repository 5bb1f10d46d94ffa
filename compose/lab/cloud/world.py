"""Keeps the account's calendar, and makes the fabric follow the account.

One task does both, so that links and addresses change in the order in which the account decided it.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, assert_never

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.model import (
    AddNode,
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

    def __init__(self, account: Account, fabric: Fabric, clock: Callable[[], float]) -> None:
        self._account = account
        self._fabric = fabric
        self._clock = clock
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
            case Plug(eni, mac, vswitch, node, addresses, primary, groups):
                await self._fabric.guard(eni, groups)
                await self._fabric.plug(eni, mac=mac, vswitch=vswitch, node=node, addresses=addresses, primary=primary)
                self._account.plugged(eni, self._clock())
            case Unplug(eni):
                await self._fabric.unplug(eni)
                self._account.unplugged(eni, self._clock())
            case Assign(eni, addresses):
                await self._fabric.assign(eni, addresses)
            case Unassign(eni, addresses):
                await self._fabric.unassign(eni, addresses)
            case DefineGroup(group):
                await self._fabric.define_group(group)
            case ForgetGroup(name):
                await self._fabric.forget_group(name)
            case Guard(eni, groups):
                await self._fabric.guard(eni, groups)
            case Route(destination, to):
                await self._fabric.route(destination, to)
            case _:
                assert_never(effect)
