"""Who shows a token may do what its roles allow, and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from compose.lab.kubeapi import KubeApi
from compose.lab.kubeapi.rbac import ServiceAccount

BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": "terway"}],
}


def bind(kube: KubeApi, kind: str, rules: list[dict[str, Any]], *, namespace: str = "", role: str = "") -> None:
    """`kind` is that of the binding; `role` that of the role, where it differs."""
    role = role or kind.removesuffix("Binding")
    home = namespace if role == "Role" else ""
    group = "rbac.authorization.k8s.io"
    kube.store.put((group, f"{role.lower()}s"), (home, "r"), {"kind": role, "rules": rules, "metadata": {"name": "r"}})
    made = BINDING | {"kind": kind, "roleRef": {"kind": role, "name": "r"}, "metadata": {"name": "b"}}
    kube.store.put((group, f"{kind.lower()}s"), (namespace, "b"), made)


@pytest.fixture
def kube() -> KubeApi:
    return KubeApi(tokens={"t0ken": ServiceAccount("kube-system", "terway")})


@pytest_asyncio.fixture
async def ask(kube: KubeApi) -> AsyncIterator[Any]:
    from aiohttp.test_utils import TestClient, TestServer

    async with TestClient(TestServer(kube.application())) as client:

        async def status(method: str, path: str, token: str = "t0ken", **more: Any) -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with client.request(method, path, headers=headers, **more) as answer:
                assert isinstance(answer, aiohttp.ClientResponse)
                return answer.status

        yield status


async def test_without_a_role_nothing_is_allowed_but_what_is_no_object(ask: Any) -> None:
    assert await ask("GET", "/api/v1/pods") == 403
    assert await ask("GET", "/version") == 200
    assert await ask("GET", "/apis") == 200
    assert await ask("GET", "/api/v1/pods", token="another") == 401
    assert await ask("GET", "/api/v1/pods", token="") == 200, "the lab itself"


async def test_a_cluster_role_counts_everywhere(kube: KubeApi, ask: Any) -> None:
    bind(kube, "ClusterRoleBinding", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}])
    assert await ask("GET", "/api/v1/pods") == 200
    assert await ask("GET", "/api/v1/namespaces/a/pods") == 200
    assert await ask("GET", "/api/v1/namespaces/a/pods/x") == 403
    assert await ask("GET", "/api/v1/pods?watch=true&timeoutSeconds=0") == 403
    assert await ask("GET", "/api/v1/nodes") == 403
    assert await ask("DELETE", "/api/v1/namespaces/a/pods") == 403
    assert await ask("GET", "/apis/apps/v1/deployments") == 403


async def test_a_role_counts_in_its_namespace(kube: KubeApi, ask: Any) -> None:
    bind(kube, "RoleBinding", [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}], namespace="a")
    assert await ask("GET", "/api/v1/namespaces/a/configmaps/x") == 404
    assert await ask("GET", "/api/v1/namespaces/b/configmaps/x") == 403


async def test_a_cluster_role_bound_in_a_namespace_counts_there(kube: KubeApi, ask: Any) -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    bind(kube, "RoleBinding", rules, namespace="a", role="ClusterRole")
    assert await ask("GET", "/api/v1/namespaces/a/pods") == 200
    assert await ask("GET", "/api/v1/pods") == 403


async def test_subresources_and_names(kube: KubeApi, ask: Any) -> None:
    bind(
        kube,
        "ClusterRoleBinding",
        [
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"], "resourceNames": ["n1"]},
        ],
    )
    assert await ask("GET", "/api/v1/nodes/n1") == 404
    assert await ask("GET", "/api/v1/nodes/n2") == 403
    assert await ask("PATCH", "/api/v1/nodes/n1", data="{}") == 403
    assert await ask("PATCH", "/api/v1/nodes/n1/status", data="{}") != 403
