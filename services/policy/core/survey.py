"""The matrix of a living cluster: every pod of some namespaces to every other, judged as their own nodes judge."""

import msgspec

from services.policy.core import messages as m
from services.policy.core import v1
from services.policy.core.datastore import Packed, unpack, values
from services.policy.core.graph import Graph
from services.policy.core.matrix import Cell, Place, Probe, matrix
from services.policy.core.profiles import Compat
from services.policy.core.state import State

MAX_CELLS = 250_000
"""Some seconds of work; a larger question is asked in parts."""

_HERE = "surveyed"

PROTOCOLS = ("tcp", "udp", "sctp")


class TooMany(ValueError):
    """The matrix would be too large; the text says how large."""


def probe(text: str) -> Probe:
    """`80/TCP`, `serve-80-tcp/TCP`, or without a protocol for TCP. Raises ValueError."""
    port, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if not port or protocol not in PROTOCOLS:
        raise ValueError(f"{text!r} is no PORT/PROTOCOL; the protocol is one of TCP, UDP, SCTP")
    if not port.isascii() or not port.isdecimal():
        return Probe(port, protocol)
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: a port is 1 to 65535")
    return Probe(int(port), protocol)


def survey(
    packed: Packed, compat: Compat, probes: tuple[Probe, ...], namespaces: frozenset[str]
) -> dict[str, dict[str, dict[str, Cell]]]:
    """The matrix of the pods of `namespaces`, or of all. Raises TooMany."""
    chosen: dict[v1.WorkloadKey, Place] = {}
    for key, held in packed.items():
        if isinstance(key, v1.WorkloadKey) and (not namespaces or key.workload.partition("/")[0] in namespaces):
            chosen[key] = _place(key, unpack(key, held))
    if (cells := len(chosen) ** 2 * len(probes)) > MAX_CELLS:
        raise TooMany(f"{len(chosen)} pods and {len(probes)} ports are {cells} cells, more than {MAX_CELLS}")
    graph, state = Graph(_HERE, compat), State()
    for key, value in values(packed):
        if isinstance(key, v1.WorkloadKey) and key in chosen:
            key = msgspec.structs.replace(key, host=_HERE)
        graph.update(key, value)
    graph.in_sync()
    state.apply(graph.flush())
    return matrix(state, chosen.values(), probes)


def _place(key: v1.WorkloadKey, value: v1.Value) -> Place:
    assert isinstance(value, v1.WorkloadEndpoint)
    return Place(
        name=key.workload,
        endpoint=m.WorkloadEndpointID(key.orchestrator, key.workload, key.endpoint),
        address=(value.ipv4_nets + value.ipv6_nets)[0].partition("/")[0],
        ports={(port.name, port.protocol): port.port for port in value.ports},
    )
