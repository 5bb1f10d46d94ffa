"""A whole cluster at one moment, and what operators ask of it: who may talk to whom, and why.

Every endpoint is judged as its own node would judge it. The answers come from the messages of the calculation, so they
are about what a dataplane is told, not about what policies seem to say.
"""

from collections.abc import Iterable, Iterator

import msgspec

from services.policy.core import messages as m
from services.policy.core import nets, v1
from services.policy.core.graph import Graph
from services.policy.core.matrix import Cell, Place, Probe, matrix
from services.policy.core.problems import Invalid
from services.policy.core.profiles import Compat
from services.policy.core.reasons import reason
from services.policy.core.resolver import LocalKey
from services.policy.core.scanner import policy_id
from services.policy.core.selectors import Joined, Node, parse
from services.policy.core.state import State
from services.policy.core.verdict import Direction, Flow, Verdict, judge


class Bystander(msgspec.Struct, frozen=True):
    """A policy that has no say in the matter, and why."""

    policy: str
    reason: str


class Side(msgspec.Struct, frozen=True):
    """One end's word: the egress of the source or the ingress of the destination. The bystanders are those that select
    the endpoint; `others` do not, and are counted, or listed among the bystanders when everything is asked for."""

    direction: Direction
    endpoint: str
    verdict: Verdict
    rule: m.Rule | None = None
    bystanders: tuple[Bystander, ...] = ()
    others: int = 0


class Explanation(msgspec.Struct, frozen=True):
    """The answer to `policy explain`: no sides means that both ends are strangers here."""

    allowed: bool
    source: str
    destination: str
    probe: str
    sides: tuple[Side, ...]


class Overview:
    """Built from all v1 keys and values; with `only` some endpoints are judged, which costs less."""

    def __init__(
        self, values: Iterable[tuple[v1.Key, v1.Value]], compat: Compat, *, only: Iterable[str] | None = None
    ) -> None:
        self._compat = compat
        self.state = State()
        self.places: dict[str, Place] = {}
        """Pods by `namespace/name`."""
        self._policies: dict[v1.PolicyKey, v1.Policy] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._endpoints: dict[str, v1.WorkloadEndpoint] = {}
        keys = None if only is None else _Named(frozenset(only))
        graph = Graph(None, compat, only=keys)
        for key, value in values:
            graph.update(key, value)
            if key not in graph.invalid:
                self._remember(key, value)
        graph.in_sync()
        self.state.apply(graph.flush())

    def _remember(self, key: v1.Key, value: v1.Value) -> None:
        match key, value:
            case v1.WorkloadKey(), v1.WorkloadEndpoint():
                self.places[key.workload] = _place(key, value)
                self._endpoints[key.workload] = value
            case v1.PolicyKey(), v1.Policy():
                self._policies[key] = value
            case v1.ProfileKey(), v1.ProfileResource():
                self._labels[key.name] = value.labels
            case v1.ProfileLabelsKey(), v1.ProfileLabels() if not self._compat.profile_resources:
                self._labels[key.name] = value.labels

    def matrix(self, probes: Iterable[Probe]) -> dict[str, dict[str, dict[str, Cell]]]:
        """`{"80/TCP": {"x/a": {"x/b": "allow"}}}`."""
        return matrix(self.state, [self.places[name] for name in sorted(self.places)], probes)

    def explain(self, source: str, destination: str, probe: Probe, *, everything: bool = False) -> Explanation:
        """Who decides about a connection. Pods go by `namespace/name`, others by address. Raises Invalid."""
        source_address, destination_address = self._address(source), self._address(destination)
        if nets.is_ipv6(source_address) != nets.is_ipv6(destination_address):
            raise Invalid("", f"{source} and {destination} have no address family in common")
        place = self.places.get(destination)
        port = place.port(probe) if place is not None else probe.port
        if isinstance(port, str):
            raise Invalid("", f"{destination} has no ports with names; give a number instead of {port!r}")
        if port is None:
            raise Invalid("", f"{destination} has no port {probe.text}")
        flow = Flow(source_address, destination_address, probe.protocol, port)
        ends: tuple[tuple[str, Direction], ...] = ((source, "egress"), (destination, "ingress"))
        sides = [self._side(name, way, flow, everything) for name, way in ends if name in self.places]
        allowed = all(side.verdict.allowed for side in sides)
        return Explanation(allowed, source, destination, probe.text, tuple(sides))

    def _address(self, name: str) -> str:
        if name in self.places:
            return self.places[name].address
        if (address := nets.address(name)) is None:
            raise Invalid("", f"{name!r} is no pod with an address, and no address")
        return address

    def _side(self, name: str, direction: Direction, flow: Flow, everything: bool) -> Side:
        endpoint = self.state.workloads[self.places[name].endpoint]
        verdict = judge(self.state, endpoint, direction, flow, trail=True)
        asked = tuple(
            msgspec.structs.replace(one, why=reason(self._rules(one.owner, direction)[one.rule], one.mismatch, flow))
            if one.mismatch
            else one
            for one in verdict.asked
        )
        rule = None if verdict.rule is None else self._rules(verdict.owner, direction)[verdict.rule]
        unasked = list(self._unasked(name, endpoint, direction, verdict))
        unfit, strangers = self._unfit(name, direction)
        listed = [*unasked, *unfit, *(strangers if everything else ())]
        verdict = msgspec.structs.replace(verdict, asked=asked)
        return Side(direction, name, verdict, rule, tuple(listed), len(strangers))

    def _rules(self, owner: str, direction: Direction) -> tuple[m.Rule, ...]:
        """Of a policy or profile as a verdict names it."""
        kind, _, name = owner.partition(" ")
        held: m.Policy | m.Profile
        if kind == "profile":
            held = self.state.profiles[name]
        else:
            held = next(policy for known, policy in self.state.policies.items() if known.text == name)
        return held.inbound_rules if direction == "ingress" else held.outbound_rules

    def _unasked(
        self, name: str, endpoint: m.WorkloadEndpoint, direction: Direction, verdict: Verdict
    ) -> Iterator[Bystander]:
        """Policies that apply, and of which no rule was asked."""
        passing = {one.owner for one in verdict.asked if not one.mismatch and one.action == "next-tier"}
        decider = ""
        for tier in endpoint.tiers:
            passed = ""
            for listed in tier.ingress_policies if direction == "ingress" else tier.egress_policies:
                known, _ = self.state.policy(listed)
                owner = f"policy {known.text}"
                if decider or passed:
                    yield Bystander(known.text, f"selects {name}, and is not asked: {decider or passed}")
                elif not self._rules(owner, direction):
                    yield Bystander(known.text, f"selects {name}, and has no rule for {direction}")
                if owner == verdict.owner:
                    decider = f"{owner} has decided"
                elif owner in passing:
                    passed = f"{owner} has passed on to the next tier"
            if tier.name == verdict.tier and not verdict.owner:
                decider = f"tier {tier.name} has decided"

    def _unfit(self, name: str, direction: Direction) -> tuple[list[Bystander], list[Bystander]]:
        """Policies that do not apply though they select the endpoint, and those that do not select it; each with the
        first reason."""
        value = self._endpoints[name]
        labels: dict[str, str] = {}
        for profile in reversed(value.profile_ids):
            labels.update(self._labels.get(profile, {}))
        labels.update(value.labels)
        unfit, strangers = [], []
        for key, policy in sorted(self._policies.items(), key=lambda item: item[0].name):
            text = policy_id(key, policy.namespace, self._compat).text
            selector = parse(policy.selector, self._compat.language)
            if not selector.matches(labels.get):
                why = f"selects others: {_false_term(selector.root, labels)} is not true of {name}"
                strangers.append(Bystander(text, why))
            elif policy.types and direction not in policy.types:
                unfit.append(Bystander(text, f"selects {name}, but does not govern {direction}"))
            elif policy.untracked or policy.pre_dnat:
                unfit.append(Bystander(text, f"selects {name}, but acts only on host endpoints"))
        return unfit, strangers


class _Named:
    """Contains the endpoints of some pods."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def __contains__(self, key: object) -> bool:
        return isinstance(key, v1.WorkloadKey) and key.workload in self._names


def _place(key: LocalKey, value: v1.WorkloadEndpoint) -> Place:
    assert isinstance(key, v1.WorkloadKey)
    address = (value.ipv4_nets + value.ipv6_nets)[0].partition("/")[0]
    ports = {(port.name, port.protocol): port.port for port in value.ports}
    endpoint = m.WorkloadEndpointID(key.orchestrator, key.workload, key.endpoint)
    return Place(key.workload, endpoint, address, ports)


def _false_term(node: Node, labels: dict[str, str]) -> str:
    """The smallest part of a false selector that makes it false."""
    if isinstance(node, Joined) and node.operator == "&&":
        for term in node.terms:
            if not term.compiled()(labels.get):
                return _false_term(term, labels)
    return node.text()
