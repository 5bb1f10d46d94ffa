"""Manifests as `lab apply` and `lab delete` take them: read, find what serves each, make it so.

Apply is kubectl's: what the last apply said is kept in kubectl's annotation, so what a manifest no longer says is
removed, and what others wrote stays. Lists are replaced whole.
"""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from compose.lab.waiting import until
from shared.errors import Invalid, NotFound
from shared.kube.access import KubeAddress, open_session
from shared.kube.client import KubeClient
from shared.kube.resources import Resource

Json = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
NEW_KIND_WITHIN_S = 10.0
"""How long a CustomResourceDefinition may take to be served."""


class Done(msgspec.Struct, frozen=True):
    """What became of a manifest."""

    object: str
    did: str

    def __str__(self) -> str:
        return f"{self.object} {self.did}"


def read(text: str, *, source: str) -> list[Json]:
    """The objects in YAML or JSON: of many documents, and of lists. Invalid says what is wrong, and where."""
    import yaml  # a tenth of a second that only these commands need

    class Loader(yaml.SafeLoader):
        """Leaves times as text, which is what the API server wants them to be."""

        yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's name and form)
            first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        documents = [document for document in yaml.load_all(text, Loader) if document is not None]
    except yaml.YAMLError as error:
        raise Invalid(f"{source}: not YAML: {error}") from error
    found = [obj for document in documents for obj in _objects(document)]
    for obj in found:
        metadata = obj.get("metadata") if isinstance(obj, dict) else None
        if not isinstance(metadata, dict) or not all(isinstance(obj.get(key), str) for key in ("apiVersion", "kind")):
            raise Invalid(f"{source}: an object without apiVersion, kind or metadata: {obj!r:.80}")
        if not isinstance(metadata.get("name"), str):
            raise Invalid(f"{source}: a {obj['kind']} without a name")
    return found


def _objects(document: Any) -> Iterator[Any]:
    if isinstance(document, dict) and str(document.get("kind")).endswith("List") and "items" in document:
        yield from document["items"] or ()
    else:
        yield document


def three_way(last: Json, new: Json, live: Json) -> Json:
    """The merge patch from `live` to `new`: what `last` had and `new` has not is removed, the rest of `live` stays."""
    patch: Json = {key: None for key in last if key not in new and key in live}
    for key, value in new.items():
        there = live.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            before = last.get(key)
            inner = three_way(before if isinstance(before, dict) else {}, value, there)
            if inner:
                patch[key] = inner
        elif value != there:
            patch[key] = value
    return patch


class Manifests:
    """An API server behind a Unix socket, for manifests."""

    def __init__(self, kube: KubeClient, session: aiohttp.ClientSession) -> None:
        self.kube = kube
        self._session = session
        self._new_kinds = False

    async def apply(self, obj: Json, *, namespace: str) -> Done:
        """Make it, or change it to what the manifest says. Errors are the API server's."""
        resource = await self._resource(obj)
        home, name = _home(obj, resource, namespace), obj["metadata"]["name"]
        self._new_kinds = self._new_kinds or resource.kind == "CustomResourceDefinition"
        said = json.dumps(obj, separators=(",", ":"), sort_keys=True) + "\n"
        metadata = obj["metadata"] | {"annotations": (obj["metadata"].get("annotations") or {}) | {LAST_APPLIED: said}}
        new = obj | {"metadata": metadata}
        try:
            live = await self.kube.get(resource, dict, name, namespace=home)
        except NotFound:
            await self.kube.create(resource, dict, new, namespace=home)
            return Done(_called(resource, name), "created")
        last = json.loads((live["metadata"].get("annotations") or {}).get(LAST_APPLIED, "{}"))
        patch = three_way(last, new, live)
        if not patch:
            return Done(_called(resource, name), "unchanged")
        after = await self.kube.patch(resource, dict, name, patch, namespace=home)
        same = after["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
        return Done(_called(resource, name), "unchanged" if same else "configured")

    async def delete(self, obj: Json, *, namespace: str) -> Done:
        """Ask for its end; there being none is fine."""
        resource = await self._resource(obj)
        name = obj["metadata"]["name"]
        try:
            await self.kube.delete(resource, name, namespace=_home(obj, resource, namespace))
        except NotFound:
            return Done(_called(resource, name), "was not there")
        return Done(_called(resource, name), "deleted")

    async def _resource(self, obj: Json) -> Resource:
        """Who serves such objects, by the API server's own word."""
        api_version, kind = str(obj["apiVersion"]), str(obj["kind"])
        found: list[Resource] = []

        async def missing() -> str:
            found[:] = [resource for resource in await self._served(api_version) if resource.kind == kind]
            return "" if found else f"{api_version} {kind}: no such kind"

        if self._new_kinds:
            await until(missing, what=f"{api_version} {kind}", within_s=NEW_KIND_WITHIN_S)
        elif problem := await missing():
            raise Invalid(f"{problem} on this API server")
        return found[0]

    async def _served(self, api_version: str) -> list[Resource]:
        group, _, version = api_version.rpartition("/")
        path = f"/apis/{api_version}" if group else f"/api/{api_version}"
        async with self._session.get(f"http://localhost{path}") as answer:
            if answer.status != HTTPStatus.OK:
                return []
            listed = (await answer.json()).get("resources") or []
        return [
            Resource(group, version, entry["name"], entry["kind"], namespaced=entry["namespaced"])
            for entry in listed
            if "/" not in entry["name"]
        ]


@asynccontextmanager
async def connect(socket: Path) -> AsyncGenerator[Manifests, None]:
    """The lab's API server, or the one that stands in for it."""
    address = KubeAddress(f"unix://{socket}")
    async with KubeClient(address) as kube, await open_session(address) as session:
        yield Manifests(kube, session)


def _home(obj: Json, resource: Resource, namespace: str) -> str | None:
    return str(obj["metadata"].get("namespace") or namespace) if resource.namespaced else None


def _called(resource: Resource, name: str) -> str:
    return f"{resource.kind.lower()}{'.' + resource.group if resource.group else ''}/{name}"
