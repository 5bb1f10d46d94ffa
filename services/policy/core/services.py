"""IP sets of services: a rule may name a Service, and means the endpoints behind it (felix.md §3.2, ServiceIndex)."""

from collections.abc import Iterator

from services.policy.core import nets, v1
from services.policy.core.ipsets import IPSet
from services.policy.core.sequencer import Sequencer


class Services:
    """EndpointSlices on one side, sets of services on the other."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._slices: dict[v1.SliceKey, v1.ServiceEndpoints] = {}
        self._of_service: dict[str, set[v1.SliceKey]] = {}
        self._sets: dict[str, list[IPSet]] = {}
        """Service -> its sets: with ports, without, or both."""

    def add_set(self, ipset: IPSet) -> None:
        """Fill the set and keep it full."""
        service = ipset.spec.service
        self._sets.setdefault(service, []).append(ipset)
        for key in self._of_service.get(service, ()):
            ipset.add(_contribution(ipset, self._slices[key]))

    def drop_set(self, ipset: IPSet) -> None:
        """The set is gone."""
        held = self._sets[ipset.spec.service]
        held.remove(ipset)
        if not held:
            del self._sets[ipset.spec.service]

    def on_slice(self, key: v1.SliceKey, value: v1.ServiceEndpoints | None) -> None:
        """A slice came, changed or went; when it changed its service, both services change."""
        before = self._slices.get(key)
        if value == before:
            return
        if value is not None:
            self._slices[key] = value
            self._of_service.setdefault(value.service, set()).add(key)
            for ipset in self._sets.get(value.service, ()):
                if ipset.add(_contribution(ipset, value)):
                    self._sequencer.on_members(ipset)
        else:
            del self._slices[key]
        if before is None:
            return
        for ipset in self._sets.get(before.service, ()):
            if ipset.remove(_contribution(ipset, before)):
                self._sequencer.on_members(ipset)
        if value is None or value.service != before.service:
            self._of_service[before.service].remove(key)
            if not self._of_service[before.service]:
                del self._of_service[before.service]


def _contribution(ipset: IPSet, endpoints: v1.ServiceEndpoints) -> Iterator[str]:
    if not ipset.spec.with_ports:
        yield from map(nets.full, endpoints.addresses)
        return
    for port in endpoints.ports:
        protocol = (port.protocol or "TCP").lower()
        if port.port is not None and protocol in ("tcp", "udp", "sctp"):
            for address in endpoints.addresses:
                yield f"{address},{protocol}:{port.port}"
