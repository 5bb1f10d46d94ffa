"""Every v1 key and value that exists, packed: what a question about the whole cluster is answered from.

A node's graph keeps of other nodes' endpoints only what IP sets need. Whoever asks about them asks rarely, so their
values wait as bytes, at a third of what they cost as objects.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from services.policy.core import nets, v1

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

Packed = Mapping[v1.Key, bytes]
"""A copy of a datastore at one moment, cheap to make and safe to read in another thread."""


class Datastore:
    """Key -> value, packed."""

    def __init__(self) -> None:
        self._packed: dict[v1.Key, bytes] = {}

    def __len__(self) -> int:
        return len(self._packed)

    def set(self, key: v1.Key, value: v1.Value | None) -> None:
        """The thing has this content now; None: it does not exist."""
        if value is None:
            self._packed.pop(key, None)
        else:
            self._packed[key] = _ENCODE(value)

    def count(self, kind: type[v1.Key]) -> int:
        """How many things of a kind there are."""
        return sum(type(key) is kind for key in self._packed)

    def hosts(self) -> int:
        """How many hosts have an endpoint."""
        return len({key.host for key in self._packed if isinstance(key, v1.WorkloadKey | v1.HostEndpointKey)})

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


def unpack(key: v1.Key, packed: bytes) -> v1.Value:
    """The value of a key."""
    value: v1.Value = _DECODERS[type(key)].decode(packed)
    return value


def values(packed: Packed) -> Iterator[tuple[v1.Key, v1.Value]]:
    """Everything, one after the other."""
    for key, held in packed.items():
        yield key, unpack(key, held)
