"""What the dataplane has been told, all of it: the messages folded into the state that they describe."""

from collections.abc import Iterable
from typing import Any

import msgspec

from services.policy.core import messages as m
from services.policy.core import nets

EndpointID = m.WorkloadEndpointID | m.HostEndpointID


class SetState:
    """An IP set's members, quick to ask whether an address is among them."""

    __slots__ = ("members", "type", "wide")

    def __init__(self, kind: str, members: Iterable[str]) -> None:
        self.type = kind
        self.members: set[str] = set()
        self.wide: set[str] = set()
        """Members that are more than one address."""
        self.change(members, ())

    def change(self, added: Iterable[str], removed: Iterable[str]) -> None:
        """Take members in and out."""
        for member in added:
            self.members.add(member)
            if self.type == "NET" and not member.endswith(("/32", "/128")):
                self.wide.add(member)
        self.members.difference_update(removed)
        self.wide.difference_update(removed)

    def holds(self, address: str) -> bool:
        """Whether a network of the set contains the address."""
        return nets.full(address) in self.members or any(nets.contains(net, address) for net in self.wide)


class State:
    """Sets, policies, profiles and endpoints by id, and who is who."""

    def __init__(self) -> None:
        self.sets: dict[str, SetState] = {}
        self.policies: dict[m.PolicyID, m.Policy] = {}
        self.profiles: dict[str, m.Profile] = {}
        self.workloads: dict[m.WorkloadEndpointID, m.WorkloadEndpoint] = {}
        self.hosts: dict[m.HostEndpointID, m.HostEndpoint] = {}
        self.namespaces: dict[m.NamespaceID, dict[str, str]] = {}
        self.accounts: dict[m.ServiceAccountID, dict[str, str]] = {}
        self.in_sync = False

    def apply(self, said: Iterable[m.Message]) -> None:
        """Fold messages in, in their order."""
        for message in said:
            self._apply(message)

    def _apply(self, message: m.Message) -> None:
        match message:
            case m.IPSetUpdate():
                self.sets[message.id] = SetState(message.type, message.members)
            case m.IPSetDeltaUpdate():
                self.sets[message.id].change(message.added_members, message.removed_members)
            case m.IPSetRemove():
                del self.sets[message.id]
            case m.ActivePolicyUpdate():
                self.policies[message.id] = message.policy
            case m.ActivePolicyRemove():
                del self.policies[message.id]
            case m.ActiveProfileUpdate():
                self.profiles[message.id.name] = message.profile
            case m.ActiveProfileRemove():
                del self.profiles[message.id.name]
            case m.WorkloadEndpointUpdate():
                self.workloads[message.id] = message.endpoint
            case m.WorkloadEndpointRemove():
                del self.workloads[message.id]
            case m.HostEndpointUpdate():
                self.hosts[message.id] = message.endpoint
            case m.HostEndpointRemove():
                del self.hosts[message.id]
            case m.NamespaceUpdate():
                self.namespaces[message.id] = message.labels
            case m.NamespaceRemove():
                del self.namespaces[message.id]
            case m.ServiceAccountUpdate():
                self.accounts[message.id] = message.labels
            case m.ServiceAccountRemove():
                del self.accounts[message.id]
            case m.InSync():
                self.in_sync = True

    def policy(self, listed: str | m.PolicyID) -> tuple[m.PolicyID, m.Policy]:
        """A policy by what an endpoint's tier lists it as."""
        policy_id = m.PolicyID(listed, tier="default") if isinstance(listed, str) else listed
        return policy_id, self.policies[policy_id]

    def dump(self) -> dict[str, Any]:
        """Everything in Felix's terms, ready for JSON."""
        plain = msgspec.to_builtins
        return {
            "in_sync": self.in_sync,
            "ipsets": {i: {"type": s.type, "members": sorted(s.members)} for i, s in sorted(self.sets.items())},
            "policies": {i.text: plain(policy) for i, policy in self.policies.items()},
            "profiles": {name: plain(profile) for name, profile in self.profiles.items()},
            "weps": {
                f"{i.orchestrator_id}/{i.workload_id}/{i.endpoint_id}": plain(endpoint)
                for i, endpoint in self.workloads.items()
            },
            "heps": {i.endpoint_id: plain(endpoint) for i, endpoint in self.hosts.items()},
            "ns": {i.name: labels for i, labels in self.namespaces.items()},
            "sas": {f"{i.namespace}/{i.name}": labels for i, labels in self.accounts.items()},
        }
