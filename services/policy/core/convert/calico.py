"""Calico v3 objects -> v1 keys and values, as the original's update processors do it (felix.md §1.5, §0.2).

The selectors' *text* matters: its canonical form decides the ids of IP sets. So every combination here is one of texts.
"""

import re
from collections.abc import Iterable

from services.policy.core import nets, objects, v1
from services.policy.core.problems import Invalid, Note, ignored
from services.policy.core.profiles import Compat
from services.policy.core.selectors import Language, SelectorError, parse

NAMESPACE = "projectcalico.org/namespace"
SERVICE_ACCOUNT = "projectcalico.org/serviceaccount"

_ACTIONS = ("Allow", "Deny", "Log", "Pass")
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,9}):([0-9]{1,9})", re.ASCII)
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}", re.ASCII)


# ---- policies


def policy_name(name: str, namespace: str) -> str:
    """The name in the v1 key."""
    return f"{namespace}/{name}" if namespace else name


def network_policy(policy: objects.NetworkPolicy, compat: Compat, note: Note) -> v1.Policy:
    """A namespaced policy; selects only within its namespace. Raises Invalid."""
    spec, namespace = policy.spec, policy.metadata.namespace
    _note_types(spec, note)
    selector = f"{NAMESPACE} == '{namespace}'"
    if spec.selector:
        selector = f"({spec.selector}) && {selector}"
    _note_unknown_scopes(compat, note, **_account_scope(spec))
    if compat.policy_scopes and spec.service_account_selector:
        # Unlike in a global policy, all() stays all() here.
        selector = _also(selector, spec.service_account_selector, "pcsa.", "spec.serviceAccountSelector", compat, note)
    return v1.Policy(
        namespace=namespace,
        order=_order(spec.order),
        inbound_rules=rules(spec.ingress, namespace, compat, "spec.ingress", note),
        outbound_rules=rules(spec.egress, namespace, compat, "spec.egress", note),
        selector=selector,
        apply_on_forward=compat.forwarded,
        types=tuple(direction.lower() for direction in spec.types),
    )


def global_policy(policy: objects.GlobalNetworkPolicy, compat: Compat, note: Note) -> v1.Policy:
    """A policy of the whole cluster, host endpoints included. Raises Invalid."""
    spec = policy.spec
    selector = spec.selector
    _note_types(spec, note)
    if spec.do_not_track and spec.pre_dnat:
        note("spec.preDNAT", "does not go with doNotTrack, and that wins")
    _note_unknown_scopes(compat, note, namespaceSelector=spec.namespace_selector, **_account_scope(spec))
    if compat.policy_scopes:
        # Each rewrite of all() hits the whole text, also what the user wrote: the original does the same.
        for text, prefix, label, field in (
            (spec.namespace_selector, "pcns.", NAMESPACE, "spec.namespaceSelector"),
            (spec.service_account_selector, "pcsa.", SERVICE_ACCOUNT, "spec.serviceAccountSelector"),
        ):
            if text:
                selector = _also(selector, text, prefix, field, compat, note).replace("all()", f"has({label})")
    return v1.Policy(
        order=_order(spec.order),
        inbound_rules=rules(spec.ingress, "", compat, "spec.ingress", note),
        outbound_rules=rules(spec.egress, "", compat, "spec.egress", note),
        selector=selector,
        untracked=spec.do_not_track,
        pre_dnat=spec.pre_dnat,
        apply_on_forward=spec.apply_on_forward,
        types=tuple(direction.lower() for direction in spec.types),
    )


def _note_types(spec: objects.NetworkPolicySpec, note: Note) -> None:
    for direction in spec.types:
        if direction.lower() not in ("ingress", "egress"):
            note("spec.types", f"{direction!r} is neither Ingress nor Egress: it governs nothing")


def _account_scope(spec: objects.NetworkPolicySpec) -> dict[str, str]:
    return {"serviceAccountSelector": spec.service_account_selector}


def _note_unknown_scopes(compat: Compat, note: Note, **scopes: str) -> None:
    for name, text in scopes.items():
        if text and not compat.policy_scopes:
            note(f"spec.{name}", "not known there, so it limits nothing", ignored(compat.name))


def _order(order: float | None) -> float | None:
    if order is not None and order != order:
        raise Invalid("spec.order", "not a number")
    return order


def _also(selector: str, text: str, prefix: str, field: str, compat: Compat, note: Note) -> str:
    """`selector` limited to what `text` selects by its prefixed labels; a text that cannot be read limits nothing."""
    try:
        scope = parse(text, compat.language).prefixed(prefix).text
    except SelectorError as error:
        note(field, f"cannot be read, so it limits nothing: {error}")
        return selector
    return f"({selector}) && {scope}" if selector else scope


# ---- rules


def rules(
    written: Iterable[objects.Rule], namespace: str, compat: Compat, field: str, note: Note
) -> tuple[v1.Rule, ...]:
    """Each rule, in its order. Raises Invalid on a port or protocol that is none."""
    return tuple(_rule(rule, namespace, compat, f"{field}[{i}]", note) for i, rule in enumerate(written))


def _rule(rule: objects.Rule, namespace: str, compat: Compat, field: str, note: Note) -> v1.Rule:
    source, destination = rule.source, rule.destination
    source_accounts = source.service_accounts or objects.ServiceAccountMatch()
    destination_accounts = destination.service_accounts or objects.ServiceAccountMatch()
    source_service = source.services or objects.ServiceMatch()
    destination_service = destination.services or objects.ServiceMatch()
    icmp, not_icmp = rule.icmp or objects.ICMP(), rule.not_icmp or objects.ICMP()
    services = compat.services
    if rule.action not in _ACTIONS:
        note(f"{field}.action", f"{rule.action!r} is no action")
    if not services and (source.services or destination.services):
        note(f"{field}.services", "not known there, so it limits nothing", ignored(compat.name))
    if rule.http is not None:
        note(f"{field}.http", "only a proxy for HTTP can tell, and there is none: it limits nothing")
    for match, name in ((icmp, "icmp"), (not_icmp, "notICMP")):
        if match.code is not None and match.type is None:
            note(f"{field}.{name}.code", "a code without a type limits nothing")
    return v1.Rule(
        action="next-tier" if rule.action == "Pass" else rule.action.lower(),
        ip_version=rule.ip_version,
        protocol=protocol(rule.protocol, f"{field}.protocol"),
        icmp_type=icmp.type,
        icmp_code=icmp.code,
        not_protocol=protocol(rule.not_protocol, f"{field}.notProtocol"),
        not_icmp_type=not_icmp.type,
        not_icmp_code=not_icmp.code,
        src_nets=_source_nets(source.nets, f"{field}.source.nets", note),
        src_selector=_positive(source, namespace, compat, f"{field}.source", note),
        src_ports=_ports(source.ports, f"{field}.source.ports"),
        src_service=source_service.name if services else "",
        src_service_ns=source_service.namespace if services else "",
        dst_nets=_destination_nets(destination.nets, f"{field}.destination.nets", note),
        dst_selector=_positive(destination, namespace, compat, f"{field}.destination", note),
        dst_ports=_ports(destination.ports, f"{field}.destination.ports"),
        dst_service=destination_service.name if services else "",
        dst_service_ns=destination_service.namespace if services else "",
        not_src_nets=_source_nets(source.not_nets, f"{field}.source.notNets", note),
        not_src_selector=source.not_selector,
        not_src_ports=_ports(source.not_ports, f"{field}.source.notPorts"),
        not_dst_nets=_destination_nets(destination.not_nets, f"{field}.destination.notNets", note),
        not_dst_selector=destination.not_selector,
        not_dst_ports=_ports(destination.not_ports, f"{field}.destination.notPorts"),
        orig_src_selector=source.selector,
        orig_src_namespace_selector=source.namespace_selector,
        orig_dst_selector=destination.selector,
        orig_dst_namespace_selector=destination.namespace_selector,
        not_orig_src_selector=source.not_selector,
        not_orig_dst_selector=destination.not_selector,
        orig_src_service_acct_names=source_accounts.names,
        orig_src_service_acct_selector=source_accounts.selector,
        orig_dst_service_acct_names=destination_accounts.names,
        orig_dst_service_acct_selector=destination_accounts.selector,
        http=_http(rule.http),
        metadata=v1.RuleMetadata(rule.metadata.annotations) if rule.metadata and compat.rule_metadata else None,
    )


def _http(match: objects.HTTP | None) -> v1.HTTPMatch | None:
    if match is None:
        return None
    return v1.HTTPMatch(match.methods, tuple(v1.HTTPPath(path.exact, path.prefix) for path in match.paths))


def _positive(side: objects.EntityRule, namespace: str, compat: Compat, field: str, note: Note) -> str:
    """The one selector of a side: namespace, service account and labels together."""
    within = _namespaces(side.namespace_selector, namespace, compat, f"{field}.namespaceSelector", note)
    accounts = _accounts(side.service_accounts, compat, f"{field}.serviceAccounts", note)
    if accounts and side.selector:
        chosen = f"({accounts}) && ({side.selector})"
    else:
        chosen = accounts or side.selector
    # Without any of these a rule of a namespaced policy is not limited to the namespace: it means anywhere.
    if within and (chosen or side.not_selector or side.namespace_selector):
        return f"({within}) && ({chosen})" if chosen else within
    return chosen


def _namespaces(selector: str, namespace: str, compat: Compat, field: str, note: Note) -> str:
    if not selector:
        return f"{NAMESPACE} == '{namespace}'" if namespace else ""
    try:
        text = parse(selector, compat.language).prefixed("pcns.").text
    except SelectorError as error:
        note(field, str(error))
        return ""
    text = text.replace("all()", f"has({NAMESPACE})")
    return text if compat.language is Language.FELIX_3_5 else text.replace("global()", f"!has({NAMESPACE})")


def _accounts(match: objects.ServiceAccountMatch | None, compat: Compat, field: str, note: Note) -> str:
    if match is None:
        return ""
    by_labels, by_name = "", ""
    try:
        if match.selector:
            by_labels = parse(match.selector, compat.language).prefixed("pcsa.").text
    except SelectorError as error:
        note(f"{field}.selector", str(error))
    try:
        if match.names:
            names = ", ".join(f"'{name}'" for name in match.names)
            by_name = parse(f"{SERVICE_ACCOUNT} in {{ {names} }}", compat.language).text
    except SelectorError as error:
        note(f"{field}.names", f"cannot be read, so they limit nothing: {error}")
    return f"({by_labels}) && ({by_name})" if by_labels and by_name else by_labels or by_name


def _source_nets(written: Iterable[str], field: str, note: Note) -> tuple[str | None, ...]:
    return tuple(net for net in _destination_nets(written, field, note) if net is not None)


def _destination_nets(written: Iterable[str], field: str, note: Note) -> tuple[str | None, ...]:
    read = []
    for i, text in enumerate(written):
        read.append(net := nets.network(text))
        if net is None:
            note(f"{field}[{i}]", f"{text!r} is no network: it is left out")
    return tuple(read)


def _ports(written: Iterable[int | str], field: str) -> tuple[v1.Port, ...]:
    return tuple(port(value, f"{field}[{i}]") for i, value in enumerate(written))


def port(value: int | str, field: str) -> v1.Port:
    """A number, `low:high`, or a name. Raises Invalid."""
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            value = int(value)
        elif found := _RANGE.fullmatch(value):
            low, high = int(found[1]), int(found[2])
            if low > high or high > 65535:
                raise Invalid(field, f"{value!r} is no range of ports")
            return low if low == high else f"{low}:{high}"
        elif _NAME.fullmatch(value):
            return value
        else:
            raise Invalid(field, f"{value!r} is no port, range or port's name")
    if not 0 <= value <= 65535:
        raise Invalid(field, f"{value} is no port")
    return value


def protocol(value: int | str | None, field: str) -> v1.Protocol | None:
    """A number, also one in quotes, or a lower-case name. Raises Invalid."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return value.lower()
        value = int(value)
    if value is not None and not 0 <= value <= 255:
        raise Invalid(field, f"{value} is no protocol's number")
    return value


# ---- the rest


def profile_rules(profile: objects.Profile, compat: Compat, note: Note) -> v1.ProfileRules:
    """The rules of a profile."""
    return v1.ProfileRules(
        rules(profile.spec.ingress, "", compat, "spec.ingress", note),
        rules(profile.spec.egress, "", compat, "spec.egress", note),
    )


def global_network_set(networks: objects.GlobalNetworkSet, note: Note) -> v1.NetworkSet:
    """Networks known by labels."""
    return v1.NetworkSet(nets=_set_nets(networks.spec.nets, note), labels=networks.metadata.labels)


def network_set(networks: objects.NetworkSet, note: Note) -> v1.NetworkSet:
    """The same within a namespace, whose labels it inherits."""
    namespace = networks.metadata.namespace
    return v1.NetworkSet(
        nets=_set_nets(networks.spec.nets, note),
        labels={**networks.metadata.labels, NAMESPACE: namespace},
        profile_ids=(f"kns.{namespace}",),
    )


def _set_nets(written: Iterable[str], note: Note) -> tuple[str, ...]:
    return tuple(net for net in _source_nets(written, "spec.nets", note) if net is not None)


def host_endpoint(endpoint: objects.HostEndpoint) -> v1.HostEndpoint:
    """An interface of a host. Raises Invalid."""
    spec = endpoint.spec
    if not spec.node:
        raise Invalid("spec.node", "a host endpoint needs its node")
    addresses = []
    for i, text in enumerate(spec.expected_ips):
        if (found := nets.address(text)) is not None:
            addresses.append(found)
        else:
            raise Invalid(f"spec.expectedIPs[{i}]", f"{text!r} is no address")
    return v1.HostEndpoint(
        name=spec.interface_name,
        expected_ipv4_addrs=tuple(text for text in addresses if not nets.is_ipv6(text)),
        expected_ipv6_addrs=tuple(text for text in addresses if nets.is_ipv6(text)),
        labels=endpoint.metadata.labels,
        profile_ids=spec.profiles,
        ports=tuple(v1.EndpointPort(port.name, str(port.protocol).lower(), port.port) for port in spec.ports),
    )


def tier(written: objects.Tier) -> v1.Tier:
    """A tier: only `Pass`, spelled so, passes on what nobody decided."""
    return v1.Tier(written.spec.order, "Pass" if written.spec.default_action == "Pass" else "Deny")
