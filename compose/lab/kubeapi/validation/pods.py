"""Pod, as far as a pod network, its node and its scheduler read one. No I/O."""

import copy
import math
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

from compose.lab.kubeapi.validation import forms
from compose.lab.kubeapi.validation.fields import Path, Problems, each
from compose.lab.kubeapi.validation.metadata import check_labels
from compose.lab.kubeapi.validation.network_policies import PROTOCOLS

Json = dict[str, Any]

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_SORTED_PROTOCOLS = sorted(PROTOCOLS)

_CHANGEABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check_pod(problems: Problems, pod: Json, old: Json | None) -> None:
    """A Pod with its defaults in place; once made, hardly anything of its spec can change."""
    at, spec = problems.at("spec"), pod["spec"]
    _check_containers(at, spec)
    (at / "restartPolicy").one_of(spec.get("restartPolicy"), RESTART_POLICIES)
    (at / "dnsPolicy").one_of(spec.get("dnsPolicy"), DNS_POLICIES)
    for field, form in (
        ("nodeName", forms.dns1123_subdomain),
        ("serviceAccountName", forms.dns1123_subdomain),
        ("hostname", forms.dns1123_label),
        ("subdomain", forms.dns1123_label),
    ):
        if spec.get(field):
            (at / field).invalid(spec[field], *form(spec[field]))
    check_labels(at / "nodeSelector", spec.get("nodeSelector") or {})
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline < 1 << 31:
        (at / "activeDeadlineSeconds").invalid(deadline, f"must be between 1 and {(1 << 31) - 1}, inclusive")
    for there, alias in each(at / "hostAliases", spec.get("hostAliases")):
        (there / "ip").invalid(alias.get("ip", ""), *forms.address(str(alias.get("ip", ""))))
    _check_addresses(problems.at("status", "podIPs"), (pod.get("status") or {}).get("podIPs") or [])
    if old is not None:
        _check_changes(at, spec, old["spec"])


def _check_containers(at: Path, spec: Json) -> None:
    if not spec.get("containers"):
        (at / "containers").required()
    names: set[str] = set()
    host_ports: set[tuple[str, int, str]] = set()
    for there, container in _containers(at, spec):
        name = container.get("name") or ""
        if not name:
            (there / "name").required()
        else:
            (there / "name").invalid(name, *forms.dns1123_label(name))
            if name in names:
                (there / "name").duplicate(name)
        names.add(name)
        if not container.get("image"):
            (there / "image").required()
        (there / "imagePullPolicy").one_of(container.get("imagePullPolicy"), PULL_POLICIES)
        _check_ports(there / "ports", container, host_ports, host_network=bool(spec.get("hostNetwork")))


def _containers(at: Path, spec: Json) -> Iterator[tuple[Path, Json]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from each(at / field, spec.get(field))


def _check_ports(at: Path, container: Json, host_ports: set[tuple[str, int, str]], *, host_network: bool) -> None:
    names: set[str] = set()
    for there, said in each(at, container.get("ports")):
        name, number, on_host = str(said.get("name") or ""), said.get("containerPort", 0), said.get("hostPort", 0)
        assert isinstance(number, int) and isinstance(on_host, int)
        if name:
            wrong = forms.port_name(name)
            (there / "name").invalid(name, *wrong)
            if not wrong and name in names:
                (there / "name").duplicate(name)
            names.add(name)
        if number == 0:
            (there / "containerPort").required()
        else:
            (there / "containerPort").invalid(number, *forms.port_number(number))
        protocol = str(said.get("protocol") or "")
        (there / "protocol").one_of(protocol, _SORTED_PROTOCOLS)
        if on_host:
            (there / "hostPort").invalid(on_host, *forms.port_number(on_host))
            place = (protocol, on_host, str(said.get("hostIP") or ""))
            if place in host_ports:
                (there / "hostPort").duplicate("/".join((protocol, place[2], str(on_host))))
            host_ports.add(place)
        if host_network and on_host != number:
            (there / "containerPort").invalid(number, "must match `hostPort` when `hostNetwork` is true")


def _check_addresses(at: Path, said: list[Json]) -> None:
    """At most one of each family, none twice."""
    families = []
    for there, entry in each(at, said):
        text = str(entry.get("ip") or "")
        there.invalid(text, *forms.address(text))
        found = forms.parse_address(text)
        if found is not None:
            families.append(isinstance(found, IPv4Address))
    if (len(families) > 1 and len(set(families)) == 1) or len(said) > 2:
        at.invalid(said, "may specify no more than one IP for each IP family")


def _check_changes(at: Path, new: Json, old: Json) -> None:
    for field in ("containers", "initContainers"):
        if len(new.get(field) or ()) != len(old.get(field) or ()):
            (at / field).forbidden("pod updates may not add or remove containers")
            return
    allowed = copy.deepcopy(new)
    _restore(allowed, old, "ephemeralContainers")
    if all(one in (new.get("tolerations") or ()) for one in old.get("tolerations") or ()):
        _restore(allowed, old, "tolerations")
    if old.get("terminationGracePeriodSeconds", 0) < 0 and new.get("terminationGracePeriodSeconds") == 1:
        _restore(allowed, old, "terminationGracePeriodSeconds")
    if (new.get("activeDeadlineSeconds") or math.inf) <= (old.get("activeDeadlineSeconds") or math.inf):
        _restore(allowed, old, "activeDeadlineSeconds")
    for field in ("containers", "initContainers"):
        for container, before in zip(allowed.get(field) or (), old.get(field) or (), strict=True):
            _restore(container, before, "image")
    if allowed != old:
        at.forbidden(_CHANGEABLE)


def _restore(new: Json, old: Json, field: str) -> None:
    new.pop(field, None)
    if field in old:
        new[field] = old[field]
