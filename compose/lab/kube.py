"""The lab's own hand on the Kubernetes API: what a kubelet and a user of kubectl would write, by its Unix socket."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from shared.errors import Conflict, Invalid, NotFound, SuiteError, Unavailable

Json = dict[str, Any]
_ERRORS: dict[int, type[SuiteError]] = {400: Invalid, 404: NotFound, 409: Conflict, 422: Invalid, 503: Unavailable}


class Kube:
    """A few verbs on JSON objects; `path` is the part behind the server's name. Errors carry the API's own message."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> Json:
        """One object or a list."""
        return await self._send("GET", path)

    async def create(self, path: str, body: Mapping[str, object]) -> Json:
        """POST to a collection; Conflict when the name is taken."""
        return await self._send("POST", path, body=body)

    async def merge(self, path: str, patch: Mapping[str, object]) -> Json:
        """PATCH by merging; lists are replaced."""
        return await self._send("PATCH", path, body=patch, content_type="application/merge-patch+json")

    async def delete(self, path: str, *, grace_s: int | None = None) -> None:
        """DELETE; success when there is nothing. `grace_s` 0: at once, as a kubelet confirms."""
        query = "" if grace_s is None else f"?gracePeriodSeconds={grace_s}"
        try:
            await self._send("DELETE", path + query)
        except NotFound:
            return

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        try:
            async with self._session.request(
                method, path, json=body, headers={"Content-Type": content_type, "Accept": "application/json"}
            ) as answer:
                said: Json = await answer.json()
                if answer.status < 400:
                    return said
        except (aiohttp.ClientConnectionError, aiohttp.ContentTypeError) as error:
            raise Unavailable(f"Kubernetes API of the lab: {error}") from error
        kind = _ERRORS.get(answer.status, SuiteError)
        raise kind(str(said.get("message", f"{method} {path}: status {answer.status}")))


@asynccontextmanager
async def connect(socket: Path) -> AsyncIterator[Kube]:
    """The API behind a Unix socket."""
    async with aiohttp.ClientSession(
        "http://kube", connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=30)
    ) as session:
        yield Kube(session)
