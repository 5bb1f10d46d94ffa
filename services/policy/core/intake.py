"""Objects of the cluster -> v1 updates: remembers which keys an object stands behind, so that they go when it goes.

An object that cannot be read or converted counts as deleted, a part that the original passes over is passed over; both
are in `problems`.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from services.policy.core import objects, v1
from services.policy.core.convert import admin, calico, kubernetes
from services.policy.core.problems import Invalid, Note, Problem, ignored
from services.policy.core.profiles import Compat
from services.policy.core.resolver import BUILT_IN
from services.policy.core.validate import check_written


class Update(NamedTuple):
    """`type` is new, updated or deleted, of the key; a deleted one has no value."""

    key: v1.Key
    type: str
    value: v1.Value | None


class Source(msgspec.Struct, frozen=True, gc=False):
    """An object's identity."""

    kind: type[objects.Object]
    namespace: str
    name: str


_Pairs = list[tuple[v1.Key, v1.Value | None]]


class Intake:
    """Objects in, updates out."""

    def __init__(self, compat: Compat) -> None:
        self._compat = compat
        self._keys: dict[tuple[type[objects.Object], str], dict[str, v1.Key | tuple[v1.Key, ...]]] = {}
        """By kind and namespace, then by name: there are a hundred thousand pods. Each stands behind one key, so there
        is no tuple around it."""
        self.problems: dict[Source, list[Problem]] = {}
        """What is wrong with the objects that are there now."""

    def apply(self, written: objects.Object) -> list[Update]:
        """The object is there, with this content."""
        meta = written.metadata
        source = Source(type(written), sys.intern(meta.namespace), meta.name)
        self.problems.pop(source, None)

        def note(field: str, reason: str, effect: str = "passed over") -> None:
            problem = Problem(source.kind.__name__, source.namespace, source.name, field, reason, effect)
            self.problems.setdefault(source, []).append(problem)

        try:
            pairs = self._convert(written, note)
        except Invalid as error:
            note(error.field, error.reason, "dropped")
            pairs = []
        return self._replace(source, pairs)

    def delete(self, kind: type[objects.Object], namespace: str, name: str) -> list[Update]:
        """The object is gone, or cannot even be read."""
        source = Source(kind, namespace, name)
        self.problems.pop(source, None)
        return self._replace(source, [])

    def _replace(self, source: Source, pairs: _Pairs) -> list[Update]:
        named = self._keys.setdefault((source.kind, source.namespace), {})
        before = named.pop(source.name, ())  # to come back under its newest text, which the mirror has too
        if isinstance(before, v1.Key):
            before = (before,)
        after = tuple(key for key, value in pairs if value is not None)
        if after == before:
            after = before
        updates = [Update(key, "deleted", None) for key in before if key not in after]
        given = (value for _, value in pairs if value is not None)
        updates += [
            Update(key, "updated" if key in before else "new", value) for key, value in zip(after, given, strict=True)
        ]
        if after:
            named[source.name] = after[0] if len(after) == 1 else after
        elif not named:
            del self._keys[source.kind, source.namespace]
        return updates

    # ---- by kind

    def _convert(self, written: objects.Object, note: Note) -> _Pairs:
        compat = self._compat
        match written:
            case objects.Pod():
                if not kubernetes.is_networked(written):
                    return []
                return [(kubernetes.workload_key(written), kubernetes.workload_endpoint(written, compat))]
            case objects.Namespace():
                return list(self._profile(kubernetes.namespace_profile(written, compat), note))
            case objects.ServiceAccount():
                return list(self._profile(kubernetes.account_profile(written, compat), note))
            case objects.Profile():
                return list(self._profile(written, note))
            case objects.KubePolicy():
                converted = kubernetes.network_policy(written, compat, note)
                return [self._policy(converted, compat.kube_policy_kind, note)]
            case objects.NetworkPolicy():
                return [self._policy(written, "NetworkPolicy" if compat.kinds else "", note)]
            case objects.GlobalNetworkPolicy():
                kind = "GlobalNetworkPolicy" if compat.kinds else ""
                key = v1.PolicyKey(written.metadata.name, kind, self._tier(written.spec, note))
                return [(key, calico.global_policy(written, compat, note))]
            case objects.AdminPolicy():
                if not compat.tiers:
                    note("kind", f"Felix {compat.name} does not know it", ignored(compat.name))
                    return []
                policy = admin.global_policy(written, note)
                own = isinstance(written, objects.ClusterNetworkPolicy)
                kind = "KubernetesClusterNetworkPolicy" if own else "GlobalNetworkPolicy"
                key = v1.PolicyKey(policy.metadata.name, kind, policy.spec.tier)
                return [(key, calico.global_policy(policy, compat, note))]
            case objects.GlobalNetworkSet():
                return [(v1.NetworkSetKey(written.metadata.name), calico.global_network_set(written, note))]
            case objects.NetworkSet():
                if not compat.network_sets:
                    note("kind", f"Felix {compat.name} does not know it", ignored(compat.name))
                    return []
                name = f"{written.metadata.namespace}/{written.metadata.name}"
                return [(v1.NetworkSetKey(name), calico.network_set(written, note))]
            case objects.HostEndpoint():
                value = calico.host_endpoint(written)
                return [(v1.HostEndpointKey(written.spec.node, written.metadata.name), value)]
            case objects.Tier():
                if not compat.tiers:
                    if written.metadata.name not in BUILT_IN:
                        note("kind", f"Felix {compat.name} does not know it", ignored(compat.name))
                    return []
                return [(v1.TierKey(written.metadata.name), calico.tier(written))]
            case objects.EndpointSlice():
                if not compat.services:
                    return []
                slice_key = v1.SliceKey(written.metadata.namespace, written.metadata.name)
                return [(slice_key, kubernetes.service_endpoints(written, note))]
        return []

    def _policy(self, written: objects.NetworkPolicy, kind: str, note: Note) -> tuple[v1.Key, v1.Value]:
        name = calico.policy_name(written.metadata.name, written.metadata.namespace)
        key = v1.PolicyKey(name, kind, self._tier(written.spec, note))
        return key, calico.network_policy(written, self._compat, note)

    def _tier(self, spec: objects.NetworkPolicySpec, note: Note) -> str:
        tier = spec.tier or "default"
        if self._compat.tiers or tier == "default":
            return tier
        note("spec.tier", f"there is one tier there, and {tier!r} is not it", ignored(self._compat.name))
        return "default"

    def _profile(self, profile: objects.Profile, note: Note) -> Iterator[tuple[v1.Key, v1.Value | None]]:
        name, labels = profile.metadata.name, profile.spec.labels_to_apply
        yield v1.ProfileLabelsKey(name), v1.ProfileLabels(labels) if labels else None
        yield v1.ProfileRulesKey(name), calico.profile_rules(profile, self._compat, note)
        if not self._compat.profile_resources:
            return
        try:
            check_written(profile, self._compat)
            yield v1.ProfileKey(name), v1.ProfileResource(labels)
        except Invalid as error:
            yield v1.ProfileKey(name), v1.ProfileResource(labels, error.field, error.reason)
