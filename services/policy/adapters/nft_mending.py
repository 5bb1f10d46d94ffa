"""Look at a table, compare, and make it as wanted, while others may write too."""

from collections.abc import Callable
from typing import Final

import msgspec

from services.policy.adapters.nfnetlink import NfSocket, Rejected, Request
from services.policy.adapters.nft_batch import Plan, complete, repairs, requests
from services.policy.adapters.nft_compiler import Forms
from services.policy.adapters.nft_seen import look
from services.policy.core.nft.model import Change, Table
from shared.crashpoint import crashpoint
from shared.log import get

log = get("policy.kernel")

_LOOKS: Final = 5
"""Attempts at a repair while others change the namespace's rules."""

UNKNOWN: Final = -1
"""No generation: somebody may have written."""


class Done(msgspec.Struct, frozen=True):
    """What was carried out: how many objects and lists of elements were touched, and which.

    `since` and `generation` are the namespace's before and after; nobody else wrote in between if `alone`.
    """

    steps: int
    took_s: float
    since: int
    generation: int
    touched: str = ""
    foreign: bool = False
    """Something was mended that no change of ours speaks of. Told of pods' tables only."""

    @property
    def alone(self) -> bool:
        """Whether the generation went up by our own transaction only."""
        return self.generation == (self.since + bool(self.steps)) & 0xFFFFFFFF


Transact = Callable[[NfSocket, list[Request]], tuple[int, int]]
"""Carries out one batch; the generations before and after."""


def mend(
    socket: NfSocket,
    wanted: Table,
    forms: Forms,
    transact: Transact,
    *,
    before: Callable[[Plan], None] = lambda plan: None,
) -> tuple[Plan, int, int]:
    """Look and mend; what was done, and the generations before and after. `before` is told what is about to be done.

    All of `wanted` must be compiled in `forms`.
    """
    for left in reversed(range(_LOOKS)):
        since = socket.generation()
        plan = repairs(look(socket, wanted.name, ignoring=dynamic(wanted)), wanted, forms)
        if socket.generation() != since and left:
            continue  # somebody wrote meanwhile: what was seen may never have been
        if not plan.steps:
            return plan, since, since
        before(plan)
        batch = list(requests(plan, wanted.name, forms))
        crashpoint("policy.repair.before_transaction")
        try:
            generations = transact(socket, batch)
        except Rejected as refused:
            if left > 1:
                continue
            log.warning("repair_refused", error=refused.message)
            plan = complete(wanted)
            generations = transact(socket, list(requests(plan, wanted.name, forms)))
        crashpoint("policy.repair.after_transaction")
        return plan, *generations
    raise AssertionError("the last attempt returns or raises")


def compare(socket: NfSocket, wanted: Table, forms: Forms) -> str:
    """What `mend` would touch, a clause; empty: nothing."""
    return summary(repairs(look(socket, wanted.name, ignoring=dynamic(wanted)), wanted, forms))


def dynamic(wanted: Table) -> frozenset[str]:
    """The sets that rules fill."""
    return frozenset(name for name, one in wanted.sets.items() if "dynamic" in one.flags)


def summary(plan: Plan) -> str:
    """What a plan touches, for a log and an event."""
    if plan.replace:
        return "the whole table"
    parts = {
        "chains": [chain.name for chain in (*plan.chains_added, *plan.chains_filled)] + plan.chains_removed,
        "sets": [one.name for one in plan.sets_added] + plan.sets_removed,
        "elements of": sorted({*plan.items_added, *plan.items_removed}),
    }
    return "; ".join(
        f"{what} {', '.join(names[:5])}{' …' * (len(names) > 5)}" for what, names in parts.items() if names
    )


def beyond(plan: Plan, change: Change) -> bool:
    """Whether a plan touches what a change does not: somebody else has been at it."""
    chains = {chain.name for chain in (*change.chains_added, *change.chains_changed)} | set(change.chains_removed)
    added = {one.name for one in change.sets_added}
    removed = {one.name for one in change.sets_removed}
    return (
        plan.replace
        or not chains.issuperset(chain.name for chain in (*plan.chains_added, *plan.chains_filled))
        or not chains.issuperset(plan.chains_removed)
        or not added.issuperset(one.name for one in plan.sets_added)
        or not removed.issuperset(plan.sets_removed)
        or not (added | change.elements_added.keys()).issuperset(plan.items_added)
        or not (removed | change.elements_removed.keys()).issuperset(plan.items_removed)
    )


def together(one: Change, other: Change) -> Change:
    """All that two changes touch. To be asked what that is, not to be carried out, unless one is empty."""
    if one.empty() or other.empty():
        return other if one.empty() else one
    return Change(
        sets_added=one.sets_added + other.sets_added,
        chains_added=one.chains_added + other.chains_added,
        chains_changed=one.chains_changed + other.chains_changed,
        chains_removed=one.chains_removed + other.chains_removed,
        sets_removed=one.sets_removed + other.sets_removed,
        elements_added={**one.elements_added, **other.elements_added},
        elements_removed={**one.elements_removed, **other.elements_removed},
    )
