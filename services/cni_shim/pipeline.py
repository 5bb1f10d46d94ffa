"""The story of a pod: connected in three steps, each of which can be undone, and disconnected in the same three.

    ADD   ipam.acquire -> eni.plug -> policy.attach, where the pod's packets pass the node's own rules
          ipam.acquire -> policy.attach -> eni.plug, where they pass rules in the pod's namespace only: they are to be
                                                     there before the first packet can be
    DEL   policy.detach -> eni.unplug -> ipam.release

This is the only place that knows the order. Every step is idempotent on the attachment's key, so undoing an ADD *is*
a DEL, whatever the ADD had reached; and a DEL that cannot be done now because a neighbour is away waits in the spool.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import NamedTuple

from msgspec.structs import replace

from services.cni_shim.adapters.peers import Peer, to_the_end
from services.cni_shim.adapters.spool import Note, Spool
from services.cni_shim.core.frame import Call
from services.cni_shim.core.request import Add
from services.cni_shim.turns import Turns
from shared import log as logs
from shared.contracts import eni, ipam, policy
from shared.crashpoint import crashpoint
from shared.errors import DeadlineExceeded, SuiteError, Unavailable
from shared.model import AttachmentKey

log = logs.get(__name__)

AWAY = (Unavailable, DeadlineExceeded)
"""A neighbour that does not answer now; what it has been asked for may wait."""


class Peers(NamedTuple):
    """The neighbours."""

    ipam: Peer
    eni: Peer
    policy: Peer


class Budget(NamedTuple):
    """Moments on the event loop's clock, all before the shim's own deadline."""

    work_ends: float
    undo_ends: float

    @classmethod
    def within(cls, deadline_s: float) -> "Budget":
        """What a call that may take `deadline_s` from now on may use for its work and, after that, for undoing it."""
        now = asyncio.get_running_loop().time()
        return cls(now + 0.8 * deadline_s, now + 0.95 * deadline_s)


class Pipeline:
    """Connects and disconnects sandboxes."""

    def __init__(self, peers: Peers, spool: Spool, turns: Turns) -> None:
        self._peers = peers
        self._spool = spool
        self._turns = turns

    async def add(self, request: Add, netns: str, call: Call, budget: Budget) -> tuple[ipam.Lease, eni.Plugged]:
        """Connect a sandbox. After any error, or when the caller has gone, nothing of it is left."""
        key, ends, asked_at = request.key, budget.work_ends, time.time()
        async with self._turns.of(key, ends), AsyncExitStack() as undo:
            await self._honour_notes_of(key, ends)
            undo.push_async_callback(self._take_back, key, netns, call, budget.undo_ends)

            lease = await self._peers.ipam.ask(
                ipam.ACQUIRE,
                ipam.Acquire(key, request.pod, request.pod_uid, request.annotations, request.bandwidth),
                ends,
            )
            crashpoint("gateway.add.after_acquire")
            wired = replace(lease, host_peer=not request.disable_host_peer)
            plug = eni.Plug(wired, netns, request.mtu, request.host_stack)
            attach = policy.Attach(
                key, lease.pod, lease.pod_uid, lease.mode, lease.host_link, lease.addresses, netns, asked_at
            )
            first = lease.mode in policy.BEFORE_THE_LINK
            if first:
                await self._attach(attach, ends)
            plugged = await self._peers.eni.ask(eni.PLUG, plug, ends)
            crashpoint("gateway.add.after_plug")
            if not first:
                await self._attach(attach, ends)

            undo.pop_all()
        return lease, plugged

    async def _attach(self, attach: policy.Attach, ends: float) -> None:
        await self._peers.policy.ask(policy.ATTACH, attach, ends)
        crashpoint("gateway.add.after_attach")

    async def delete(self, key: AttachmentKey, netns: str | None, call: Call, budget: Budget) -> None:
        """Disconnect a sandbox, or leave a note to do it later; once begun it ends, whoever waits for it."""
        await to_the_end(self._delete(key, netns, call, budget.work_ends))

    async def disconnect(self, key: AttachmentKey, netns: str | None, ends: float) -> None:
        """The three steps of DEL; the caller has the attachment's turn. Success when nothing is there."""
        owed: SuiteError | None = None
        try:
            await self._peers.policy.ask(policy.DETACH, policy.Detach(key), ends)
        except AWAY as error:
            owed = error  # rules of a link that is gone harm nobody: an address does not wait for them
        crashpoint("gateway.del.after_detach")
        await self._peers.eni.ask(eni.UNPLUG, eni.Unplug(key, netns=netns), ends)
        crashpoint("gateway.del.after_unplug")
        await self._peers.ipam.ask(ipam.RELEASE, ipam.Release(key), ends)
        crashpoint("gateway.del.after_release")
        if owed is not None:
            raise owed

    async def honour(self, note: Note, ends: float) -> None:
        """Do a DEL that had to wait, unless an ADD of the same attachment has done it meanwhile."""
        async with self._turns.of(note.request.key, ends):
            if await self._spool.holds(note):
                await self._honour(note, ends)

    async def _delete(self, key: AttachmentKey, netns: str | None, call: Call, ends: float) -> None:
        try:
            async with self._turns.of(key, ends):
                await self.disconnect(key, netns, ends)
        except AWAY as error:
            await self._leave_note(key, call, error)

    async def _honour_notes_of(self, key: AttachmentKey, ends: float) -> None:
        """A DEL that waits comes before whatever is asked of the attachment now: later it would undo that."""
        for note in await self._spool.notes():
            if note.request.key == key:
                await self._honour(note, ends)

    async def _honour(self, note: Note, ends: float) -> None:
        await self.disconnect(note.request.key, None, ends)
        crashpoint("gateway.spool.before_done")
        await self._spool.done(note)
        log.info("note_honoured", key=str(note.request.key))

    async def _take_back(self, key: AttachmentKey, netns: str, call: Call, ends: float) -> None:
        """Undo an ADD. Its own errors are logged and not raised: the runtime is told why the ADD failed."""
        crashpoint("gateway.undo.before")
        try:
            try:
                await to_the_end(self.disconnect(key, netns, ends))
            except AWAY as error:
                await self._leave_note(key, call, error)
        except SuiteError as error:
            log.error("undo_failed", key=str(key), code=error.code, error=error.message)
        crashpoint("gateway.undo.after")

    async def _leave_note(self, key: AttachmentKey, call: Call, why: SuiteError) -> None:
        await self._spool.leave(call)
        crashpoint("gateway.spool.after_note")
        log.warning("delete_deferred", key=str(key), why=why.message)
