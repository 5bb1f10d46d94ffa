"""One function per CNI command: decode, do, reply. Whatever goes wrong becomes a CNI error object here."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import assert_never

from services.cni_shim.adapters.namespace import NoNamespace, held_namespace
from services.cni_shim.core.frame import Call
from services.cni_shim.core.reply import DONE, Reply, added, missing_from, refused
from services.cni_shim.core.request import Add, Check, Del, Gc, Request, Status, parse, stated_version
from services.cni_shim.core.spec import CniError, Code, told
from services.cni_shim.pipeline import AWAY, Budget, Peers, Pipeline
from services.cni_shim.turns import Turns
from shared import log as logs
from shared.contracts import eni, ipam, policy
from shared.errors import SuiteError

log = logs.get(__name__)

Observer = Callable[[str, int, float], None]
"""Told of each finished call: command, CNI error code or 0, seconds."""


class Handlers:
    """Answers calls of the shim."""

    def __init__(self, pipeline: Pipeline, peers: Peers, turns: Turns, observe: Observer) -> None:
        self._pipeline = pipeline
        self._peers = peers
        self._turns = turns
        self._observe = observe

    async def answer(self, call: Call, pid: int) -> Reply:
        """What the shim of process `pid` prints. Raises nothing but CancelledError."""
        began = time.perf_counter()
        error: CniError | None = None
        try:
            reply = await self._dispatch(parse(call.env, call.stdin), call, pid)
        except CniError as refusal:
            error = refusal
        except SuiteError as refusal:
            error = told(refusal)
        except Exception:
            log.exception("bug", command=call.env.get("CNI_COMMAND", ""))
            error = CniError(Code.INTERNAL, f"a bug in the gateway; its log has request {logs.request_id.get()}")
        if error is not None:
            reply = refused(error, stated_version(call.stdin))
        # Said on the loop's next round: the pod does not wait for our bookkeeping.
        asyncio.get_running_loop().call_soon(self._tell, call, error, time.perf_counter() - began)
        return reply

    def _tell(self, call: Call, error: CniError | None, seconds: float) -> None:
        command = call.env.get("CNI_COMMAND", "")
        self._observe(command, 0 if error is None else int(error.code), seconds)
        facts = {"command": command, "container": call.env.get("CNI_CONTAINERID", ""), "ms": round(seconds * 1000, 2)}
        if error is None:
            log.info("answered", **facts)
        else:
            log.warning("refused", **facts, code=int(error.code), error=error.message, details=error.details)

    async def _dispatch(self, request: Request, call: Call, pid: int) -> Reply:
        budget = Budget.within(call.deadline_s)
        match request:
            case Add():
                return await self._add(request, call, pid, budget)
            case Del():
                netns = _namespace_if_any(request, call, pid)
                await self._pipeline.delete(request.key, netns, call, budget)
            case Check():
                await self._check(request, call, pid, budget)
            case Gc():
                await self._gc(request, budget)
            case Status():
                await self._status(budget)
            case _:
                assert_never(request)
        return DONE

    async def _add(self, request: Add, call: Call, pid: int, budget: Budget) -> Reply:
        netns = _namespace(request.netns, call, pid, override=request.netns_override)
        lease, plugged = await self._pipeline.add(request, netns, call, budget)
        return added(request, lease, plugged)

    async def _check(self, request: Check, call: Call, pid: int, budget: Budget) -> None:
        """What ADD made is still there: reservation, wiring, rules, and prevResult speaks of the same (P12-P15)."""
        netns = _namespace(request.netns, call, pid, override=True)
        ends = budget.work_ends
        async with self._turns.of(request.key, ends):
            lease = (await self._peers.ipam.ask(ipam.INSPECT, ipam.Inspect(request.key), ends)).lease
            if lease is None:
                raise CniError(Code.DIFFERENCE, f"no address is reserved for {request.key}")
            problems = missing_from(request, lease)
            problems += (await self._peers.eni.ask(eni.CHECK, eni.Check(lease, netns, request.mtu), ends)).problems
            problems += (await self._peers.policy.ask(policy.CHECK, policy.CheckAttached(request.key), ends)).problems
        if problems:
            raise CniError(Code.DIFFERENCE, problems[0], "; ".join(problems[1:]))

    async def _gc(self, request: Gc, budget: Budget) -> None:
        """Disconnect what is not valid, all of it that can be; then say what could not (P21)."""
        ends = budget.work_ends
        failed: dict[str, SuiteError] = {}
        async with self._turns.alone(ends):
            leases = (await self._peers.ipam.ask(ipam.LEASES, ipam.ListLeases(request.network), ends)).leases
            wired = (await self._peers.eni.ask(eni.ATTACHMENTS, eni.ListAttachments(), ends)).attachments
            known = {lease.key for lease in leases} | {a.key for a in wired if a.key.network == request.network}
            for key in sorted(key for key in known if (key.container_id, key.ifname) not in request.valid):
                try:
                    await self._pipeline.disconnect(key, None, ends)
                except SuiteError as error:
                    failed[str(key)] = error
                else:
                    log.info("collected", key=str(key))
        if failed:
            raise CniError(
                Code.TRY_LATER if all(isinstance(error, AWAY) for error in failed.values()) else Code.INTERNAL,
                f"{len(failed)} attachments could not be removed",
                "; ".join(f"{key}: {error.message}" for key, error in failed.items()),
            )

    async def _status(self, budget: Budget) -> None:
        """Could an ADD be served now? 50 when not, 51 when running pods suffer too (P17)."""
        missing = [why for peer in self._peers if (why := peer.reachable())]
        if missing:
            raise CniError(Code.NOT_AVAILABLE, "; ".join(missing))
        try:
            status = await self._peers.ipam.ask(ipam.STATUS, ipam.AskStatus(), budget.work_ends)
        except SuiteError as error:
            raise CniError(Code.NOT_AVAILABLE, error.message) from error
        if not status.able:
            raise CniError(Code.NOT_AVAILABLE_LIMITED if status.existing_limited else Code.NOT_AVAILABLE, status.reason)


def _namespace(path: str, call: Call, pid: int, *, override: bool) -> str:
    """Where the shim holds CNI_NETNS open. CniError 8: it could not open it."""
    if call.netns is None or call.netns < 0:
        why = os.strerror(-call.netns) if call.netns else "nothing is there"
        raise CniError(Code.BAD_NETNS, f"CNI_NETNS {path!r} cannot be opened: {why}")
    return held_namespace(pid, call.netns, override=override)


def _namespace_if_any(request: Del, call: Call, pid: int) -> str | None:
    """DEL comes with a namespace, without one, or with one that has vanished; its mount point may be left."""
    if call.netns is None or call.netns < 0:
        return None
    try:
        return held_namespace(pid, call.netns, override=request.netns_override)
    except NoNamespace:
        return None
