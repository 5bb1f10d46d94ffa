"""A dataplane that objects: folds messages into a state, and fails on whatever a real one could not carry out.

A reference before its referent, a difference for an unknown set, a member added twice or removed unseen, anything
removed while it is referred to, an endpoint before the first InSync that would act on half of its policies: each is an
AssertionError with the message (felix.md §6.1).
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from services.policy.core import messages as m

CLASSES: dict[type[m.Message], str] = {
    m.IPSetUpdate: "IPSetUpdate",
    m.IPSetDeltaUpdate: "IPSetDeltaUpdate",
    m.ActivePolicyUpdate: "ActivePolicyUpdate",
    m.ActiveProfileUpdate: "ActiveProfileUpdate",
    m.WorkloadEndpointUpdate: "EndpointUpdate",
    m.HostEndpointUpdate: "EndpointUpdate",
    m.WorkloadEndpointRemove: "EndpointRemove",
    m.HostEndpointRemove: "EndpointRemove",
    m.ActiveProfileRemove: "ActiveProfileRemove",
    m.ActivePolicyRemove: "ActivePolicyRemove",
    m.IPSetRemove: "IPSetRemove",
    m.ServiceAccountRemove: "ServiceAccountRemove",
    m.ServiceAccountUpdate: "ServiceAccountUpdate",
    m.NamespaceRemove: "NamespaceRemove",
    m.NamespaceUpdate: "NamespaceUpdate",
    m.Encapsulation: "Encapsulation",
    m.InSync: "InSync",
}
"""Message -> its class, in the order of a flush."""

_REFERENCES = (
    "src_ip_set_ids",
    "dst_ip_set_ids",
    "src_named_port_ip_set_ids",
    "dst_named_port_ip_set_ids",
    "dst_ip_port_set_ids",
    "not_src_ip_set_ids",
    "not_dst_ip_set_ids",
    "not_src_named_port_ip_set_ids",
    "not_dst_named_port_ip_set_ids",
)

Endpoint = m.WorkloadEndpoint | m.HostEndpoint


class Dataplane:
    """What has been programmed."""

    def __init__(self) -> None:
        self.sets: dict[str, tuple[str, set[str]]] = {}
        self.policies: dict[m.PolicyID, m.Policy] = {}
        self.profiles: dict[str, m.Profile] = {}
        self.endpoints: dict[m.WorkloadEndpointID | m.HostEndpointID, Endpoint] = {}
        self.namespaces: dict[str, m.NamespaceUpdate] = {}
        self.accounts: dict[m.ServiceAccountID, m.ServiceAccountUpdate] = {}
        self.in_sync = False

    def apply(self, sent: Iterable[m.Message]) -> None:
        """One flush, in order."""
        for message in sent:
            self._apply(message)

    def _apply(self, message: m.Message) -> None:
        match message:
            case m.IPSetUpdate(id=set_id, type=kind, members=members):
                assert len(set(members)) == len(members), message
                known = self.sets.get(set_id)
                assert known is None or known[0] == kind, message
                self.sets[set_id] = (kind, set(members))
            case m.IPSetDeltaUpdate(id=set_id, added_members=added, removed_members=removed):
                assert set_id in self.sets, message
                members_now = self.sets[set_id][1]
                assert members_now.isdisjoint(added) and len(set(added)) == len(added), message
                assert members_now.issuperset(removed) and len(set(removed)) == len(removed), message
                assert added or removed, message
                members_now.difference_update(removed)
                members_now.update(added)
            case m.IPSetRemove(id=set_id):
                assert set_id in self.sets and set_id not in self._used_sets(), message
                del self.sets[set_id]
            case m.ActivePolicyUpdate(id=policy_id, policy=policy):
                assert _sets_of(policy) <= self.sets.keys(), message
                self.policies[policy_id] = policy
            case m.ActivePolicyRemove(id=policy_id):
                assert policy_id in self.policies, message
                assert policy_id not in self._used_policies(), message
                del self.policies[policy_id]
            case m.ActiveProfileUpdate(id=profile_id, profile=profile):
                assert _sets_of(profile) <= self.sets.keys(), message
                self.profiles[profile_id.name] = profile
            case m.ActiveProfileRemove(id=profile_id):
                assert profile_id.name in self.profiles, message
                assert all(profile_id.name not in e.profile_ids for e in self.endpoints.values()), message
                del self.profiles[profile_id.name]
            case m.WorkloadEndpointUpdate(id=endpoint_id, endpoint=endpoint):
                self._add_endpoint(endpoint_id, endpoint)
            case m.HostEndpointUpdate(id=host_id, endpoint=host_endpoint):
                self._add_endpoint(host_id, host_endpoint)
            case m.WorkloadEndpointRemove(id=endpoint_id):
                del self.endpoints[endpoint_id]
            case m.HostEndpointRemove(id=host_id):
                del self.endpoints[host_id]
            case m.NamespaceUpdate(id=namespace_id):
                self.namespaces[namespace_id.name] = message
            case m.NamespaceRemove(id=namespace_id):
                del self.namespaces[namespace_id.name]
            case m.ServiceAccountUpdate(id=account_id):
                self.accounts[account_id] = message
            case m.ServiceAccountRemove(id=account_id):
                del self.accounts[account_id]
            case m.InSync():
                assert not self.in_sync, "InSync twice"
                self.in_sync = True
            case m.Encapsulation():
                assert not self.in_sync, "Encapsulation after InSync"
            case _:
                raise AssertionError(f"unknown message {message}")

    def _add_endpoint(self, endpoint_id: m.WorkloadEndpointID | m.HostEndpointID, endpoint: Endpoint) -> None:
        named = {getattr(policy_id, "name", policy_id) for policy_id in _policies_of(endpoint)}
        assert named <= {policy_id.name for policy_id in self.policies}, endpoint
        assert self.profiles.keys() >= set(endpoint.profile_ids), endpoint
        self.endpoints[endpoint_id] = endpoint

    def _used_sets(self) -> set[str]:
        owners: list[m.Policy | m.Profile] = [*self.policies.values(), *self.profiles.values()]
        return {set_id for owner in owners for set_id in _sets_of(owner)}

    def _used_policies(self) -> set[m.PolicyID]:
        named = {policy for endpoint in self.endpoints.values() for policy in _policies_of(endpoint)}
        return {policy_id for policy_id in self.policies if policy_id in named or policy_id.name in named}

    def state(self) -> dict[str, dict[str, Any]]:
        """Everything, by class and id, as the recordings write it."""
        weps, heps = {}, {}
        for endpoint_id, endpoint in self.endpoints.items():
            if isinstance(endpoint_id, m.WorkloadEndpointID):
                parts = (endpoint_id.orchestrator_id, endpoint_id.workload_id, endpoint_id.endpoint_id)
                weps["/".join(parts)] = msgspec.to_builtins(endpoint)
            else:
                heps[endpoint_id.endpoint_id] = msgspec.to_builtins(endpoint)
        state: dict[str, dict[str, Any]] = {
            "ipsets": {i: {"type": kind, "members": sorted(members)} for i, (kind, members) in self.sets.items()},
            "policies": {i.text: msgspec.to_builtins(policy) for i, policy in self.policies.items()},
            "profiles": {name: msgspec.to_builtins(profile) for name, profile in self.profiles.items()},
            "weps": weps,
            "heps": heps,
            "ns": {name: msgspec.to_builtins(update) for name, update in self.namespaces.items()},
            "sas": {f"{i.namespace}/{i.name}": msgspec.to_builtins(update) for i, update in self.accounts.items()},
        }
        return state


def _sets_of(owner: m.Policy | m.Profile) -> set[str]:
    rules = (*owner.inbound_rules, *owner.outbound_rules)
    return {set_id for rule in rules for field in _REFERENCES for set_id in getattr(rule, field)}


def _policies_of(endpoint: Endpoint) -> set[str | m.PolicyID]:
    tiers = endpoint.tiers
    if isinstance(endpoint, m.HostEndpoint):
        tiers += endpoint.untracked_tiers + endpoint.pre_dnat_tiers + endpoint.forward_tiers
    return {policy for tier in tiers for policy in (*tier.ingress_policies, *tier.egress_policies)}
