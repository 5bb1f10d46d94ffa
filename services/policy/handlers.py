"""What the gateway may ask of policy, one method per RPC."""

from typing import Protocol

from shared.contracts.policy import Attach, Attached, CheckAttached, Detach, Detached, PolicyChecked


class Handlers(Protocol):
    """One method per RPC; gate.py has those of a service that enforces."""

    async def attach(self, request: Attach) -> Attached: ...
    async def detach(self, request: Detach) -> Detached: ...
    async def check(self, request: CheckAttached) -> PolicyChecked: ...


class NothingEnforced:
    """The answers while NetworkPolicy is off or only observed: at once, without state, without the API server."""

    async def attach(self, request: Attach) -> Attached:
        """The pod may start; no rule applies to it."""
        return Attached(enforced=False)

    async def detach(self, request: Detach) -> Detached:
        """Nothing was attached, so nothing is left."""
        return Detached()

    async def check(self, request: CheckAttached) -> PolicyChecked:
        """Nothing should be in force, so nothing can be missing."""
        return PolicyChecked(problems=[])
