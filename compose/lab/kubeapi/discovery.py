"""The documents by which clients find out what is served. No I/O."""

from collections.abc import Iterable
from typing import Any

from compose.lab.kubeapi.kinds import Kind

Json = dict[str, Any]

VERSION: Json = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0-lab",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def api_versions() -> Json:
    """/api: the versions of the core group."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(kinds: Iterable[Kind]) -> Json:
    """/apis: every named group and its versions."""
    versions: dict[str, list[str]] = {}
    for kind in kinds:
        if kind.group and kind.version not in versions.setdefault(kind.group, []):
            versions[kind.group].append(kind.version)
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*item) for item in versions.items()]}


def group(name: str, kinds: Iterable[Kind]) -> Json | None:
    """/apis/<group>; None when nothing of that group is served."""
    found = next((item for item in group_list(kinds)["groups"] if item["name"] == name), None)
    return None if found is None else {"kind": "APIGroup", "apiVersion": "v1", **found}


def _group(name: str, versions: list[str]) -> Json:
    said = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": said, "preferredVersion": said[0]}


def resource_list(group_name: str, version: str, kinds: Iterable[Kind]) -> Json | None:
    """/api/v1 and /apis/<group>/<version>: the resources; None when that version is not served."""
    resources: list[Json] = []
    for kind in kinds:
        if (kind.group, kind.version) != (group_name, version):
            continue
        entry: Json = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": VERBS,
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        resources.append(entry)
        named = (*(("status",) if kind.has_status else ()), *kind.subresources)
        resources.extend(_subresource(kind, subresource) for subresource in named)
    if not resources:
        return None
    group_version = f"{group_name}/{version}" if group_name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


_SUBRESOURCE_KINDS: dict[str, Json] = {
    "binding": {"kind": "Binding", "verbs": ["create"]},
    "eviction": {"kind": "Eviction", "group": "policy", "version": "v1", "verbs": ["create"]},
    "finalize": {"verbs": ["update"]},
    "status": {"verbs": ["get", "patch", "update"]},
}


def _subresource(kind: Kind, name: str) -> Json:
    entry: Json = {
        "name": f"{kind.plural}/{name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": kind.kind,
    }
    return entry | _SUBRESOURCE_KINDS[name]
