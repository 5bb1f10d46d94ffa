"""Who may talk to whom: every pod to every pod, per port, with the side that denies."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from services.policy.core import messages as m
from services.policy.core.state import State
from services.policy.core.verdict import NUMBERS, Flow, judge

Cell = Literal["allow", "ingress", "egress", "both"]


class Probe(msgspec.Struct, frozen=True):
    """A destination port: a number, or a name that each pod resolves by its own ports."""

    port: int | str
    protocol: str

    @property
    def text(self) -> str:
        """As the operator writes it: `80/TCP`."""
        return f"{self.port}/{self.protocol.upper()}"


def probe_of(text: str) -> Probe:
    """`80/TCP` or `NAME/PROTOCOL`. Raises ValueError."""
    port, slash, protocol = text.strip().partition("/")
    if not port or not slash or protocol.lower() not in NUMBERS:
        raise ValueError(f"{text!r} is not PORT/PROTOCOL, such as 80/TCP")
    if not (port.isascii() and port.isdecimal()):
        return Probe(port, protocol.lower())
    if not 0 < int(port) <= 65535:
        raise ValueError(f"{port} is no port")
    return Probe(int(port), protocol.lower())


class Place(msgspec.Struct, frozen=True):
    """A pod: its name, its endpoint, its first address, and its ports by name and protocol."""

    name: str
    endpoint: m.WorkloadEndpointID
    address: str
    ports: dict[tuple[str, str], int] = {}

    def port(self, probe: Probe) -> int | None:
        """The number that the probe means here."""
        return probe.port if isinstance(probe.port, int) else self.ports.get((probe.port, probe.protocol))


def judged(state: State, source: Place, destination: Place, probe: Probe) -> Cell:
    """Both sides' word on a connection. A name that the destination does not know is no port, so no rule's port."""
    flow = Flow(source.address, destination.address, probe.protocol, destination.port(probe))
    outward = judge(state, state.workloads[source.endpoint], "egress", flow).allowed
    inward = judge(state, state.workloads[destination.endpoint], "ingress", flow).allowed
    if outward:
        return "allow" if inward else "ingress"
    return "egress" if inward else "both"


def matrix(state: State, places: Iterable[Place], probes: Iterable[Probe]) -> dict[str, dict[str, dict[str, Cell]]]:
    """`{"80/TCP": {"x/a": {"x/b": "allow"}}}`: from, to, and which side denies. Only among addresses of one family."""
    known = [place for place in places if place.endpoint in state.workloads]
    return {
        probe.text: {
            source.name: {
                destination.name: judged(state, source, destination, probe)
                for destination in known
                if (":" in source.address) == (":" in destination.address)
            }
            for source in known
        }
        for probe in probes
    }
