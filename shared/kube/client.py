"""KubeClient: what the suite asks of a Kubernetes API server, one request and one answer each.

    async with KubeClient(config) as kube:
        pod = await kube.get(PODS, Pod, "a", namespace="web")
        async for pod in kube.list(PODS, Pod, field_selector="spec.nodeName=node1"): ...

Answers are decoded into the type the caller names, and nothing else is. Errors are those of `shared.kube.errors`.
Nothing is sent twice behind the caller's back, except once when the token turned out to have rotated.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec
import yarl

from shared.kube.access import Access, Token, host_of, open_session
from shared.kube.errors import ApiError, ApiInternal, ApiNotFound, ApiTimeout, ApiUnavailable, from_body
from shared.kube.requests import PatchType, Query, Request, RequestBuilder
from shared.kube.resources import Resource

T = TypeVar("T")
Body = msgspec.Struct | Mapping[str, object]

REQUEST_TIMEOUT_S = 30.0
PAGE = 500
"""Objects per page: what the API server and its other clients consider a fair bite."""


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """Where a list stands. `continue_` leads to the next page and is empty on the last."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class RawPage(msgspec.Struct, frozen=True):
    """One page of a list; its items are still JSON text, so that a bad object spoils only itself."""

    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class _Served(msgspec.Struct, frozen=True):
    name: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...] = ()


class _ServedList(msgspec.Struct, frozen=True):
    resources: tuple[_Served, ...] | None = None


class _Name(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    metadata: _Name


class KubeClient:
    """One API server. An async context manager; safe for any number of requests at once."""

    def __init__(self, access: Access, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self._token = Token(access.token_file)
        self._builder = RequestBuilder(host_of(access), self._token.text)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = await open_session(self._access)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ---- reading

    async def get(self, resource: Resource, kind: type[T], name: str, *, namespace: str | None = None) -> T:
        """One object; ApiNotFound when there is none."""
        return _decode(await self._ask("GET", resource, namespace=namespace, name=name), kind, resource)

    async def page(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
        limit: int | None = PAGE,
        continue_: str = "",
    ) -> RawPage:
        """One page of a list, undecoded. ApiExpired when `continue_` is too old; `limit` None asks for all at once."""
        query = {
            "limit": limit,
            "continue": continue_,
            "fieldSelector": field_selector,
            "labelSelector": label_selector,
        }
        return _decode(await self._ask("GET", resource, namespace=namespace, query=query), RawPage, resource)

    async def list(
        self,
        resource: Resource,
        kind: type[T],
        *,
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
    ) -> AsyncIterator[T]:
        """Every object there is, page by page; `namespace` None means all namespaces."""
        token = ""
        while True:
            page = await self.page(
                resource,
                namespace=namespace,
                field_selector=field_selector,
                label_selector=label_selector,
                continue_=token,
            )
            for item in page.items or ():
                yield _decode(item, kind, resource)
            token = page.metadata.continue_
            if not token:
                return

    async def served(self, group: str, version: str) -> Sequence[Resource]:
        """What can be listed and watched of a version of an API group; nothing when the server has none of it."""
        document = Resource(group, version, "", "APIResourceList", namespaced=False)
        try:
            found = _decode(await self._ask("GET", document), _ServedList, document)
        except ApiNotFound:
            return ()
        return tuple(
            Resource(group, version, one.name, one.kind, one.namespaced)
            for one in found.resources or ()
            if "/" not in one.name and "list" in one.verbs and "watch" in one.verbs
        )

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        window_s: int,
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Open a watch with bookmarks; yields its bytes as they arrive, until the server ends it after `window_s`.

        Raises ApiExpired when `resource_version` is too old, ApiUnavailable when the connection dies.
        """
        query: Query = {
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": resource_version,
            "timeoutSeconds": window_s,
            "fieldSelector": field_selector,
            "labelSelector": label_selector,
        }
        # A server that forgets to end the watch, or to answer at all, is left after a grace.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=window_s + self._timeout_s)
        response = await self._send("GET", resource, namespace=namespace, query=query, timeout=timeout)
        async with response, aclosing(_chunks(response, doing=f"watch {resource}")) as chunks:
            yield chunks

    # ---- writing

    async def create(
        self, resource: Resource, kind: type[T], body: Body, *, namespace: str | None = None, subresource: str = ""
    ) -> T:
        """Make an object; ApiConflict (AlreadyExists) when the name is taken."""
        name = _name_in(body) if subresource else None
        answer = await self._ask(
            "POST", resource, namespace=namespace, name=name, subresource=subresource, body=_plain(body)
        )
        return _decode(answer, kind, resource)

    async def replace(
        self, resource: Resource, kind: type[T], body: Body, *, namespace: str | None = None, subresource: str = ""
    ) -> T:
        """Write the whole object; ApiConflict when its resourceVersion is not the current one."""
        answer = await self._ask(
            "PUT", resource, namespace=namespace, name=_name_in(body), subresource=subresource, body=_plain(body)
        )
        return _decode(answer, kind, resource)

    async def patch(
        self,
        resource: Resource,
        kind: type[T],
        name: str,
        patch: Mapping[str, object] | Sequence[Mapping[str, object]],
        *,
        namespace: str | None = None,
        subresource: str = "",
        how: PatchType = PatchType.MERGE,
    ) -> T:
        """Change part of an object; `subresource="status"` is what controllers write. A sequence is a JSON patch."""
        if not isinstance(patch, Mapping):
            how = PatchType.JSON
        answer = await self._ask(
            "PATCH",
            resource,
            namespace=namespace,
            name=name,
            subresource=subresource,
            body=msgspec.to_builtins(patch),
            content_type=how,
        )
        return _decode(answer, kind, resource)

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str = "",
        grace_s: int | None = None,
    ) -> None:
        """Ask for an object's end; ApiNotFound when it is gone already. `uid` protects a namesake that came after."""
        body: dict[str, object] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        await self._ask("DELETE", resource, namespace=namespace, name=name, body=body)

    # ---- sending

    async def _ask(
        self,
        method: str,
        resource: Resource,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str = "",
        query: Query | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        response = await self._send(
            method,
            resource,
            namespace=namespace,
            name=name,
            subresource=subresource,
            query=query,
            body=body,
            content_type=content_type,
            timeout=timeout,
        )
        async with response:
            with _translated(f"{method} {response.url.path}"):
                return await response.read()

    async def _send(
        self,
        method: str,
        resource: Resource,
        *,
        timeout: aiohttp.ClientTimeout,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str = "",
        query: Query | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        """An answer of success with its body still to be read; the second try is for a token that has rotated."""
        clock = asyncio.get_running_loop().time
        await self._token.refresh(now=clock())
        while True:
            request = self._builder.build(
                method,
                resource,
                namespace=namespace,
                name=name,
                subresource=subresource,
                query=query,
                body=body,
                content_type=content_type,
            )
            error = await self._try(request, timeout)
            if not isinstance(error, ApiError):
                return error
            if error.status != HTTPStatus.UNAUTHORIZED or not await self._token.refresh(now=clock(), force=True):
                raise error

    async def _try(self, request: Request, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse | ApiError:
        assert self._session is not None, "KubeClient is used outside of `async with`"
        url = yarl.URL(request.url, encoded=True)
        doing = f"{request.method} {url.path}"
        with _translated(doing):
            async with asyncio.timeout(self._timeout_s):
                response = await self._session.request(
                    request.method,
                    url,
                    headers=request.headers,
                    data=request.body,
                    timeout=timeout,
                    allow_redirects=False,
                )
                if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                    return response
                async with response:
                    text = await response.read()
        return from_body(
            text, doing=doing, http_status=response.status, retry_after=_seconds(response.headers.get("Retry-After"))
        )


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """What the transport raises, in our words."""
    try:
        yield
    except TimeoutError as error:  # aiohttp's timeouts are TimeoutErrors too
        raise ApiTimeout(f"{doing}: no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ApiUnavailable(f"{doing}: {str(error) or type(error).__name__}") from error


async def _chunks(response: aiohttp.ClientResponse, *, doing: str) -> AsyncGenerator[bytes, None]:
    with _translated(doing):
        async for chunk in response.content.iter_any():
            yield chunk


def _decode(body: bytes | msgspec.Raw, kind: type[T], resource: Resource) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ApiInternal(f"{resource}: the answer is no {kind.__name__}: {error}") from error


def _plain(body: Body) -> object:
    return msgspec.to_builtins(body)


def _name_in(body: Body) -> str:
    metadata = msgspec.convert(body, _Named, from_attributes=True).metadata
    return metadata.name


def _seconds(header: str | None) -> float | None:
    """Retry-After as the API server writes it; a date, which it never sends, counts as unsaid."""
    return float(header) if header is not None and header.isdecimal() else None
