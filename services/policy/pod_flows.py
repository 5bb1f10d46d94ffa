"""Samples of tables inside pods' namespaces: the kernel hands them out only where the packet was, so a socket listens
in each such namespace, for as long as the flow log is on and the pod's table is there.

    pods.py --made--> adapters/kernel: a Group in the namespace --> the loop reads it --> flows.FlowLog
            --ended, or nobody has the namespace any more--> closed

A socket holds its namespace. So whether anybody else has it is looked at again and again: one whose runtime never said
DEL goes a little later than without the flow log, and its link and lease after it.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from services.policy.adapters.nflog import Group
from services.policy.adapters.sandboxes import Where
from services.policy.adapters.visits import Before, nothing
from services.policy.flows import FlowLog
from services.policy.pods import Inside
from shared.errors import SuiteError
from shared.health import Reporter
from shared.log import get
from shared.model import AttachmentKey

log = get("policy.flows")

T = TypeVar("T")

LOOK_S: Final = 10.0
"""How long a namespace may be kept by nothing but our socket."""
BUFFER: Final = 1 << 17
"""Bytes that wait to be read, of each pod."""


class Entering(Protocol):
    """What is asked of adapters/kernel.py."""

    async def made_in(self, where: Where, make: Callable[[], T]) -> T: ...
    async def unheld(self, held: list[Where]) -> list[Where]: ...
    def close_later(self, opened: Group) -> None: ...


class PodFlows:
    """Implements pods.Watching. Sockets are open until `close`, or until their pod has gone."""

    def __init__(self, flows: FlowLog, kernel: Entering, *, group: int) -> None:
        self._flows = flows
        self._kernel = kernel
        self._number = group
        self._wanted: dict[AttachmentKey, tuple[Inside, Where]] = {}
        self._groups: dict[AttachmentKey, Group] = {}
        self._troubled: set[AttachmentKey] = set()

    async def made(self, inside: Inside, where: Where) -> None:
        """A table is in force there."""
        self._wanted[inside.key] = inside, where
        await self._listen(inside.key)

    def ended(self, key: AttachmentKey) -> None:
        """Nobody listens there any more."""
        self._wanted.pop(key, None)
        self._troubled.discard(key)
        group = self._groups.pop(key, None)
        if group is not None:
            self._flows.unlisten(group)
            self._kernel.close_later(group)

    def filled(self, key: AttachmentKey) -> Before:
        """Samples are not counted."""
        return nothing

    async def run(self, reporter: Reporter) -> None:
        """Let go of what nobody else has, and listen where it did not work. Until cancelled."""
        while True:
            reporter.alive()
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """What `run` does now and then."""
        lost = await self._kernel.unheld([self._wanted[key][1] for key in self._groups])
        inodes = {where.inode for where in lost}
        for key in [key for key, (_, where) in self._wanted.items() if where.inode in inodes]:
            log.info("pod_gone", pod=str(self._wanted[key][0].pod))
            self.ended(key)
        for key in self._wanted.keys() - self._groups.keys():
            await self._listen(key)

    def close(self) -> None:
        """Everything."""
        for key in list(self._wanted):
            self.ended(key)

    def __len__(self) -> int:
        return len(self._groups)

    async def _listen(self, key: AttachmentKey) -> None:
        inside, where = self._wanted[key]
        try:
            group = await self._kernel.made_in(where, lambda: Group(self._number, buffer=BUFFER))
        except SuiteError as error:  # its policies are in force all the same
            if key not in self._troubled:
                log.warning("pod_flow_log_off", pod=str(inside.pod), why=error.message)
            self._troubled.add(key)
            return
        if self._wanted.get(key) != (inside, where) or key in self._groups:
            self._kernel.close_later(group)  # it went meanwhile
            return
        self._troubled.discard(key)
        self._groups[key] = group
        self._flows.listen(group)
