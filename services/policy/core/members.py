"""Who is in which IP set: all endpoints and network sets of the cluster against the selectors of the active sets.

A contribution is an address of an item, or its address and port. Both ends are indexed by labels (labels.py), so one
pod costs what it is a member of, and one new set costs what it has as members.
"""

from collections.abc import Iterable, Mapping

import msgspec

from services.policy.core import nets, v1
from services.policy.core.ipsets import IPSet
from services.policy.core.labels import Group, LabelIndex
from services.policy.core.sequencer import Sequencer


class Item(msgspec.Struct, eq=False, frozen=True, gc=False):
    """An endpoint or network set, as far as membership goes. The collector need not look: whoever leaves leaves its
    group too."""

    nets: tuple[str, ...]
    ports: tuple[v1.EndpointPort, ...]
    group: "Group[str, Item]"
    rest: bytes = b""
    """What somebody else wants to be remembered with it (datastore.py)."""


class Members:
    """Items on one side, selected IP sets on the other."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._index: LabelIndex[str, Item] = LabelIndex(self._started, self._stopped)
        self.items: dict[v1.Key, Item] = {}
        """What is remembered of endpoints and network sets; an item never changes, another takes its place."""
        self._sets: dict[str, IPSet] = {}

    # ---- sets

    def add_set(self, ipset: IPSet) -> None:
        """Fill the set and keep it full."""
        assert ipset.spec.selector is not None
        self._sets[ipset.spec.id] = ipset
        self._index.set_selector(ipset.spec.id, ipset.spec.selector)

    def drop_set(self, set_id: str) -> None:
        """The set is gone, and all of its members with it; nobody is told of each."""
        del self._sets[set_id]
        self._index.drop_selector(set_id)

    # ---- items

    def on_workload(self, key: v1.WorkloadKey, value: v1.WorkloadEndpoint | None, rest: bytes = b"") -> None:
        """An endpoint of any host."""
        if value is None:
            self._drop(key)
        else:
            self._set(key, value.ipv4_nets + value.ipv6_nets, value.ports, value, rest)

    def on_host_endpoint(self, key: v1.HostEndpointKey, value: v1.HostEndpoint | None) -> None:
        """An endpoint of any host."""
        if value is None:
            self._drop(key)
        else:
            addresses = value.expected_ipv4_addrs + value.expected_ipv6_addrs
            self._set(key, tuple(map(nets.full, addresses)), value.ports, value)

    def on_network_set(self, key: v1.NetworkSetKey, value: v1.NetworkSet | None) -> None:
        """Networks from outside the cluster, mostly."""
        if value is None:
            self._drop(key)
        else:
            # Halves of a /0 may be listed on their own too.
            listed = tuple(dict.fromkeys(nets.split_default(value.nets)))
            self._set(key, listed, (), value)

    def on_labels(self, profile: str, labels: Mapping[str, str] | None) -> None:
        """What a profile hands down."""
        self._index.set_parent(profile, labels)

    def _set(
        self,
        key: v1.Key,
        contribution: tuple[str, ...],
        ports: tuple[v1.EndpointPort, ...],
        value: v1.WorkloadEndpoint | v1.HostEndpoint | v1.NetworkSet,
        rest: bytes = b"",
    ) -> None:
        before = self.items.get(key)
        group = self._index.group(value.labels, value.profile_ids)
        if before is not None and before.group is group and before.nets == contribution and before.ports == ports:
            if before.rest != rest:
                self._exchange(key, before, Item(contribution, ports, group, rest))
            return
        # The new contributions first: what stays never leaves, not even for a moment.
        item = self.items[key] = Item(contribution, ports, group, rest)
        self._index.join(item, group)
        for set_id in group.matches:
            ipset = self._sets[set_id]
            if ipset.add(_contribution(ipset, item)):
                self._sequencer.on_members(ipset)
        if before is not None:
            self._withdraw(before)

    def _exchange(self, key: v1.Key, before: Item, item: Item) -> None:
        """One for another that contributes the same."""
        self.items[key] = item
        self._index.join(item, item.group)
        self._index.remove(before, before.group)

    def _drop(self, key: v1.Key) -> None:
        item = self.items.pop(key, None)
        if item is not None:
            self._withdraw(item)

    def _withdraw(self, item: Item) -> None:
        for set_id in item.group.matches:
            ipset = self._sets[set_id]
            if ipset.remove(_contribution(ipset, item)):
                self._sequencer.on_members(ipset)
        self._index.remove(item, item.group)

    # ---- what the index says

    def _started(self, set_id: str, group: Group[str, Item]) -> None:
        ipset = self._sets[set_id]
        for item in group.items:
            ipset.add(_contribution(ipset, item))
        if ipset.sent:
            self._sequencer.on_members(ipset)

    def _stopped(self, set_id: str, group: Group[str, Item]) -> None:
        ipset = self._sets.get(set_id)
        if ipset is None:  # the set itself is gone
            return
        for item in group.items:
            ipset.remove(_contribution(ipset, item))
        if ipset.sent:
            self._sequencer.on_members(ipset)


def _contribution(ipset: IPSet, item: Item) -> Iterable[str]:
    spec = ipset.spec
    if not spec.port_name:
        return item.nets
    return [
        f"{net[: net.rindex('/')]},{port.protocol}:{port.port}"
        for port in item.ports
        if port.name == spec.port_name and (port.protocol == spec.port_protocol or spec.port_protocol == "any")
        for net in item.nets
    ]
