"""Faults on purpose: what is to go wrong, with what, at which node, how likely and how often."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

# fmt: off
Kind = Literal[
    "error", "delay", "lost_answer", "lost_effect", "stale", "empty", "never", "late",
    "cut_off", "down", "slow", "compacted", "detach", "unassign",
]
# fmt: on

METADATA, DEVICE, KUBERNETES, OUTSIDE = "metadata", "device", "kubernetes", "outside"

KINDS: dict[str, frozenset[str]] = {
    METADATA: frozenset({"error", "delay", "stale", "empty"}),
    DEVICE: frozenset({"never", "late"}),
    KUBERNETES: frozenset({"error", "cut_off", "down", "slow", "compacted"}),
    OUTSIDE: frozenset({"detach", "unassign"}),
    "": frozenset({"error", "delay", "lost_answer", "lost_effect", "stale"}),
}
"""What can go wrong with what; the last is for the OpenAPI's actions."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`action` is a pattern of action names (`Describe*`), or `metadata`, `device`, `kubernetes`, `outside`.

    Of a call to the OpenAPI:
    `error`: it has no effect and is answered with `code`, `message`, `status`.
    `delay`: it is carried out after `delay_s`.
    `lost_answer`: it is carried out and the connection is cut instead of an answer.
    `lost_effect`: it is answered as if it had been carried out.
    `stale`: it is answered from what the account was when the fault was added.

    Of the metadata service: `error` (`status`), `delay`, `stale` as above, `empty`: 200 with nothing in it; `path`
    is a pattern of what is asked for. Of a network interface's device: `never` appears, or `late`, after `delay_s`.
    Of the Kubernetes API: `error` for the next `times` requests, and until it is cleared `cut_off` (connections are
    taken and broken), `down` (its process has ended, its ports are closed; clearing starts it) or `slow` by `delay_s`;
    `compacted`: its past is forgotten, now. From `outside`, now: `detach` the interface `target`, or
    `unassign` the address `target`.
    """

    action: str
    kind: Kind = "error"
    code: str = "ServiceUnavailable"
    message: str = "The request has failed due to a temporary failure of the server."
    status: Annotated[int, Meta(ge=400, le=599)] = 503
    delay_s: Annotated[float, Meta(ge=0)] = 0.0
    times: Annotated[int, Meta(ge=1)] | None = None
    """How many calls it spoils; None: all, until it is cleared."""
    probability: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Of each call that fits."""
    after: Annotated[int, Meta(ge=0)] = 0
    """So many calls that fit go well before."""
    node: str = ""
    """Only calls that come from this node or are about its instance."""
    path: str = "*"
    target: str = ""
    id: str = ""
    """Given when it is added, to clear it by."""

    def __post_init__(self) -> None:
        allowed = KINDS.get(self.action, KINDS[""])
        if self.kind not in allowed:
            raise ValueError(f"{self.action} knows {', '.join(sorted(allowed))}, not {self.kind}")
        if self.action == OUTSIDE and not self.target:
            raise ValueError("`target` says which interface or address")


class _Entry:
    def __init__(self, fault: Fault, view: Any) -> None:
        self.fault, self.view = fault, view
        self.left, self.skip = fault.times, fault.after


class FaultPlan:
    """The faults in force, oldest first. `random` gives numbers in [0, 1)."""

    def __init__(self, random: Callable[[], float] = lambda: 0.0) -> None:
        self._entries: list[_Entry] = []
        self._random = random
        self._added = 0

    def add(self, fault: Fault, view: Any = None) -> Fault:
        """One more; of several that fit a call the oldest takes it. `view` is what a stale answer is made from."""
        self._added += 1
        fault = msgspec.structs.replace(fault, id=fault.id or f"f{self._added}")
        self._entries.append(_Entry(fault, view))
        return fault

    def clear(self, ids: Iterable[str] = ()) -> list[Fault]:
        """These work again; none named: everything does. Returns what was in force."""
        wanted = set(ids)
        gone = [e for e in self._entries if not wanted or e.fault.id in wanted]
        self._entries = [e for e in self._entries if e not in gone]
        return [e.fault for e in gone]

    def list(self) -> list[Fault]:
        """What is in force, with the calls that each may still spoil."""
        return [msgspec.structs.replace(e.fault, times=e.left, after=e.skip) for e in self._entries]

    def take(self, action: str, nodes: Iterable[str] = (), path: str = "") -> Fault | None:
        """What this call suffers; it counts. `nodes`: names and instance ids that it is about."""
        taken = self.take_with_view(action, nodes, path)
        return None if taken is None else taken[0]

    def take_with_view(self, action: str, nodes: Iterable[str] = (), path: str = "") -> tuple[Fault, Any] | None:
        """The same, with what a stale answer is made from."""
        if not self._entries:
            return None
        about = set(nodes)
        for entry in self._entries:
            if _fits(entry.fault, action, about, path):
                if entry.skip:
                    entry.skip -= 1
                    continue
                if entry.fault.probability < 1 and self._random() >= entry.fault.probability:
                    continue
                if entry.left is not None:
                    entry.left -= 1
                    if not entry.left:
                        self._entries.remove(entry)
                return entry.fault, entry.view
        return None


def _fits(fault: Fault, action: str, nodes: set[str], path: str) -> bool:
    if fault.action in KINDS or action in KINDS:
        named = fault.action == action
    else:
        named = fnmatchcase(action, fault.action)
    return named and (not fault.node or fault.node in nodes) and fnmatchcase(path, fault.path)
