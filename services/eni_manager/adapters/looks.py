"""One Describe for all who want to look at an ENI at the same time.

Keepers poll while ENIs come and go, each its own. Who asks while a call is under way waits for the next one, which
asks for everybody's: an answer is never older than the question, and N keepers cost as many calls as one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.eni_manager.adapters.pacing import Urgency, current_urgency
from services.eni_manager.core.drift import CloudEni
from shared.errors import SuiteError
from shared.model import EniId

Describe = Callable[[Sequence[EniId]], Awaitable[list[CloudEni]]]


class _Flight:
    """One call: who is asked about, and what came of it."""

    def __init__(self) -> None:
        self.ids: set[EniId] = set()
        self.found: dict[EniId, CloudEni] | None = None
        self.error: SuiteError | None = None


class Looks:
    """See the module's docstring. A look for a waiting pod does not queue behind one that can wait."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._next = {urgency: _Flight() for urgency in Urgency}
        self._turns = {urgency: asyncio.Lock() for urgency in Urgency}

    async def look(self, eni: EniId) -> CloudEni | None:
        """How the cloud lists the ENI now; None: it does not. Raises what the call raises."""
        urgency = current_urgency()
        flight = self._next[urgency]
        flight.ids.add(eni)
        async with self._turns[urgency]:
            if flight.found is None and flight.error is None:  # else somebody has asked for us, and not given up
                await self._ask(flight, urgency)
        if flight.error is not None:
            raise flight.error
        assert flight.found is not None
        return flight.found.get(eni)

    async def _ask(self, flight: _Flight, urgency: Urgency) -> None:
        if self._next[urgency] is flight:
            self._next[urgency] = _Flight()
        try:
            flight.found = {seen.id: seen for seen in await self._describe(sorted(flight.ids))}
        except SuiteError as error:
            flight.error = error
