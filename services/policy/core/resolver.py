"""Which policies an endpoint is under, in which order: tiers, order, name (felix.md §3.2-3.3, PolicyResolver).

Nothing is said of endpoints before everything has been heard once: an endpoint with half of its policies would let
traffic in that the other half forbids.
"""

from collections.abc import Iterable

from services.policy.core import messages, v1
from services.policy.core.labels import Group
from services.policy.core.profiles import Compat
from services.policy.core.scanner import policy_id
from services.policy.core.sequencer import Sequencer

LocalKey = v1.WorkloadKey | v1.HostEndpointKey
LocalGroup = Group[v1.PolicyKey, LocalKey]

_LAST = float("inf")
BUILT_IN = {
    "adminnetworkpolicy": v1.Tier(1_000.0, "Pass"),
    "kube-admin": v1.Tier(1_000.0, "Pass"),
    "default": v1.Tier(1_000_000.0, "Deny"),
    "baselineadminnetworkpolicy": v1.Tier(10_000_000.0, "Pass"),
    "kube-baseline": v1.Tier(10_000_000.0, "Pass"),
}
"""The tiers that exist without an object."""


class Resolver:
    """Local endpoints and their matches in; endpoints with their tiers out."""

    def __init__(self, sequencer: Sequencer, compat: Compat) -> None:
        self._sequencer = sequencer
        self._compat = compat
        self._policies: dict[v1.PolicyKey, v1.Policy] = {}
        self._tiers: dict[str, v1.Tier] = {}
        self._endpoints: dict[LocalKey, tuple[v1.WorkloadEndpoint | v1.HostEndpoint, LocalGroup]] = {}
        self._dirty: dict[LocalKey, None] = {}

    def on_endpoint(
        self, key: LocalKey, value: v1.WorkloadEndpoint | v1.HostEndpoint | None, group: LocalGroup | None
    ) -> None:
        """An endpoint of this host and the group that it is matched with."""
        if value is None or group is None:
            self._endpoints.pop(key, None)
        else:
            self._endpoints[key] = (value, group)
        self._dirty[key] = None

    def on_match(self, group: LocalGroup) -> None:
        """Other policies match the group's endpoints now."""
        self._dirty.update(dict.fromkeys(group.items))

    def on_policy(self, key: v1.PolicyKey, value: v1.Policy | None) -> None:
        """A policy came, changed or went. An update of one with an order is told again even when it is as before."""
        before = self._policies.get(key)
        if value is None:
            self._policies.pop(key, None)
            return
        self._policies[key] = value
        if before is None or value.order is not None or _place(value) != _place(before):
            self._dirty.update({local: None for local, (_, group) in self._endpoints.items() if key in group.matches})

    def on_tier(self, key: v1.TierKey, value: v1.Tier | None) -> None:
        """A tier came, changed or went."""
        if value is None:
            self._tiers.pop(key.name, None)
        else:
            self._tiers[key.name] = value
        for local, (_, group) in self._endpoints.items():
            if any(policy.tier == key.name for policy in group.matches):
                self._dirty[local] = None

    def flush(self) -> None:
        """Say what changed of endpoints."""
        for key in self._dirty:
            found = self._endpoints.get(key)
            if found is not None:
                self._sequencer.endpoints.update(key, self._update(key, *found))
            elif isinstance(key, v1.WorkloadKey):
                self._sequencer.endpoints.remove(key, messages.WorkloadEndpointRemove(_workload_id(key)))
            else:
                removed = messages.HostEndpointRemove(messages.HostEndpointID(key.endpoint))
                self._sequencer.endpoints.remove(key, removed)
        self._dirty.clear()

    def _update(
        self, key: LocalKey, value: v1.WorkloadEndpoint | v1.HostEndpoint, group: LocalGroup
    ) -> messages.Message:
        matching = sorted(group.matches, key=self._order)
        if isinstance(value, v1.WorkloadEndpoint):
            assert isinstance(key, v1.WorkloadKey)
            return messages.WorkloadEndpointUpdate(_workload_id(key), self._workload(value, matching))
        assert isinstance(key, v1.HostEndpointKey)
        return messages.HostEndpointUpdate(messages.HostEndpointID(key.endpoint), self._host(value, matching))

    def _workload(self, value: v1.WorkloadEndpoint, matching: list[v1.PolicyKey]) -> messages.WorkloadEndpoint:
        normal = (key for key in matching if not _early(self._policies[key]))
        return messages.WorkloadEndpoint(
            state=value.state,
            name=value.name,
            mac=value.mac,
            profile_ids=value.profile_ids,
            ipv4_nets=value.ipv4_nets,
            ipv6_nets=value.ipv6_nets,
            tiers=self._split(normal),
            ipv4_nat=tuple(messages.NatInfo(nat.ext_ip, nat.int_ip) for nat in value.ipv4_nat),
            ipv6_nat=tuple(messages.NatInfo(nat.ext_ip, nat.int_ip) for nat in value.ipv6_nat),
            allow_spoofed_source_prefixes=value.allow_spoofed_source_ips,
        )

    def _host(self, value: v1.HostEndpoint, matching: list[v1.PolicyKey]) -> messages.HostEndpoint:
        policies = self._policies
        return messages.HostEndpoint(
            name=value.name,
            profile_ids=value.profile_ids,
            tiers=self._split(key for key in matching if not _early(policies[key])),
            expected_ipv4_addrs=value.expected_ipv4_addrs,
            expected_ipv6_addrs=value.expected_ipv6_addrs,
            untracked_tiers=self._split((key for key in matching if policies[key].untracked), passes=True),
            pre_dnat_tiers=self._split(
                (key for key in matching if policies[key].pre_dnat and not policies[key].untracked),
                passes=True,
                egress=False,
            ),
            forward_tiers=self._split(
                key for key in matching if policies[key].apply_on_forward and not _early(policies[key])
            ),
        )

    def _split(
        self, policies: Iterable[v1.PolicyKey], *, passes: bool = False, egress: bool = True
    ) -> tuple[messages.TierInfo, ...]:
        """By tier and direction; a tier that governs neither is left out."""
        tiers: dict[str, tuple[list[str | messages.PolicyID], list[str | messages.PolicyID]]] = {}
        for key in policies:
            policy = self._policies[key]
            inward, outward = tiers.setdefault(key.tier, ([], []))
            named = policy_id(key, policy.namespace, self._compat) if self._compat.kinds else key.name
            if not policy.types or "ingress" in policy.types:
                inward.append(named)
            if egress and (not policy.types or "egress" in policy.types):
                outward.append(named)
        return tuple(
            messages.TierInfo(name, tuple(inward), tuple(outward), self._default_action(name, passes))
            for name, (inward, outward) in tiers.items()
            if inward or outward
        )

    def _default_action(self, tier: str, passes: bool) -> str:
        if not self._compat.tiers:
            return ""
        if passes:
            return "Pass"
        known = self._tiers.get(tier) or BUILT_IN.get(tier)
        return known.default_action if known is not None else ""

    def _order(self, key: v1.PolicyKey) -> tuple[bool, float, str, float, str]:
        """Known tiers first, then the tier's order and name, then the policy's."""
        tier = self._tiers.get(key.tier) or BUILT_IN.get(key.tier)
        order = tier.order if tier is not None else None
        own = self._policies[key].order
        name = key.name if not self._compat.kinds else _sort_name(key, self._policies[key].namespace)
        return tier is None, _LAST if order is None else order, key.tier, _LAST if own is None else own, name


def _place(policy: v1.Policy) -> tuple[object, ...]:
    """What of a policy decides where it stands."""
    return policy.order, policy.untracked, policy.pre_dnat, policy.apply_on_forward, policy.types


def _early(policy: v1.Policy) -> bool:
    """Whether the policy acts before connection tracking or address translation, so not among the others."""
    return policy.untracked or policy.pre_dnat


def _sort_name(key: v1.PolicyKey, namespace: str) -> str:
    return f"{key.name.removeprefix(f'{namespace}/')}/{namespace}/{key.kind}"


def _workload_id(key: v1.WorkloadKey) -> messages.WorkloadEndpointID:
    return messages.WorkloadEndpointID(key.orchestrator, key.workload, key.endpoint)
