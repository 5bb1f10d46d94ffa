"""Another cluster's API server in the place of the lab's own: `lab up --kubeconfig FILE`.

Nodes live in a VPC that reaches nothing else, so the lab answers at the usual address, in plain HTTP, and hands every
request on with the credentials of the kubeconfig, watches included. What nodes write there is written for real.
"""

import asyncio
import base64
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket
from typing import Any

import aiohttp
import msgspec
import yaml
import yarl
from aiohttp import web

from shared import log as logs
from shared.errors import Invalid, Refused

log = logs.get(__name__)

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "authorization"}
MAX_BODY = 3 << 20
"""Bytes; Kubernetes' own limit for a request."""


class Upstream(msgspec.Struct, frozen=True):
    """A real API server and how to be let in. `token_file` is read for every request: tokens rotate."""

    server: str
    tls: Any = True
    """an ssl.SSLContext, or True for the machine's trust"""
    token: str = ""
    token_file: Path | None = None

    def authorization(self) -> dict[str, str]:
        """The header that says who asks; empty when a certificate says it."""
        token = self.token_file.read_text().strip() if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


def read(path: Path) -> Upstream:
    """The current context of a kubeconfig. Invalid names what is missing, Refused what cannot be done here."""
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise Invalid(f"{path}: not YAML: {error}") from error
    if not isinstance(config, dict):
        raise Invalid(f"{path}: expected a kubeconfig")
    context = _named(config, "contexts", "context", config.get("current-context"), path)
    cluster = _named(config, "clusters", "cluster", context.get("cluster"), path)
    user = _named(config, "users", "user", context["user"], path) if context.get("user") else {}
    for unsupported in ("exec", "auth-provider", "username"):
        if unsupported in user:
            raise Refused(f"{path}: users that log in by {unsupported} are not supported; give a token or certificate")
    server = str(cluster.get("server", ""))
    if not server.startswith(("http://", "https://")):
        raise Invalid(f"{path}: clusters[].cluster.server: expected http(s)://…, got {server!r}")
    token_file = user.get("tokenFile")
    return Upstream(
        server=server.rstrip("/"),
        tls=_tls(cluster, user, path.parent) if server.startswith("https://") else True,
        token=str(user.get("token", "")),
        token_file=path.parent / token_file if token_file else None,
    )


@asynccontextmanager
async def serving(sockets: Sequence[socket], upstream: Upstream) -> AsyncIterator[None]:
    """Hand on what comes by the listening sockets until the context ends."""
    connector = aiohttp.TCPConnector(ssl=upstream.tls, limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            return await _hand_on(request, session, upstream)

        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            for listening in sockets:
                await web.SockSite(runner, listening).start()
            yield
        finally:
            await runner.cleanup()


async def _hand_on(request: web.Request, session: aiohttp.ClientSession, upstream: Upstream) -> web.StreamResponse:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    headers |= await asyncio.to_thread(upstream.authorization)
    url = yarl.URL(upstream.server + request.raw_path, encoded=True)
    try:
        async with session.request(
            request.method, url, headers=headers, data=await request.read() or None, allow_redirects=False
        ) as answer:
            kept = {n: v for n, v in answer.headers.items() if n.lower() not in _HOP_BY_HOP | {"content-length"}}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        log.warning("upstream_unreachable", server=upstream.server, error=str(error))
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "ServiceUnavailable", "code": 503}
        return web.json_response({**said, "message": f"{upstream.server}: {error}"}, status=503)


def _named(config: dict[str, Any], plural: str, singular: str, name: object, path: Path) -> dict[str, Any]:
    for entry in config.get(plural) or []:
        if entry.get("name") == name:
            found: dict[str, Any] = entry.get(singular) or {}
            return found
    raise Invalid(f"{path}: {plural}: none is called {name!r}")


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext:
    """Trust and our own certificate; files are relative to the kubeconfig, `-data` is base64."""
    authority = _pem(cluster, "certificate-authority", folder)
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate", folder), _pem(user, "client-key", folder)
    if certificate and key:
        # OpenSSL wants files; these exist only while it reads them, for root's eyes.
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(certificate + b"\n" + key)
            pem.flush()
            tls.load_cert_chain(pem.name)
    return tls


def _pem(section: dict[str, Any], key: str, folder: Path) -> bytes:
    if section.get(f"{key}-data"):
        return base64.b64decode(section[f"{key}-data"])
    return (folder / section[key]).read_bytes() if section.get(key) else b""
