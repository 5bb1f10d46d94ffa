"""Rules of every kind, at random, by real packets in both IP versions: the kernel says what `verdict.judge` says.

Two pods and somebody outside; every field of a rule, lists that overlap and contradict each other, sets with networks,
tiers that pass. One example is one rule set and some eighty packets of it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.core import messages as m
from services.policy.core.nft.model import Change
from services.policy.core.nft.pod import PodTable
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment, Settings
from services.policy.core.state import State
from services.policy.core.verdict import Flow, judge
from tests.policy.nft.test_render import same
from tests.system.policy.render_listing import read
from tests.system.policy.render_world import GATEWAY, Packet, Place, Site, site

EXAMPLES = int(os.environ.get("TERWAY_POLICY_RULES", "40"))
pytestmark = [pytest.mark.system, pytest.mark.timeout(120 + EXAMPLES)]

T = TypeVar("T")

PODS = {0: ("10.0.0.1", "fd00::1"), 1: ("10.0.1.2", "fd00::1:2")}
FAR = ("192.0.2.10", "fd00:f0::10")
NETS4 = ("10.0.0.0/24", "10.0.0.1/32", "10.0.0.0/16", "10.0.1.0/24", "0.0.0.0/0", "192.0.2.0/24", "0.0.0.0/1")
NETS6 = ("fd00::/112", "fd00::1:0/112", "::/0", "fd00:f0::/64", "fd00::1/128", "8000::/1")
ADDRESSES = ("10.0.0.1", "10.0.1.2", "192.0.2.10", "fd00::1", "fd00::1:2", "fd00:f0::10")
PORTS = (80, 81, 443, 8080)
NOTHING = "add table inet terway\ndelete table inet terway\n"
LOW, HIGH = range(1_000, 20_000), range(20_001, 60_000)
KINDS4, KINDS6 = ((8, 0), (13, 0), (8, 1)), ((128, 0), (128, 1), (139, 0))


class Dice:
    """Messages, chance by chance."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def some(self, choices: Sequence[T], most: int) -> tuple[T, ...]:
        return tuple(self.random.sample(choices, self.random.randint(0, min(most, len(choices)))))

    def rarely(self, chance: float) -> bool:
        return self.random.random() < chance

    def messages(self) -> Iterator[m.Message]:
        """Sets, policies in up to three tiers, a profile, and the two pods under them."""
        for set_id in ("s:one", "s:two"):
            nets = (f"{a}/{128 if ':' in a else 32}" for a in self.some(ADDRESSES, 4))
            wide = self.some((*NETS4, *NETS6), 2 if self.rarely(0.5) else 0)
            yield m.IPSetUpdate(set_id, "NET", tuple(dict.fromkeys((*nets, *wide))))
        for set_id in ("n:one", "n:two", "svc:one"):
            members = {
                f"{address},{self.random.choice(('tcp', 'udp', 'sctp'))}:{self.random.choice(PORTS)}"
                for address in self.some(ADDRESSES, 6)
            }
            yield m.IPSetUpdate(set_id, "IP_AND_PORT", tuple(members))
        named = [m.PolicyID(f"p{number}", tier="default") for number in range(3)]
        for policy_id in named:
            yield m.ActivePolicyUpdate(policy_id, m.Policy(self.rules(), self.rules()))
        yield m.ActiveProfileUpdate(m.ProfileID("one"), m.Profile(self.rules(), self.rules()))
        yield m.ActiveProfileUpdate(m.ProfileID("two"), m.Profile((m.Rule("allow"),), (m.Rule("allow"),)))
        for number, (four, six) in PODS.items():
            endpoint = m.WorkloadEndpoint(
                state="active",
                name=f"cali{number}",
                profile_ids=self.random.choice((("one", "two"), ("one",), ("two",), ())),
                ipv4_nets=(f"{four}/32",),
                ipv6_nets=(f"{six}/128",),
                tiers=tuple(self.tiers(named)),
            )
            yield m.WorkloadEndpointUpdate(m.WorkloadEndpointID("k8s", f"n/{number}", "eth0"), endpoint)

    def tiers(self, named: Sequence[m.PolicyID]) -> Iterator[m.TierInfo]:
        for name in self.some(("first", "second", "third"), 3):
            inward, outward = self.some(named, 2), self.some(named, 2)
            yield m.TierInfo(name, inward, outward, self.random.choice(("", "Deny", "Pass", "Pass")))

    def rules(self) -> tuple[m.Rule, ...]:
        return tuple(self.rule() for _ in range(self.random.randint(0, 4)))

    def rule(self) -> m.Rule:
        fields: dict[str, object] = {"action": self.random.choice(("allow", "allow", "deny", "next-tier", "log"))}
        chosen = self.random.choice((None, None, "tcp", "tcp", "udp", "sctp", "icmp", "icmpv6", 6, 17, 1, 58, 47))
        if chosen is not None:
            fields["protocol"] = m.Protocol(name=chosen) if isinstance(chosen, str) else m.Protocol(number=chosen)
        fields["ip_version"] = {"icmp": "IPV4", "icmpv6": "IPV6"}.get(
            str(chosen), self.random.choice(("", "", "", "IPV4", "IPV6"))
        )
        if self.rarely(0.2):
            fields["not_protocol"] = self.random.choice((m.Protocol(name="udp"), m.Protocol(number=1)))
        for end in ("src", "dst"):
            for negated in ("", "not_"):
                if self.rarely(0.25):
                    fields[f"{negated}{end}_net"] = self.some((*NETS4, *NETS6), 3)
                if self.rarely(0.2):
                    fields[f"{negated}{end}_ip_set_ids"] = self.some(("s:one", "s:two"), 2)
                if self.rarely(0.2):
                    fields[f"{negated}{end}_ports"] = self.ports(end)
                if self.rarely(0.2):
                    fields[f"{negated}{end}_named_port_ip_set_ids"] = self.some(("n:one", "n:two"), 2)
        if self.rarely(0.1):
            fields["dst_ip_port_set_ids"] = ("svc:one",)
        for negated in ("", "not_"):
            if self.rarely(0.15 if chosen not in ("icmp", "icmpv6", 1, 58) else 0.5):
                kind, code = self.random.choice((*KINDS4, *KINDS6))
                if self.rarely(0.5):
                    fields[f"{negated}icmp_type"] = kind
                else:
                    fields[f"{negated}icmp_type_code"] = m.IcmpTypeAndCode(kind, code)
        return m.Rule(**fields)  # type: ignore[arg-type]

    def ports(self, end: str) -> tuple[m.PortRange, ...]:
        if end == "src":
            return (self.random.choice((m.PortRange(LOW[0], LOW[-1]), m.PortRange(HIGH[0], HIGH[-1]))),)
        if self.rarely(0.2):
            # More than fifteen, apart from each other, and ranges that overlap or touch.
            many = (m.PortRange(port, port) for port in range(1, 60, 3))
            return (*many, m.PortRange(79, 80), m.PortRange(80, 90), m.PortRange(91, 100))
        return tuple(m.PortRange(port, port + self.random.choice((0, 0, 1, 100))) for port in self.some(PORTS, 3))


class Sources:
    """Source ports that no packet has had: each probe is the first of its connection."""

    def __init__(self) -> None:
        self.taken = 0

    def next(self, random: Random) -> int:
        self.taken += 1
        ports = random.choice((LOW, HIGH))
        return ports[self.taken % len(ports)]


def packets(made: Site, random: Random, sources: Sources) -> Iterator[tuple[Place, Packet, int | None, int | None]]:
    """Packets between all, with the number of the pod that sends and of the one that receives."""
    ends: list[tuple[Place, tuple[str, str], int | None]] = [(made.pods[n], held, n) for n, held in PODS.items()]
    ends.append((made.far[0], FAR, None))
    for place, held, sender in ends:
        for other, towards, receiver in ends:
            if other is place:
                continue
            for version in (0, 1):
                for protocol in ("tcp", "udp", "sctp", ("icmp", "icmpv6")[version]):
                    for port in random.sample(PORTS, 2):
                        kind = random.choice((KINDS4, KINDS6)[version])
                        source_port = sources.next(random)
                        packet = Packet(held[version], towards[version], protocol, port, source_port, kind)
                        yield place, packet, sender, receiver


def judged(state: State, packet: Packet, sender: int | None, receiver: int | None) -> bool:
    """What the two ends say, as far as they are pods."""
    if packet.protocol in ("icmp", "icmpv6"):
        kind, code = packet.icmp
        flow = Flow(packet.source, packet.destination, packet.protocol, icmp_type=kind, icmp_code=code)
    else:
        flow = Flow(packet.source, packet.destination, packet.protocol, packet.port, packet.source_port)
    ends = {number: state.workloads[m.WorkloadEndpointID("k8s", f"n/{number}", "eth0")] for number in PODS}
    return (sender is None or judge(state, ends[sender], "egress", flow).allowed) and (
        receiver is None or judge(state, ends[receiver], "ingress", flow).allowed
    )


@pytest.fixture(scope="module")
def two() -> Iterator[Site]:
    with site(2) as made:
        for number, held in PODS.items():
            made.address(number, *held)
        yield made


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources()


def load_host(made: Site, renderer: Renderer, change: Change) -> str:
    """The host's table, judged by what nft makes of it; its text."""
    for pod in made.pods:
        pod.load(NOTHING)
    made.node.load(f"{NOTHING}{change.text()}")
    same(read(made.node.listing()), renderer.table)
    return change.text()


def load_pods(made: Site, renderer: Renderer, change: Change) -> str:
    """A table in each pod and none on the host."""
    made.node.load(NOTHING)
    texts = ""
    near = Settings(host_addresses=(GATEWAY, "fd00:f0::1"), host_link="eth0")
    for number in PODS:
        pod = PodTable(m.WorkloadEndpointID("k8s", f"n/{number}", "eth0"), near)
        text = pod.follow(renderer.table, change).text()
        made.pods[number].load(f"{NOTHING}{text}")
        same(read(made.pods[number].listing()), pod.table)
        texts += text
    return texts


@pytest.mark.parametrize("load", [load_host, load_pods])
@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_packets_of_every_kind(
    two: Site, sources: Sources, load: Callable[[Site, Renderer, Change], str], seed: int
) -> None:
    dice, state, renderer = Dice(seed), State(), Renderer()
    for message in dice.messages():
        state.apply([message])
        renderer.take(message)
    for number, held in PODS.items():
        renderer.attach(Attachment(f"cali{number}", held, m.WorkloadEndpointID("k8s", f"n/{number}", "eth0")))
    text = load(two, renderer, renderer.flush())
    probes = list(packets(two, dice.random, sources))
    answers = two.ask([(place, packet) for place, packet, _, _ in probes])
    wrong = [
        f"{packet} arrived: {arrived}"
        for (_, packet, sender, receiver), arrived in zip(probes, answers, strict=True)
        if arrived != judged(state, packet, sender, receiver)
    ]
    assert not wrong, f"{wrong}\n{text}"
