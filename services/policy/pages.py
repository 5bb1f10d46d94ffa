"""The pages of a running calculation: what it told, why something may talk, and who may talk to whom.

    GET  /policy/dump                                       the dataplane's state in Felix's terms
    GET  /policy/explain?from=NS/POD&to=NS/POD&port=80/TCP  either may be an address;
         &all=true                                          also the policies that select neither
    POST /policy/compute?matrix=80/TCP,81/UDP               as `terwayctl policy compute --json`, on all that is live
         &messages=true&node=NODE&namespace=NS,NS           also the messages; for a node; a matrix of some namespaces

Questions about the cluster are answered in a thread from a copy, so that neither the answer changes while it is made
nor the calculation waits for it. One at a time: they are for people.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from aiohttp import web

from services.policy.core import nets, v1
from services.policy.core.datastore import Packed, pod_at, values
from services.policy.core.graph import Graph
from services.policy.core.matrix import Cell, Probe, probe_of
from services.policy.core.overview import Explanation, Overview
from services.policy.core.problems import Invalid, Problem
from services.policy.core.profiles import Compat
from services.policy.live import Live
from shared.dump import dump

T = TypeVar("T")

MAX_CELLS = 250_000
"""Of a matrix: some seconds of work. A larger question is asked in parts."""


class Computed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Each message as `{name: content}`."""

    messages: list[dict[str, object]]
    invalid: list[Problem]
    matrix: dict[str, dict[str, dict[str, Cell]]] | None = None


class Pages:
    """Handlers for HttpFace."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._asking = asyncio.Lock()

    def routes(self) -> Sequence[web.RouteDef]:
        """Where they are served."""
        return (
            web.get("/policy/dump", self._dump),
            web.get("/policy/explain", self._explain),
            web.post("/policy/compute", self._compute),
        )

    async def _dump(self, request: web.Request) -> web.Response:
        return _json(self._live.cluster.state.dump())

    async def _explain(self, request: web.Request) -> web.Response:
        source, destination, port = (request.query.get(name, "") for name in ("from", "to", "port"))
        if not (source and destination and port):
            return _refused("expected ?from=NAMESPACE/POD&to=NAMESPACE/POD&port=PORT/PROTOCOL")
        compat, everything = self._live.cluster.compat, request.query.get("all") == "true"
        try:
            probe = probe_of(port)
            return _json(
                await self._ask(
                    lambda packed: explanation(packed, compat, source, destination, probe, everything=everything)
                )
            )
        except ValueError as error:
            return _refused(str(error))

    async def _compute(self, request: web.Request) -> web.Response:
        query, cluster = request.query, self._live.cluster
        namespaces = frozenset(filter(None, query.get("namespace", "").split(",")))
        node = query.get("node") or None
        try:
            probes = [probe_of(text) for text in query["matrix"].split(",")] if query.get("matrix") else None
            matrix = None
            if probes is not None:
                matrix = await self._ask(lambda packed: matrix_of(packed, cluster.compat, probes, namespaces))
                if query.get("messages") != "true":
                    return _json(matrix)
            said = await self._ask(lambda packed: messages_of(packed, cluster.compat, node))
        except ValueError as error:
            return _refused(str(error))
        return _json(Computed(said, [problem for found in cluster.problems.values() for problem in found], matrix))

    async def _ask(self, answer: Callable[[Packed], T]) -> T:
        if not self._live.cluster.state.in_sync:
            raise web.HTTPServiceUnavailable(reason="the calculation is not in sync yet, /readyz says why")
        async with self._asking:
            return await asyncio.to_thread(answer, self._live.cluster.store.copy())


def explanation(
    packed: Packed, compat: Compat, source: str, destination: str, probe: Probe, *, everything: bool = False
) -> Explanation:
    """As the pods' own nodes see it. An address of a pod is that pod. Raises Invalid."""
    source, destination = _named(packed, source), _named(packed, destination)
    overview = Overview(values(packed), compat, only=(source, destination))
    return overview.explain(source, destination, probe, everything=everything)


def _named(packed: Packed, who: str) -> str:
    address = nets.address(who)
    return who if address is None else pod_at(packed, address) or address


def matrix_of(
    packed: Packed, compat: Compat, probes: list[Probe], namespaces: frozenset[str]
) -> dict[str, dict[str, dict[str, Cell]]]:
    """Raises Invalid when it would be too large."""
    pods = [
        key.workload
        for key in packed
        if isinstance(key, v1.WorkloadKey) and (not namespaces or key.workload.partition("/")[0] in namespaces)
    ]
    if (cells := len(pods) ** 2 * len(probes)) > MAX_CELLS:
        raise Invalid(
            "matrix",
            f"{len(pods)} pods and {len(probes)} ports are {cells} cells, more than {MAX_CELLS}: "
            "ask for fewer ports, or for some namespaces by &namespace=",
        )
    return Overview(values(packed), compat, only=pods).matrix(probes)


def messages_of(packed: Packed, compat: Compat, node: str | None) -> list[dict[str, object]]:
    """What a node is told, or, without one, a node that has all the pods."""
    graph = Graph(node, compat)
    for key, value in values(packed):
        graph.update(key, value)
    graph.in_sync()
    return [{type(message).__name__: msgspec.to_builtins(message)} for message in graph.flush()]


def _json(value: object) -> web.Response:
    return web.Response(body=dump(value) + b"\n", content_type="application/json")


def _refused(why: str) -> web.Response:
    return web.Response(body=dump({"error": why}) + b"\n", status=400, content_type="application/json")
