"""One loop that makes the world as it should be: soon after a poke, again after a failure, and now and then anyway."""

import asyncio
from collections.abc import Awaitable, Callable

from shared import log as logs
from shared.errors import Internal, SuiteError
from shared.health import Reporter

log = logs.get(__name__)


class ReconcileLoop:
    """Calls `fn` once at start, then whenever it is poked, `retry_s` after a failure, and at least every `resync_s`.

    Pokes within `settle_s` of one another, and all during a run, are one further run. `fn` looks at the state as it
    is, not at what changed, so no poke is lost by being merged. A failure is logged and does not end the loop.
    """

    def __init__(
        self,
        name: str,
        fn: Callable[[], Awaitable[None]],
        *,
        settle_s: float = 0.2,
        retry_s: float = 5.0,
        resync_s: float = 300.0,
        reporter: Reporter | None = None,
    ) -> None:
        self.name = name
        self._fn = fn
        self._settle_s = settle_s
        self._retry_s = retry_s
        self._resync_s = resync_s
        self._reporter = reporter
        self._poked = asyncio.Event()
        self.runs = 0
        """Finished runs, failed ones included."""
        self.last_error: Exception | None = None
        """What the last run failed with; None: it did not."""

    def poke(self) -> None:
        """Something may have changed: run soon. Costs nothing, may be called from anywhere on the loop."""
        self._poked.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._poked.clear()
            await self._once()
            await self._wait()

    async def _once(self) -> None:
        try:
            await self._fn()
        except Exception as error:
            if isinstance(error, SuiteError) and not isinstance(error, Internal):  # said by who knows why: no bug
                log.warning("reconcile_failed", loop=self.name, retry_s=self._retry_s, because=error.message)
            else:
                log.exception("reconcile_failed", loop=self.name, retry_s=self._retry_s)
            self.last_error = error
        else:
            self.last_error = None
        self.runs += 1
        if self._reporter is not None:
            self._reporter.alive()

    async def _wait(self) -> None:
        patience = self._resync_s if self.last_error is None else min(self._retry_s, self._resync_s)
        try:
            async with asyncio.timeout(patience):
                await self._poked.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._settle_s)  # more pokes may be on their way
