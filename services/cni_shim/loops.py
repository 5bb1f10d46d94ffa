"""What the gateway does without being asked: it honours deferred DELs and looks whether its neighbours listen."""

import asyncio

from services.cni_shim.adapters.spool import Spool
from services.cni_shim.pipeline import AWAY, Peers, Pipeline
from shared import log as logs
from shared.errors import SuiteError
from shared.health import Condition

log = logs.get(__name__)

NOTE_DEADLINE_S = 30.0


async def honour_notes(spool: Spool, pipeline: Pipeline) -> None:
    """Do every DEL that waits; stop at the first that finds a neighbour away, since the others would as well."""
    for note in await spool.notes():
        ends = asyncio.get_running_loop().time() + NOTE_DEADLINE_S
        try:
            await pipeline.honour(note, ends)
        except AWAY as error:
            log.info("notes_wait", waiting=spool.waiting, why=error.message)
            return
        except SuiteError as error:
            log.error("note_failed", key=str(note.request.key), code=error.code, error=error.message)


async def look_for_peers(peers: Peers, conditions: dict[str, Condition]) -> None:
    """Say in /readyz who is missing."""
    for peer in peers:
        if why := peer.reachable():
            conditions[peer.name].missing(why)
        else:
            conditions[peer.name].met()
