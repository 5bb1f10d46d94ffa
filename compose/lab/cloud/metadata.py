"""The metadata service's HTTP face: the instance is known by the address that a request comes from."""

import asyncio
import secrets
from collections.abc import Callable

from aiohttp import web

from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.core.faults import METADATA, Fault
from compose.lab.cloud.core.metadata import MAX_TOKEN_TTL_S, MetadataTokens, lookup
from compose.lab.cloud.core.model import Instance

Who = Callable[[web.Request], Instance | None]
"""Which instance asks; None: none of ours."""

TTL_HEADER = "X-aliyun-ecs-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aliyun-ecs-metadata-token"  # noqa: S105 (a header's name)


class _Refused(web.HTTPException):
    def __init__(self, fault: Fault) -> None:
        self.status_code = fault.status  # aiohttp reads it from the class, and from the instance as well
        super().__init__(text=fault.message)


def by_source(cloud: Cloud) -> Who:
    """Whoever has the source address, node or pod on it."""
    return lambda request: cloud.account.instance_at(request.remote or "")


def routes(cloud: Cloud, who: Who, *, token_required: bool = False) -> list[web.RouteDef]:
    """What an application needs in order to be the metadata service of this cloud."""
    tokens = MetadataTokens()

    def asking(request: web.Request) -> Instance:
        if (instance := who(request)) is None:
            raise web.HTTPNotFound(text=f"no instance of this cloud has the address {request.remote}")
        return instance

    async def issue(request: web.Request) -> web.Response:
        instance = asking(request)
        ttl = request.headers.get(TTL_HEADER, "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TOKEN_TTL_S:
            raise web.HTTPBadRequest(text=f"{TTL_HEADER} must be 1 to {MAX_TOKEN_TTL_S}")
        token = secrets.token_urlsafe(32)
        tokens.issue(instance.id, token, int(ttl), cloud.clock())
        return web.Response(text=token, headers={TTL_HEADER: ttl})

    async def get(request: web.Request) -> web.Response:
        instance = asking(request)
        token = request.headers.get(TOKEN_HEADER)
        if token is None and token_required:
            raise web.HTTPForbidden(text=f"{TOKEN_HEADER} is required")
        if token is not None and not tokens.good(instance.id, token, cloud.clock()):
            raise web.HTTPUnauthorized(text="the token is unknown or expired")
        text = await _said(cloud, instance, request.match_info["path"])
        if text is None:
            raise web.HTTPNotFound(text="404 - Not Found")
        return web.Response(text=text)

    return [web.put("/latest/api/token", issue), web.get("/latest/meta-data/{path:.*}", get)]


async def _said(cloud: Cloud, instance: Instance, path: str) -> str | None:
    """What it says, with what is to go wrong on purpose. None: there is no such thing."""
    account = cloud.account
    machine: Instance | None = instance
    if taken := cloud.faults.take_with_view(METADATA, (instance.id, instance.name), path):
        fault, view = taken
        match fault.kind:
            case "error":
                raise _Refused(fault)
            case "delay":
                await asyncio.sleep(fault.delay_s)
            case "empty":
                return ""
            case "stale":
                account, machine = view, view.instances.get(instance.id)
    return None if machine is None else lookup(account, machine, path, cloud.clock())
