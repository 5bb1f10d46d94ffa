"""Kubernetes' policies for administrators -> Calico's, in tiers before and behind everybody's (felix.md §1.6).

AdminNetworkPolicy and BaselineAdminNetworkPolicy, and ClusterNetworkPolicy, which replaces both. They fail closed: what
cannot be converted of a rule that allows is left out, but a rule that denies or passes becomes one that denies all.
"""

from collections.abc import Iterator
from typing import Final

from services.policy.core import nets, objects, v1
from services.policy.core.convert.kubernetes import selector_text, simplified_ports
from services.policy.core.problems import Invalid, Note

ADMIN, BASELINE = "adminnetworkpolicy", "baselineadminnetworkpolicy"
KUBE_ADMIN, KUBE_BASELINE = "kube-admin", "kube-baseline"

BASELINE_ORDER: Final = 1000.0
_ACTIONS: Final = {"Allow": "Allow", "Accept": "Allow", "Deny": "Deny", "Pass": "Pass"}


def global_policy(policy: objects.AdminPolicy, note: Note) -> objects.GlobalNetworkPolicy:
    """The Calico policy that means the same. Raises Invalid when it cannot be told whom it is about."""
    spec, name = policy.spec, policy.metadata.name
    order: float | None = spec.priority
    match policy:
        case objects.AdminNetworkPolicy():
            name, tier = f"kanp.{ADMIN}.{name}", ADMIN
        case objects.BaselineAdminNetworkPolicy():
            name, tier, order = f"kbanp.{BASELINE}.{name}", BASELINE, BASELINE_ORDER
        case _:
            if spec.tier not in ("Admin", "Baseline"):
                raise Invalid("spec.tier", f"{spec.tier!r} is neither Admin nor Baseline")
            tier = KUBE_ADMIN if spec.tier == "Admin" else KUBE_BASELINE
    within, selector = _selected(spec.subject, "spec.subject")
    ingress = [rule for i, each in enumerate(spec.ingress) for rule in _rules(each, f"spec.ingress[{i}]", note)]
    egress = [rule for i, each in enumerate(spec.egress) for rule in _rules(each, f"spec.egress[{i}]", note)]
    types = [direction for direction, rules in (("Ingress", spec.ingress), ("Egress", spec.egress)) if rules]
    return objects.GlobalNetworkPolicy(
        metadata=objects.Metadata(name=name),
        spec=objects.GlobalNetworkPolicySpec(
            tier=tier,
            order=order,
            namespace_selector=within,
            selector=selector,
            # None at all would mean both directions, each without a rule.
            types=tuple(types) or ("Ingress",),
            ingress=tuple(ingress),
            egress=tuple(egress),
        ),
    )


def _selected(subject: objects.AdminSubject, field: str) -> tuple[str, str]:
    """Selectors of namespaces and of pods."""
    if subject.namespaces is not None:
        return selector_text(subject.namespaces, pods=False), selector_text(None, pods=True)
    if subject.pods is not None:
        pods = subject.pods
        return selector_text(pods.namespace_selector, pods=False), selector_text(pods.pod_selector, pods=True)
    raise Invalid(field, "neither namespaces nor pods")


def _rules(rule: objects.AdminRule, field: str, note: Note) -> list[objects.Rule]:
    action = _ACTIONS.get(rule.action, "Deny")
    metadata = objects.RuleMetadata({"name": rule.name}) if rule.name else None
    try:
        if rule.action not in _ACTIONS:
            raise Invalid(f"{field}.action", f"{rule.action!r} is no action")
        groups = list(_ports(rule, field))
        sides = [_peer(peer, field, i) for i, peer in enumerate(rule.peers)]
        if not sides:
            raise Invalid(field, "no peers")
    except Invalid as error:
        if action == "Allow":
            note(error.field, f"{error.reason}: the rule is dropped")
            return []
        note(error.field, f"{error.reason}: the rule denies everything")
        return [objects.Rule(action="Deny", metadata=metadata)]
    inward = isinstance(rule, objects.AdminIngressRule)
    return [
        objects.Rule(
            action=action,
            protocol=protocol,
            source=side if inward else objects.EntityRule(),
            destination=_with_ports(objects.EntityRule() if inward else side, ports),
            metadata=metadata,
        )
        for protocol, ports in groups
        for side in sides
    ]


def _with_ports(side: objects.EntityRule, ports: tuple[v1.Port, ...]) -> objects.EntityRule:
    return objects.EntityRule(
        nets=side.nets, selector=side.selector, namespace_selector=side.namespace_selector, ports=ports
    )


def _peer(peer: objects.AdminPeer, field: str, number: int) -> objects.EntityRule:
    if peer.networks:
        read = [nets.network(text, bare=False) for text in peer.networks]
        for i, net in enumerate(read):
            if net is None:
                raise Invalid(f"{field}.to[{number}].networks[{i}]", f"{peer.networks[i]!r} is no network")
        return objects.EntityRule(nets=tuple(net for net in read if net is not None))
    if peer.namespaces is None and peer.pods is None:
        raise Invalid(f"{field} peer {number}", "neither namespaces, pods nor networks")
    within, selector = _selected(objects.AdminSubject(peer.namespaces, peer.pods), field)
    return objects.EntityRule(namespace_selector=within, selector=selector)


def _ports(rule: objects.AdminRule, field: str) -> Iterator[tuple[str | None, tuple[v1.Port, ...]]]:
    """Protocols with their ports; a named port is of any protocol."""
    by_protocol: dict[str, list[v1.Port] | None] = {}
    names: list[v1.Port] = []
    for protocol, port in _all_ports(rule, field):
        if protocol is None:
            names += [] if port is None else [port]
        elif port is None:
            by_protocol[protocol] = None
        elif (listed := by_protocol.setdefault(protocol, [])) is not None:
            listed.append(port)
    if names:
        yield None, tuple(names)
    for protocol in sorted(by_protocol):
        yield protocol, simplified_ports(by_protocol[protocol] or [])
    if not names and not by_protocol:
        yield None, ()


def _all_ports(rule: objects.AdminRule, field: str) -> Iterator[tuple[str | None, v1.Port | None]]:
    for i, entry in enumerate(rule.ports):
        if entry.named_port:
            yield None, entry.named_port
        elif entry.port_number is not None:
            yield entry.port_number.protocol, _number(entry.port_number.port, f"{field}.ports[{i}]")
        elif entry.port_range is not None:
            span = entry.port_range
            yield span.protocol, _range(span.start, span.end, f"{field}.ports[{i}]")
        else:
            raise Invalid(f"{field}.ports[{i}]", "neither portNumber, portRange nor namedPort")
    for i, match in enumerate(rule.protocols):
        if match.destination_named_port:
            yield None, match.destination_named_port
            continue
        transports = (("TCP", match.tcp), ("UDP", match.udp), ("SCTP", match.sctp))
        given = [(name, transport) for name, transport in transports if transport is not None]
        if len(given) != 1:
            raise Invalid(f"{field}.protocols[{i}]", "not one of tcp, udp, sctp and destinationNamedPort")
        yield given[0][0], _transport_port(given[0][1], f"{field}.protocols[{i}]")


def _transport_port(transport: objects.AdminTransport, field: str) -> v1.Port | None:
    port = transport.destination_port
    if port is None:
        return None
    if port.range is not None:
        return _range(port.range.start, port.range.end, field)
    if port.number is None:
        raise Invalid(field, "neither number nor range")
    return _number(port.number, field)


def _number(port: int, field: str) -> int:
    if not 0 < port <= 65535:
        raise Invalid(field, f"{port} is no port")
    return port


def _range(start: int, end: int, field: str) -> v1.Port:
    if not 0 < start <= end <= 65535:
        raise Invalid(field, f"{start} to {end} is no range of ports")
    return start if start == end else f"{start}:{end}"
