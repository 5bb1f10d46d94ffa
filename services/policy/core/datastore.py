"""Every v1 key and value that exists, packed: what a question about the whole cluster is answered from.

A node's graph keeps of other nodes' endpoints only what IP sets need: addresses, ports, labels, profiles. That is most
of an endpoint, so it is referred to. Whoever asks for the rest asks rarely, so it waits as bytes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from services.policy.core import nets, v1
from services.policy.core.members import Item

_KINDS: Final[Mapping[type[v1.Key], type[v1.Record]]] = {
    v1.PolicyKey: v1.Policy,
    v1.ProfileRulesKey: v1.ProfileRules,
    v1.ProfileLabelsKey: v1.ProfileLabels,
    v1.ProfileKey: v1.ProfileResource,
    v1.WorkloadKey: v1.WorkloadEndpoint,
    v1.HostEndpointKey: v1.HostEndpoint,
    v1.NetworkSetKey: v1.NetworkSet,
    v1.TierKey: v1.Tier,
    v1.SliceKey: v1.ServiceEndpoints,
}
_DECODERS: Final[dict[type[v1.Key], msgspec.msgpack.Decoder[Any]]] = {
    key: msgspec.msgpack.Decoder(value) for key, value in _KINDS.items()
}
_ENCODE: Final = msgspec.msgpack.Encoder().encode

_NOTHING: Final[Mapping[str, Any]] = {"ipv4_nets": (), "ipv6_nets": (), "ports": (), "labels": {}, "profile_ids": ()}
"""The fields that an Item has."""

Packed = Mapping[v1.Key, "bytes | Pod"]
"""A copy of a datastore at one moment, cheap to make and safe to read in another thread."""


class Pod(msgspec.Struct, frozen=True, gc=False):
    """An endpoint in two parts: what the graph remembers of it anyway, and the rest."""

    item: Item
    rest: bytes


class Datastore:
    """Key -> value, packed."""

    def __init__(self) -> None:
        self._packed: dict[v1.Key, bytes | Pod] = {}
        self._counts: Counter[type[v1.Key] | str] = Counter()
        """Things of a kind, and endpoints on a host."""

    def __len__(self) -> int:
        return len(self._packed)

    def set(self, key: v1.Key, value: v1.Value | None, item: Item | None = None) -> None:
        """The thing has this content now; None: it does not exist. Of `item` it keeps a reference instead of a copy."""
        before = self._packed.pop(key, None)
        self._count(key, (value is not None) - (before is not None))
        if isinstance(value, v1.WorkloadEndpoint) and item is not None:
            self._packed[key] = Pod(item, _ENCODE(msgspec.structs.replace(value, **_NOTHING)))
        elif value is not None:
            self._packed[key] = _ENCODE(value)

    def _count(self, key: v1.Key, change: int) -> None:
        if not change:
            return
        named = (type(key), key.host) if isinstance(key, v1.WorkloadKey | v1.HostEndpointKey) else (type(key),)
        for name in named:
            self._counts[name] += change
            if not self._counts[name]:
                del self._counts[name]

    def count(self, kind: type[v1.Key]) -> int:
        """How many things of a kind there are."""
        return self._counts[kind]

    def hosts(self) -> int:
        """How many hosts have an endpoint."""
        return sum(isinstance(name, str) for name in self._counts)

    def copy(self) -> Packed:
        """As it is now."""
        return dict(self._packed)


def pod_at(packed: Packed, address: str) -> str | None:
    """The pod, as `namespace/name`, that has an address in canonical form."""
    full = nets.full(address)
    for key, held in packed.items():
        if isinstance(key, v1.WorkloadKey):
            value = unpack(key, held)
            assert isinstance(value, v1.WorkloadEndpoint)
            if full in value.ipv4_nets or full in value.ipv6_nets:
                return key.workload
    return None


def unpack(key: v1.Key, held: bytes | Pod) -> v1.Value:
    """The value of a key."""
    if isinstance(held, Pod):
        rest: v1.WorkloadEndpoint = _DECODERS[v1.WorkloadKey].decode(held.rest)
        item, group = held.item, held.item.group
        return msgspec.structs.replace(
            rest,
            ipv4_nets=tuple(net for net in item.nets if not nets.is_ipv6(net)),
            ipv6_nets=tuple(filter(nets.is_ipv6, item.nets)),
            ports=item.ports,
            labels=dict(group.labels),
            profile_ids=group.parents,
        )
    value: v1.Value = _DECODERS[type(key)].decode(held)
    return value


def values(packed: Packed) -> Iterator[tuple[v1.Key, v1.Value]]:
    """Everything, one after the other."""
    for key, held in packed.items():
        yield key, unpack(key, held)
