"""What an API server refuses: every rule for the built-in kinds that the project reads. Pure.

    fields.py            places and complaints            forms.py     forms of names, addresses, ports
    metadata.py          every object, and selectors      schemas.py, decoding.py   fields and their types
    network_policies.py  pods.py  services.py  core.py    the kinds' own rules

The rules, their order and their words are those of Kubernetes 1.32. Other kinds have their metadata checked only.
"""

from collections.abc import Callable, Mapping
from typing import Any

from compose.lab.kubeapi.kinds import Collection, Kind
from compose.lab.kubeapi.status import invalid
from compose.lab.kubeapi.validation.core import check_config_map, check_event, check_node
from compose.lab.kubeapi.validation.fields import Problems
from compose.lab.kubeapi.validation.metadata import check_metadata
from compose.lab.kubeapi.validation.network_policies import check_network_policy
from compose.lab.kubeapi.validation.pods import check_pod
from compose.lab.kubeapi.validation.services import check_endpoint_slice, check_service

Json = dict[str, Any]

_CHECKS: Mapping[Collection, Callable[[Problems, Json, Json | None], None]] = {
    ("", "pods"): check_pod,
    ("", "nodes"): check_node,
    ("", "services"): check_service,
    ("", "configmaps"): check_config_map,
    ("", "events"): check_event,
    ("discovery.k8s.io", "endpointslices"): check_endpoint_slice,
    ("networking.k8s.io", "networkpolicies"): check_network_policy,
}


def problems_of(kind: Kind, obj: Json, old: Json | None = None) -> Problems:
    """Everything that is wrong with an object whose shape is right and whose defaults are set.

    `old` is the object before an update: some of what it says cannot be taken back.
    """
    problems = Problems()
    check_metadata(problems, kind, obj["metadata"], None if old is None else old["metadata"])
    check = _CHECKS.get(kind.collection)
    if check is not None:
        check(problems, obj, old)
    return problems


def validate(kind: Kind, obj: Json, old: Json | None = None) -> None:
    """Refuse with a 422 that names every field."""
    problems = problems_of(kind, obj, old)
    if problems:
        raise invalid(kind, obj["metadata"].get("name") or "", problems)
