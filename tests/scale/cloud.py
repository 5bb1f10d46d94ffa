"""The lab's cloud as one process sees it: requests of the real clients, answered without a socket, on virtual time.

`Door` stands in for aiohttp's session: what the OpenAPI client has signed and what the metadata client asks is answered
by the lab's account, with its signatures, tokens, throttle and delays, after the time that a network takes.
"""

import asyncio
import random
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import msgspec
import yarl

from compose.lab.cloud import Account, Cloud, NullFabric
from compose.lab.cloud.core import metadata
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.layout import Layout
from compose.lab.cloud.core.model import DELAYS, AccessKey, Instance
from compose.lab.cloud.core.throttle import Limits, Throttled

KEY, SECRET = "ak", "s3cr3t"  # of a cloud that is nowhere
ONE_WAY_S = (0.01, 0.06)


class Sky:
    """One account for all nodes. `made` and `refused` count calls by action."""

    def __init__(self, limits: Limits, chance: random.Random) -> None:
        loop = asyncio.get_running_loop()
        began, now = time.time(), loop.time()
        self.account = Account(Layout(limits=limits), delays=DELAYS["real"])
        self.account.add_key(AccessKey(KEY, SECRET))
        self.cloud = Cloud(self.account, NullFabric(), clock=lambda: began + loop.time() - now)
        self.chance = chance
        self.made: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def machine(self, name: str, instance_type: str) -> Instance:
        """A new instance."""
        return self.account.run_instance(name, vswitch="vsw-lab-a", instance_type=instance_type, now=self.cloud.clock())

    async def call(self, method: str, parameters: dict[str, str]) -> tuple[int, bytes]:
        """The OpenAPI's answer to a signed request."""
        action = parameters["Action"]
        self.made[action] += 1
        try:
            call = self.cloud.api.admit(method, parameters, self.cloud.clock())
            body = self.cloud.api.carry_out(call, self.cloud.clock())
            if call.action.changes:
                await self.cloud.world.settle()
        except CloudError as error:
            if isinstance(error, Throttled):
                self.refused[action] += 1
            return error.status, msgspec.json.encode({"Code": error.code, "Message": error.message})
        return 200, msgspec.json.encode({"RequestId": "r", **body})

    async def road(self) -> None:
        """The way there, or back."""
        await asyncio.sleep(self.chance.uniform(*ONE_WAY_S))


class Door:
    """One node's session with `sky`: of aiohttp's, what our clients use."""

    def __init__(self, sky: Sky, instance: Instance) -> None:
        self._sky, self._instance = sky, instance

    def request(self, method: str, url: Any, **kwargs: Any) -> Any:
        """The OpenAPI."""
        return _Exchange(self._sky, self._sky.call(method, dict(yarl.URL(str(url), encoded=True).query)))

    def get(self, url: Any, **kwargs: Any) -> Any:
        """The metadata service."""
        return _Exchange(self._sky, self._said(str(url).partition("/latest/meta-data/")[2]), far=False)

    def put(self, url: Any, **kwargs: Any) -> Any:
        """It knows no session tokens."""
        return _Exchange(self._sky, self._nothing(), far=False)

    async def _said(self, path: str) -> tuple[int, bytes]:
        sky = self._sky
        sky.account.advance(sky.cloud.clock())
        text = metadata.lookup(sky.account, self._instance, path, sky.cloud.clock())
        return (404, b"") if text is None else (200, text.encode())

    async def _nothing(self) -> tuple[int, bytes]:
        return 404, b""


class _Exchange:
    """What `async with session.request(…) as response` needs."""

    def __init__(self, sky: Sky, answering: Any, *, far: bool = True) -> None:
        self._sky, self._answering, self._far = sky, answering, far
        self.status, self._body = 0, b""

    async def __aenter__(self) -> Self:
        if self._far:
            await self._sky.road()
        self.status, self._body = await self._answering
        if self._far:
            await self._sky.road()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def read(self) -> bytes:
        """The body."""
        return self._body

    async def text(self) -> str:
        """The same, decoded."""
        return self._body.decode()
