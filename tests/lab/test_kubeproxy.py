"""Another API server in the lab's place: kubeconfigs, credentials, streams, and one that is away."""

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from compose.lab import kubeproxy
from shared.errors import Invalid, Refused


def kubeconfig(folder: Path, *, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    path = folder / "kubeconfig"
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "other", "cluster": {}}, {"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


class Server:
    """What a cluster's API server is to the proxy; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str]] = []
        self.more = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.asked.append((request.method, request.path_qs, request.headers.get("Authorization", ""), text))
        if "watch" not in request.query:
            return web.json_response({"kind": "Status", "code": 409}, status=409, headers={"Retry-After": "3"})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"first\n")
        await self.more.wait()
        await response.write(b"second\n")
        return response


@asynccontextmanager
async def served(server: Server, tls: Any = None) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening, ssl_context=tls).start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        server.more.set()
        await runner.cleanup()


@asynccontextmanager
async def proxied(upstream: kubeproxy.Upstream) -> AsyncIterator[aiohttp.ClientSession]:
    listening = socket.create_server(("127.0.0.1", 0))
    async with AsyncExitStack() as opened:
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        await opened.enter_async_context(kubeproxy.serving([listening], upstream))
        yield await opened.enter_async_context(aiohttp.ClientSession(base))


async def test_requests_are_handed_on_as_they_are_with_the_kubeconfigs_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    server = Server()
    async with served(server) as port:
        path = kubeconfig(tmp_path, cluster={"server": f"http://127.0.0.1:{port}/base"}, user={"tokenFile": "token"})
        async with proxied(kubeproxy.read(path)) as session:
            query = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1"
            async with session.post(query, data="body", headers={"Authorization": "Bearer mine"}) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (409, "3")
                assert (await answer.json())["code"] == 409
            (tmp_path / "token").write_text("rotated\n")
            async with session.get("/version") as answer:
                assert answer.status == 409
    assert server.asked == [
        ("POST", "/base" + query, "Bearer first", "body"),
        ("GET", "/base/version", "Bearer rotated", ""),
    ]


async def test_a_watch_arrives_line_by_line(tmp_path: Path) -> None:
    server = Server()
    async with served(server) as port:
        path = kubeconfig(tmp_path, cluster={"server": f"http://127.0.0.1:{port}"}, user={"token": "t"})
        async with proxied(kubeproxy.read(path)) as session, session.get("/api/v1/pods?watch=1") as answer:
            assert await answer.content.readline() == b"first\n"
            server.more.set()
            assert await answer.content.readline() == b"second\n"


async def test_an_api_server_that_is_away_is_unavailable() -> None:
    async with proxied(kubeproxy.Upstream(server="http://127.0.0.1:1")) as session, session.get("/api") as answer:
        assert answer.status == 503
        assert (await answer.json())["reason"] == "ServiceUnavailable"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 that both sides use."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-days", "1", "-subj", "/CN=lab"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path


async def test_both_sides_are_known_by_certificate(certificates: Path) -> None:
    import ssl

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "cert.pem")
    tls.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    server = Server()
    async with served(server, tls) as port:
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": "cert.pem"}
        user = {"client-certificate": "cert.pem", "client-key": "key.pem"}
        path = kubeconfig(certificates, cluster=cluster, user=user)
        async with proxied(kubeproxy.read(path)) as session, session.get("/api") as answer:
            assert answer.status == 409, "the server's own answer"
        stranger = kubeconfig(certificates, cluster=cluster, user={})
        async with proxied(kubeproxy.read(stranger)) as session, session.get("/api") as answer:
            assert answer.status == 503, "without a certificate nobody is let in"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("cluster", "user", "error", "said"),
    [
        ({"server": "ftp://x"}, {}, Invalid, "server"),
        ({}, {}, Invalid, "server"),
        ({"server": "http://x"}, {"exec": {"command": "aws"}}, Refused, "exec"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        kubeproxy.read(kubeconfig(tmp_path, cluster=cluster, user=user))


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"current-context": "gone"})])
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(Invalid, match="kubeconfig"):
        kubeproxy.read(path)
