"""What is wrong with an object, said with its field: the calculation's only exception, and its report.

An object that cannot be used never stops the calculation. It counts as deleted, or loses the part that is wrong, as the
original does; either way there is a Problem, so that somebody hears of a policy that enforces less than it says.
"""

import re
from typing import Protocol

import msgspec


class Invalid(ValueError):
    """A value that cannot be used: `field` is a path such as `spec.ingress[0].destination.ports`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class Note(Protocol):
    """Called with a field and a reason when a part of an object does not come to what it says."""

    def __call__(self, field: str, reason: str, effect: str = "passed over") -> None: ...


def ignored(profile: str) -> str:
    """The effect on what a compat profile does not know."""
    return f"ignored by profile {profile}"


_RULE = re.compile(r"(spec\.(?:ingress|egress))\[[0-9]+\].*")


def place(error: Invalid, *, converted: bool) -> str:
    """The field in what was written. Of a converted policy the rules are others, so there it is all of them."""
    found = _RULE.fullmatch(error.field) if converted else None
    return found[1] if found else error.field


class Problem(msgspec.Struct, frozen=True):
    """`effect` says what became of it: the object was `dropped` or `refused`, a part `passed over` or `ignored by
    profile …`, or nothing, and it is only `noted`."""

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
