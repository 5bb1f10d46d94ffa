"""Three clients of the cloud behind one face: action and parameters by their names in the API reference.

Each builds its requests, signs, sends, and raises in its own way; none of its parts is replaced.
"""

import asyncio
import functools
import importlib
import json
from typing import Any, Protocol

import aiohttp
from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.auth.credentials import StsTokenCredential
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import RpcRequest

from services.eni_manager.adapters.credentials import Credentials, FixedKeys
from services.eni_manager.adapters.ecs import NO_RETRY, Ecs
from services.eni_manager.adapters.openapi import CloudError, Endpoints, OpenApi
from services.eni_manager.adapters.pacing import Buckets
from services.eni_manager.adapters.vpc import Vpc
from shared.backoff import Backoff
from shared.secret import Secret
from tests.contract.cloud import models

Answer = dict[str, Any]

VPC_ACTIONS = frozenset(
    {
        *("DescribeVSwitches", "CreateRouteEntry", "DeleteRouteEntry", "CreateRouteEntries", "DeleteRouteEntries"),
        *("DescribeRouteEntryList", "DescribeRouteTableList"),
    }
)


class Refused(Exception):
    """What a client raised, and what its user can read from it."""

    def __init__(self, raised: Exception, code: str, status: int, request_id: str) -> None:
        super().__init__(f"{type(raised).__name__}: {raised}")
        self.raised, self.code, self.status, self.request_id = raised, code, status, request_id


class Client(Protocol):
    """What the cases need of a client. `call` raises Refused."""

    async def call(self, action: str, **parameters: Any) -> Answer: ...


def official_request(action: str, parameters: dict[str, Any]) -> RpcRequest:
    """The first generation's request, made by its own setters."""
    package = "aliyunsdkvpc.request.v20160428" if action in VPC_ACTIONS else "aliyunsdkecs.request.v20140526"
    request = getattr(importlib.import_module(f"{package}.{action}Request"), f"{action}Request")()
    for name, value in parameters.items():
        setter = getattr(request, f"set_{name}", None) or getattr(request, f"set_{name}s", None)
        if setter is None:
            request.add_query_param(name, value)  # younger than the SDK
        else:
            setter(str(value).lower() if isinstance(value, bool) else value)
    return request


class Ours:
    """The transport of eni_manager, and its typed calls as `ecs` and `vpc`."""

    def __init__(self, session: aiohttp.ClientSession, port: int, keys: tuple[str, str, str]) -> None:
        key, secret, token = keys
        url = f"http://127.0.0.1:{port}"
        self._api = OpenApi(
            session,
            FixedKeys(Credentials(key, Secret(secret), Secret(token))),
            region="cn-lab",
            endpoints=Endpoints("cn-lab", overrides={"Ecs": url, "Vpc": url}),
            buckets=Buckets(dict.fromkeys(("DescribeNetworkInterfaces",), 100_000)),
        )
        names = ("default", "eni_create", "eni_ops", "eni_ip_ops", "eni_release")
        self.ecs = Ecs(self._api, backoffs=dict.fromkeys(names, Backoff(0.0, steps=1)))
        self.vpc = Vpc(self._api, backoffs=dict.fromkeys(names, Backoff(0.0, steps=1)))

    async def call(self, action: str, **parameters: Any) -> Answer:
        request = official_request(action, parameters)
        try:
            return await self._api.call(request, dict[str, Any], NO_RETRY)
        except CloudError as e:
            raise Refused(e, e.cloud_code, e.status, e.request_id) from e


class FirstGeneration:
    """aliyun-python-sdk-core: parameters signed by HMAC-SHA1."""

    def __init__(self, port: int, keys: tuple[str, str, str]) -> None:
        key, secret, token = keys
        if token:
            temporary = StsTokenCredential(key, secret, token)
            self._client = AcsClient(region_id="cn-lab", credential=temporary, port=port, auto_retry=False)
        else:
            self._client = AcsClient(key, secret, "cn-lab", port=port, auto_retry=False)

    async def call(self, action: str, **parameters: Any) -> Answer:
        request = official_request(action, parameters)
        request.set_endpoint("127.0.0.1")
        try:
            body = await asyncio.to_thread(self._client.do_action_with_exception, request)
        except ServerException as e:
            raise Refused(e, e.get_error_code(), e.get_http_status(), e.get_request_id()) from e
        answer: Answer = json.loads(body)
        return answer

    def close(self) -> None:
        self._client.session.close()


class SecondGeneration:
    """alibabacloud-ecs20140526 and -vpc20160428: headers signed by ACS3-HMAC-SHA256; every answer is judged."""

    def __init__(self, port: int, keys: tuple[str, str, str]) -> None:
        from alibabacloud_ecs20140526.client import Client as EcsClient
        from alibabacloud_tea_openapi.models import Config
        from alibabacloud_vpc20160428.client import Client as VpcClient

        key, secret, token = keys
        config = functools.partial(
            Config,
            access_key_id=key,
            access_key_secret=secret,
            security_token=token or None,
            region_id="cn-lab",
            protocol="http",
            endpoint=f"127.0.0.1:{port}",
        )
        self._ecs, self._vpc = EcsClient(config()), VpcClient(config())

    async def call(self, action: str, **parameters: Any) -> Answer:
        from alibabacloud_ecs20140526 import models as ecs
        from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
        from alibabacloud_vpc20160428 import models as vpc

        client, kinds = (self._vpc, vpc) if action in VPC_ACTIONS else (self._ecs, ecs)
        request = getattr(kinds, f"{action}Request")().from_map({"RegionId": "cn-lab", **parameters})
        methods = {name.replace("_", ""): name for name in dir(client)}
        try:
            response = await asyncio.to_thread(getattr(client, methods[action.lower()]), request)
        except AlibabaCloudException as e:
            raise Refused(e, e.code, e.status_code, e.request_id) from e
        answer: Answer = response.body.to_map()
        models.check_types(response.body)
        return answer
