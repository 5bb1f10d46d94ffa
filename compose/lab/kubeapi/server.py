"""The HTTP face: paths to verbs, JSON in and out, watches as streams, and the knobs for faults.

    kube = KubeApi()
    async with kube.serving([tcp_socket, unix_socket]):
        ...

`kube.api` is the same cluster without HTTP, for the process that embeds it.
"""

import asyncio
import math
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from compose.lab.kubeapi import discovery, openapi, rbac, status, tables
from compose.lab.kubeapi.api import APPLY, Api, DeleteOptions, ListOptions, version_of
from compose.lab.kubeapi.faults import Faults
from compose.lab.kubeapi.paths import Target, target_of
from compose.lab.kubeapi.status import Refusal
from compose.lab.kubeapi.store import Store
from compose.lab.kubeapi.watching import Watch, error_line

Json = dict[str, Any]

MAX_BODY = 3 << 20
"""Bytes; Kubernetes' own limit for a request."""


MAX_WINDOW_S = 86_400.0


class KubeApi:
    """One cluster. `history` bounds what watches can resume from; `bookmark_s` is the pause between bookmarks.

    The first version comes from the clock in milliseconds, so that a restarted lab never repeats the versions of its
    past: whoever resumes a watch from before gets 410 and lists anew, as after any compaction.

    `tokens`: who shows one may do what the roles in the store allow (rbac.py). Who shows none is the lab itself.
    """

    def __init__(
        self,
        *,
        history: int = 10_000,
        bookmark_s: float = 60.0,
        first_version: int | None = None,
        tokens: Mapping[str, rbac.ServiceAccount] = {},
    ) -> None:
        first = int(time.time() * 1000) if first_version is None else first_version
        self.store = Store(first_version=first, history=history, on_change=self._wake)
        self._news = asyncio.Event()
        self.api = Api(self.store, now=_now, new_uid=lambda: str(uuid.uuid4()), chance=random.random)
        self.faults = Faults()
        self._runners: list[web.AppRunner] = []
        self._bookmark_s = bookmark_s
        self._tokens = tokens

    def application(self) -> web.Application:
        """All of it as an aiohttp application; one at a time per KubeApi."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_shutdown.append(self._end_watches)
        return app

    @asynccontextmanager
    async def serving(self, sockets: Sequence[socket.socket]) -> AsyncIterator[None]:
        """Serve on listening sockets, TCP or Unix, until the context ends; it closes them."""
        # A watcher that leaves ends its watch at once, not at the next thing there would be to tell it.
        runner = web.AppRunner(self.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        self.faults.closing = False
        self._runners.append(runner)
        try:
            for listening in sockets:
                await web.SockSite(runner, listening).start()
            yield
        finally:
            self._runners.remove(runner)
            await runner.cleanup()

    def hang_up(self) -> None:
        """Break every connection, as the end of a process does."""
        for runner in self._runners:
            for connection in runner.server.connections if runner.server else ():
                if connection.transport is not None:
                    connection.transport.abort()

    def compact(self) -> None:
        """Forget the past: watches that resume from before get 410."""
        self.store.compact()
        self._wake()

    # ---- requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            await self.faults.before(request)
            return await self._answer(request)
        except Refusal as refusal:
            headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else None
            return _json(refusal.body(), status_code=refusal.code, headers=headers)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        document = self._document(request)
        if document is not None:
            return document
        api = self._api_for(request)
        target = target_of(request.path, api.kinds)
        self._authorize(request, target)
        strict = request.query.get("fieldValidation") == "Strict"
        match request.method:
            case "GET" if _flag(request, "watch") and not target.subresource:
                return await self._watch(request, target)
            case "GET" if target.name:
                return _json(_shown(request, target)(api.get(target.kind, target.key)))
            case "GET":
                return _json(_shown(request, target)(api.list(target.kind, _list_options(request, target))))
            case "POST":
                return _post(api, target, await _body(request), strict=strict)
            case "PUT" if target.name:
                body = await _body(request)
                return _json(api.replace(target.kind, target.key, body, part=target.part, strict=strict))
            case "PATCH" if target.name:
                return await _patch(request, api, target, strict=strict)
            case "DELETE" if target.name and not target.subresource:
                return _json(api.delete(target.kind, target.key, await _delete_options(request)))
            case "DELETE" if not target.name:
                options = await _delete_options(request)
                return _json(api.delete_collection(target.kind, _list_options(request, target), options))
        raise status.method_not_allowed()

    def _authorize(self, request: web.Request, target: Target) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return
        who = self._tokens.get(token) if scheme == "Bearer" else None
        if who is None:
            raise status.unauthorized()
        watch = _flag(request, "watch") and not target.name
        verb = rbac.verb_of(request.method, target, watch=watch)
        if not rbac.allowed(who, verb, target, self.store):
            raise status.not_allowed(str(who), verb, target.kind, target.subresource, target.namespace)

    def _document(self, request: web.Request) -> web.Response | None:
        """What is served besides objects: discovery, the version, health."""
        kinds = self.api.kinds
        match request.path.strip("/").split("/"):
            case ["version"]:
                return _json(discovery.VERSION)
            case ["api"]:
                return _json(discovery.api_versions())
            case ["apis"]:
                return _json(discovery.group_list(kinds))
            case ["api", version]:
                found = discovery.resource_list("", version, kinds)
            case ["apis", group]:
                found = discovery.group(group, kinds)
            case ["apis", group, version]:
                found = discovery.resource_list(group, version, kinds)
            case ["openapi", "v3"]:
                return _json(openapi.v3_index(kinds))
            case ["openapi", "v3", *rest]:
                found = openapi.v3_document("/".join(rest), kinds)
            case ["openapi", "v2"] if "protobuf" in request.headers.get("Accept", ""):
                return web.Response(body=openapi.v2_protobuf(kinds), headers={"Content-Type": openapi.V2_PROTOBUF})
            case ["openapi", "v2"]:
                return _json(openapi.v2_document(kinds))
            case ["healthz" | "livez" | "readyz", *_]:
                return web.Response(text="ok")
            case ["api" | "apis", *_]:
                return None
            case _:
                return web.Response(status=404, text="404 page not found\n")
        return web.Response(status=404, text="404 page not found\n") if found is None else _json(found)

    def _api_for(self, request: web.Request) -> Api:
        """The cluster, or a copy of it for a dry run."""
        asked = request.query.getall("dryRun", [])
        if asked not in ([], ["All"]):
            raise status.bad_request(f'dryRun: Unsupported value: {asked}: supported values: "All"')
        return self.api.trial() if asked else self.api

    # ---- watches

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = _list_options(request, target)
        matches, show = self.api.matcher(target.kind, options), _shown(request, target)
        window = _seconds(request, "timeoutSeconds", 1800.0)
        asked = options.resource_version
        initial = request.query.get("sendInitialEvents") == "true"
        if asked in ("", "0") or initial:
            watch, first = Watch.from_now(self.store, target.kind, matches, show)
            if initial:
                first += watch.bookmark(initial_end=True)
        else:
            watch, first = Watch(self.store, target.kind, matches, show, version_of(asked)), b""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if first:
            await response.write(first)
        with self.faults.watching(request):
            await self._stream(response, watch, window, bookmarks=_flag(request, "allowWatchBookmarks"))
        return response

    async def _stream(self, response: web.StreamResponse, watch: Watch, window: float, *, bookmarks: bool) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + window
        next_bookmark = clock() + self._bookmark_s
        while True:
            news = self._news  # taken before looking, so that nothing falls in between
            try:
                lines = watch.news()
            except Refusal as refusal:
                await response.write(error_line(refusal))
                return
            if lines:
                await response.write(lines)
                continue
            now = clock()
            if bookmarks and now >= min(next_bookmark, end):
                await response.write(watch.bookmark())
                next_bookmark = now + self._bookmark_s
            if now >= end or self.faults.closing:
                return
            try:
                async with asyncio.timeout_at(min(end, next_bookmark) if bookmarks else end):
                    await news.wait()
            except TimeoutError:
                continue

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _end_watches(self, _: web.Application) -> None:
        self.faults.closing = True
        self._wake()


def _post(api: Api, target: Target, body: Any, *, strict: bool) -> web.Response:
    match target.subresource:
        case "" if not target.name:
            made = api.create(target.kind, target.namespace, body, strict=strict)
        case "binding" if target.kind.collection == ("", "pods"):
            made = api.bind(target.key, str(((body or {}).get("target") or {}).get("name", "")))
        case "eviction" if target.kind.collection == ("", "pods"):
            api.delete(target.kind, target.key, _options_in((body or {}).get("deleteOptions") or {}))
            made = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        case _:
            raise status.method_not_allowed()
    return _json(made, status_code=201)


async def _patch(request: web.Request, api: Api, target: Target, *, strict: bool) -> web.Response:
    applies = request.content_type == APPLY
    if applies and not request.query.get("fieldManager"):
        raise status.no_field_manager()
    body = await (_yaml(request) if applies else _body(request))
    is_new = api.store.get(target.kind.collection, target.key) is None
    patched = api.patch(target.kind, target.key, request.content_type, body, part=target.part, strict=strict)
    return _json(patched, status_code=201 if is_new else 200)


def _json(body: Any, *, status_code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status_code, content_type="application/json", headers=headers
    )


def _shown(request: web.Request, target: Target) -> Callable[[Json], Json]:
    """How objects and lists are shown to this client: as they are, or as tables if it prints them."""
    if tables.ACCEPT not in request.headers.get("Accept", ""):
        return lambda found: found
    include = request.query.get("includeObject", "Metadata")
    return lambda found: tables.table(target.kind, found, now=_now(), include=include)


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "") in ("1", "true", "True")


async def _body(request: web.Request) -> Any:
    # Anything is tried as JSON, but for the one format that typed Go clients like better and we cannot read.
    if request.content_type == "application/vnd.kubernetes.protobuf":
        raise status.unsupported_media(("application/json",))
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, RecursionError) as error:
        raise status.bad_request(f"the object provided is unrecognized: {error}") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY}") from error


async def _yaml(request: web.Request) -> Any:
    """An apply's body: most clients send JSON, which is YAML too."""
    try:
        return await _body(request)
    except Refusal as not_json:
        import yaml  # only those who apply by hand need it

        try:
            return yaml.safe_load(await request.read())
        except yaml.YAMLError:
            raise not_json from None


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name) or "0"
    if not text.isdecimal():
        raise status.bad_request(f"invalid {name}: {text!r}")
    return int(text)


def _seconds(request: web.Request, name: str, default: float) -> float:
    try:
        said = float(request.query.get(name) or default)
    except ValueError as error:
        raise status.bad_request(f"invalid {name}: {error}") from error
    return min(max(said, 0.0), MAX_WINDOW_S) if not math.isnan(said) else default


def _list_options(request: web.Request, target: Target) -> ListOptions:
    query = request.query
    fields = query.get("fieldSelector", "")
    if target.name:
        fields = f"metadata.name={target.name},{fields}"
    return ListOptions(
        namespace=target.namespace,
        labels=query.get("labelSelector", ""),
        fields=fields,
        limit=_number(request, "limit"),
        continue_=query.get("continue", ""),
        resource_version=query.get("resourceVersion", ""),
        exact=query.get("resourceVersionMatch", "") == "Exact",
    )


async def _delete_options(request: web.Request) -> DeleteOptions:
    said = await _body(request) if request.can_read_body else {}
    if "gracePeriodSeconds" in request.query:
        said = {"gracePeriodSeconds": _number(request, "gracePeriodSeconds"), **said}
    return _options_in(said)


def _options_in(said: Json) -> DeleteOptions:
    preconditions = said.get("preconditions") or {}
    return DeleteOptions(
        grace_s=said.get("gracePeriodSeconds"),
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
