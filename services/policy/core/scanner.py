"""What is active is compiled, and the IP sets that its rules refer to are counted (felix.md §3.2, RuleScanner).

An owner is a policy or a profile. The first owner to refer to a set defines it, the last to stop ends it; an owner that
changes takes its new sets before it lets go of the old, so that a set that stays is never touched.
"""

from collections.abc import Hashable

import msgspec

from services.policy.core import messages, v1
from services.policy.core.ipsets import IPSet
from services.policy.core.members import Members
from services.policy.core.profiles import Compat
from services.policy.core.rules import Sets, SetSpec, compile_rules
from services.policy.core.sequencer import Sequencer
from services.policy.core.services import Services

Owner = tuple[str, Hashable]
"""`policy` or `profile`, and its key."""

DENY_ALL = v1.ProfileRules((v1.Rule(action="deny"),), (v1.Rule(action="deny"),))
"""Stands in for a profile that is listed but not there."""


class _Counted(msgspec.Struct):
    ipset: IPSet
    owners: int


class RuleScanner:
    """Active policies and profiles in, compiled ones and the sets that they need out."""

    def __init__(self, members: Members, services: Services, sequencer: Sequencer, compat: Compat) -> None:
        self._members = members
        self._services = services
        self._sequencer = sequencer
        self._compat = compat
        self._sets: dict[str, _Counted] = {}
        self._sets_of: dict[Owner, frozenset[str]] = {}

    def policy_active(self, key: v1.PolicyKey, policy: v1.Policy) -> None:
        """The policy matches a local endpoint, with this content."""
        seed, sets, compat = f"default/{key.name}", Sets(), self._compat
        compiled = messages.Policy(
            inbound_rules=compile_rules(policy.inbound_rules, f"pol-in-{seed}", compat, sets),
            outbound_rules=compile_rules(policy.outbound_rules, f"pol-out-{seed}", compat, sets),
            untracked=policy.untracked,
            pre_dnat=policy.pre_dnat,
            namespace=policy.namespace,
            original_selector=policy.selector if compat.kinds else "",
            tier=key.tier if compat.kinds else "",
        )
        self._refer(("policy", key), sets)
        message = messages.ActivePolicyUpdate(policy_id(key, policy.namespace, compat), compiled)
        self._sequencer.policies.update(key, message)

    def policy_inactive(self, key: v1.PolicyKey, namespace: str) -> None:
        """The policy matches no local endpoint any more, or is gone."""
        self._refer(("policy", key), {})
        message = messages.ActivePolicyRemove(policy_id(key, namespace, self._compat))
        self._sequencer.policies.remove(key, message)

    def profile_active(self, name: str, rules: v1.ProfileRules | None) -> None:
        """A local endpoint lists the profile; None: it is not there, so it denies everything."""
        rules, sets, compat = rules or DENY_ALL, Sets(), self._compat
        compiled = messages.Profile(
            compile_rules(rules.inbound_rules, f"prof-in-{name}", compat, sets),
            compile_rules(rules.outbound_rules, f"prof-out-{name}", compat, sets),
        )
        self._refer(("profile", name), sets)
        self._sequencer.profiles.update(name, messages.ActiveProfileUpdate(messages.ProfileID(name), compiled))

    def profile_inactive(self, name: str) -> None:
        """No local endpoint lists the profile any more."""
        self._refer(("profile", name), {})
        self._sequencer.profiles.remove(name, messages.ActiveProfileRemove(messages.ProfileID(name)))

    def _refer(self, owner: Owner, sets: Sets) -> None:
        before = self._sets_of.get(owner, frozenset())
        if sets:
            self._sets_of[owner] = frozenset(sets)
        else:
            self._sets_of.pop(owner, None)
        for set_id in sets.keys() - before:
            self._take(sets[set_id])
        for set_id in before - sets.keys():
            self._release(set_id)

    def _take(self, spec: SetSpec) -> None:
        counted = self._sets.get(spec.id)
        if counted is not None:
            counted.owners += 1
            return
        ipset = IPSet(spec)
        self._sets[spec.id] = _Counted(ipset, 1)
        self._sequencer.on_set(ipset)
        if spec.service:
            self._services.add_set(ipset)
        else:
            self._members.add_set(ipset)

    def _release(self, set_id: str) -> None:
        counted = self._sets[set_id]
        counted.owners -= 1
        if counted.owners:
            return
        del self._sets[set_id]
        if counted.ipset.spec.service:
            self._services.drop_set(counted.ipset)
        else:
            self._members.drop_set(set_id)
        self._sequencer.on_set_gone(set_id)


def policy_id(key: v1.PolicyKey, namespace: str, compat: Compat) -> messages.PolicyID:
    """How messages name a policy."""
    if compat.kinds:
        return messages.PolicyID(key.name.removeprefix(f"{namespace}/"), namespace=namespace, kind=key.kind)
    return messages.PolicyID(key.name, tier=key.tier)
