"""A cloud that runs: an account, the API over it, faults on purpose, and the world that follows it."""

import asyncio
import contextlib
import copy
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.api import Api, Call
from compose.lab.cloud.core.faults import Fault, FaultPlan
from compose.lab.cloud.world import Fabric, World


class Cloud:
    """Runs while its context is open. Unix time throughout: signatures and creation times need it."""

    def __init__(self, account: Account, fabric: Fabric, clock: Callable[[], float] = time.time) -> None:
        self.account = account
        self.fabric = fabric
        self.clock = clock
        self.api = Api(account)
        self.faults = FaultPlan(random.random)
        self.world = World(account, fabric, clock, self.faults)
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

    def spoil(self, fault: Fault) -> Fault:
        """Put a fault of the OpenAPI, the metadata service or the devices in force; returns it with its id."""
        self.account.advance(self.clock())
        return self.faults.add(fault, copy.deepcopy(self.account) if fault.kind == "stale" else None)

    def rehearse(self, call: Call) -> dict[str, Any]:
        """The answer of an account that is thrown away. Raises CloudError."""
        double = copy.deepcopy(self.account)
        body = self.api.carry_out(call, self.clock(), view=double)
        self.account.skip_ids_of(double)
        return body
