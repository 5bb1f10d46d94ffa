"""An eni_manager that does as the test says: the real contracts on a real socket, over an inventory in memory.

It objects to what ipam must never do: demand more than the capacity, give back what it has not, or what is attached.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from shared.contracts import eni as contract
from shared.contracts.eni import EniAddress, EniView, Inventory
from shared.contracts.ipam import Lease
from shared.errors import Conflict, NotFound
from shared.model import AttachmentKey, Ip
from shared.rpc.server import Server
from tests.ipam.world import eni, inventory, ip


class ScriptedEniManager:
    def __init__(self, path: Path, view: Inventory, *, grows: bool = False) -> None:
        """`grows`: every demand is met at once, by addresses 101, 102, … on eni-9."""
        self.view = view
        self.grows = grows
        self.demands: list[contract.Demand] = []
        self.given_back: list[list[Ip]] = []
        self.refuse_once: dict[Ip, str] = {}
        self.attached: dict[AttachmentKey, bool] = {}
        self.plugged_with: dict[AttachmentKey, Lease] = {}
        """The leases of those that are attached; without one, it is known by its marks only."""
        self.cleared: list[AttachmentKey] = []
        self.unplugged: set[AttachmentKey] = set()
        self.limits: list[contract.Limit] = []
        self.objections: list[str] = []
        self._path = path
        self._news = asyncio.Condition()
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        server = Server(self._path, name="eni_manager")
        server.register(contract.WATCH, self._watch, long_poll=True)
        server.register(contract.DEMAND, self._demand)
        server.register(contract.GIVE_BACK, self._give_back)
        server.register(contract.ATTACHMENTS, self._attachments)
        server.register(contract.LIMIT, self._limit)
        server.register(contract.UNPLUG, self._unplug)
        await self._opened.enter_async_context(server)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.aclose()
        assert self.objections == []

    async def change(self, view: Inventory) -> None:
        """The inventory is now this one; its generation is the next."""
        async with self._news:
            self.view = msgspec.structs.replace(view, generation=self.view.generation + 1)
            self._news.notify_all()

    async def until(self, condition: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait until something that ipam says here makes `condition` true."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(condition)

    async def take_back(self, items: list[Ip]) -> None:
        """The cloud has confirmed that these left the node."""
        enis = [
            msgspec.structs.replace(view, addresses=[a for a in view.addresses if a.ipv4 not in items])
            for view in self.view.enis
        ]
        await self.change(msgspec.structs.replace(self.view, enis=enis))

    @property
    def addresses(self) -> set[Ip]:
        return {address.ipv4 for view in self.view.enis for address in view.addresses if address.ipv4}

    async def _watch(self, ask: contract.Watch) -> Inventory:
        def news() -> bool:
            return (ask.epoch, ask.generation) != (self.view.epoch, self.view.generation)

        async with self._news:
            try:
                async with asyncio.timeout(ask.wait_s):
                    await self._news.wait_for(news)
            except TimeoutError:
                pass
            return self.view

    async def _demand(self, ask: contract.Demand) -> contract.Demanded:
        if ask.total > self.view.capacity:
            self.objections.append(f"{ask} is more than the capacity")
        self.demands.append(ask)
        missing = ask.total - len(self.addresses)
        if self.grows and missing > 0:
            await self.change(msgspec.structs.replace(self.view, enis=[*self._others(), self._grown(missing)]))
        else:
            async with self._news:
                self._news.notify_all()
        return contract.Demanded()

    def _others(self) -> list[EniView]:
        return [view for view in self.view.enis if view.id != "eni-9"]

    def _grown(self, number: int) -> EniView:
        had = [a for view in self.view.enis if view.id == "eni-9" for a in view.addresses]
        first = 101 + len(had)
        more = [EniAddress(ipv4=ip(n) if n < 256 else Ip(f"192.168.1.{n - 256}")) for n in range(first, first + number)]
        return eni(9, *had, *more, max_addresses=500)

    async def _give_back(self, ask: contract.GiveBack) -> contract.GivenBack:
        if unknown := set(ask.items) - self.addresses:
            self.objections.append(f"{unknown} given back, but not there")
        refused = {item: self.refuse_once.pop(item) for item in ask.items if item in self.refuse_once}
        async with self._news:
            self.given_back.append(ask.items)
            self._news.notify_all()
        return contract.GivenBack([item for item in ask.items if item not in refused], refused)

    async def _limit(self, ask: contract.Limit) -> contract.Limited:
        if ask.key in self.unplugged:
            raise NotFound(f"{ask.key} is not plugged")
        async with self._news:
            self.limits.append(ask)
            self._news.notify_all()
        return contract.Limited()

    async def _attachments(self, ask: contract.ListAttachments) -> contract.Attachments:
        return contract.Attachments(
            [
                contract.Attachment(key, f"cali{n}", alive, self.plugged_with.get(key))
                for n, (key, alive) in enumerate(self.attached.items())
            ]
        )

    async def _unplug(self, ask: contract.Unplug) -> contract.Unplugged:
        if not ask.unless_alive:
            self.objections.append(f"{ask} would cut off a sandbox")
        if self.attached.get(ask.key):
            raise Conflict(f"{ask.key} is still connected")
        async with self._news:
            self.cleared.append(ask.key)
            self._news.notify_all()
        return contract.Unplugged(found=self.attached.pop(ask.key, None) is not None)


def empty(capacity: int = 30, *, synced: bool = True) -> Inventory:
    return inventory(synced=synced, capacity=capacity)
