"""The OpenAPI's HTTP face: `GET /` or `POST /`, parameters in the query and in the form."""

import asyncio
import uuid
from typing import Any

import msgspec
from aiohttp import web
from multidict import MultiDict

from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.core.errors import CloudError


def routes(cloud: Cloud) -> list[web.RouteDef]:
    """What an application needs in order to be the OpenAPI of this cloud."""

    async def serve(request: web.Request) -> web.Response:
        parameters = await _parameters(request)
        try:
            call = cloud.api.admit(request.method, parameters, cloud.clock())
            fault = cloud.faults.take(call.action.name)
            if fault is not None and fault.kind == "error":
                raise CloudError(fault.code, fault.message, fault.status)
            if fault is not None and fault.kind == "delay":
                await asyncio.sleep(fault.delay_s)
            body = cloud.api.carry_out(call, cloud.clock())
            if call.action.changes:
                await cloud.world.settle()
        except CloudError as e:
            return _answer(cloud, {"Code": e.code, "Message": e.message, "HostId": request.host}, e.status)
        if fault is not None and fault.kind == "lost_answer" and request.transport is not None:
            request.transport.abort()
        return _answer(cloud, body, 200)

    return [web.get("/", serve), web.post("/", serve)]


async def _parameters(request: web.Request) -> dict[str, str]:
    both: MultiDict[str] = MultiDict(request.query)
    if request.content_type == "application/x-www-form-urlencoded":
        both.extend({k: v for k, v in (await request.post()).items() if isinstance(v, str)})
    return dict(both)


def _answer(cloud: Cloud, body: dict[str, Any], status: int) -> web.Response:
    request_id = str(uuid.uuid4()).upper()
    cloud.calls += 1
    return web.Response(
        body=msgspec.json.encode({"RequestId": request_id, **body}),
        status=status,
        content_type="application/json",
        headers={"x-acs-request-id": request_id},
    )
