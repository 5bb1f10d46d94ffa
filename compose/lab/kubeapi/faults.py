"""What can go wrong between a client and its API server, on purpose."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from compose.lab.kubeapi.status import Refusal


class Faults:
    """Knobs; all off at first.

    `delay_s` holds back each answer. `refuse` makes the next requests fail with a Refusal (503, 429, 410, …).
    `go_away` resets every connection, old and new, until `come_back`: the server is down for its clients.
    `cut_watches()` breaks the connections of the watches that run now, as a load balancer would.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.closing = False
        self._away = False
        self._refusals: list[Refusal] = []
        self._watches: set[asyncio.Transport] = set()

    def refuse(self, refusal: Refusal, *, times: int = 1) -> None:
        """The next requests get this answer."""
        self._refusals.extend([refusal] * times)

    def cut_watches(self) -> int:
        """Reset the connections of all running watches; says how many."""
        cut = list(self._watches)
        for transport in cut:
            transport.abort()
        return len(cut)

    def go_away(self) -> None:
        """From now on nobody gets an answer."""
        self._away = True
        self.cut_watches()

    def come_back(self) -> None:
        """Answer again."""
        self._away = False

    @property
    def watches(self) -> int:
        """How many watches run now."""
        return len(self._watches)

    async def before(self, request: web.Request) -> None:
        """What happens to a request before it is looked at."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self._away:
            if request.transport is not None:
                request.transport.abort()
            raise Refusal(503, "ServiceUnavailable", "nobody will read this: the connection is gone")
        if self._refusals:
            raise self._refusals.pop(0)

    @contextmanager
    def watching(self, request: web.Request) -> Iterator[None]:
        """A watch runs on this request's connection."""
        transport = request.transport
        assert transport is not None
        self._watches.add(transport)
        try:
            yield
        finally:
            self._watches.discard(transport)
