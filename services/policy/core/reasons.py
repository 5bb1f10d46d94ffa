"""Why a rule does not match a flow, in words: what the flow has, and what the rule wants in its stead."""

from collections.abc import Sequence

from services.policy.core import messages as m
from services.policy.core.verdict import Flow


def reason(rule: m.Rule, field: str, flow: Flow) -> str:
    """About the field that verdict.judge found not to match."""
    if field == "ip_version":
        return f"{flow.source} is not {rule.ip_version.replace('IPV', 'IPv')}"
    if field in ("protocol", "not_protocol"):
        wanted = rule.protocol if field == "protocol" else rule.not_protocol
        but = "for all but" if field == "not_protocol" else "for"
        return f"the protocol is {flow.protocol}, and the rule is {but} {_protocol(wanted)}"
    if field in ("icmp", "not_icmp"):
        kind = f"{flow.protocol} of type {flow.icmp_type} and code {flow.icmp_code}"
        return f"{kind} is what the rule excludes" if field == "not_icmp" else f"{kind} is not what the rule is for"
    source = "src" in field
    end = "source" if source else "destination"
    address, port = (flow.source, flow.source_port) if source else (flow.destination, flow.port)
    if field.endswith("_net"):
        listed: tuple[str, ...] = getattr(rule, field)
        return f"{end} {address} is {_in(field)} {', '.join(listed)}"
    if field.endswith("_ports"):
        return f"{end} port {port} is {_in(field)} {_ports(rule, field)}"
    if field == "dst_ip_port_set_ids":
        service = f"{rule.original_dst_service_namespace}/{rule.original_dst_service}"
        return f"{address} port {port} is no endpoint of service {service}"
    return f"{end} {address} is {_in(field)} {_selected(rule, source=source, negated=field.startswith('not_'))}"


def _in(field: str) -> str:
    return "among what the rule excludes:" if field.startswith("not_") else "not among"


def _protocol(wanted: m.Protocol | None) -> str:
    return "any" if wanted is None else wanted.name or str(wanted.number)


def _ports(rule: m.Rule, field: str) -> str:
    """Numbers and ranges, and that there are names, which no message carries."""
    ranges: Sequence[m.PortRange] = getattr(rule, field)
    texts = [str(r.first) if r.first == r.last else f"{r.first}-{r.last}" for r in ranges]
    named: tuple[str, ...] = getattr(rule, field.replace("ports", "named_port_ip_set_ids"))
    return ", ".join([*texts, *(f"the ports of IP set {set_id}" for set_id in named)])


def _selected(rule: m.Rule, *, source: bool, negated: bool) -> str:
    """What the policy's author wrote about this end; where that is not told, the sets that it became."""
    end = "src" if source else "dst"
    if negated:
        text: str = getattr(rule, f"original_not_{end}_selector")
        return f"{text!r}" if text else ", ".join(getattr(rule, f"not_{end}_ip_set_ids"))
    accounts: m.ServiceAccountMatch | None = getattr(rule, f"{end}_service_account_match")
    written = {
        "pods": getattr(rule, f"original_{end}_selector"),
        "namespaces": getattr(rule, f"original_{end}_namespace_selector"),
        "service": getattr(rule, f"original_{end}_service"),
        "service accounts": "" if accounts is None else ", ".join((*accounts.names, accounts.selector)).strip(", "),
    }
    texts = [f"{what} {text!r}" for what, text in written.items() if text]
    return " of ".join(texts) or ", ".join(getattr(rule, f"{end}_ip_set_ids"))
