"""The HTTP face: what an ordinary client sees on the wire."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.status import Refusal

PODS = "/api/v1/namespaces/default/pods"


@pytest_asyncio.fixture
async def kube() -> KubeApi:
    return KubeApi(first_version=1, bookmark_s=30)


@pytest_asyncio.fixture
async def http(kube: KubeApi) -> AsyncIterator[aiohttp.ClientSession]:
    listening = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with kube.serving([listening]), aiohttp.ClientSession(base) as session:
        yield session


def pod(name: str, **labels: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "tools:1"}]}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


@asynccontextmanager
async def watching(http: aiohttp.ClientSession, path: str = PODS, **query: str) -> AsyncIterator[AsyncIterator[Any]]:
    async with asyncio.timeout(20), http.get(path, params={"watch": "true", **query}) as response:
        assert response.status == 200
        assert response.content_type == "application/json"

        async def events() -> AsyncIterator[Any]:
            async for line in response.content:
                event = json.loads(line)
                yield event["type"], event["object"]

        yield events()


def name(event: Any) -> str:
    return f"{event[0]} {event[1]['metadata']['name']}"


async def test_the_verbs_over_http(http: aiohttp.ClientSession) -> None:
    async with http.post(PODS, json=pod("a")) as made:
        assert made.status == 201
        body = await made.json()
    async with http.get(f"{PODS}/a") as read:
        assert await read.json() == body
    async with http.get("/api/v1/pods", params={"labelSelector": "!x"}) as listed:
        assert [item["metadata"]["name"] for item in (await listed.json())["items"]] == ["a"]
    patch = json.dumps({"metadata": {"labels": {"x": "y"}}})
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    async with http.patch(f"{PODS}/a", data=patch, headers=headers) as patched:
        body = await patched.json()
        assert body["metadata"]["labels"] == {"x": "y"}
    async with http.put(f"{PODS}/a/status", json=body | {"status": {"phase": "Running"}}) as put:
        assert (await put.json())["status"] == {"phase": "Running"}
    async with http.post(f"{PODS}/a/binding", json={"target": {"name": "n1"}}) as bound:
        assert bound.status == 201
    async with http.post(f"{PODS}/a/eviction", json={"metadata": {"name": "a"}}) as evicted:
        assert evicted.status == 201
    async with http.get(f"{PODS}/a") as marked:
        assert (await marked.json())["metadata"]["deletionGracePeriodSeconds"] == 30
    async with http.delete(f"{PODS}/a", params={"gracePeriodSeconds": "0"}) as deleted:
        assert deleted.status == 200
    async with http.get(f"{PODS}/a") as gone:
        assert gone.status == 404
        assert (await gone.json())["reason"] == "NotFound"


async def test_groups_and_custom_kinds_have_paths_of_their_own(http: aiohttp.ClientSession) -> None:
    definition = {
        "metadata": {"name": "gnus.x.org"},
        "spec": {
            "group": "x.org",
            "scope": "Namespaced",
            "names": {"plural": "gnus", "kind": "Gnu"},
            "versions": [{"name": "v1alpha1", "served": True, "storage": True}],
        },
    }
    async with http.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=definition) as made:
        assert made.status == 201
    for path in (
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
        "/apis/x.org/v1alpha1/namespaces/default/gnus",
    ):
        async with http.post(path, json={"metadata": {"name": "a"}, "spec": {}}) as made:
            assert made.status == 201
        async with http.get(f"{path}/a") as read:
            assert (await read.json())["apiVersion"] in path
        async with http.get(path.replace("namespaces/default/", "")) as listed:
            assert [item["metadata"]["name"] for item in (await listed.json())["items"]] == ["a"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/v2", 404),
        ("GET", "/apis/none.io/v1", 404),
        ("GET", "/api/v1/gnus", 404),
        ("GET", "/api/v1/pods/a", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", f"{PODS}/a/log", 404),
        ("GET", "/api/v1/pods?limit=x", 400),
        ("GET", "/api/v1/pods?labelSelector=%2C", 400),
        ("GET", "/api/v1/pods?watch=1&resourceVersion=x", 400),
        ("GET", "/api/v1/pods?watch=1&timeoutSeconds=soon", 400),
        ("POST", f"{PODS}?dryRun=Some", 400),
        ("POST", f"{PODS}/a", 405),
        ("PUT", PODS, 405),
        ("PATCH", PODS, 405),
        ("OPTIONS", PODS, 405),
    ],
)
async def test_wrong_requests(http: aiohttp.ClientSession, method: str, path: str, status: int) -> None:
    async with http.request(method, path, json={}) as answer:
        assert answer.status == status


async def test_protobuf_is_not_spoken(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "application/vnd.kubernetes.protobuf"}
    async with http.post(PODS, data=b"k8s\x00", headers=headers) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize("body", [b"", b"{", b"k8s\x00\n", b"[" * 100_000 + b"]" * 100_000])
async def test_bodies_that_are_no_json(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post(PODS, data=body) as answer:
        assert (await answer.json())["code"] == 400


async def test_a_body_beyond_the_limit(http: aiohttp.ClientSession) -> None:
    async with http.post(PODS, data=io.BytesIO(b" " * ((3 << 20) + 1))) as answer:
        assert (await answer.json())["reason"] == "RequestEntityTooLarge"


async def test_refusals_are_status_objects(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    kube.faults.refuse(Refusal(429, "TooManyRequests", "slow down", retry_after=3))
    async with http.get(PODS) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
        assert (await answer.json())["details"] == {"retryAfterSeconds": 3}


# ---- watch


async def test_a_watch_from_a_version_shows_what_came_after(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    await create(http, "before")
    version = str(kube.store.version)
    await create(http, "between")
    async with watching(http, resourceVersion=version) as events:
        assert name(await anext(events)) == "ADDED between"
        await create(http, "after")
        assert name(await anext(events)) == "ADDED after"
        async with http.delete(f"{PODS}/between"):
            pass
        kind, gone = await anext(events)
        assert kind == "DELETED"
        assert gone["metadata"]["resourceVersion"] == str(kube.store.version)


@pytest.mark.parametrize("version", ["0", None])
async def test_a_watch_from_nowhere_begins_with_everything(http: aiohttp.ClientSession, version: str | None) -> None:
    await create(http, "a", "b")
    query = {} if version is None else {"resourceVersion": version}
    async with watching(http, **query) as events:
        assert [name(await anext(events)) for _ in range(2)] == ["ADDED a", "ADDED b"]


async def test_a_streamed_list_ends_with_its_bookmark(http: aiohttp.ClientSession) -> None:
    await create(http, "a")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with watching(http, **query) as events:
        assert name(await anext(events)) == "ADDED a"
        kind, mark = await anext(events)
        assert (kind, mark["metadata"]["annotations"]) == ("BOOKMARK", {"k8s.io/initial-events-end": "true"})


async def test_objects_enter_and_leave_a_selection(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    async with watching(http, labelSelector="app=web", resourceVersion=str(kube.store.version)) as events:
        await create(http, "a", app="db")
        for labels in ({"app": "web"}, {"app": "web", "x": "y"}, {"app": "db"}):
            headers = {"Content-Type": "application/merge-patch+json"}
            async with http.patch(f"{PODS}/a", data=json.dumps({"metadata": {"labels": labels}}), headers=headers):
                pass
        assert [name(await anext(events)) for _ in range(3)] == ["ADDED a", "MODIFIED a", "DELETED a"]


async def test_other_namespaces_and_kinds_are_not_shown(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    async with watching(http, resourceVersion=str(kube.store.version)) as events:
        async with http.post("/api/v1/namespaces/kube-system/pods", json=pod("far")):
            pass
        async with http.post("/api/v1/namespaces/default/configmaps", json=pod("map")):
            pass
        await create(http, "near")
        assert name(await anext(events)) == "ADDED near"


async def test_one_object_can_be_watched(http: aiohttp.ClientSession) -> None:
    await create(http, "a", "b")
    async with watching(http, f"{PODS}/b") as events:
        assert name(await anext(events)) == "ADDED b"


async def test_a_printer_gets_rows(http: aiohttp.ClientSession) -> None:
    await create(http, "a")
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    async with http.get(PODS, params={"watch": "1"}, headers=headers) as response:
        event = json.loads(await response.content.readline())
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"][:3] == ["a", "0/1", "Pending"]


async def test_a_version_that_was_forgotten_is_expired(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    await create(http, "a", "b")
    kube.compact()
    async with watching(http, resourceVersion="2") as events:
        kind, status = await anext(events)
        assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
        assert [event async for event in events] == [], "and the watch ends"


async def test_bookmarks_and_the_end_of_the_window(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    query = {"resourceVersion": str(kube.store.version), "timeoutSeconds": "0.05"}
    async with watching(http, **query) as events:
        assert [event async for event in events] == [], "nobody asked for bookmarks"
    async with watching(http, allowWatchBookmarks="true", **query) as events:
        [(kind, mark)] = [event async for event in events]
    assert kind == "BOOKMARK"
    assert mark == {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(kube.store.version), "creationTimestamp": None},
    }


async def test_cut_watches_break_and_are_counted(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    async with watching(http) as events:
        await create(http, "a")
        await anext(events)
        assert kube.faults.watches == 1
        assert kube.faults.cut_watches() == 1
        with pytest.raises(aiohttp.ClientPayloadError):
            await anext(events)
    async with asyncio.timeout(20):
        while kube.faults.watches:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_server_that_is_away_answers_nobody(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    async with watching(http) as events:
        await create(http, "a")
        await anext(events)
        kube.faults.go_away()
        with pytest.raises(aiohttp.ClientPayloadError):
            await anext(events)
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get(PODS)
    kube.faults.come_back()
    async with http.get(PODS) as answer:
        assert answer.status == 200


async def test_closing_ends_watches_at_once(tmp_path: Path) -> None:
    kube = KubeApi(first_version=1)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "kube.sock"))
    connector = aiohttp.UnixConnector(str(tmp_path / "kube.sock"))
    async with aiohttp.ClientSession("http://kube", connector=connector) as http, asyncio.timeout(20):
        async with kube.serving([listening]):
            response = await http.get(PODS, params={"watch": "1"})
        assert await response.read() == b""


# ---- discovery


async def test_discovery_names_every_kind_once(http: aiohttp.ClientSession) -> None:
    found = set()
    async with http.get("/apis") as answer:
        versions = [v["groupVersion"] for g in (await answer.json())["groups"] for v in g["versions"]]
    for path in ["/api/v1", *(f"/apis/{version}" for version in versions)]:
        async with http.get(path) as answer:
            body = await answer.json()
            assert body["kind"] == "APIResourceList"
            found |= {(body["groupVersion"], r["name"]) for r in body["resources"]}
    assert {("v1", "pods"), ("v1", "pods/status"), ("v1", "pods/binding"), ("apps/v1", "statefulsets")} <= found
    assert ("networking.k8s.io/v1", "networkpolicies") in found
    for path in ("/version", "/healthz", "/readyz", "/livez/ping", "/apis/apps"):
        async with http.get(path) as answer:
            assert answer.status == 200


# ---- dry runs, strictness, apply


async def test_a_dry_run_answers_and_changes_nothing(kube: KubeApi, http: aiohttp.ClientSession) -> None:
    await create(http, "a")
    version, dry = kube.store.version, {"dryRun": "All"}
    async with http.post(PODS, json=pod("b"), params=dry) as made:
        assert made.status == 201
    async with http.post(PODS, json=pod("a"), params=dry) as made:
        assert made.status == 409
    merge = {"Content-Type": "application/merge-patch+json"}
    labels = json.dumps({"metadata": {"labels": {"x": "y"}}})
    async with http.patch(f"{PODS}/a", data=labels, headers=merge, params=dry) as patched:
        assert (await patched.json())["metadata"]["labels"] == {"x": "y"}
    async with http.delete(f"{PODS}/a", params=dry) as deleted:
        assert deleted.status == 200
    assert kube.store.version == version
    async with http.get(PODS) as listed:
        assert [item["metadata"]["name"] for item in (await listed.json())["items"]] == ["a"]


async def test_a_field_that_does_not_exist_is_refused_when_asked(http: aiohttp.ClientSession) -> None:
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    body = {"metadata": {"name": "a"}, "spec": {"podSelector": {}, "igress": []}}
    async with http.post(path, json=body, params={"fieldValidation": "Strict"}) as made:
        assert made.status == 400
        assert 'strict decoding error: unknown field "spec.igress"' in (await made.json())["message"]
    async with http.post(path, json=body) as made:
        assert (await made.json())["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}


async def test_an_invalid_object_is_a_422_with_its_fields(http: aiohttp.ClientSession) -> None:
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    body = {"metadata": {"name": "a"}, "spec": {"ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}}
    async with http.post(path, json=body) as made:
        assert made.status == 422
        assert (await made.json())["details"] == {
            "name": "a",
            "group": "networking.k8s.io",
            "kind": "NetworkPolicy",
            "causes": [
                {
                    "reason": "FieldValueInvalid",
                    "message": "Invalid value: 80: must be greater than or equal to `port`",
                    "field": "spec.ingress[0].ports[0].endPort",
                }
            ],
        }
    body["spec"] = {}
    async with http.post(path, json=body) as made:
        assert made.status == 201
    bad = json.dumps({"spec": {"policyTypes": ["x"]}})
    merge = {"Content-Type": "application/merge-patch+json"}
    async with http.patch(f"{path}/a", data=bad, headers=merge) as patched:
        assert patched.status == 422, "and so it is at every later write"


async def test_apply_makes_and_changes(http: aiohttp.ClientSession) -> None:
    path = "/api/v1/namespaces/default/configmaps/c"
    headers, by = {"Content-Type": "application/apply-patch+yaml"}, {"fieldManager": "tests"}
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  {}: '1'\n"
    async with http.patch(path, data=text.format("a"), headers=headers) as refused:
        assert refused.status == 422
        assert "fieldManager: Required value" in (await refused.json())["message"]
    async with http.patch(path, data=text.format("a"), headers=headers, params=by) as made:
        assert made.status == 201
    async with http.patch(path, data=text.format("b"), headers=headers, params=by) as applied:
        assert applied.status == 200
        assert (await applied.json())["data"] == {"a": "1", "b": "1"}
    for bad in ("kind: ConfigMap", "- 1", "a: [", "{}"):
        async with http.patch(path, data=bad, headers=headers, params=by) as refused:
            assert refused.status == 400


async def create(http: aiohttp.ClientSession, *names: str, **labels: str) -> None:
    for one in names:
        async with http.post(PODS, json=pod(one, **labels)) as made:
            assert made.status == 201
