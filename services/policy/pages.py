"""The pages of a running calculation: what it told, why something may talk, and who may talk to whom.

    GET  /policy/dump                                       the dataplane's state in Felix's terms
    GET  /policy/explain?from=NS/POD&to=NS/POD&port=80/TCP  either may be an address
    POST /policy/compute?matrix=80/TCP,81/UDP&namespace=NS  the matrix of some namespaces, or of all

Questions about the cluster are answered in a thread from a copy, so that neither the answer changes while it is made
nor the calculation waits for it. One at a time: they are for people.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from aiohttp import web

from services.policy.core.datastore import Packed
from services.policy.core.explain import Unknown, explain
from services.policy.core.survey import TooMany, probe, survey
from services.policy.live import Live
from shared.dump import dump

T = TypeVar("T")


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
            return _refused(400, "expected ?from=NAMESPACE/POD&to=NAMESPACE/POD&port=PORT/PROTOCOL")
        compat = self._live.cluster.compat
        try:
            asked = probe(port)
            return _json(await self._ask(lambda packed: explain(packed, compat, source, destination, asked)))
        except Unknown as error:
            return _refused(404, str(error))
        except ValueError as error:
            return _refused(400, str(error))

    async def _compute(self, request: web.Request) -> web.Response:
        texts = request.query.get("matrix", "")
        namespaces = frozenset(filter(None, request.query.get("namespace", "").split(",")))
        compat = self._live.cluster.compat
        try:
            probes = tuple(probe(text) for text in texts.split(",") if text)
            if not probes:
                return _refused(400, "expected ?matrix=PORT/PROTOCOL,…, and perhaps &namespace=NAMESPACE,…")
            found = await self._ask(lambda packed: survey(packed, compat, probes, namespaces))
        except TooMany as error:
            return _refused(413, f"{error}; ask for fewer ports, or for some namespaces by &namespace=")
        except ValueError as error:
            return _refused(400, str(error))
        return _json(found)

    async def _ask(self, answer: Callable[[Packed], T]) -> T:
        if not self._live.cluster.state.in_sync:
            raise web.HTTPServiceUnavailable(reason="the calculation is not in sync yet; see /readyz")
        async with self._asking:
            packed = self._live.cluster.store.copy()
            return await asyncio.to_thread(answer, packed)


def _json(value: object) -> web.Response:
    return web.Response(body=dump(value) + b"\n", content_type="application/json")


def _refused(status: int, why: str) -> web.Response:
    return web.Response(body=dump({"error": why}) + b"\n", status=status, content_type="application/json")
