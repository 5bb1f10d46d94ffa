"""What is wrong with an object, said with its field: the calculation's only exception, and its report.

An object that cannot be used never stops the calculation. It counts as deleted, or loses the part that is wrong, as the
original does; either way there is a Problem, so that somebody hears of a policy that enforces less than it says.
"""

import msgspec


class Invalid(ValueError):
    """A value that cannot be used: `field` is a path such as `spec.ingress[0].destination.ports`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class Problem(msgspec.Struct, frozen=True):
    """`effect` says what became of the object: `dropped`, `rule dropped`, `selector ignored`, `refused`, `noted`."""

    kind: str
    namespace: str
    name: str
    field: str
    reason: str
    effect: str = "dropped"

    def __str__(self) -> str:
        who = f"{self.namespace}/{self.name}" if self.namespace else self.name
        where = f" {self.field}" if self.field else ""
        return f"{self.kind} {who}:{where} {self.reason} ({self.effect})"
