"""Which policies and profiles matter on this host: those that a local endpoint is selected by, or lists.

Only local endpoints take part, so this is policies x a hundred, never policies x cluster (felix.md §3.2,
ActiveRulesCalculator). A group of endpoints with equal labels is matched once (labels.py).
"""

from collections.abc import Mapping

from services.policy.core import v1
from services.policy.core.labels import Group, LabelIndex
from services.policy.core.profiles import Compat
from services.policy.core.resolver import LocalKey, Resolver
from services.policy.core.scanner import RuleScanner
from services.policy.core.selectors import parse

LocalEndpoint = v1.WorkloadEndpoint | v1.HostEndpoint


class ActiveRules:
    """Local endpoints, policies and profiles in; what is active out, to the scanner and the resolver."""

    def __init__(self, scanner: RuleScanner, resolver: Resolver, compat: Compat) -> None:
        self._scanner = scanner
        self._resolver = resolver
        self._compat = compat
        self._policies: dict[v1.PolicyKey, v1.Policy] = {}
        self._rules: dict[str, v1.ProfileRules] = {}
        self._listed: dict[str, int] = {}
        """Profile -> how many local endpoints list it."""
        self._matching: dict[v1.PolicyKey, int] = {}
        """Active policy -> how many groups it matches."""
        self._endpoints: dict[LocalKey, tuple[Group[v1.PolicyKey, LocalKey], tuple[str, ...]]] = {}
        self._index: LabelIndex[v1.PolicyKey, LocalKey] = LabelIndex(self._started, self._stopped)

    def on_endpoint(self, key: LocalKey, value: LocalEndpoint | None) -> None:
        """An endpoint of this host."""
        before = self._endpoints.pop(key, None)
        if value is not None:
            for name in set(value.profile_ids):
                self._list_profile(name)
        if before is not None:
            for name in set(before[1]):
                self._unlist_profile(name)
        if value is None:
            if before is not None:
                self._index.remove(key, before[0])
            self._resolver.on_endpoint(key, None, None)
            return
        group = self._index.add(key, value.labels, value.profile_ids)
        self._endpoints[key] = (group, value.profile_ids)
        if before is not None and before[0] is not group:
            self._index.remove(key, before[0])
        self._resolver.on_endpoint(key, value, group)

    def on_policy(self, key: v1.PolicyKey, value: v1.Policy | None) -> None:
        """A policy of the cluster."""
        before = self._policies.get(key)
        if value == before:
            return
        if value is None:
            # The namespace that messages name it by is still that of the old content.
            self._index.drop_selector(key)
            del self._policies[key]
            return
        self._policies[key] = value
        was_active = key in self._matching
        self._index.set_selector(key, parse(value.selector, self._compat.language))
        if was_active and key in self._matching:
            self._scanner.policy_active(key, value)

    def on_rules(self, name: str, value: v1.ProfileRules | None) -> None:
        """The rules of a profile."""
        if value == self._rules.get(name):
            return
        if value is None:
            del self._rules[name]
        else:
            self._rules[name] = value
        if name in self._listed:
            self._scanner.profile_active(name, value)

    def on_labels(self, profile: str, labels: Mapping[str, str] | None) -> None:
        """What a profile hands down."""
        self._index.set_parent(profile, labels)

    def _list_profile(self, name: str) -> None:
        count = self._listed.get(name, 0)
        self._listed[name] = count + 1
        if not count:
            self._scanner.profile_active(name, self._rules.get(name))

    def _unlist_profile(self, name: str) -> None:
        self._listed[name] -= 1
        if not self._listed[name]:
            del self._listed[name]
            self._scanner.profile_inactive(name)

    def _started(self, key: v1.PolicyKey, group: Group[v1.PolicyKey, LocalKey]) -> None:
        count = self._matching.get(key, 0)
        self._matching[key] = count + 1
        if not count:
            self._scanner.policy_active(key, self._policies[key])
        self._resolver.on_match(group)

    def _stopped(self, key: v1.PolicyKey, group: Group[v1.PolicyKey, LocalKey]) -> None:
        self._matching[key] -= 1
        if not self._matching[key]:
            del self._matching[key]
            self._scanner.policy_inactive(key, self._policies[key].namespace)
        self._resolver.on_match(group)
