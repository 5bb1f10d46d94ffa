"""Who may do what: Kubernetes' RBAC over the roles and bindings in the store. No I/O."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from compose.lab.kubeapi.paths import Target
from compose.lab.kubeapi.store import Store

Json = Mapping[str, Any]

_GROUP = "rbac.authorization.k8s.io"


class ServiceAccount(NamedTuple):
    """One that holds a token of this API server."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}"


def verb_of(method: str, target: Target, *, watch: bool) -> str:
    """The verb that a request is, as roles name it."""
    match method:
        case "GET" if watch:
            return "watch"
        case "GET":
            return "get" if target.name else "list"
        case "POST":
            return "create"
        case "PUT":
            return "update"
        case "PATCH":
            return "patch"
        case "DELETE":
            return "delete" if target.name else "deletecollection"
        case _:
            return method.lower()


def allowed(who: ServiceAccount, verb: str, target: Target, store: Store) -> bool:
    """Whether some binding gives `who` a role with a rule for it."""
    return any(_covers(rule, verb, target) for rule in _rules(who, target.namespace, store))


def _rules(who: ServiceAccount, namespace: str, store: Store) -> Iterator[Json]:
    """Those of the cluster's bindings, and of the bindings in `namespace`."""
    everywhere: Iterable[Json] = store.all((_GROUP, "clusterrolebindings")).values()
    here = [obj for (home, _), obj in store.all((_GROUP, "rolebindings")).items() if home == namespace]
    for binding in (*everywhere, *here):
        if any(_is(subject, who) for subject in binding.get("subjects") or ()):
            role = binding["roleRef"]
            plural, home = ("clusterroles", "") if role["kind"] == "ClusterRole" else ("roles", namespace)
            yield from (store.get((_GROUP, plural), (home, role["name"])) or {}).get("rules") or ()


def _is(subject: Json, who: ServiceAccount) -> bool:
    return subject.get("kind") == "ServiceAccount" and (subject.get("namespace"), subject.get("name")) == who


def _covers(rule: Json, verb: str, target: Target) -> bool:
    resource = f"{target.kind.plural}/{target.subresource}" if target.subresource else target.kind.plural
    names = rule.get("resourceNames") or ()
    return (
        _has(rule.get("verbs"), verb)
        and _has(rule.get("apiGroups"), target.kind.group)
        and _has(rule.get("resources"), resource)
        and (not names or target.name in names)
    )


def _has(listed: Iterable[str] | None, wanted: str) -> bool:
    return any(entry in (wanted, "*") for entry in listed or ())
