"""The instance metadata service (terway.md §6.7), with session tokens ("v2").

Under throttling it answers 200 with nothing in it. An empty answer is therefore an error and asked again, never
"there is none"; only 404 says that something does not exist.
"""

import asyncio
import random
import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Final

import aiohttp
import msgspec

from shared.backoff import Backoff
from shared.errors import NotFound, Unavailable
from shared.model import Cidr, EniId, Ip, Mac, Subnet

BASE_URL: Final = "http://100.100.100.200"
BACKOFF: Final = Backoff(0.5, 1.2, steps=4)
TIMEOUT_S: Final = 30.0
TOKEN_TTL_S: Final = 21_600
TOKEN_SPARE_S: Final = 300.0
"""A session token is renewed this long before it expires."""

Observer = Callable[[str, bool, float], None]
"""Told of each attempt: path without ids, failed, seconds."""


class RoleCredentials(msgspec.Struct, frozen=True, rename="pascal"):
    """What `ram/security-credentials/<role>` answers. Never logged."""

    access_key_id: str
    access_key_secret: str
    security_token: str
    expiration: str
    code: str = "Success"


class Metadata:
    """A client of one instance's metadata; needs no closing but its session's."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        base_url: str = BASE_URL,
        backoff: Backoff = BACKOFF,
        observe: Observer = lambda path, failed, took: None,
    ) -> None:
        self._session, self._base, self._backoff, self._observe = session, base_url.rstrip("/"), backoff, observe
        self._timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._token: str | None = None
        self._token_until = 0.0
        self._token_lock = asyncio.Lock()

    async def text(self, path: str) -> str:
        """The text under `latest/meta-data/<path>`. NotFound: 404. Unavailable: no proper answer in several tries."""
        failure: Unavailable | None = None
        for pause in self._backoff.attempts(random.random):
            await asyncio.sleep(pause)
            began, failed = time.perf_counter(), True
            try:
                answer = await self._get(path)
                failed = False
                return answer
            except Unavailable as error:
                failure = error
            except NotFound:
                failed = False
                raise
            finally:
                self._observe(_shape(path), failed, time.perf_counter() - began)
        assert failure is not None
        raise failure

    async def _get(self, path: str) -> str:
        url = f"{self._base}/latest/meta-data/{path}"
        try:
            headers = await self._headers()
            async with self._session.get(url, headers=headers, timeout=self._timeout) as response:
                status, text = response.status, (await response.text()).strip()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the metadata service does not answer: {str(error) or type(error).__name__}") from error
        if status in (401, 403):
            self._token = None
            raise Unavailable(f"the metadata service refuses our session token for {path} ({status})")
        if status == 404:
            raise NotFound(f"the metadata service has no {path}")
        if status != 200:
            raise Unavailable(f"the metadata service answers {status} for {path}")
        if not text:
            raise Unavailable(f"the metadata service answers nothing for {path}")
        return text

    async def _headers(self) -> dict[str, str]:
        """The session token's header, from one PUT however many ask; none where the service knows no tokens."""
        now = asyncio.get_running_loop().time()
        async with self._token_lock:
            if self._token is None or self._token_until <= now:
                headers = {"X-aliyun-ecs-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
                url = f"{self._base}/latest/api/token"
                async with self._session.put(url, headers=headers, timeout=self._timeout) as response:
                    text = (await response.text()).strip()
                    if response.status == 200 and text:
                        self._token = text
                    elif response.status in (404, 405):
                        self._token = ""
                    else:
                        raise Unavailable(f"the metadata service gives no session token ({response.status})")
                self._token_until = now + TOKEN_TTL_S - TOKEN_SPARE_S
        return {"X-aliyun-ecs-metadata-token": self._token} if self._token else {}

    # ---- the instance

    async def instance_id(self) -> str:
        """`i-…`"""
        return await self.text("instance-id")

    async def instance_type(self) -> str:
        """`ecs.g6.2xlarge`"""
        return await self.text("instance/instance-type")

    async def region(self) -> str:
        """`cn-hangzhou`"""
        return await self.text("region-id")

    async def zone(self) -> str:
        """`cn-hangzhou-h`"""
        return await self.text("zone-id")

    async def vswitch(self) -> str:
        """The vSwitch of the primary ENI."""
        return await self.text("vswitch-id")

    async def role_name(self) -> str:
        """The instance's RAM role; NotFound: it has none."""
        return (await self.text("ram/security-credentials/")).splitlines()[0].strip("/")

    async def role_credentials(self, role: str) -> RoleCredentials:
        """Temporary keys of the role. Unavailable: not given now, or not readable."""
        text = await self.text(f"ram/security-credentials/{role}")
        try:
            found = msgspec.json.decode(text, type=RoleCredentials)
        except msgspec.DecodeError as error:
            # from None: the cause would carry the text, and with it the keys
            raise Unavailable(f"the metadata service's credentials of {role} cannot be read: {error}") from None
        if found.code != "Success":
            raise Unavailable(f"the metadata service has no credentials of {role}: {found.code}")
        return found

    # ---- its ENIs

    async def eni_id(self, mac: Mac) -> EniId:
        """The id of the ENI with this MAC; NotFound: it is not attached, or not yet known to be."""
        return EniId(await self.text(f"network/interfaces/macs/{mac}/network-interface-id"))

    async def private_ipv4s(self, mac: Mac) -> frozenset[Ip]:
        """All its private IPv4 addresses."""
        text = await self.text(f"network/interfaces/macs/{mac}/private-ipv4s")
        try:
            return frozenset(Ip(str(ip_address(item))) for item in msgspec.json.decode(text, type=list[str]))
        except (msgspec.DecodeError, ValueError) as error:
            raise Unavailable(f"the metadata service lists the addresses of {mac} as {text[:80]!r}") from error

    async def ipv6s(self, mac: Mac) -> frozenset[Ip]:
        """All its IPv6 addresses; the metadata service lists them as `[a,b]`, and not at all when there are none."""
        try:
            text = await self.text(f"network/interfaces/macs/{mac}/ipv6s")
        except NotFound:
            return frozenset()
        try:
            if not (text.startswith("[") and text.endswith("]")):
                raise ValueError("no list")
            items = text[1:-1].split(",") if text[1:-1].strip() else []
            return frozenset(Ip(str(ip_address(item.strip().strip('"')))) for item in items)
        except ValueError as error:
            raise Unavailable(f"the metadata service lists the IPv6 addresses of {mac} as {text[:80]!r}") from error

    async def subnet4(self, mac: Mac) -> Subnet:
        """Its vSwitch's IPv4 range and gateway."""
        path = f"network/interfaces/macs/{mac}"
        cidr, gateway = await self.text(f"{path}/vswitch-cidr-block"), await self.text(f"{path}/gateway")
        return _subnet(cidr, gateway)

    async def subnet6(self, mac: Mac) -> Subnet | None:
        """Its vSwitch's IPv6 range and gateway; None: it has none."""
        path = f"network/interfaces/macs/{mac}"
        try:
            cidr, gateway = await self.text(f"{path}/vswitch-ipv6-cidr-block"), await self.text(f"{path}/ipv6-gateway")
        except NotFound:
            return None
        return _subnet(cidr, gateway)


def _subnet(cidr: str, gateway: str) -> Subnet:
    try:
        return Subnet(Cidr(str(ip_network(cidr))), Ip(str(ip_address(gateway))))
    except ValueError as error:
        raise Unavailable(f"the metadata service gives a range or gateway that is none: {error}") from error


def _shape(path: str) -> str:
    """The path without ids, as a metric's label: `network/interfaces/macs/<mac>/gateway`."""
    parts = path.split("/")
    if parts[:3] == ["network", "interfaces", "macs"] and len(parts) > 3 and parts[3]:
        parts[3] = "<mac>"
    if parts[:2] == ["ram", "security-credentials"] and len(parts) > 2 and parts[2]:
        parts[2] = "<role>"
    return "/".join(parts)
