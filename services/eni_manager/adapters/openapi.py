"""The transport of the cloud's RPC-style OpenAPI: the official SDK builds and signs requests, aiohttp carries them.

What aiobotocore is to botocore: `aliyunsdkcore.client`, which blocks, is never imported. Each attempt is signed anew
(nonce, time stamp, perhaps new credentials); a ClientToken stays as its caller set it, so that a repeated call is the
same call. Every attempt waits for its action's token bucket.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import msgspec
import yarl
from aliyunsdkcore.auth.credentials import AccessKeyCredential, StsTokenCredential
from aliyunsdkcore.auth.signers.access_key_signer import AccessKeySigner
from aliyunsdkcore.auth.signers.sts_token_signer import StsTokenSigner
from aliyunsdkcore.endpoint.endpoint_resolver_rules import EndpointResolverRules
from aliyunsdkcore.endpoint.resolver_endpoint_request import ResolveEndpointRequest
from aliyunsdkcore.request import RpcRequest

from services.eni_manager.adapters.credentials import Credentials
from services.eni_manager.adapters.pacing import Buckets
from services.eni_manager.core.reactions import NO_ANSWER, RETRIED, Reaction, is_throttling, react
from shared import log as logs
from shared.backoff import Backoff
from shared.errors import SuiteError

T = TypeVar("T", bound=msgspec.Struct)

ATTEMPT_TIMEOUT_S: Final = 20.0
"""One attempt, all in all (terway.md §2.5)."""

USER_AGENT: Final = "Kubernetes.Alicloud"

log = logs.get(__name__)


class CloudError(SuiteError):
    """The cloud has refused a call, or did not answer. `reaction` says what to do; `code` on the wire: unavailable."""

    code = "unavailable"
    default_retry_after = 5.0

    def __init__(self, *, action: str, cloud_code: str, message: str, request_id: str = "", status: int = 0) -> None:
        of = f" (request {request_id})" if request_id else ""
        super().__init__(f"{action}: {cloud_code}: {message}{of}")
        self.action, self.cloud_code, self.request_id, self.status = action, cloud_code, request_id, status
        self.reaction: Reaction = react(cloud_code, status)


class CredentialSource(Protocol):
    """Where the transport gets its keys; see adapters.credentials."""

    async def get(self) -> Credentials: ...

    def refused(self, credentials: Credentials) -> None: ...


Observer = Callable[[str, bool, float, float], None]
"""Told of each attempt: action, failed, seconds it took, seconds it had waited for the bucket."""


Trouble = Callable[[str, str], None]
"""Told, per action, why calls are being made again; empty: the last one has worked."""


class _Refusal(msgspec.Struct, rename="pascal"):
    """What the cloud answers instead of a result."""

    code: str = ""
    message: str = ""
    request_id: str = ""


class Endpoints:
    """Which host serves a product. `overrides`: product (`Ecs`, `Vpc`) -> host, host:port, or URL."""

    def __init__(
        self, region: str, *, overrides: Mapping[str, str], scheme: str = "https", network: str = "vpc"
    ) -> None:
        self._region, self._scheme, self._network = region, scheme.lower(), network
        self._urls = {product: self._url(value) for product, value in overrides.items() if value}

    def url(self, request: RpcRequest) -> str:
        """`scheme://host[:port]` for this request, by the SDK's rules where nothing is overridden."""
        product = request.get_product()
        if product not in self._urls:
            asked = ResolveEndpointRequest(self._region, product, None, None)
            asked.request_network = self._network
            asked.endpoint_map, asked.endpoint_regional = request.endpoint_map, request.endpoint_regional
            host = EndpointResolverRules(config_json_str="{}").resolve(asked)
            if not host:
                raise CloudError(
                    action=request.get_action_name(),
                    cloud_code="NoEndpoint",
                    message=f"no endpoint is known for {product} in {self._region!r}; set {product.upper()}_ENDPOINT",
                )
            self._urls[product] = self._url(host)
        return self._urls[product]

    def _url(self, value: str) -> str:
        return value.rstrip("/") if "://" in value else f"{self._scheme}://{value}"


class OpenApi:
    """Sends requests; shared by all callers of a service."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        credentials: CredentialSource,
        *,
        region: str,
        endpoints: Endpoints,
        buckets: Buckets,
        observe: Observer = lambda action, failed, took, waited: None,
        trouble: Trouble = lambda action, why: None,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    ) -> None:
        self._session, self._credentials, self._region = session, credentials, region
        self._endpoints, self._buckets, self._observe = endpoints, buckets, observe
        self._trouble, self._timeout = trouble, aiohttp.ClientTimeout(total=attempt_timeout_s)

    async def call(self, request: RpcRequest, answer: type[T], backoff: Backoff) -> T:
        """Make a call, again after pauses while that may help, and decode its answer.

        CloudError: refused for good, or still failing after the last pause; then the effect may have happened.
        """
        pauses = backoff.attempts(random.random)
        await asyncio.sleep(next(pauses, 0.0))
        while True:
            try:
                result = await self._attempt(request, answer)
                self._trouble(request.get_action_name(), "")
                return result
            except CloudError as error:
                self._trouble(error.action, error.message if error.reaction in RETRIED else "")
                slowed = is_throttling(error.cloud_code) and self._buckets.throttled(error.action)
                if error.reaction not in RETRIED or not await _pause(pauses, wait=not slowed):
                    raise
                log.info("cloud_call_again", action=error.action, code=error.cloud_code, request=error.request_id)

    async def _attempt(self, request: RpcRequest, answer: type[T]) -> T:
        action = request.get_action_name()
        credentials = await self._credentials.get()
        waited = await self._buckets.take(action)
        began, failed = time.perf_counter(), True  # uvloop's own clock has whole milliseconds
        try:
            status, body = await self._send(request, credentials)
            result = _decode(action, status, body, answer)
            failed = False
            self._buckets.passed()
            return result
        except CloudError as error:
            if error.reaction is Reaction.NEW_CREDENTIALS:
                self._credentials.refused(credentials)
            raise
        finally:
            self._observe(action, failed, time.perf_counter() - began, waited)

    async def _send(self, request: RpcRequest, credentials: Credentials) -> tuple[int, bytes]:
        headers, path = _sign(request, credentials, self._region)
        # encoded: what yarl would normalise is part of what was signed
        url = yarl.URL(self._endpoints.url(request) + path, encoded=True)
        try:
            async with self._session.request(
                request.get_method(),
                url,
                headers={**headers, "User-Agent": USER_AGENT},
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            raise CloudError(action=request.get_action_name(), cloud_code=NO_ANSWER, message=why) from error


def _sign(request: RpcRequest, credentials: Credentials, region: str) -> tuple[dict[str, str], str]:
    request.set_accept_format("JSON")
    key, secret, token = credentials.key_id, credentials.key_secret.reveal(), credentials.token.reveal()
    if token:
        signer = StsTokenSigner(StsTokenCredential(key, secret, token))
    else:
        request.get_query_params().pop("SecurityToken", None)  # of an earlier attempt with other credentials
        signer = AccessKeySigner(AccessKeyCredential(key, secret))
    headers, path = signer.sign(region, request)
    return headers, path


def _decode(action: str, status: int, body: bytes, answer: type[T]) -> T:
    try:
        if status == 200:
            return msgspec.json.decode(body, type=answer)
        refusal = msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError as error:
        # A proxy's page, or a cut body. The effect of a 200 has happened, so a repeated call must keep its token.
        code = NO_ANSWER if status == 200 else f"HTTP{status}"
        message = f"HTTP {status} with a body that cannot be read: {error}: {body[:120]!r}"
        raise CloudError(action=action, cloud_code=code, message=message, status=status) from error
    raise CloudError(
        action=action,
        cloud_code=refusal.code or f"HTTP{status}",
        message=refusal.message,
        request_id=refusal.request_id,
        status=status,
    )


async def _pause(pauses: Iterator[float], *, wait: bool) -> bool:
    """Wait for the next attempt, where nobody else makes it wait; False: there is none."""
    pause = next(pauses, None)
    if pause is None:
        return False
    await asyncio.sleep(pause if wait else 0.0)
    return True


def with_parameters(request: RpcRequest, **parameters: Any) -> RpcRequest:
    """Set query parameters that the SDK's request class has no setter for (`ClientToken` of attach, say)."""
    for name, value in parameters.items():
        if value not in (None, ""):
            request.add_query_param(name, value)
    return request
