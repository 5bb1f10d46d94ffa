"""What ipam may ask: the inventory, how much of it there should be, and taking items back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from services.eni_manager.core.fleet import Fleet
from shared import log as logs
from shared.contracts.eni import Demand, Demanded, GiveBack, GivenBack, Inventory, Watch
from shared.model import Ip

log = logs.get(__name__)


class News:
    """Wakes those who wait for the fleet to change."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def publish(self) -> None:
        """Something has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until the next change, at most `seconds`."""
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return


class InventoryHandlers:
    """`decide` wakes placement; `take_back` marks items as returning and `tidy` wakes the keepers that return them."""

    def __init__(
        self,
        fleet: Fleet,
        news: News,
        *,
        decide: Callable[[], None],
        take_back: Callable[[Sequence[Ip]], Awaitable[tuple[list[Ip], dict[Ip, str]]]],
        tidy: Callable[[], None],
    ) -> None:
        self._fleet, self._news = fleet, news
        self._decide, self._take_back, self._tidy = decide, take_back, tidy

    async def watch(self, request: Watch) -> Inventory:
        """A long poll: at once when the caller's picture is old, else with the next change or after `wait_s`."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + request.wait_s
        while (request.epoch, request.generation) == (self._fleet.epoch, self._fleet.generation):
            left = ends - loop.time()
            if left <= 0:
                break
            await self._news.wait(left)
        return self._fleet.inventory(time.time())

    async def demand(self, request: Demand) -> Demanded:
        """The last word counts."""
        fleet = self._fleet
        if fleet.partners is None:
            self._tidy()
        fleet.partners = request.pairs
        if (fleet.total, fleet.waiting) != (request.total, request.waiting):
            log.info("demand", total=request.total, waiting=request.waiting)
            fleet.total, fleet.waiting = max(0, request.total), max(0, request.waiting)
            self._decide()
        return Demanded()

    async def give_back(self, request: GiveBack) -> GivenBack:
        """Mark what no attachment uses; the keepers return it to the cloud."""
        accepted, refused = await self._take_back(request.items)
        log.info("given_back", accepted=accepted, refused=refused)
        self._tidy()
        return GivenBack(accepted=accepted, refused=refused)
