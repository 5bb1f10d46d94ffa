"""Faults on purpose: what is to go wrong, with which action, how often."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`action` is an action's name or `*`.

    `error`: the call has no effect and is answered with `code`, `message`, `status`.
    `delay`: it is carried out after `delay_s`.
    `lost_answer`: it is carried out and the connection is cut instead of an answer.
    """

    action: str
    kind: Literal["error", "delay", "lost_answer"] = "error"
    code: str = "ServiceUnavailable"
    message: str = "The request has failed due to a temporary failure of the server."
    status: Annotated[int, Meta(ge=400, le=599)] = 503
    delay_s: Annotated[float, Meta(ge=0)] = 0.0
    times: Annotated[int, Meta(ge=1)] | None = None
    """How many calls it spoils; None: all, until it is cleared."""


class FaultPlan:
    """The faults in force, oldest first."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int | None]] = []

    def add(self, fault: Fault) -> None:
        """One more; of several that fit a call the oldest takes it."""
        self._left.append((fault, fault.times))

    def clear(self) -> None:
        """Everything works again."""
        self._left.clear()

    def list(self) -> list[Fault]:
        """What is in force, with the calls that each may still spoil."""
        return [msgspec.structs.replace(fault, times=left) for fault, left in self._left]

    def take(self, action: str) -> Fault | None:
        """What this call suffers; it counts."""
        for i, (fault, left) in enumerate(self._left):
            if fault.action in ("*", action):
                if left is not None:
                    self._left[i : i + 1] = [(fault, left - 1)] if left > 1 else []
                return fault
        return None
