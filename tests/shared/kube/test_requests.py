"""The request builder: what aiokubernetes writes, and what we correct."""

import json
import subprocess
import sys

import pytest

from shared.kube.requests import PatchType, Query, RequestBuilder
from shared.kube.resources import NETWORK_POLICIES, NODES, PODS

builder = RequestBuilder("https://api:6443/", lambda: "t0k3n")


def test_a_read_has_neither_body_nor_content_type() -> None:
    request = builder.build("GET", PODS, namespace="web", name="a")
    assert str(request) == "GET https://api:6443/api/v1/namespaces/web/pods/a"
    assert request.body is None
    assert request.headers == {"Accept": "application/json", "authorization": "Bearer t0k3n"}


def test_a_write_carries_json() -> None:
    request = builder.build("POST", NETWORK_POLICIES, namespace="web", body={"metadata": {"name": "x"}})
    assert request.url == "https://api:6443/apis/networking.k8s.io/v1/namespaces/web/networkpolicies"
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body or "") == {"metadata": {"name": "x"}}


@pytest.mark.parametrize("how", PatchType)
def test_a_patch_says_which_dialect_it_speaks(how: PatchType) -> None:
    request = builder.build("PATCH", NODES, name="n", subresource="status", body=[], content_type=how)
    assert request.url == "https://api:6443/api/v1/nodes/n/status"
    assert request.headers["Content-Type"] == how.value
    assert request.body == "[]"


def test_query_values_are_quoted_and_empty_ones_left_out() -> None:
    query: Query = {
        "fieldSelector": "spec.nodeName=n 1",
        "limit": 5,
        "watch": True,
        "continue": "",
        "labelSelector": None,
    }
    request = builder.build("GET", PODS, query=query)
    assert request.url == "https://api:6443/api/v1/pods?fieldSelector=spec.nodeName%3Dn+1&limit=5&watch=true"


def test_names_cannot_leave_their_place_in_the_path() -> None:
    request = builder.build("GET", PODS, namespace="a/../b", name="{x}?y")
    assert request.url == "https://api:6443/api/v1/namespaces/a%2F..%2Fb/pods/%7Bx%7D%3Fy"


def test_the_token_is_asked_for_each_time() -> None:
    tokens = iter(["one", "two", ""])
    rotating = RequestBuilder("http://api", lambda: next(tokens))
    assert rotating.build("GET", NODES).headers["authorization"] == "Bearer one"
    assert rotating.build("GET", NODES).headers["authorization"] == "Bearer two"
    assert "authorization" not in rotating.build("GET", NODES).headers


def test_the_library_is_not_run_by_importing_the_seam() -> None:
    """Its __init__ would cost 0.4 s and 63 MB."""
    script = "import sys, shared.kube.client; print([m for m in sys.modules if m.split('.')[0] == 'aiokubernetes'])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
