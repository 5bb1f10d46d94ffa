"""Service and EndpointSlice. No I/O."""

from typing import Any

from compose.lab.kubeapi.validation import forms
from compose.lab.kubeapi.validation.fields import Path, Problems, each
from compose.lab.kubeapi.validation.metadata import check_labels
from compose.lab.kubeapi.validation.network_policies import PROTOCOLS

Json = dict[str, Any]

SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")
_SORTED_PROTOCOLS = sorted(PROTOCOLS)

MAX_ENDPOINTS = 1000
MAX_ADDRESSES = 100
MAX_PORTS = 100


def check_service(problems: Problems, service: Json, old: Json | None) -> None:
    """A Service with its defaults in place; once given, its address stays."""
    at, spec = problems.at("spec"), service["spec"]
    kind, addresses = spec.get("type", ""), spec.get("clusterIPs") or []
    (at / "type").one_of(kind, SERVICE_TYPES)
    (at / "sessionAffinity").one_of(spec.get("sessionAffinity"), ("ClientIP", "None"))
    headless = spec.get("clusterIP") == "None"
    ports = spec.get("ports") or []
    if not ports and not headless and kind != "ExternalName":
        (at / "ports").required()
    _check_service_ports(at / "ports", ports)
    check_labels(at / "selector", spec.get("selector") or {})
    if kind == "ExternalName":
        (at / "externalName").invalid(
            spec.get("externalName", ""), *forms.dns1123_subdomain(spec.get("externalName", "").removesuffix("."))
        )
    elif not headless:
        for index, address in enumerate(addresses):
            (at / "clusterIPs")[index].invalid(address, *forms.address(address))
    if headless and kind in ("LoadBalancer", "NodePort"):
        (at / "clusterIPs")[0].invalid("None", f"may not be set to 'None' for {kind} services")
    if old is not None and "ExternalName" not in (kind, old["spec"].get("type")):
        before, now = old["spec"].get("clusterIP", ""), spec.get("clusterIP", "")
        if before and now != before:
            (at / "clusterIPs")[0].invalid(now, "may not change once set")


def _check_service_ports(at: Path, ports: list[Json]) -> None:
    names: set[str] = set()
    places: set[tuple[str, int]] = set()
    for there, said in each(at, ports):
        name, protocol = str(said.get("name") or ""), str(said.get("protocol") or "")
        number, target = said.get("port", 0), said.get("targetPort")
        assert isinstance(number, int)
        if name:
            (there / "name").invalid(name, *forms.dns1123_label(name))
            if name in names:
                (there / "name").duplicate(name)
            names.add(name)
        elif len(ports) > 1:
            (there / "name").required()
        (there / "port").invalid(number, *forms.port_number(number))
        (there / "protocol").one_of(protocol, _SORTED_PROTOCOLS)
        if isinstance(target, int | str):
            (there / "targetPort").invalid(target, *forms.port(target))
        if (protocol, number) in places:
            there.duplicate({"protocol": protocol, "port": number})
        places.add((protocol, number))


def check_endpoint_slice(problems: Problems, found: Json, old: Json | None) -> None:
    """An EndpointSlice; the kind of its addresses stays."""
    at, kind = problems.at(), found.get("addressType", "")
    (at / "addressType").one_of(kind, ADDRESS_TYPES)
    endpoints = found.get("endpoints") or []
    if len(endpoints) > MAX_ENDPOINTS:
        (at / "endpoints").too_many(len(endpoints), MAX_ENDPOINTS)
    else:
        for there, endpoint in each(at / "endpoints", endpoints):
            _check_endpoint(there, endpoint, kind)
    _check_endpoint_ports(at / "ports", found.get("ports") or [])
    if old is not None:
        (at / "addressType").unchanged(kind, old.get("addressType", ""))


def _check_endpoint(at: Path, endpoint: Json, kind: str) -> None:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        (at / "addresses").required("must contain at least 1 address")
    elif len(addresses) > MAX_ADDRESSES:
        (at / "addresses").too_many(len(addresses), MAX_ADDRESSES)
    for index, address in enumerate(addresses):
        there = (at / "addresses")[index]
        if kind in ("IPv4", "IPv6"):
            wrong = forms.address_of(kind, address)
            there.invalid(address, *(wrong or forms.usable_address(address)))
        elif kind == "FQDN":
            wrong = forms.dns1123_subdomain(address.removesuffix("."))
            if not wrong and "." not in address.removesuffix("."):
                wrong = ["should be a domain with at least two segments separated by dots"]
            there.invalid(address, *wrong)
    hostname = endpoint.get("hostname")
    if hostname is not None:
        (at / "hostname").invalid(hostname, *forms.dns1123_label(hostname))
    check_labels(at / "deprecatedTopology", endpoint.get("deprecatedTopology") or {})


def _check_endpoint_ports(at: Path, ports: list[Json]) -> None:
    if len(ports) > MAX_PORTS:
        at.too_many(len(ports), MAX_PORTS)
        return
    names: set[str] = set()
    for there, said in each(at, ports):
        name, number = str(said.get("name") or ""), said.get("port")
        if name:
            (there / "name").invalid(name, *forms.dns1123_label(name))
        if name in names:
            (there / "name").duplicate(name)
        names.add(name)
        protocol = str(said.get("protocol") or "")
        (there / "protocol").one_of(protocol, _SORTED_PROTOCOLS)
        if isinstance(number, int):
            (there / "port").invalid(number, *forms.port_number(number))
