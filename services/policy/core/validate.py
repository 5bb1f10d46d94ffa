"""What must hold of an object, twice (felix.md §1.3, §0.2).

`check` is the filter in front of the calculation: it looks at every v1 value, and a value with one bad field counts as
deleted. `check_written` is what Calico's own client demands before it stores an object; a custom resource written with
kubectl never meets it, so it decides nothing here but for Profiles, whose labels later versions read from the object.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from services.policy.core import nets, objects, v1
from services.policy.core.problems import Invalid
from services.policy.core.profiles import Compat
from services.policy.core.selectors import SelectorError, parse

_INTERFACE = re.compile(r"\*|[a-zA-Z0-9_.-]{1,15}", re.ASCII)
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}", re.ASCII)
_LABEL_KEY = re.compile(r"[a-zA-Z0-9_./-]{1,512}", re.ASCII)
_LABEL_VALUE = re.compile(r"[a-zA-Z0-9]?([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", re.ASCII)
_PROTOCOLS: Final = ("tcp", "udp", "icmp", "icmpv6", "sctp", "udplite")
_PROTOCOLS_V3: Final = ("TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite")
_WITH_PORTS: Final[dict[bool, frozenset[v1.Protocol]]] = {
    False: frozenset(("tcp", "udp", 6, 17)),
    True: frozenset(("tcp", "udp", "sctp", 6, 17, 132)),
}


def _require(holds: bool, field: str, reason: str) -> None:
    if not holds:
        raise Invalid(field, reason)


# ---- the filter


def check(value: v1.Value, compat: Compat) -> None:
    """Raises Invalid with the first bad field of a v1 value, named as in the object that it was written as."""
    match value:
        case v1.WorkloadEndpoint():
            _require(bool(value.name), "name", "an endpoint needs its interface's name")
            _require(not value.allow_spoofed_source_ips, "metadata.annotations", "spoofing is not allowed here")
            _check_endpoint_ports(value.ports, compat)
        case v1.HostEndpoint():
            named = not value.name or _INTERFACE.fullmatch(value.name) is not None
            _require(named, "spec.interfaceName", f"{value.name!r} is no interface's name")
            _check_labels(value.labels)
            _check_names(value.profile_ids)
            _check_endpoint_ports(value.ports, compat)
        case v1.NetworkSet():
            _check_labels(value.labels)
            _check_names(value.profile_ids)
        case v1.Policy():
            _check_selector(value.selector, "spec.selector", compat)
            _check_rules(value.inbound_rules, "spec.ingress", compat)
            _check_rules(value.outbound_rules, "spec.egress", compat)
        case v1.ProfileResource():
            _require(not value.flaw, value.flaw_field, value.flaw)
        case v1.ProfileRules():
            _check_rules(value.inbound_rules, "spec.ingress", compat)
            _check_rules(value.outbound_rules, "spec.egress", compat)


def _check_endpoint_ports(ports: Sequence[v1.EndpointPort], compat: Compat) -> None:
    known = ("tcp", "udp", "sctp") if compat.sctp else ("tcp", "udp")
    for i, port in enumerate(ports):
        _require(_NAME.fullmatch(port.name) is not None, f"ports[{i}].name", f"{port.name!r} is no port's name")
        _require(0 < port.port <= 65535, f"ports[{i}].port", f"{port.port} is no port")
        _require(port.protocol in known, f"ports[{i}].protocol", f"{port.protocol!r} has no ports")


def _check_labels(labels: dict[str, str]) -> None:
    for key, value in labels.items():
        _require(_LABEL_KEY.fullmatch(key) is not None, f"metadata.labels[{key}]", "no label's name")
        _require(_LABEL_VALUE.fullmatch(value) is not None, f"metadata.labels[{key}]", f"{value!r} is no label's value")


def _check_names(names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        _require(_NAME.fullmatch(name) is not None, f"spec.profiles[{i}]", f"{name!r} is no profile's name")


def _check_selector(text: str, field: str, compat: Compat) -> None:
    try:
        parse(text, compat.language)
    except SelectorError as error:
        raise Invalid(field, str(error)) from None


def _check_rules(rules: Sequence[v1.Rule], field: str, compat: Compat) -> None:
    for i, rule in enumerate(rules):
        _check_rule(rule, f"{field}[{i}]", compat)


_SELECTORS: Final = {
    "src_selector": "source.selector",
    "dst_selector": "destination.selector",
    "not_src_selector": "source.notSelector",
    "not_dst_selector": "destination.notSelector",
    "orig_src_selector": "source.selector",
    "orig_dst_selector": "destination.selector",
    "orig_src_namespace_selector": "source.namespaceSelector",
    "orig_dst_namespace_selector": "destination.namespaceSelector",
    "not_orig_src_selector": "source.notSelector",
    "not_orig_dst_selector": "destination.notSelector",
    "orig_src_service_acct_selector": "source.serviceAccounts.selector",
    "orig_dst_service_acct_selector": "destination.serviceAccounts.selector",
}


def _check_rule(rule: v1.Rule, field: str, compat: Compat) -> None:
    _require(rule.ip_version in (None, 4, 6), f"{field}.ipVersion", f"{rule.ip_version} is neither 4 nor 6")
    for protocol in (rule.protocol, rule.not_protocol):
        known = protocol is None or protocol in _PROTOCOLS or (isinstance(protocol, int) and 1 <= protocol <= 255)
        _require(known, f"{field}.protocol", f"{protocol!r} is no protocol")
    for kind in (rule.icmp_type, rule.not_icmp_type):
        _require(kind is None or 0 <= kind <= 254, f"{field}.icmp.type", f"{kind} is no type of ICMP")
    for code in (rule.icmp_code, rule.not_icmp_code):
        _require(code is None or 0 <= code <= 255, f"{field}.icmp.code", f"{code} is no code of ICMP")
    for name, written in _SELECTORS.items():
        if text := getattr(rule, name):
            _check_selector(text, f"{field}.{written}", compat)
    for ports in (rule.src_ports, rule.dst_ports, rule.not_src_ports, rule.not_dst_ports):
        if ports:
            _check_ports(ports, rule.protocol, field, compat)


def _check_ports(ports: Sequence[v1.Port], protocol: v1.Protocol | None, field: str, compat: Compat) -> None:
    named_only = all(isinstance(port, str) and ":" not in port for port in ports)
    has_ports = protocol in _WITH_PORTS[compat.sctp]
    if not has_ports and not (compat.any_protocol_ports and protocol is None and named_only):
        raise Invalid(f"{field}.ports", f"ports need a protocol that has ports, not {protocol!r}")
    for port in ports:
        if isinstance(port, int):
            _require(port > 0, f"{field}.ports", f"{port} is no port")
        elif ":" in port:
            _require(not port.startswith("0:"), f"{field}.ports", f"{port} begins with no port")
        else:
            _require(_PORT_NAME.fullmatch(port) is not None, f"{field}.ports", f"{port!r} is no port's name")


# ---- what Calico's client demands

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_DNS_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_KUBE_NAME = re.compile(r"(?=.{1,63}$)[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_OWNED_NAME = re.compile(r"(knp|ossg)\.default\.(.+)", re.ASCII | re.DOTALL)
_ACTIONS: Final = ("Allow", "Deny", "Log", "Pass")


def check_written(written: objects.Object, compat: Compat) -> None:
    """Raises Invalid with the first field of a Calico object that Calico's client would refuse."""
    name = written.metadata.name
    _require(_DNS_SUBDOMAIN.fullmatch(name) is not None, "metadata.name", f"{name!r} is no name")
    _check_kube_labels(written.metadata.labels, "metadata.labels")
    match written:
        case objects.NetworkPolicy():
            _check_policy_name(name, owned=True)
            _check_policy(written.spec, compat)
        case objects.GlobalNetworkPolicy():
            _check_policy_name(name, owned=False)
            _check_global(written.spec, compat)
        case objects.NetworkSet() | objects.GlobalNetworkSet():
            taken = "projectcalico.org/namespace" in written.metadata.labels
            _require(not taken, "metadata.labels", "projectcalico.org/namespace is set by the system")
            for i, net in enumerate(written.spec.nets):
                _require(nets.network(net) is not None, f"spec.nets[{i}]", f"{net!r} is no network")
        case objects.HostEndpoint():
            _check_host_endpoint(written.spec, compat)
        case objects.Profile():
            _check_kube_labels(written.spec.labels_to_apply, "spec.labelsToApply")
            _check_written_rules(written.spec.ingress, "spec.ingress", compat, ingress=True)
            _check_written_rules(written.spec.egress, "spec.egress", compat, ingress=False)


def _check_kube_labels(labels: dict[str, str], field: str) -> None:
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        known = _KUBE_NAME.fullmatch(name) is not None and (not slash or _DNS_SUBDOMAIN.fullmatch(prefix) is not None)
        _require(known, f"{field}[{key}]", "no label's name")
        _require(not value or _KUBE_NAME.fullmatch(value) is not None, f"{field}[{key}]", f"{value!r} is no value")


def _check_policy_name(name: str, *, owned: bool) -> None:
    found = _OWNED_NAME.fullmatch(name) if owned else None
    valid = _DNS_SUBDOMAIN.fullmatch(found[2]) if found else _DNS_LABEL.fullmatch(name)
    _require(valid is not None, "metadata.name", f"{name!r} is no policy's name")


def _check_policy(spec: objects.NetworkPolicySpec, compat: Compat) -> None:
    _check_written_selector(spec.selector, "spec.selector", compat)
    _check_written_selector(spec.service_account_selector, "spec.serviceAccountSelector", compat)
    _require(len(set(spec.types)) == len(spec.types), "spec.types", "a type is given twice")
    for direction in spec.types:
        _require(direction in ("Ingress", "Egress"), "spec.types", f"{direction!r} is neither Ingress nor Egress")
    _check_written_rules(spec.ingress, "spec.ingress", compat, ingress=True)
    _check_written_rules(spec.egress, "spec.egress", compat, ingress=False)


def _check_global(spec: objects.GlobalNetworkPolicySpec, compat: Compat) -> None:
    _check_policy(spec, compat)
    _check_written_selector(spec.namespace_selector, "spec.namespaceSelector", compat)
    _require(not (spec.do_not_track and spec.pre_dnat), "spec.preDNAT", "preDNAT and doNotTrack exclude each other")
    early = spec.do_not_track or spec.pre_dnat
    _require(not early or spec.apply_on_forward, "spec.applyOnForward", "preDNAT and doNotTrack need it")
    outward = bool(spec.egress) or "Egress" in spec.types
    _require(not (spec.pre_dnat and outward), "spec.egress", "preDNAT has no egress")


def _check_host_endpoint(spec: objects.HostEndpointSpec, compat: Compat) -> None:
    _require(bool(spec.node), "spec.node", "a host endpoint needs its node")
    named = bool(spec.interface_name or spec.expected_ips)
    _require(named, "spec.interfaceName", "a host endpoint needs an interface or addresses")
    fits = not spec.interface_name or _INTERFACE.fullmatch(spec.interface_name) is not None
    _require(fits, "spec.interfaceName", f"{spec.interface_name!r} is no interface's name")
    for i, text in enumerate(spec.expected_ips):
        _require(nets.address(text) is not None, f"spec.expectedIPs[{i}]", f"{text!r} is no address")
    for i, name in enumerate(spec.profiles):
        _require(_NAME.fullmatch(name) is not None, f"spec.profiles[{i}]", f"{name!r} is no profile's name")
    for i, port in enumerate(spec.ports):
        _require(_PORT_NAME.fullmatch(port.name) is not None, f"spec.ports[{i}].name", f"{port.name!r} is no name")
        _require(0 < port.port <= 65535, f"spec.ports[{i}].port", f"{port.port} is no port")
        known = _read_protocol(port.protocol) in _WITH_PORTS[compat.sctp]
        _require(known, f"spec.ports[{i}].protocol", f"{port.protocol!r} has no ports")


def _check_written_selector(text: str, field: str, compat: Compat, *, global_alone: bool = False) -> None:
    _check_selector(text, field, compat)
    if "global()" in text:
        _require(global_alone and text == "global()", field, "global() stands alone, in a rule's namespaceSelector")


def _check_written_rules(rules: Iterable[objects.Rule], field: str, compat: Compat, *, ingress: bool) -> None:
    for i, rule in enumerate(rules):
        _check_written_rule(rule, f"{field}[{i}]", compat, ingress=ingress)


def _read_protocol(protocol: int | str | None) -> v1.Protocol | None:
    if isinstance(protocol, str):
        if _NUMBER.fullmatch(protocol):
            return int(protocol)
        return protocol.lower() if protocol in _PROTOCOLS_V3 else ""
    return protocol


def _check_written_rule(rule: objects.Rule, field: str, compat: Compat, *, ingress: bool) -> None:
    _require(rule.action in _ACTIONS, f"{field}.action", f"{rule.action!r} is no action")
    _require(rule.ip_version in (None, 4, 6), f"{field}.ipVersion", f"{rule.ip_version} is neither 4 nor 6")
    protocol, not_protocol = _read_protocol(rule.protocol), _read_protocol(rule.not_protocol)
    for read in (protocol, not_protocol):
        known = read is None or (1 <= read <= 255 if isinstance(read, int) else bool(read))
        _require(known, f"{field}.protocol", "no protocol")
    for version, name in ((4, "icmp"), (6, "icmpv6")):
        fits = rule.ip_version in (None, version) or name not in (protocol, not_protocol)
        _require(fits, f"{field}.ipVersion", f"{name} is of IPv{version}")
    _check_icmp(rule.icmp, protocol, f"{field}.icmp")
    _check_icmp(rule.not_icmp, protocol, f"{field}.notICMP")
    for side, name in ((rule.source, "source"), (rule.destination, "destination")):
        _check_side(side, f"{field}.{name}", protocol, compat)
    _check_services(rule, field, ingress=ingress)
    _check_families(rule, field)
    if rule.http is not None:
        _check_http(rule, protocol, f"{field}.http", ingress=ingress)


def _check_icmp(icmp: objects.ICMP | None, protocol: v1.Protocol | None, field: str) -> None:
    if icmp is None:
        return
    _require(protocol in ("icmp", "icmpv6"), field, "needs protocol ICMP or ICMPv6")
    _require(icmp.code is None or icmp.type is not None, field, "a code needs a type")
    _require(icmp.type is None or 0 <= icmp.type <= 254, f"{field}.type", f"{icmp.type} is no type of ICMP")
    _require(icmp.code is None or 0 <= icmp.code <= 255, f"{field}.code", f"{icmp.code} is no code of ICMP")


def _check_side(side: objects.EntityRule, field: str, protocol: v1.Protocol | None, compat: Compat) -> None:
    _check_written_selector(side.selector, f"{field}.selector", compat)
    _check_written_selector(side.not_selector, f"{field}.notSelector", compat)
    _check_written_selector(side.namespace_selector, f"{field}.namespaceSelector", compat, global_alone=True)
    if side.service_accounts is not None:
        _check_written_selector(side.service_accounts.selector, f"{field}.serviceAccounts.selector", compat)
    for ports in (side.ports, side.not_ports):
        if ports:
            read = [int(port) if isinstance(port, str) and _NUMBER.fullmatch(port) else port for port in ports]
            _check_ports(read, protocol, field, compat)


def _check_services(rule: objects.Rule, field: str, *, ingress: bool) -> None:
    own, other = (rule.source, rule.destination) if ingress else (rule.destination, rule.source)
    _require(other.services is None, f"{field}.services", "services are selected as the other end")
    if own.services is not None:
        alone = not (own.selector or own.namespace_selector or own.service_accounts or own.nets or own.not_selector)
        _require(alone, f"{field}.services", "excludes selectors and nets")
        _require(ingress or not (own.ports or own.not_ports), f"{field}.services", "excludes ports")


def _check_families(rule: objects.Rule, field: str) -> None:
    families = set() if rule.ip_version is None else {rule.ip_version}
    for side, name in ((rule.source, "source"), (rule.destination, "destination")):
        for listed in (side.nets, side.not_nets):
            for net in listed:
                _require(nets.is_strict(net), f"{field}.{name}.nets", f"{net!r} is no network without host bits")
                families.add(6 if nets.is_ipv6(net) else 4)
    _require(len(families) <= 1, f"{field}.nets", "IPv4 and IPv6 in one rule")


def _check_http(rule: objects.Rule, protocol: v1.Protocol | None, field: str, *, ingress: bool) -> None:
    assert rule.http is not None
    _require(ingress and rule.action == "Allow", field, "only in rules that allow ingress")
    _require(protocol in (None, "tcp", 6), field, "only with TCP")
    for i, path in enumerate(rule.http.paths):
        one = bool(path.exact) != bool(path.prefix)
        _require(one, f"{field}.paths[{i}]", "either exact or prefix")
