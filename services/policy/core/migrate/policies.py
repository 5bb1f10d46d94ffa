"""Objects that decide about traffic: taken through our own calculation, and looked at for what it does not read."""

import types
import typing
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from services.policy.core import nets, objects
from services.policy.core.cluster import Cluster
from services.policy.core.convert.client import stored
from services.policy.core.migrate.findings import Finding, Written
from services.policy.core.problems import Invalid
from services.policy.core.profiles import Compat

_CREATOR: Final = "projectcalico.org/created-by"
_HINTS: Final = ("spec.performanceHints",)
"""Fields that decide nothing."""
_GONE: Final = ("cali", "tunl", "vxlan", "wireguard", "wg")
"""Beginnings of interfaces that only Calico makes, or that are pods'."""


class Policies:
    """`pools` are the networks that Calico gave pods addresses from; `exact`: the profile is the running Calico's."""

    def __init__(self, compat: Compat, pools: list[str], *, exact: bool) -> None:
        self._compat = compat
        self._pools = pools
        self._exact = exact
        self._cluster = Cluster("", compat)

    def judged(self, written: Written, kind: type[objects.Object]) -> Iterator[Finding]:
        """What is to be said of the object."""
        try:
            read = objects.read(written.raw, kind)
            if written.group == "projectcalico.org" and not written.is_custom:
                read = stored(read, self._compat)
        except Invalid as error:
            yield Finding("same", error.field, f"{error.reason}: Calico does not take it either")
            return
        for problem in self._cluster.apply(read):
            yield self._of(problem.field, problem.reason, problem.effect)
        for field in unknown(written.spec, _spec_of(kind), "spec"):
            if field in _HINTS:
                yield Finding("replaced", field, "about how Felix works, not about what is let through")
            else:
                yield Finding("differs", field, "not known here: what it limits is not limited")
        yield from self._pooled(written.spec, "spec")
        if isinstance(read, objects.HostEndpoint):
            yield from _host_endpoint(read)

    def _of(self, field: str, reason: str, effect: str) -> Finding:
        if effect.startswith("ignored by profile") and not self._exact:
            return Finding("differs", field, f"{reason} ({effect}): see policy.compat")
        if field.endswith(".http"):
            return Finding("differs", field, f"{reason}, also where Calico's own proxy did")
        return Finding("same", field, f"{reason} ({effect}), as with Calico")

    def _pooled(self, value: Any, field: str) -> Iterator[Finding]:
        """Networks that meant Calico's pods."""
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from self._pooled(inner, f"{field}.{name}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from self._pooled(inner, f"{field}[{number}]")
        elif isinstance(value, str) and (net := nets.network(value)) is not None and net not in ("0.0.0.0/0", "::/0"):
            for pool in self._pools:
                if nets.contains(pool, net.partition("/")[0]) or nets.contains(net, pool.partition("/")[0]):
                    why = f"{value} has to do with Calico's pool {pool}, from which no pod gets its address any more"
                    yield Finding("differs", field, why)


def _host_endpoint(read: objects.HostEndpoint) -> Iterator[Finding]:
    interface = read.spec.interface_name
    if interface.startswith(_GONE):
        why = f"{interface} is Calico's own or a pod's, and no host endpoint governs it here"
        yield Finding("differs", "spec.interfaceName", why)
    if _CREATOR in read.metadata.labels:
        why = "made by calico-kube-controllers: it stays as it is, also when its node goes"
        yield Finding("differs", f"metadata.labels[{_CREATOR}]", why)
    why = "governs what passes the node; pods of exclusive-eni and shared-ipvlan have their rules in their namespaces"
    yield Finding("same", "", why)


# ---- fields that nobody reads


def unknown(value: Any, kind: Any, field: str) -> Iterator[str]:
    """Fields with content that the type does not have."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        structs = [one for one in typing.get_args(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        kind = structs[0] if structs else None
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        for number, inner in enumerate(value):
            yield from unknown(inner, typing.get_args(kind)[0], f"{field}[{number}]")
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        known = {one.encode_name: one.type for one in msgspec.structs.fields(kind)}
        for name, inner in value.items():
            if name in known:
                yield from unknown(inner, known[name], f"{field}.{name}")
            elif inner not in (None, "", [], {}, False):
                yield f"{field}.{name}"


def _spec_of(kind: type[objects.Object]) -> Any:
    found = [one.type for one in msgspec.structs.fields(kind) if one.name == "spec"]
    return found[0] if found else None
