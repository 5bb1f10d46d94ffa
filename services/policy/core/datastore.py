"""Every v1 key and value that exists, packed: what a question about the whole cluster is answered from.

A node's graph keeps of other nodes' endpoints only what IP sets need. Whoever asks about them asks rarely, so their
values wait as bytes, at a third of what they cost as objects.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

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

Packed = Mapping[v1.Key, "bytes | Pod"]
"""A copy of a datastore at one moment, cheap to make and safe to read in another thread."""


class Pod(NamedTuple):
    """An endpoint in two parts: what it shares with others of its Deployment, and what is its own."""

    shared: bytes
    own: bytes


class _Own(msgspec.Struct, frozen=True, array_like=True, gc=False):
    name: str
    ipv4_nets: tuple[str, ...]
    ipv6_nets: tuple[str, ...]
    active_instance_id: str


_OWN: Final = msgspec.msgpack.Decoder(_Own)


class _Shared(msgspec.Struct):
    packed: bytes
    users: int = 0


class Datastore:
    """Key -> value, packed."""

    def __init__(self) -> None:
        self._packed: dict[v1.Key, bytes | Pod] = {}
        self._shared: dict[bytes, _Shared] = {}
        self._counts: Counter[type[v1.Key] | str] = Counter()
        """Things of a kind, and endpoints on a host."""

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def shared(self) -> int:
        """How many shared parts there are, of all endpoints."""
        return len(self._shared)

    def set(self, key: v1.Key, value: v1.Value | None) -> None:
        """The thing has this content now; None: it does not exist."""
        before = self._packed.pop(key, None)
        self._count(key, (value is not None) - (before is not None))
        if isinstance(value, v1.WorkloadEndpoint):
            self._packed[key] = self._split(value)
        elif value is not None:
            self._packed[key] = _ENCODE(value)
        if isinstance(before, Pod):
            self._release(before.shared)

    def _count(self, key: v1.Key, change: int) -> None:
        if not change:
            return
        named = (type(key), key.host) if isinstance(key, v1.WorkloadKey | v1.HostEndpointKey) else (type(key),)
        for name in named:
            self._counts[name] += change
            if not self._counts[name]:
                del self._counts[name]

    def _split(self, value: v1.WorkloadEndpoint) -> Pod:
        own = _Own(value.name, value.ipv4_nets, value.ipv6_nets, value.active_instance_id)
        packed = _ENCODE(msgspec.structs.replace(value, **{field: type(held)() for field, held in _fields(own)}))
        shared = self._shared.setdefault(packed, _Shared(packed))
        shared.users += 1
        return Pod(shared.packed, _ENCODE(own))

    def _release(self, packed: bytes) -> None:
        shared = self._shared[packed]
        shared.users -= 1
        if not shared.users:
            del self._shared[packed]

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
        endpoint: v1.WorkloadEndpoint = _DECODERS[v1.WorkloadKey].decode(held.shared)
        return msgspec.structs.replace(endpoint, **dict(_fields(_OWN.decode(held.own))))
    value: v1.Value = _DECODERS[type(key)].decode(held)
    return value


def _fields(own: _Own) -> Iterator[tuple[str, Any]]:
    for field in own.__struct_fields__:
        yield field, getattr(own, field)


def values(packed: Packed) -> Iterator[tuple[v1.Key, v1.Value]]:
    """Everything, one after the other."""
    for key, held in packed.items():
        yield key, unpack(key, held)
