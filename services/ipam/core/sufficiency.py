"""The node condition SufficientIP (terway.md §3.2): can this node give addresses to more pods?"""

import msgspec

from services.ipam.core.pool import ItemState, Pool
from services.ipam.core.sizing import Counts

TYPE = "SufficientIP"


class Sufficiency(msgspec.Struct, frozen=True):
    """`sufficient` False: no address is idle, and none can be had now. `message` says why."""

    sufficient: bool
    message: str = ""

    @property
    def reason(self) -> str:
        """One CamelCase word, as Terway says it."""
        return "SufficientIP" if self.sufficient else "InsufficientIP"


def judge(pool: Pool, counts: Counts, now: float) -> Sufficiency | None:
    """None: not known yet.

    A node that is full without anybody waiting is no alarm: the kubelet's maxPods stands for that. Nor are addresses
    that will have cooled down in a moment, unless the cloud has refused more.
    """
    if not pool.synced:
        return None
    if counts.idle:
        return Sufficiency(sufficient=True)
    if pool.blocked:
        return Sufficiency(sufficient=False, message=pool.blocked)
    full = len(pool.items) >= pool.capacity and not counts.cooling
    if counts.waiting and full:
        taken = sum(pool.state(item, now) is ItemState.LEASED for item in pool.items)
        return Sufficiency(
            sufficient=False, message=f"{counts.waiting} pods wait, and {taken} of {pool.capacity} addresses are in use"
        )
    return Sufficiency(sufficient=True)
