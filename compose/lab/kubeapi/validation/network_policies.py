"""NetworkPolicy, as networking.k8s.io/v1 validates it. No I/O."""

from typing import Any

from compose.lab.kubeapi.validation import forms
from compose.lab.kubeapi.validation.fields import Path, Problems, each
from compose.lab.kubeapi.validation.metadata import check_selector

Json = dict[str, Any]

PROTOCOLS = ("TCP", "UDP", "SCTP")
POLICY_TYPES = ("Ingress", "Egress")


def check_network_policy(problems: Problems, policy: Json, old: Json | None) -> None:
    """The whole of its spec, at every write."""
    at, spec = problems.at("spec"), policy["spec"]
    check_selector(at / "podSelector", spec.get("podSelector"))
    for rules, peers in (("ingress", "from"), ("egress", "to")):
        for rule_at, rule in each(at / rules, spec.get(rules)):
            for there, port in each(rule_at / "ports", _list(rule, "ports")):
                _check_port(there, port)
            for there, peer in each(rule_at / peers, _list(rule, peers)):
                _check_peer(there, peer)
    types = spec.get("policyTypes") or []
    if len(types) > len(POLICY_TYPES):
        (at / "policyTypes").invalid(types, "may not specify more than two policyTypes")
        return
    for index, kind in enumerate(types):
        if kind not in POLICY_TYPES:
            (at / "policyTypes")[index].unsupported(kind, POLICY_TYPES)


def _list(rule: Json, field: str) -> list[Json]:
    return rule.get(field) or []


def _check_port(at: Path, said: Json) -> None:
    protocol, port, end = said.get("protocol"), said.get("port"), said.get("endPort")
    if protocol is not None and protocol not in PROTOCOLS:
        (at / "protocol").unsupported(protocol, PROTOCOLS)
    if isinstance(port, int):
        (at / "port").invalid(port, *forms.port_number(port))
        if end is not None:
            if end < port:
                (at / "endPort").invalid(end, "must be greater than or equal to `port`")
            (at / "endPort").invalid(end, *forms.port_number(end))
        return
    if end is not None:
        why = "non-numeric" if port is not None else "not specified"
        (at / "endPort").invalid(end, f"may not be specified when `port` is {why}")
    if port is not None:
        (at / "port").invalid(port, *forms.port_name(port))


def _check_peer(at: Path, peer: Json) -> None:
    for field in ("podSelector", "namespaceSelector"):
        check_selector(at / field, peer.get(field))
    block = peer.get("ipBlock")
    if block is not None:
        _check_block(at / "ipBlock", block)
    given = [field for field in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(field) is not None]
    if not given:
        at.required("must specify a peer")
    elif block is not None and len(given) > 1:
        at.forbidden("may not specify both ipBlock and another peer")


def _check_block(at: Path, block: Json) -> None:
    said = block.get("cidr") or ""
    if not said:
        (at / "cidr").required()
        return
    whole = forms.parse_cidr(said)
    if whole is None:
        (at / "cidr").invalid(said, *forms.cidr(said))
        return
    for index, text in enumerate(block.get("except") or ()):
        there, part = (at / "except")[index], forms.parse_cidr(text)
        if part is None:
            there.invalid(text, *forms.cidr(text))
        elif part.version != whole.version or part.network_address not in whole or part.prefixlen <= whole.prefixlen:
            there.invalid(text, "must be a strict subset of `cidr`")
