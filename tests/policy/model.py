"""The calculation again, from its meaning alone: everything is recomputed from the datastore's content, every time.

No increments, no indexes, no reference counts, no compiled predicates: so its mistakes are not those of the graph. It
shares with it what is a plain function of one value and is judged by recordings elsewhere: the parser, the filter, and
the compilation of a rule.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from services.policy.core import messages, v1
from services.policy.core.problems import Invalid
from services.policy.core.profiles import Compat
from services.policy.core.rules import Sets, SetSpec, compile_rules
from services.policy.core.selectors import All, Compare, Has, Joined, Member, Node, Not, parse
from services.policy.core.validate import check

Store = Mapping[v1.Key, v1.Value]
Labels = dict[str, str]


def true_of(node: Node, labels: Labels) -> bool:
    """A selector's meaning, read off its tree."""
    match node:
        case All():
            return True
        case Has():
            return node.label in labels
        case Compare(operator="=="):
            return labels.get(node.label) == node.value
        case Compare(operator="!="):
            return labels.get(node.label) != node.value
        case Compare(operator="contains"):
            return node.label in labels and node.value in labels[node.label]
        case Compare(operator="starts with"):
            return node.label in labels and labels[node.label].startswith(node.value)
        case Compare():
            return node.label in labels and labels[node.label].endswith(node.value)
        case Member():
            return (labels.get(node.label) in node.values) != node.negated
        case Not():
            return not true_of(node.term, labels)
        case Joined(operator="&&"):
            return all(true_of(term, labels) for term in node.terms)
        case Joined():
            return any(true_of(term, labels) for term in node.terms)
    raise AssertionError(node)


class Model:
    """One datastore's content, and what follows from it."""

    def __init__(self, store: Store, host: str, compat: Compat) -> None:
        self.host = host
        self.compat = compat
        self.store = {key: value for key, value in store.items() if self._passes(value)}

    def _passes(self, value: v1.Value) -> bool:
        try:
            check(value, self.compat)
        except Invalid:
            return False
        return True

    def state(self, *, in_sync: bool) -> dict[str, dict[str, Any]]:
        """What the dataplane must hold."""
        local = [(key, value) for key, value in self._endpoints() if key.host == self.host]
        policies = {
            key: value
            for key, value in self.store.items()
            if isinstance(key, v1.PolicyKey)
            and isinstance(value, v1.Policy)
            and any(self._selects(value.selector, endpoint) for _, endpoint in local)
        }
        sets: Sets = {}
        compiled = {f"default/{key.name}": self._policy(key, value, sets) for key, value in policies.items()}
        listed = {name for _, endpoint in local for name in endpoint.profile_ids}
        profiles = {name: self._profile(name, sets) for name in listed}
        state: dict[str, dict[str, Any]] = {
            "ipsets": {i: {"type": spec.type, "members": self._members(spec)} for i, spec in sets.items()},
            "policies": compiled,
            "profiles": profiles,
            "weps": {},
            "heps": {},
            "ns": {},
            "sas": {},
        }
        for key, endpoint in local if in_sync else ():
            matching = [(k, p) for k, p in policies.items() if self._selects(p.selector, endpoint)]
            matching.sort(key=lambda one: (float("inf") if one[1].order is None else one[1].order, one[0].name))
            if isinstance(key, v1.WorkloadKey) and isinstance(endpoint, v1.WorkloadEndpoint):
                state["weps"][key.id] = self._workload(endpoint, matching)
            elif isinstance(key, v1.HostEndpointKey) and isinstance(endpoint, v1.HostEndpoint):
                state["heps"][key.endpoint] = self._host(endpoint, matching)
        for name, labels in self._handed_down().items():
            if name.startswith("kns."):
                stripped = {k.removeprefix("pcns."): v for k, v in labels.items()}
                state["ns"][name[4:]] = {"id": {"name": name[4:]}, **({"labels": stripped} if stripped else {})}
        return state

    # ---- labels

    def _handed_down(self) -> dict[str, Labels]:
        kind = v1.ProfileKey if self.compat.profile_resources else v1.ProfileLabelsKey
        return {
            key.name: value.labels
            for key, value in self.store.items()
            if isinstance(key, kind) and isinstance(value, v1.ProfileResource | v1.ProfileLabels)
        }

    def _labels(self, item: v1.WorkloadEndpoint | v1.HostEndpoint | v1.NetworkSet) -> Labels:
        handed_down, labels = self._handed_down(), dict(item.labels)
        for profile in item.profile_ids:
            for label, value in handed_down.get(profile, {}).items():
                labels.setdefault(label, value)
        return labels

    def _selects(self, selector: str, item: v1.WorkloadEndpoint | v1.HostEndpoint | v1.NetworkSet) -> bool:
        return true_of(parse(selector, self.compat.language).root, self._labels(item))

    # ---- members

    def _endpoints(
        self,
    ) -> Iterator[tuple[v1.WorkloadKey | v1.HostEndpointKey, v1.WorkloadEndpoint | v1.HostEndpoint]]:
        for key, value in self.store.items():
            if isinstance(key, v1.WorkloadKey | v1.HostEndpointKey):
                assert isinstance(value, v1.WorkloadEndpoint | v1.HostEndpoint)
                yield key, value

    def _members(self, spec: SetSpec) -> list[str]:
        found: set[str] = set()
        if spec.service:
            for value in self.store.values():
                if isinstance(value, v1.ServiceEndpoints) and value.service == spec.service:
                    found |= _service_members(value, with_ports=spec.with_ports)
            return sorted(found)
        assert spec.selector is not None
        for value in self.store.values():
            if not isinstance(value, v1.WorkloadEndpoint | v1.HostEndpoint | v1.NetworkSet):
                continue
            if not true_of(spec.selector.root, self._labels(value)):
                continue
            addresses = _addresses(value)
            if not spec.port_name:
                found |= addresses
            elif not isinstance(value, v1.NetworkSet):
                found |= {
                    f"{address.split('/')[0]},{port.protocol}:{port.port}"
                    for port in value.ports
                    for address in addresses
                    if port.name == spec.port_name and port.protocol == spec.port_protocol
                }
        return sorted(found)

    # ---- policies, profiles and endpoints

    def _policy(self, key: v1.PolicyKey, policy: v1.Policy, sets: Sets) -> Any:
        return msgspec.to_builtins(
            messages.Policy(
                inbound_rules=compile_rules(policy.inbound_rules, f"pol-in-default/{key.name}", self.compat, sets),
                outbound_rules=compile_rules(policy.outbound_rules, f"pol-out-default/{key.name}", self.compat, sets),
                untracked=policy.untracked,
                pre_dnat=policy.pre_dnat,
                namespace=policy.namespace,
            )
        )

    def _profile(self, name: str, sets: Sets) -> Any:
        rules = self.store.get(v1.ProfileRulesKey(name))
        deny = (v1.Rule(action="deny"),)
        inward, outward = (
            (rules.inbound_rules, rules.outbound_rules) if isinstance(rules, v1.ProfileRules) else (deny, deny)
        )
        return msgspec.to_builtins(
            messages.Profile(
                compile_rules(inward, f"prof-in-{name}", self.compat, sets),
                compile_rules(outward, f"prof-out-{name}", self.compat, sets),
            )
        )

    def _workload(self, value: v1.WorkloadEndpoint, matching: list[tuple[v1.PolicyKey, v1.Policy]]) -> Any:
        endpoint: dict[str, Any] = {"state": value.state, "name": value.name}
        for field in ("profile_ids", "ipv4_nets", "ipv6_nets"):
            if getattr(value, field):
                endpoint[field] = list(getattr(value, field))
        tiers = _tiers([(k, p) for k, p in matching if not p.untracked and not p.pre_dnat])
        return {**endpoint, **({"tiers": tiers} if tiers else {})}

    def _host(self, value: v1.HostEndpoint, matching: list[tuple[v1.PolicyKey, v1.Policy]]) -> Any:
        endpoint: dict[str, Any] = {"name": value.name} if value.name else {}
        for field in ("profile_ids", "expected_ipv4_addrs", "expected_ipv6_addrs"):
            if getattr(value, field):
                endpoint[field] = list(getattr(value, field))
        normal = [(k, p) for k, p in matching if not p.untracked and not p.pre_dnat]
        parts = {
            "tiers": _tiers(normal),
            "untracked_tiers": _tiers([(k, p) for k, p in matching if p.untracked]),
            "pre_dnat_tiers": _tiers([(k, p) for k, p in matching if p.pre_dnat and not p.untracked], egress=False),
            "forward_tiers": _tiers([(k, p) for k, p in normal if p.apply_on_forward]),
        }
        return {**endpoint, **{name: tiers for name, tiers in parts.items() if tiers}}


def _addresses(value: v1.WorkloadEndpoint | v1.HostEndpoint | v1.NetworkSet) -> set[str]:
    match value:
        case v1.WorkloadEndpoint():
            return {*value.ipv4_nets, *value.ipv6_nets}
        case v1.HostEndpoint():
            return {f"{a}/32" for a in value.expected_ipv4_addrs} | {f"{a}/128" for a in value.expected_ipv6_addrs}
    halves = {"0.0.0.0/0": {"0.0.0.0/1", "128.0.0.0/1"}, "::/0": {"::/1", "8000::/1"}}
    return {half for net in value.nets for half in halves.get(net, {net})}


def _service_members(value: v1.ServiceEndpoints, *, with_ports: bool) -> set[str]:
    if not with_ports:
        return {f"{address}/{128 if ':' in address else 32}" for address in value.addresses}
    return {
        f"{address},{(port.protocol or 'TCP').lower()}:{port.port}"
        for address in value.addresses
        for port in value.ports
        if port.port is not None
    }


def _tiers(policies: list[tuple[v1.PolicyKey, v1.Policy]], *, egress: bool = True) -> list[Any]:
    inward = [key.name for key, policy in policies if not policy.types or "ingress" in policy.types]
    outward = [key.name for key, policy in policies if egress and (not policy.types or "egress" in policy.types)]
    tier = {"name": "default", "ingress_policies": inward, "egress_policies": outward}
    return [{name: value for name, value in tier.items() if value}] if inward or outward else []
