"""What the API server does to an object on its way in: its name, its metadata, what a writer cannot change.

No I/O, no clock. Defaults are in defaults.py, refusals in validation/; admission plug-ins and quotas are nowhere.
"""

import copy
from typing import Any

from compose.lab.kubeapi.defaults import set_defaults
from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.status import bad_request, conflict, internal
from compose.lab.kubeapi.validation import decoding

Json = dict[str, Any]

SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name")
"""Metadata that a writer cannot change."""


def read(body: Any, kind: Kind, *, strict: bool) -> Json:
    """A copy of what a client sent, as the server understands it: null and unknown fields are gone."""
    if not isinstance(body, dict):
        raise bad_request("the body is no Kubernetes object")
    _same_kind(body, kind)
    obj = decoding.read(kind, copy.deepcopy(body), strict=strict)
    obj.setdefault("metadata", {}).pop("managedFields", None)  # nobody keeps them here
    return obj | {"apiVersion": kind.api_version, "kind": kind.kind}


def place(obj: Json, kind: Kind, namespace: str) -> None:
    """Put a new object, in place, into the namespace that its path names; refuses when it says another."""
    metadata = obj["metadata"]
    if metadata.get("resourceVersion"):
        raise internal("resourceVersion should not be set on objects to be created")
    said = metadata.get("namespace", "")
    if not kind.namespaced:
        metadata.pop("namespace", None)
        return
    if said and said != namespace:
        raise bad_request(
            f"the namespace of the provided object does not match the namespace sent on the request: {said!r}"
        )
    metadata["namespace"] = namespace


def _same_kind(obj: Json, kind: Kind) -> None:
    if obj.get("kind") not in (None, "", kind.kind):
        raise bad_request(f"{obj['kind']} in version {obj.get('apiVersion')!r} cannot be handled as a {kind.kind}")
    if obj.get("apiVersion") not in (None, "", kind.api_version):
        raise bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
            f"({kind.api_version})"
        )


def created(obj: Json, kind: Kind, *, now: str, uid: str) -> Json:
    """A named object as it begins its life."""
    metadata = obj["metadata"]
    for field in ("resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(field, None)
    metadata["uid"] = uid
    metadata["creationTimestamp"] = now
    if "spec" in obj:
        metadata["generation"] = 1
    else:
        metadata.pop("generation", None)
    if kind.has_status and kind.collection not in {("", "nodes")}:  # a kubelet registers its node with a status
        obj.pop("status", None)
    match kind.collection:
        case ("", "pods"):
            obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        case ("", "namespaces"):
            obj["status"] = {"phase": "Active"}
    return set_defaults(kind, obj)


def updated(old: Json, body: Any, kind: Kind, *, part: str = "", strict: bool = False) -> Json:
    """`body` as the successor of `old`, written to the object itself or to its `part` ("status").

    Refuses with 409 when it was made from another version or another object of that name.
    """
    name = old["metadata"]["name"]
    result = read(body, kind, strict=strict)
    wanted = result["metadata"]
    if wanted.get("name") not in (None, "", name):
        raise bad_request(f"the name of the object ({wanted['name']}) does not match the name on the URL ({name})")
    if wanted.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
        raise conflict(kind, name)
    if wanted.get("uid") not in (None, "", old["metadata"]["uid"]):
        why = f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: {old['metadata']['uid']}"
        raise conflict(kind, name, why)
    if part:
        kept = {key: value for key, value in old.items() if key != part}
        return set_defaults(kind, copy.deepcopy(kept) | ({part: result[part]} if part in result else {}))
    metadata = dict(wanted)
    for field in SYSTEM_FIELDS:
        metadata.pop(field, None)
        if field in old["metadata"]:
            metadata[field] = old["metadata"][field]
    if kind.has_status:
        result.pop("status", None)
        if "status" in old:
            result["status"] = old["status"]
    metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
    metadata.pop("generation", None)
    result = set_defaults(kind, result | {"metadata": metadata})
    if "generation" in old["metadata"]:
        metadata["generation"] = old["metadata"]["generation"] + (result.get("spec") != old.get("spec"))
    return result


def unchanged(old: Json, new: Json) -> bool:
    """A write that changes nothing takes no version and wakes nobody."""
    return old == new


def grace_of(obj: Json, kind: Kind, asked: int | None) -> int:
    """Seconds between a DELETE and the object's end: only pods that run somewhere have any."""
    if kind.collection != ("", "pods"):
        return 0
    if not obj["spec"].get("nodeName") or obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    return int(obj["spec"].get("terminationGracePeriodSeconds", 30)) if asked is None else max(asked, 0)
