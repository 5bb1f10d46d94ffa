"""The OpenAPI's HTTP face: `GET /` or `POST /`, parameters in the query and in the form, signed either way."""

import asyncio
import math
import uuid
from typing import Any

import msgspec
from aiohttp import web
from multidict import MultiDict

from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.core.api import Call
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.signature_v3 import Signed
from compose.lab.cloud.core.throttle import Throttled

_HELP = "https://api.alibabacloud.com/troubleshoot?q={code}"


def routes(cloud: Cloud) -> list[web.RouteDef]:
    """What an application needs in order to be the OpenAPI of this cloud."""

    async def serve(request: web.Request) -> web.Response:
        parameters = await _parameters(request)
        try:
            signed = await _signed(request)
            call = cloud.api.admit(
                request.method, parameters, cloud.clock(), signed=signed, source=request.remote or ""
            )
            body, answered = await _carry_out(cloud, call)
        except CloudError as e:
            return _refusal(cloud, e, request.host)
        if not answered and request.transport is not None:
            request.transport.abort()
        return _answer(cloud, body, 200)

    return [web.get("/", serve), web.post("/", serve)]


async def _carry_out(cloud: Cloud, call: Call) -> tuple[dict[str, Any], bool]:
    """The answer, and whether its caller gets it. Raises CloudError."""
    taken = cloud.faults.take_with_view(call.action.name, call.nodes)
    if taken is None:
        return await _do(cloud, call), True
    fault, view = taken
    match fault.kind:
        case "error":
            raise CloudError(fault.code, fault.message, fault.status)
        case "delay":
            await asyncio.sleep(fault.delay_s)
        case "lost_effect":
            return cloud.rehearse(call), True
        case "stale" if not call.action.changes:
            return cloud.api.carry_out(call, cloud.clock(), view=view), True
        case _:
            pass
    return await _do(cloud, call), fault.kind != "lost_answer"


async def _do(cloud: Cloud, call: Call) -> dict[str, Any]:
    body = cloud.api.carry_out(call, cloud.clock())
    if call.action.changes:
        await cloud.world.settle()
    return body


async def _parameters(request: web.Request) -> dict[str, str]:
    both: MultiDict[str] = MultiDict(request.query)
    if request.content_type == "application/x-www-form-urlencoded":
        both.extend({k: v for k, v in (await request.post()).items() if isinstance(v, str)})
    return dict(both)


async def _signed(request: web.Request) -> Signed | None:
    if "Authorization" not in request.headers:
        return None
    return Signed(
        method=request.method,
        path=request.rel_url.raw_path,
        query=dict(request.query),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await request.read(),
    )


def _refusal(cloud: Cloud, error: CloudError, host: str) -> web.Response:
    body = {"Code": error.code, "Message": error.message, "HostId": host, "Recommend": _HELP.format(code=error.code)}
    response = _answer(cloud, body, error.status)
    if isinstance(error, Throttled):
        response.headers["x-acs-retry-after"] = str(max(1, math.ceil(error.retry_after_s * 1000)))
    return response


def _answer(cloud: Cloud, body: dict[str, Any], status: int) -> web.Response:
    request_id = str(uuid.uuid4()).upper()
    cloud.calls += 1
    return web.Response(
        body=msgspec.json.encode({"RequestId": request_id, **body}),
        status=status,
        content_type="application/json",
        headers={"x-acs-request-id": request_id},
    )
