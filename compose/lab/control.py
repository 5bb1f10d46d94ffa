"""Client of the cloud process's control interface: what the lab's commands ask of their cloud."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from shared.errors import BY_CODE, Internal, Unavailable

Json = dict[str, Any]


class NodeFacts(msgspec.Struct, frozen=True):
    """A node's machine as the cloud made it."""

    name: str
    instance_id: str
    instance_type: str
    zone: str
    vswitch: str
    gateway: str
    primary_eni: str
    mac: str
    primary_ip: str
    primary_ipv6: str = ""
    """Empty: the node has none."""


class Control:
    """Errors carry the cloud's own message; Unavailable when no cloud runs."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def add_node(self, name: str, *, instance_type: str, vswitch: str, ipv6: bool = False) -> NodeFacts:
        """A machine with its namespace and primary ENI, which has an IPv6 address where `ipv6` says so."""
        body = {"name": name, "instance_type": instance_type, "vswitch": vswitch, "ipv6": ipv6}
        return msgspec.convert(await self.send("POST", "/nodes", body), NodeFacts)

    async def state(self) -> Json:
        """Everything that the cloud knows."""
        answer: Json = await self.send("GET", "/state")
        return answer

    async def audit(self) -> Json:
        """The account against the kernel: `problems`, `enis`, `delivered`, …"""
        answer: Json = await self.send("GET", "/audit")
        return answer

    async def send(self, method: str, path: str, body: object = None) -> Any:
        """One request, decoded."""
        try:
            async with self._session.request(method, path, json=body) as answer:
                said = await answer.json()
                if answer.status < 400:
                    return said
        except (aiohttp.ClientConnectionError, aiohttp.ContentTypeError) as error:
            raise Unavailable(f"the lab's cloud does not answer: {error}") from error
        kind = BY_CODE.get(said.get("code", ""), Internal)
        raise kind(f"the lab's cloud: {said.get('message', said)}")


@asynccontextmanager
async def connect(socket: Path) -> AsyncIterator[Control]:
    """The control interface behind a Unix socket."""
    async with aiohttp.ClientSession(
        "http://cloud", connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=60)
    ) as session:
        yield Control(session)
