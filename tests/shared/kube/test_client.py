"""The client: on the lab's API server for what Kubernetes answers, on a scripted one for what it should not."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.status import Refusal
from shared.config import KubeConfig
from shared.errors import Conflict, DeadlineExceeded, Invalid, NotFound, Refused, Unavailable
from shared.kube.access import KubeAddress, socket_with_keepalive
from shared.kube.client import KubeClient
from shared.kube.errors import ApiConflict, ApiError, ApiInternal, ApiInvalid, ApiNotFound, ApiTimeout, ApiUnavailable
from shared.kube.objects import ConfigMap, Namespace, Node, Object, Pod
from shared.kube.requests import PatchType
from shared.kube.resources import CONFIGMAPS, NAMESPACES, NODES, PODS

# ---- on the lab's API server


async def test_what_is_served(client: KubeClient) -> None:
    assert PODS in await client.served("", "v1")
    assert await client.served("crd.projectcalico.org", "v1") == ()
    assert all("/" not in resource.plural for resource in await client.served("", "v1"))


async def test_an_object_s_life(client: KubeClient) -> None:
    made = await client.create(
        CONFIGMAPS, ConfigMap, {"metadata": {"name": "c"}, "data": {"k": "v"}}, namespace="default"
    )
    assert made.metadata.uid
    read = await client.get(CONFIGMAPS, ConfigMap, "c", namespace="default")
    assert read == made
    patched = await client.patch(CONFIGMAPS, ConfigMap, "c", {"data": {"k": None, "l": "w"}}, namespace="default")
    assert patched.data == {"l": "w"}
    with pytest.raises(ApiConflict) as stale:
        await client.replace(CONFIGMAPS, ConfigMap, made, namespace="default")
    assert stale.value.reason == "Conflict"
    await client.delete(CONFIGMAPS, "c", namespace="default", uid=made.metadata.uid)
    with pytest.raises(ApiNotFound, match='configmaps "c" not found') as gone:
        await client.get(CONFIGMAPS, ConfigMap, "c", namespace="default")
    assert (gone.value.status, gone.value.reason) == (404, "NotFound")
    assert isinstance(gone.value, NotFound), "callers need not know Kubernetes' errors"


async def test_the_three_patches_and_a_status(client: KubeClient) -> None:
    await client.create(NODES, Node, {"metadata": {"name": "n"}, "spec": {}})
    condition = {"type": "NetworkUnavailable", "status": "False"}
    node = await client.patch(
        NODES, Node, "n", {"status": {"conditions": [condition]}}, subresource="status", how=PatchType.STRATEGIC
    )
    assert [c.type for c in node.status.conditions] == ["NetworkUnavailable"]
    node = await client.patch(NODES, Node, "n", [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}])
    assert node.metadata.labels == {"a": "b"}
    assert node.status.conditions, "a patch of the object leaves its status alone"


async def test_a_namesake_is_not_deleted(client: KubeClient) -> None:
    await client.create(NAMESPACES, Namespace, {"metadata": {"name": "x"}})
    with pytest.raises(Conflict, match="UID"):
        await client.delete(NAMESPACES, "x", uid="another")


async def test_a_list_has_everything_whatever_the_page(kube: KubeApi, client: KubeClient) -> None:
    spec = {"containers": [{"name": "main", "image": "tools:1"}]}
    for number in range(1103):
        body = {"metadata": {"name": f"p{number}"}, "spec": spec}
        kube.api.create(kube.api.kinds.built_in("", "pods"), "default", body)
    names = [pod.metadata.name async for pod in client.list(PODS, Pod)]
    assert len(names) == len(set(names)) == 1103
    assert [p.metadata.name async for p in client.list(PODS, Pod, field_selector="metadata.name=p7")] == ["p7"]
    assert [p async for p in client.list(PODS, Pod, namespace="kube-system")] == []


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal(401, "Unauthorized", "Unauthorized"), Refused),
        (Refusal(403, "Forbidden", "no"), Refused),
        (Refusal(422, "Invalid", "no"), Invalid),
        (Refusal(500, "InternalError", "no"), Unavailable),
        (Refusal(504, "Timeout", "no"), DeadlineExceeded),
    ],
)
async def test_refusals_become_the_suite_s_errors(
    kube: KubeApi, client: KubeClient, refusal: Refusal, kind: type[Exception]
) -> None:
    kube.faults.refuse(refusal)
    with pytest.raises(kind) as refused:
        await client.get(PODS, Pod, "a", namespace="default")
    assert isinstance(refused.value, ApiError)
    assert (refused.value.status, refused.value.reason) == (refusal.code, refusal.reason)


async def test_too_many_requests_says_when_to_come_back(kube: KubeApi, client: KubeClient) -> None:
    kube.faults.refuse(Refusal(429, "TooManyRequests", "later", retry_after=7))
    with pytest.raises(ApiUnavailable) as refused:
        await client.get(PODS, Pod, "a", namespace="default")
    assert refused.value.retry_after == 7


async def test_nobody_there(tmp_path: Path) -> None:
    async with KubeClient(KubeAddress(f"unix://{tmp_path}/none.sock")) as nobody:
        with pytest.raises(ApiUnavailable, match="GET /api/v1/pods"):
            await nobody.page(PODS)


# ---- on a scripted server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def scripted(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler), handler_cancellation=True, shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    scheme = "https" if tls else "http"
    try:
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


NAMESPACE = {"metadata": {"name": "x"}}


async def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers["Authorization"])
        if asked[-1] != f"Bearer {token.read_text().strip()}":
            return web.json_response({"kind": "Status", "code": 401, "reason": "Unauthorized"}, status=401)
        return web.json_response(NAMESPACE)

    async with scripted(answer) as server, KubeClient(KubeConfig(server=server, token_file=token)) as client:
        await client.get(NAMESPACES, Namespace, "x")
        token.write_text("new\n")
        await client.get(NAMESPACES, Namespace, "x")
        assert asked == ["Bearer old", "Bearer old", "Bearer new"]


async def test_a_token_that_stays_wrong_is_not_tried_for_ever(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=401, text="Unauthorized")

    async with scripted(answer) as server, KubeClient(KubeConfig(server=server, token_file=token)) as client:
        with pytest.raises(Refused):
            await client.get(NAMESPACES, Namespace, "x")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("text", "status", "kind", "says"),
    [
        ("<html>gateway</html>", 502, ApiUnavailable, "gateway"),
        ("<html>hello</html>", 200, ApiInternal, "no Namespace"),
        ('{"metadata": {"name": 7}}', 200, ApiInternal, r"metadata\.name"),
        ("", 302, ApiInternal, "302"),
        ("404 page not found", 404, ApiNotFound, "page not found"),
        ('{"kind":"Status","message":null,"reason":null,"code":405}', 405, ApiInvalid, "405"),
    ],
)
async def test_answers_that_are_none(text: str, status: int, kind: type[ApiError], says: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    async with scripted(answer) as server, KubeClient(KubeAddress(server)) as client:
        with pytest.raises(kind, match=says):
            await client.get(NAMESPACES, Namespace, "x")


async def test_a_server_that_never_answers(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with scripted(answer) as server, KubeClient(KubeAddress(server), timeout_s=0.05) as client:
        with pytest.raises(ApiTimeout):
            await client.get(NAMESPACES, Namespace, "x")
        with pytest.raises(ApiTimeout):
            async with client.watch(PODS, resource_version="1", window_s=300):
                pass


async def test_an_answer_cut_in_the_middle() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b'{"metadata":')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with scripted(answer) as server, KubeClient(KubeAddress(server)) as client:
        with pytest.raises(ApiUnavailable):
            await client.get(NAMESPACES, Namespace, "x")
        with pytest.raises(ApiUnavailable):
            async with client.watch(PODS, resource_version="1", window_s=300) as chunks:
                assert [chunk async for chunk in chunks] == [b'{"metadata":']


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=kube"]
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *curve, *name, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


async def test_tls_verifies_and_presents_certificates(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    tls.load_cert_chain(cert, key)
    tls.verify_mode = ssl.CERT_REQUIRED

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        return web.json_response({"metadata": {"name": str(request.transport.get_extra_info("peercert")["subject"])}})

    async with scripted(answer, tls=tls) as server:
        known = KubeConfig(server=server, ca_file=cert, cert_file=cert, key_file=key)
        async with KubeClient(known) as client:
            assert "kube" in (await client.get(NAMESPACES, Object, "x")).metadata.name
        async with KubeClient(KubeConfig(server=server, cert_file=cert, key_file=key)) as client:
            with pytest.raises(ApiUnavailable, match="certificate"):
                await client.get(NAMESPACES, Object, "x")
        async with KubeClient(KubeConfig(server=server, cert_file=cert, key_file=key, insecure=True)) as client:
            await client.get(NAMESPACES, Object, "x")


def test_all_of_it_on_uvloop(certificate: tuple[Path, Path]) -> None:
    """The loop that the services run on: TLS, TCP with keepalive, a watch."""
    cert, key = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if "watch" not in request.query:
            return web.json_response(NAMESPACE)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{}\n")
        return response

    async def talk() -> None:
        async with scripted(answer, tls=tls) as server, KubeClient(KubeConfig(server=server, ca_file=cert)) as client:
            assert (await client.get(NAMESPACES, Namespace, "x")).metadata.name == "x"
            async with client.watch(PODS, resource_version="1", window_s=300) as chunks:
                assert b"".join([chunk async for chunk in chunks]) == b"{}\n"

    uvloop.run(talk())


def test_a_dead_connection_is_noticed_within_half_a_minute() -> None:
    """A watch is silent for minutes; the kernel asks on its behalf."""
    with socket_with_keepalive((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, every, count = (
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * count <= 30
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
