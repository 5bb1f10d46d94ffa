"""CustomResourceDefinitions: each makes kinds that are stored and served like any other. No I/O."""

from typing import Any

from compose.lab.kubeapi.kinds import BUILT_IN, Collection, Kind, Kinds
from compose.lab.kubeapi.status import invalid

Json = dict[str, Any]

COLLECTION: Collection = ("apiextensions.k8s.io", "customresourcedefinitions")


def kinds_of(crd: Json, kind: Kind) -> list[Kind]:
    """The kinds that a CustomResourceDefinition declares, one for each served version; a 422 when it is incomplete."""
    spec = crd.get("spec") or {}
    names = spec.get("names") or {}
    causes = [
        (f"spec.{field}", "FieldValueRequired", "Required value")
        for field, value in (
            ("group", spec.get("group")),
            ("names.plural", names.get("plural")),
            ("names.kind", names.get("kind")),
            ("scope", spec.get("scope")),
            ("versions", spec.get("versions")),
        )
        if not value
    ]
    expected = f"{names.get('plural')}.{spec.get('group')}"
    if not causes and crd["metadata"]["name"] != expected:
        causes = [
            (
                "metadata.name",
                "FieldValueInvalid",
                f'Invalid value: must be spec.names.plural+"."+spec.group: {expected}',
            )
        ]
    if causes:
        raise invalid(kind, crd["metadata"]["name"], causes)
    return [
        Kind(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            singular=names.get("singular") or names["kind"].lower(),
            namespaced=spec["scope"] == "Namespaced",
            has_status="status" in (version.get("subresources") or {}),
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
        )
        for version in spec["versions"]
        if version.get("served", True)
    ]


def collection_of(crd: Json) -> Collection:
    """Where the objects of a definition are kept, whether it is served or not."""
    return (crd["spec"]["group"], crd["spec"]["names"]["plural"])


def established(crd: Json, *, now: str) -> Json:
    """The definition with the status that its controller would write: served from now on."""
    names = {"listKind": f"{crd['spec']['names']['kind']}List", "singular": crd["spec"]["names"]["kind"].lower()}
    names |= crd["spec"]["names"]
    conditions = [
        {
            "type": "NamesAccepted",
            "status": "True",
            "lastTransitionTime": now,
            "reason": "NoConflicts",
            "message": "no conflicts found",
        },
        {
            "type": "Established",
            "status": "True",
            "lastTransitionTime": now,
            "reason": "InitialNamesAccepted",
            "message": "the initial names have been accepted",
        },
    ]
    stored = [version["name"] for version in crd["spec"]["versions"] if version.get("storage", True)]
    return crd | {
        "spec": {"conversion": {"strategy": "None"}, **crd["spec"], "names": names},
        "status": {"conditions": conditions, "acceptedNames": names, "storedVersions": stored},
    }


def collections(kinds: Kinds) -> set[Collection]:
    """What is custom: everything that is not built in."""
    return {kind.collection for kind in kinds} - _BUILT_IN_COLLECTIONS


_BUILT_IN_COLLECTIONS = {kind.collection for kind in BUILT_IN}
