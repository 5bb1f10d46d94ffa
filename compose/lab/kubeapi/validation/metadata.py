"""An object's metadata and its selectors, as apimachinery validates them. No I/O."""

from collections.abc import Callable, Mapping
from typing import Any

from compose.lab.kubeapi.kinds import Collection, Kind
from compose.lab.kubeapi.validation import forms
from compose.lab.kubeapi.validation.fields import Path, Problems, each, quoted

Json = dict[str, Any]

MAX_ANNOTATIONS = 256 << 10
"""Bytes, of all keys and values together."""

_NAME_FORMS: Mapping[Collection, Callable[[str], list[str]]] = {
    ("", "namespaces"): forms.dns1123_label,
    ("", "services"): forms.dns1035_label,
    **{
        ("rbac.authorization.k8s.io", plural): forms.path_segment
        for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
    },
}
"""Whose names are not subdomains."""


def check_metadata(problems: Problems, kind: Kind, metadata: Json, old: Json | None) -> None:
    """ObjectMeta; `old` is the metadata before an update."""
    at = problems.at("metadata")
    form = _NAME_FORMS.get(kind.collection, forms.dns1123_subdomain)
    name, base = metadata.get("name") or "", metadata.get("generateName") or ""
    if base and old is None:
        # What is generated ends in letters, so a hyphen may end the part before it.
        (at / "generateName").invalid(base, *form(base[:-1] + "a" if base.endswith("-") else base))
    if not name:
        (at / "name").required("name or generateName is required")
    elif old is None:
        (at / "name").invalid(name, *form(name))
    check_labels(at / "labels", metadata.get("labels") or {})
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        (at / "annotations").invalid(key, *forms.qualified_name(key.lower()))
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        (at / "annotations").too_long(MAX_ANNOTATIONS)
    _check_owners(at / "ownerReferences", metadata.get("ownerReferences") or [])
    finalizers = metadata.get("finalizers") or []
    for finalizer in finalizers:
        (at / "finalizers").invalid(finalizer, *forms.qualified_name(finalizer))
    if old is not None and old.get("deletionTimestamp"):
        new = sorted(set(finalizers) - set(old.get("finalizers") or ()))
        if new:
            (at / "finalizers").forbidden(
                "no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{', '.join(map(quoted, new))}}}"
            )


def _check_owners(at: Path, owners: list[Json]) -> None:
    controllers = []
    for owner in owners:
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                (at / field).invalid("", "version must not be empty" if field == "apiVersion" else "must not be empty")
        if owner.get("controller"):
            controllers.append(f"{owner.get('kind')}/{owner.get('name')}")
    if len(controllers) > 1:
        first, second, *_ = controllers
        at.invalid(
            owners,
            f'Only one reference can have Controller set to true. Found "true" in references for {first} and {second}',
        )


def check_labels(at: Path, labels: Mapping[str, str]) -> None:
    """Labels: every key and every value."""
    for key, value in labels.items():
        at.invalid(key, *forms.qualified_name(key))
        at.invalid(value, *forms.label_value(value))


def check_selector(at: Path, selector: Json | None) -> None:
    """A LabelSelector; a missing one is fine."""
    if selector is None:
        return
    check_labels(at / "matchLabels", selector.get("matchLabels") or {})
    for there, expression in each(at / "matchExpressions", selector.get("matchExpressions")):
        key, operator, values = (expression.get(field) for field in ("key", "operator", "values"))
        assert values is None or isinstance(values, list)
        match operator:
            case "In" | "NotIn":
                if not values:
                    (there / "values").required("must be specified when `operator` is 'In' or 'NotIn'")
            case "Exists" | "DoesNotExist":
                if values:
                    (there / "values").forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
            case _:
                (there / "operator").invalid(operator or "", "not a valid selector operator")
        (there / "key").invalid(key or "", *forms.qualified_name(str(key or "")))
        for index, value in enumerate(values or ()):
            (there / "values")[index].invalid(value, *forms.label_value(value))
