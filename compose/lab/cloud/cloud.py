"""A cloud that runs: an account, the API over it, faults on purpose, and the world that follows it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from types import TracebackType

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.api import Api
from compose.lab.cloud.core.faults import FaultPlan
from compose.lab.cloud.world import Fabric, World


class Cloud:
    """Runs while its context is open. Unix time throughout: signatures and creation times need it."""

    def __init__(self, account: Account, fabric: Fabric, clock: Callable[[], float] = time.time) -> None:
        self.account = account
        self.fabric = fabric
        self.clock = clock
        self.api = Api(account)
        self.faults = FaultPlan()
        self.world = World(account, fabric, clock)
        self.calls = 0
        """OpenAPI calls answered so far."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Cloud":
        self._task = asyncio.create_task(self.world.run(), name="lab-world")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
