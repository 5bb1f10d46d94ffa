"""One sandbox with rules of its own: what it is, what is wanted of its table, and what the kernel is known to have."""

import random
from typing import Final

import msgspec

from services.policy.adapters.nft_mending import UNKNOWN, together
from services.policy.adapters.sandboxes import Sought, Where
from services.policy.core.messages import WorkloadEndpointID
from services.policy.core.nft.model import Change
from services.policy.core.nft.pod import PodTable, References
from services.policy.core.nft.settings import Settings
from shared.backoff import Backoff
from shared.model import AttachmentKey, Mode, PodKey, host_peer_name

SEARCHES: Final = Backoff(initial_s=5.0, factor=2.0, jitter=0.2, cap_s=60.0)
"""A namespace that was not found may have ended, or its pod is being wired."""
RETRIES: Final = Backoff(initial_s=0.05, factor=2.0, jitter=1.0, cap_s=5.0)
"""After a namespace refused."""


class Beside(msgspec.Struct, frozen=True):
    """Where the node's own stack is, of a pod whose link is not the node's (shared-ipvlan): eni_manager says it."""

    own: tuple[str, ...] = ()
    """The node's addresses. What it passes on to the pod bears them, and was judged by the node."""
    host_stack: tuple[str, ...] = ()
    """What the pod reaches by it, Services among it, and the node judges when it knows the true destination."""


class Inside(msgspec.Struct, frozen=True):
    """A sandbox with rules of its own. `netns`: a path to it at this moment; empty: to be searched for."""

    key: AttachmentKey
    pod: PodKey
    uid: str
    addresses: tuple[str, ...]
    workload: WorkloadEndpointID
    netns: str = ""
    open: bool = False
    mode: Mode = Mode.EXCLUSIVE_ENI

    @property
    def sought(self) -> Sought:
        """What tells its namespace."""
        return Sought(self.key.ifname, self.addresses)


class Held:
    """One sandbox's table, and what is known of it in the kernel."""

    def __init__(self, inside: Inside, settings: Settings, beside: Beside, references: References) -> None:
        self.inside = inside
        judged = ""
        if inside.mode is Mode.EXCLUSIVE_ENI:
            judged = host_peer_name(inside.key.ifname)
        else:
            settings = msgspec.structs.replace(settings, host_addresses=beside.own, service_nets=beside.host_stack)
        self.table = PodTable(
            inside.workload,
            settings,
            open=inside.open,
            judged_link=judged,
            addresses=inside.addresses,
            references=references,
        )
        self.where: Where | None = None
        self.generation = UNKNOWN
        self.followed = False
        """Told of the host's table at least once: before, nothing is known of what is wanted."""
        self.staged = False
        """Told of something that is not in the kernel yet."""
        self.suspicious = True
        self.installed = False
        self.unwritten = Change()
        """What attempts that failed would have made: no foreign hand, when it is mended."""
        self.heard: int | None = None
        """The last generation that was heard of while it was written."""
        self.told_of: tuple[int, int] | None = None
        """The namespace that `Watching` was told of."""
        self.trouble = "not written yet"
        self.rests_until = float("-inf")
        self._delays = RETRIES.delays(random.random)
        self._searches = SEARCHES.delays(random.random)

    @property
    def due(self) -> bool:
        """Whether something is to be done."""
        return self.followed and (self.staged or self.suspicious)

    @property
    def starting(self) -> bool:
        """Whether an ADD waits for it."""
        return bool(self.inside.netns) and not self.installed

    def begin(self) -> Change:
        """What is to be written now. The table stays as it is until the next call."""
        self.suspicious = self.staged = False
        self.heard = None
        self.unwritten = together(self.unwritten, self.table.flush())
        return self.unwritten

    def heard_after(self, generation: int) -> bool:
        """Whether somebody wrote while it was written, and after us."""
        return self.heard is not None and later(self.heard, generation)

    def is_at(self, where: Where) -> bool:
        """Whether it is still there that its table is wanted: it may have been attached once more meanwhile."""
        return self.where is where

    def rest(self, now: float, *, search: bool = False) -> None:
        """It did not work; not again at once."""
        self.rests_until = now + next(self._searches if search else self._delays)

    def awake(self) -> None:
        """What it rested for may be over."""
        self.rests_until = float("-inf")

    def well(self) -> None:
        """It is as wanted."""
        self.trouble, self.installed, self.unwritten = "", True, Change()
        self._delays, self._searches = RETRIES.delays(random.random), SEARCHES.delays(random.random)


def later(generation: int, than: int) -> bool:
    """Of numbers that begin anew at 0 after the last."""
    return than == UNKNOWN or 0 < (generation - than) & 0xFFFFFFFF < 1 << 31
