"""What the API server does to an object on its way in: names, metadata, defaults, validation. No I/O, no clock.

Only what clients of a pod network can see is here; admission plug-ins, quotas and most defaults are not.
"""

import copy
import re
from typing import Any

from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.status import bad_request, conflict, invalid

Json = dict[str, Any]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PATH_SEGMENT = re.compile(r"(?!\.\.?$)[^/%]+")
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character"
)
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")

MAX_GENERATED_BASE = 58
SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name")
"""Metadata that a writer cannot change."""


def named(obj: Any, kind: Kind, namespace: str, *, suffix: str) -> Json:
    """A create's body with its name and namespace settled; refuses what does not fit the path it came by."""
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata", {}), dict):
        raise bad_request("the body is no Kubernetes object")
    _same_kind(obj, kind)
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if value is not None}
    said = metadata.get("namespace", "")
    if kind.namespaced:
        if said and said != namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request: {said!r}"
            )
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"][:MAX_GENERATED_BASE] + suffix
    return {**obj, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}


def _same_kind(obj: Json, kind: Kind) -> None:
    if obj.get("kind") not in (None, "", kind.kind):
        raise bad_request(f"{obj['kind']} in version {obj.get('apiVersion')!r} cannot be handled as a {kind.kind}")
    if obj.get("apiVersion") not in (None, "", kind.api_version):
        raise bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
            f"({kind.api_version})"
        )


def validate(obj: Json, kind: Kind) -> None:
    """The metadata's rules; a 422 that names every field."""
    metadata = obj["metadata"]
    name = metadata.get("name") or ""
    causes: list[tuple[str, str, str]] = []
    if not name:
        causes.append(("metadata.name", "FieldValueRequired", "Required value: name or generateName is required"))
    else:
        problem = _bad_name(name, kind)
        if problem:
            causes.append(("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {problem}'))
    for key, value in (metadata.get("labels") or {}).items():
        if not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            text = (
                f"Invalid value: {value!r}: a valid label must be an empty string or consist of alphanumeric characters"
            )
            causes.append(("metadata.labels", "FieldValueInvalid", text))
        elif not _LABEL_KEY.fullmatch(key):
            causes.append(("metadata.labels", "FieldValueInvalid", f'Invalid value: "{key}": name part must be valid'))
    if causes:
        raise invalid(kind, name, causes)


def _bad_name(name: str, kind: Kind) -> str:
    if kind.group == "rbac.authorization.k8s.io":
        return "" if _PATH_SEGMENT.fullmatch(name) else "may not contain '/' or '%'"
    if kind.collection in {("", "namespaces"), ("", "services")}:
        return "" if len(name) <= 63 and _LABEL.fullmatch(name) else _LABEL_RULE
    return "" if len(name) <= 253 and _SUBDOMAIN.fullmatch(name) else _SUBDOMAIN_RULE


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
    return _defaulted(obj, kind)


def _defaulted(obj: Json, kind: Kind) -> Json:
    match kind.collection:
        case ("", "pods"):
            spec = obj.setdefault("spec", {})
            spec.setdefault("restartPolicy", "Always")
            spec.setdefault("dnsPolicy", "ClusterFirst")
            spec.setdefault("terminationGracePeriodSeconds", 30)
            spec.setdefault("serviceAccountName", "default")
            spec.setdefault("schedulerName", "default-scheduler")
            obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        case ("", "namespaces"):
            labels = obj["metadata"].get("labels") or {}
            obj["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": obj["metadata"]["name"]}
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}
        case ("networking.k8s.io", "networkpolicies"):
            _default_policy_types(obj.setdefault("spec", {}))
    return obj


def _default_policy_types(spec: Json) -> None:
    spec.setdefault("podSelector", {})
    for rule in (*(spec.get("ingress") or ()), *(spec.get("egress") or ())):
        for port in rule.get("ports") or ():
            port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def updated(old: Json, new: Any, kind: Kind, *, part: str = "") -> Json:
    """`new` as the successor of `old`, written to the object itself or to its `part` ("status").

    Refuses with 409 when `new` was made from another version or another object of that name.
    """
    name = old["metadata"]["name"]
    if not isinstance(new, dict) or not isinstance(new.get("metadata", {}), dict):
        raise bad_request("the body is no Kubernetes object")
    _same_kind(new, kind)
    wanted = new.get("metadata") or {}
    if wanted.get("name") not in (None, "", name):
        raise bad_request(f"the name of the object ({wanted['name']}) does not match the name on the URL ({name})")
    if wanted.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
        raise conflict(kind, name)
    if wanted.get("uid") not in (None, "", old["metadata"]["uid"]):
        why = f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: {old['metadata']['uid']}"
        raise conflict(kind, name, why)
    if part:
        result = {key: value for key, value in old.items() if key != part}
        return result | ({part: copy.deepcopy(new[part])} if part in new else {})
    result = copy.deepcopy(new) | {"apiVersion": kind.api_version, "kind": kind.kind}
    metadata = {key: value for key, value in (result.get("metadata") or {}).items() if value is not None}
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
    if "generation" in old["metadata"]:
        metadata["generation"] = old["metadata"]["generation"] + (result.get("spec") != old.get("spec"))
    return result | {"metadata": metadata}


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
