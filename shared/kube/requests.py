"""Builds API requests with aiokubernetes' Proxy. The only file that knows that library; replacing it starts here.

`aiokubernetes.api_proxy.Proxy` turns a call into URL, headers and body and sends nothing, which is just what we want
of it. Two things about the library need care:

- Importing `aiokubernetes` runs an `__init__` that loads 1,202 modules (0.4 s, 63 MB). We find the package without
  running it and load its one file `api_proxy.py`, which needs only the standard library.
- Proxy writes the body `"null"` where there is none, says `application/json` for a PATCH without a content type of its
  own, does not quote path parameters, and fixes a timeout of five minutes. We correct all four here.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from shared.kube.resources import Resource

Query = Mapping[str, str | int | bool | None]


class PatchType(StrEnum):
    """How a patch's body is to be read, by its content type."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    JSON = "application/json-patch+json"


@dataclass(frozen=True, slots=True)
class Request:
    """What to send. `url` is quoted already; `body` is None where nothing may be sent."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str | None

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


class _Builder(Protocol):
    """The one method of `aiokubernetes.api_proxy.Proxy` that we call."""

    def call_api(
        self,
        resource_path: str,
        method: str,
        path_params: Mapping[str, str],
        query_params: list[tuple[str, str]],
        header_params: dict[str, str],
        body: object,
        post_params: Mapping[str, str],
        *,
        auth_settings: list[str],
    ) -> dict[str, Any]: ...


class _Settings:
    """Stands in for aiokubernetes' Configuration, which reads its token once and never again."""

    def __init__(self, host: str, token: Callable[[], str]) -> None:
        self.host = host
        self._token = token

    def auth_settings(self) -> dict[str, dict[str, str]]:
        token = self._token()
        value = f"Bearer {token}" if token else ""
        return {"BearerToken": {"in": "header", "key": "authorization", "value": value}}


def _load_proxy() -> Callable[[_Settings], _Builder]:
    package = importlib.util.find_spec("aiokubernetes")  # finds it, does not run it
    if package is None or not package.submodule_search_locations:
        raise ImportError("aiokubernetes is not installed")
    file = Path(package.submodule_search_locations[0]) / "api_proxy.py"
    spec = importlib.util.spec_from_file_location("shared.kube._aiokubernetes_api_proxy", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"aiokubernetes has no {file.name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    proxy: Callable[[_Settings], _Builder] = module.Proxy
    return proxy


_Proxy = _load_proxy()


class RequestBuilder:
    """Makes requests for one API server. `token` is asked anew for each request, because bound tokens rotate."""

    def __init__(self, host: str, token: Callable[[], str]) -> None:
        self._proxy = _Proxy(_Settings(host.rstrip("/"), token))

    def build(
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
    ) -> Request:
        """One request. Query values that are None or empty are left out; `body` is plain JSON data."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        path_params = {}
        if namespace:
            path_params["namespace"] = quote(namespace, safe="")
        if name:
            path_params["name"] = quote(name, safe="")
        built = self._proxy.call_api(
            resource.path(in_namespace=bool(namespace), named=bool(name), subresource=subresource),
            method,
            path_params,
            [(key, _text(value)) for key, value in (query or {}).items() if value is not None and value != ""],
            headers,
            body,
            {},
            auth_settings=["BearerToken"],
        )
        sent: dict[str, str] = built["headers"]
        if body is None:
            sent.pop("Content-Type", None)
        return Request(method=method, url=built["url"], headers=sent, body=None if body is None else built["data"])


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
