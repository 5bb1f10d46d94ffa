"""Host endpoints of every kind at random, by real packets: the stages agree with their meaning, written down again.

The model below is felix.md §4.3 as plain code over `verdict.judge`; it knows nothing of hooks, chains and marks.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.core import messages as m
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment, Settings
from services.policy.core.state import State
from services.policy.core.verdict import Direction, Flow, judge
from tests.policy.nft.test_render import same
from tests.system.policy import test_render_rules as rules
from tests.system.policy.render_listing import read
from tests.system.policy.render_world import Packet, Place, Site, site

EXAMPLES = int(os.environ.get("TERWAY_POLICY_RULES", "40"))
pytestmark = [pytest.mark.system, pytest.mark.timeout(120 + EXAMPLES)]

PODS = rules.PODS
FAR = (("192.0.2.10", "fd00:f0::10"), ("198.51.100.10", "fd00:f1::10"))
NODE = (("192.0.2.1", "fd00:f0::1"), ("198.51.100.1", "fd00:f1::1"))
PORTS = (80, 443, 22, 2379, 53)
OPEN = "open"
SETTINGS = Settings()
Word = Literal["allow", "deny", "nothing"]


class Dice(rules.Dice):
    """The other test's messages, and host endpoints with policies of their kinds."""

    def messages(self) -> Iterator[m.Message]:
        yield from super().messages()
        yield m.ActiveProfileUpdate(m.ProfileID(OPEN), m.Profile((m.Rule("allow"),), (m.Rule("allow"),)))
        for kind, flags in (("raw", {"untracked": True}), ("early", {"pre_dnat": True})):
            for number in range(2):
                policy = m.Policy(self.rules(), self.rules(), **flags)
                yield m.ActivePolicyUpdate(m.PolicyID(f"{kind}{number}", tier="default"), policy)
        for number, name in enumerate(self.some(("eth0", "eth1", "*", "*"), 4)):
            yield m.HostEndpointUpdate(m.HostEndpointID(f"h{number}"), self.endpoint(name))

    def endpoint(self, name: str) -> m.HostEndpoint:
        usual = [m.PolicyID(f"p{number}", tier="default") for number in range(3)]
        return m.HostEndpoint(
            name,
            profile_ids=self.random.choice(((), ("one",), (OPEN,))),
            tiers=self.listed(usual),
            untracked_tiers=self.listed([m.PolicyID(f"raw{n}", tier="default") for n in range(2)]),
            pre_dnat_tiers=self.listed([m.PolicyID(f"early{n}", tier="default") for n in range(2)], outward=False),
            forward_tiers=self.listed(usual),
        )

    def listed(self, named: Sequence[m.PolicyID], *, outward: bool = True) -> tuple[m.TierInfo, ...]:
        if self.rarely(0.4):
            return ()
        inward = self.some(named, 2)
        return (m.TierInfo("t", inward, self.some(named, 2) if outward else (), self.random.choice(("", "Pass"))),)


class Model:
    """What becomes of the first packet of a connection."""

    def __init__(self, state: State) -> None:
        self.state = state

    def endpoint(self, link: str) -> m.HostEndpoint | None:
        for name in (link, "*"):
            for _, host in sorted(self.state.hosts.items(), key=lambda one: one[0].endpoint_id):
                if host.name == name:
                    return host
        return None

    def arrives(self, packet: Packet, came: str, goes: str, pod_from: int | None, pod_to: int | None) -> bool:
        """`came` and `goes`: links of the node; empty: the node itself."""
        accepted = False
        if came.startswith("eth") and (host := self.endpoint(came)):
            for tiers, raw in ((host.untracked_tiers, True), (host.pre_dnat_tiers, False)):
                if not accepted and not self.failsafe(packet, "ingress", raw=raw):
                    word = self.word(tiers, "ingress", packet)
                    if word == "deny":
                        return False
                    accepted = word == "allow"
            if not accepted and not goes and not self.normal(host, "ingress", packet):
                return False
            if not accepted and goes and not self.forwarded(host, "ingress", packet):
                return False
        if not came and goes.startswith("eth") and (host := self.endpoint(goes)):
            if not self.failsafe(packet, "egress", raw=True):
                word = self.word(host.untracked_tiers, "egress", packet)
                if word == "deny":
                    return False
                accepted = word == "allow"
            return accepted or self.normal(host, "egress", packet)
        if pod_from is not None and not self.pod(pod_from, "egress", packet):
            return False
        if pod_to is not None and came and not self.pod(pod_to, "ingress", packet):
            return False
        if came and goes.startswith("eth") and (host := self.endpoint(goes)):
            return self.forwarded(host, "egress", packet)
        return True

    def normal(self, host: m.HostEndpoint, direction: Direction, packet: Packet) -> bool:
        return self.failsafe(packet, direction) or self.judged(host.tiers, host.profile_ids, direction, packet)

    def forwarded(self, host: m.HostEndpoint, direction: Direction, packet: Packet) -> bool:
        return self.judged(host.forward_tiers, (OPEN,), direction, packet)

    def word(self, tiers: Sequence[m.TierInfo], direction: Direction, packet: Packet) -> Word:
        """What early policies say: their end decides nothing."""
        passing = [msgspec.structs.replace(tier, default_action="Pass") for tier in tiers]
        if self.judged(passing, (), direction, packet):
            return "allow"
        return "nothing" if self.judged(passing, (OPEN,), direction, packet) else "deny"

    def judged(
        self, tiers: Sequence[m.TierInfo], profiles: tuple[str, ...], direction: Direction, packet: Packet
    ) -> bool:
        endpoint = m.WorkloadEndpoint(state="active", tiers=tuple(tiers), profile_ids=profiles)
        return judge(self.state, endpoint, direction, flow_of(packet)).allowed

    def pod(self, number: int, direction: Direction, packet: Packet) -> bool:
        endpoint = self.state.workloads[m.WorkloadEndpointID("k8s", f"n/{number}", "eth0")]
        return judge(self.state, endpoint, direction, flow_of(packet)).allowed

    def failsafe(self, packet: Packet, direction: Direction, *, raw: bool = False) -> bool:
        own, other = SETTINGS.failsafe_inbound, SETTINGS.failsafe_outbound
        if direction == "egress":
            own, other = other, own
        answers = any((one.protocol, one.port) == (packet.protocol, packet.source_port) for one in other)
        return any((one.protocol, one.port) == (packet.protocol, packet.port) for one in own) or (raw and answers)


def flow_of(packet: Packet) -> Flow:
    """As the judge wants it."""
    if packet.protocol.startswith("icmp"):
        kind, code = packet.icmp
        return Flow(packet.source, packet.destination, packet.protocol, icmp_type=kind, icmp_code=code)
    return Flow(packet.source, packet.destination, packet.protocol, packet.port, packet.source_port)


End = tuple[Place, tuple[str, str], str, int | None]
"""A place, its addresses, the node's link to it, and which pod it is."""


def ends(made: Site) -> list[End]:
    found: list[End] = [(made.pods[n], held, f"cali{n}", n) for n, held in PODS.items()]
    found += [(made.far[n], held, f"eth{n}", None) for n, held in enumerate(FAR)]
    return found


def packets(made: Site, dice: Dice, sources: rules.Sources) -> Iterator[tuple[End, End, Packet]]:
    """Between all, the node among them with the address that its neighbour knows."""
    for one in ends(made):
        for other in [*ends(made), None]:
            if other == one:
                continue
            number = int(one[2][-1]) if one[3] is None else 0
            node: End = (made.node, NODE[number], "", None)
            for source, destination in ((one, other or node), *(() if other else ((node, one),))):
                for version in (0, 1):
                    protocol = dice.random.choice(("tcp", "tcp", "udp", "sctp", ("icmp", "icmpv6")[version]))
                    for port in dice.random.sample(PORTS, 2):
                        kind = dice.random.choice((rules.KINDS4, rules.KINDS6)[version])
                        source_port = sources.next(dice.random)
                        held = source[1][version], destination[1][version]
                        yield source, destination, Packet(*held, protocol, port, source_port, kind)


@pytest.fixture(scope="module")
def two() -> Iterator[Site]:
    with site(2) as made:
        for number, held in PODS.items():
            made.address(number, *held)
        yield made


@pytest.fixture(scope="module")
def sources() -> rules.Sources:
    return rules.Sources()


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_stages(two: Site, sources: rules.Sources, seed: int) -> None:
    dice, state, renderer = Dice(seed), State(), Renderer(SETTINGS)
    for message in dice.messages():
        state.apply([message])
        renderer.take(message)
    for number, held in PODS.items():
        renderer.attach(Attachment(f"cali{number}", held, m.WorkloadEndpointID("k8s", f"n/{number}", "eth0")))
    text = renderer.flush().text()
    two.node.load(f"{rules.NOTHING}{text}")
    same(read(two.node.listing()), renderer.table)
    asked = list(packets(two, dice, sources))
    model = Model(state)
    answers = two.ask([(source[0], packet) for source, _, packet in asked])
    wrong = [
        f"{packet} from {source[2] or 'node'} to {destination[2] or 'node'} arrived: {arrived}"
        for (source, destination, packet), arrived in zip(asked, answers, strict=True)
        if arrived != model.arrives(packet, source[2], destination[2], source[3], destination[3])
    ]
    hosts = {one.endpoint_id: host for one, host in state.hosts.items()}
    assert not wrong, f"{wrong}\n{hosts}\n{text}"
