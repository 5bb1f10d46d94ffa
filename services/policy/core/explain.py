"""Why may this one talk to that one, or why not: the question every operator asks, for any two of the cluster.

A small calculation is made for it, in which the two ends are the only local endpoints: so the answer is that of their
own nodes, wherever they run, and costs no more than one look at everything.
"""

from collections.abc import Iterator

import msgspec

from services.policy.core import messages as m
from services.policy.core import nets, v1
from services.policy.core.datastore import Packed, values
from services.policy.core.graph import Graph
from services.policy.core.matrix import Probe
from services.policy.core.profiles import Compat
from services.policy.core.selectors import parse
from services.policy.core.state import State
from services.policy.core.verdict import Direction, Flow, Verdict, judge

_HERE = "explained"
"""The host that both ends are moved to."""

_SIDES: tuple[Direction, Direction] = ("egress", "ingress")


class Unknown(LookupError):
    """There is no such end; the text says what was looked for."""


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """One end of a flow: a pod, or an address that is no pod's."""

    name: str
    address: str
    host: str = ""
    labels: dict[str, str] = {}


class Other(msgspec.Struct, frozen=True):
    """A policy that was not asked, and why not."""

    policy: str
    why: str


class Side(msgspec.Struct, frozen=True, omit_defaults=True):
    """One direction. `rule` is the one that decides; `verdict.asked` are those asked, each with what did not match."""

    direction: str
    endpoint: str
    verdict: Verdict
    rule: m.Rule | None = None
    others: tuple[Other, ...] = ()
    elsewhere: int = 0
    """Policies of other namespaces, which cannot apply."""


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`sides` are the egress of the source and the ingress of the destination, as far as these are pods."""

    allowed: bool
    source: End
    destination: End
    protocol: str
    port: int | None
    sides: tuple[Side, ...]
    note: str = ""


class _Found(msgspec.Struct, frozen=True):
    name: str
    addresses: tuple[str, ...]
    key: v1.WorkloadKey | None = None
    value: v1.WorkloadEndpoint | None = None


def explain(packed: Packed, compat: Compat, source: str, destination: str, probe: Probe) -> Explanation:
    """`source` and `destination` are `namespace/pod` or addresses. Raises Unknown."""
    ends = [_find(packed, who) for who in (source, destination)]
    pair = _same_family(*ends)
    port = _port(ends[1], probe)
    flow = Flow(*pair, probe.protocol, port)
    case = _Case(packed, compat, frozenset(end.key for end in ends if end.key is not None))
    sides = tuple(side for end, direction in zip(ends, _SIDES, strict=True) for side in case.side(end, direction, flow))
    return Explanation(
        allowed=all(side.verdict.allowed for side in sides),
        source=_end(ends[0], pair[0]),
        destination=_end(ends[1], pair[1]),
        protocol=probe.protocol,
        port=port,
        sides=sides,
        note=_note(ends, probe, port),
    )


# ---- the ends


def _find(packed: Packed, who: str) -> _Found:
    address = nets.address(who)
    full = nets.full(address) if address is not None else ""
    for key, value in values({key: held for key, held in packed.items() if type(key) is v1.WorkloadKey}):
        assert isinstance(key, v1.WorkloadKey)
        assert isinstance(value, v1.WorkloadEndpoint)
        listed = value.ipv4_nets + value.ipv6_nets
        if key.workload == who or full in listed:
            bare = (address,) if address is not None else tuple(net.partition("/")[0] for net in listed)
            return _Found(key.workload, bare, key, value)
    if address is None:
        raise Unknown(f"there is no pod {who} with an address of its own; give namespace/pod or an address")
    return _Found(address, (address,))


def _same_family(source: _Found, destination: _Found) -> tuple[str, str]:
    for one in source.addresses:
        for other in destination.addresses:
            if nets.is_ipv6(one) == nets.is_ipv6(other):
                return one, other
    raise Unknown(f"{source.name} and {destination.name} have no addresses of the same family")


def _port(destination: _Found, probe: Probe) -> int | None:
    if isinstance(probe.port, int):
        return probe.port
    ports = destination.value.ports if destination.value is not None else ()
    return next((p.port for p in ports if p.name == probe.port and p.protocol == probe.protocol), None)


def _end(found: _Found, address: str) -> End:
    if found.key is None or found.value is None:
        return End(found.name, address)
    return End(found.name, address, found.key.host, found.value.labels)


def _note(ends: list[_Found], probe: Probe, port: int | None) -> str:
    if ends[0].key is None and ends[1].key is None:
        return "neither end is a pod, so no policy of a pod applies"
    if ends[0].key == ends[1].key:
        return "a pod's traffic to itself stays inside of it, whatever policies say"
    if port is None:
        return f"the destination has no port named {probe.port} for {probe.protocol}"
    return ""


# ---- the calculation


class _Case:
    """The calculation of two ends, and what it was made from."""

    def __init__(self, packed: Packed, compat: Compat, ends: frozenset[v1.WorkloadKey]) -> None:
        self.compat = compat
        self.graph = Graph(_HERE, compat)
        self.state = State()
        self.policies: dict[v1.PolicyKey, v1.Policy] = {}
        self._inherited: dict[str, dict[str, str]] = {}
        for key, value in values(packed):
            match key, value:
                case v1.WorkloadKey(), _ if key in ends:
                    key = msgspec.structs.replace(key, host=_HERE)
                case v1.PolicyKey(), v1.Policy():
                    self.policies[key] = value
                case (v1.ProfileKey() | v1.ProfileLabelsKey(), v1.ProfileResource() | v1.ProfileLabels()):
                    self._inherited[key.name] = value.labels
            self.graph.update(key, value)
        self.graph.in_sync()
        self.state.apply(self.graph.flush())

    def side(self, end: _Found, direction: Direction, flow: Flow) -> Iterator[Side]:
        """What the end says, if it is a pod."""
        key, value = end.key, end.value
        if key is None or value is None:
            return
        endpoint = self.state.workloads.get(m.WorkloadEndpointID(key.orchestrator, key.workload, key.endpoint))
        if endpoint is None:
            flaw = self.graph.invalid.get(msgspec.structs.replace(key, host=_HERE), "nobody is told of it")
            yield Side(direction, key.workload, Verdict(False, "", "", None, f"the endpoint is invalid: {flaw}"))
            return
        verdict = judge(self.state, endpoint, direction, flow, trail=True)
        namespace = key.workload.partition("/")[0]
        near = {name: policy for name, policy in self.policies.items() if policy.namespace in ("", namespace)}
        yield Side(
            direction=direction,
            endpoint=key.workload,
            verdict=verdict,
            rule=self._deciding(verdict, direction),
            others=tuple(self._others(near, self._labels(value), direction)),
            elsewhere=len(self.policies) - len(near),
        )

    def _deciding(self, verdict: Verdict, direction: Direction) -> m.Rule | None:
        if verdict.rule is None:
            return None
        kind, _, name = verdict.owner.partition(" ")
        owner: m.Policy | m.Profile
        if kind == "profile":
            owner = self.state.profiles[name]
        else:
            owner = next(policy for policy_id, policy in self.state.policies.items() if policy_id.text == name)
        return (owner.inbound_rules if direction == "ingress" else owner.outbound_rules)[verdict.rule]

    def _labels(self, value: v1.WorkloadEndpoint) -> dict[str, str]:
        """The endpoint's labels, inherited ones too: the own win, then those of the first profile."""
        labels: dict[str, str] = {}
        for profile in reversed(value.profile_ids):
            labels.update(self._inherited.get(profile, {}))
        return labels | value.labels

    def _others(
        self, policies: dict[v1.PolicyKey, v1.Policy], labels: dict[str, str], direction: Direction
    ) -> Iterator[Other]:
        for key in sorted(policies, key=lambda key: (key.tier, key.name)):
            if why := self._passed_over(key, policies[key], labels, direction):
                yield Other(key.name, why)

    def _passed_over(self, key: v1.PolicyKey, policy: v1.Policy, labels: dict[str, str], direction: Direction) -> str:
        """Why the policy has no say; empty when it has."""
        if (flaw := self.graph.invalid.get(key)) is not None:
            return f"it is invalid and counts as deleted: {flaw}"
        if not parse(policy.selector, self.compat.language).matches(labels.get):
            return f"it selects other pods: {policy.selector or 'all()'}"
        if policy.types and direction not in policy.types:
            return f"it does not govern {direction}, only {', '.join(policy.types)}"
        if policy.untracked or policy.pre_dnat:
            return "it acts on host endpoints only, before connection tracking"
        return ""
