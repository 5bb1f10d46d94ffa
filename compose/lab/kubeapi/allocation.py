"""Addresses and node ports of Services, which the API server itself gives out. No I/O.

Nothing is remembered beside the Services themselves: what none of them holds is free.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.status import Refusal, invalid
from compose.lab.kubeapi.validation import forms
from compose.lab.kubeapi.validation.fields import Problems

Json = dict[str, Any]

SERVICE_CIDR = IPv4Network("172.21.0.0/20")
SERVICE_CIDR6 = IPv6Network("fd00:172:21::/112")
"""Of a dual-stack cluster; this API server gives Services IPv4 addresses only."""
NODE_PORTS = range(30000, 32768)


def carry_over(service: Json, old: Json) -> None:
    """What was allocated before stays, in place, for a writer who leaves it out or says only half of it."""
    spec, before = service["spec"], old["spec"]
    if spec["type"] == "ExternalName" or before["type"] == "ExternalName":
        return
    spec["clusterIP"] = spec.get("clusterIP") or before["clusterIP"]
    if spec.get("clusterIPs") in (None, [], before["clusterIPs"]):
        spec["clusterIPs"] = [spec["clusterIP"]]


def allocate(kind: Kind, service: Json, old: Json | None, others: Iterable[Json]) -> None:
    """Give a service, in place, what it lacks; `old` is it before an update, `others` are all the others.

    A replacement that leaves allocated values out keeps them. Refuses with a 422 what cannot be had.
    """
    spec, before = service["spec"], (old or {}).get("spec") or {}
    specs = [other["spec"] for other in others]
    if spec["type"] == "ExternalName":
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            spec.pop(field, None)
        return
    _address(kind, service, before.get("clusterIP", ""), {text for one in specs for text in one.get("clusterIPs", ())})
    if spec["type"] in ("NodePort", "LoadBalancer") and spec.get("allocateLoadBalancerNodePorts", True):
        taken = {port.get("nodePort") for one in specs for port in one.get("ports") or ()}
        _node_ports(kind, service, before, taken)


def _address(kind: Kind, service: Json, before: str, taken: set[str]) -> None:
    spec = service["spec"]
    wanted = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "") or before
    if not wanted:
        # The first address is the API server's own, the tenth usually the name server's.
        free = (str(host) for host in list(SERVICE_CIDR.hosts())[10:] if str(host) not in taken)
        wanted = next(free, "")
        if not wanted:
            raise Refusal(500, "InternalError", "failed to allocate a serviceIP: range is full")
    elif wanted != "None" and wanted != before:
        address = forms.parse_address(wanted)
        if address is not None and address not in SERVICE_CIDR:
            why = f"the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {SERVICE_CIDR}"
            raise _refused(kind, service, f"failed to allocate IP {wanted}: {why}")
        if wanted in taken:
            raise _refused(kind, service, f"failed to allocate IP {wanted}: provided IP is already allocated")
    spec["clusterIP"], spec["clusterIPs"] = wanted, [wanted]


def _node_ports(kind: Kind, service: Json, before: Json, taken: set[object]) -> None:
    held = {(port.get("protocol"), port.get("port")): port.get("nodePort") for port in before.get("ports") or ()}
    for index, port in enumerate(service["spec"].get("ports") or ()):
        wanted = port.get("nodePort") or held.get((port.get("protocol"), port.get("port")))
        if not wanted:
            wanted = next(number for number in NODE_PORTS if number not in taken)
        problem = "" if wanted in NODE_PORTS else "The range of valid ports is 30000-32767"
        problem = "provided port is already allocated" if wanted in taken else problem
        if problem:
            problems = Problems()
            (problems.at("spec", "ports")[index] / "nodePort").invalid(wanted, problem)
            raise invalid(kind, service["metadata"]["name"], problems)
        port["nodePort"] = wanted
        taken.add(wanted)


def _refused(kind: Kind, service: Json, why: str) -> Refusal:
    problems = Problems()
    problems.at("spec", "clusterIPs").invalid([service["spec"].get("clusterIP", "")], why)
    return invalid(kind, service["metadata"]["name"], problems)
