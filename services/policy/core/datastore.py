"""Every v1 key and value that exists, packed: what a question about the whole cluster is answered from.

A node's graph keeps of other nodes' endpoints only what IP sets need: addresses, ports, labels, profiles. That is most
of an endpoint, so the rest is kept there too. Whoever asks for it asks rarely, so it waits as bytes.
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

_STATE: Final = "active"
"""Every pod's."""
_NOTHING: Final[Mapping[str, Any]] = {
    "state": "",
    "ipv4_nets": (),
    "ipv6_nets": (),
    "ports": (),
    "labels": {},
    "profile_ids": (),
}
"""The fields that need not be packed: an Item has them."""

Packed = Mapping[v1.Key, "bytes | Item"]
"""A copy of a datastore at one moment, cheap to make and safe to read in another thread."""


class Datastore:
    """Key -> value, packed. `items` is what the graph remembers of endpoints: those with a rest are not kept twice."""

    def __init__(self, items: Mapping[v1.Key, Item] = {}) -> None:
        self._items = items
        self._packed: dict[v1.Key, bytes] = {}
        self._counts: Counter[type[v1.Key] | str] = Counter()
        """Things of a kind, and endpoints on a host."""

    def __len__(self) -> int:
        return sum(count for name, count in self._counts.items() if not isinstance(name, str))

    def set(self, key: v1.Key, value: v1.Value | None) -> bytes:
        """The thing has this content now; None: it does not exist. To be told before the graph is, which must then
        remember the rest that is returned with its item; nothing: it need not."""
        held = self._items.get(key)
        before = key in self._packed or (held is not None and bool(held.rest))
        self._count(key, (value is not None) - before)
        self._packed.pop(key, None)
        if isinstance(value, v1.WorkloadEndpoint) and value.state == _STATE:
            return _ENCODE(msgspec.structs.replace(value, **_NOTHING))
        self.keep(key, value)
        return b""

    def keep(self, key: v1.Key, value: v1.Value | None) -> None:
        """Keep all of it."""
        if value is not None:
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
        return {**{key: item for key, item in self._items.items() if item.rest}, **self._packed}


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


def unpack(key: v1.Key, held: bytes | Item) -> v1.Value:
    """The value of a key."""
    if isinstance(held, Item):
        rest: v1.WorkloadEndpoint = _DECODERS[v1.WorkloadKey].decode(held.rest)
        return msgspec.structs.replace(
            rest,
            state=_STATE,
            ipv4_nets=tuple(net for net in held.nets if not nets.is_ipv6(net)),
            ipv6_nets=tuple(filter(nets.is_ipv6, held.nets)),
            ports=held.ports,
            labels=dict(held.group.labels),
            profile_ids=held.group.parents,
        )
    value: v1.Value = _DECODERS[type(key)].decode(held)
    return value


def values(packed: Packed) -> Iterator[tuple[v1.Key, v1.Value]]:
    """Everything, one after the other."""
    for key, held in packed.items():
        yield key, unpack(key, held)
