"""Host endpoints, the host itself, and what no policy speaks of: Felix's cases restated (felix.md §4.2-4.5)."""

import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import pytest

from services.policy.core import messages as m
from services.policy.core.nft.pod import PodTable
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment, FailsafePort, Settings
from tests.policy.nft.test_render import same
from tests.system.policy.render_listing import read
from tests.system.policy.render_world import EVERYBODY, GATEWAY, GATEWAY6, Packet, Place, Site, site

pytestmark = pytest.mark.system

POD, OTHER, FAR, FAR1 = "10.0.0.1", "10.0.1.2", "192.0.2.10", "198.51.100.10"
NODE, NODE1 = "192.0.2.1", "198.51.100.1"
NOTHING = "add table inet terway\ndelete table inet terway\n"
ALLOW, DENY, PASS = m.Rule("allow"), m.Rule("deny"), m.Rule("next-tier")
OPEN = m.ProfileID("open")
TCP = m.Protocol(name="tcp")


def tcp(action: str, port: int, **fields: object) -> m.Rule:
    return m.Rule(action, protocol=TCP, dst_ports=(m.PortRange(port, port),), **fields)  # type: ignore[arg-type]


def answers(port: int) -> m.Rule:
    """What answers from a port."""
    return m.Rule("allow", protocol=TCP, src_ports=(m.PortRange(port, port),))


def tier(*names: str, out: tuple[str, ...] | None = None, action: str = "") -> tuple[m.TierInfo, ...]:
    return (m.TierInfo("default", names, names if out is None else out, action),)


class Case:
    """A renderer and the node that its text is loaded into, and questions."""

    def __init__(self, made: Site, settings: Settings | None = None) -> None:
        self.site = made
        self.renderer = Renderer(settings or Settings())
        self.loaded = False
        self.sources = 20_000
        self.take(m.ActiveProfileUpdate(OPEN, m.Profile((ALLOW,), (ALLOW,))))
        self.pods(*range(len(made.pods)))

    def take(self, *messages: m.Message) -> "Case":
        for message in messages:
            self.renderer.take(message)
        return self

    def pods(self, *numbers: int, **fields: object) -> "Case":
        for number in numbers:
            name = m.WorkloadEndpointID("k8s", f"n/{number}", "eth0")
            held = self.site.addresses[number]
            self.renderer.attach(Attachment(f"cali{number}", held, name))
            merged = {"state": "active", "name": f"cali{number}", "profile_ids": ("open",), **fields}
            self.take(m.WorkloadEndpointUpdate(name, m.WorkloadEndpoint(**merged)))  # type: ignore[arg-type]
        return self

    def policy(self, name: str, inward: Iterable[m.Rule] = (), outward: Iterable[m.Rule] = (), **flags: bool) -> "Case":
        policy = m.Policy(tuple(inward), tuple(outward), **flags)  # type: ignore[arg-type]
        return self.take(m.ActivePolicyUpdate(m.PolicyID(name, tier="default"), policy))

    def host(self, endpoint_id: str, name: str, **fields: object) -> "Case":
        endpoint = m.HostEndpoint(name, **fields)  # type: ignore[arg-type]
        return self.take(m.HostEndpointUpdate(m.HostEndpointID(endpoint_id), endpoint))

    def load(self) -> "Case":
        text = self.renderer.flush().text()
        self.site.node.load(text if self.loaded else NOTHING + text)
        self.loaded = True
        same(read(self.site.node.listing()), self.renderer.table)
        return self

    def where(self, address: str) -> Place:
        places = {FAR: self.site.far[0], FAR1: self.site.far[1], NODE: self.site.node, NODE1: self.site.node}
        for number, held in self.site.addresses.items():
            places |= dict.fromkeys(held, self.site.pods[number])
        return places[address]

    def packet(self, source: str, destination: str, protocol: str = "tcp", port: int = 80, **fields: int) -> Packet:
        self.sources += 1
        return Packet(source, destination, protocol, port, fields.get("source_port", self.sources))

    def expect(self, wanted: Mapping[tuple[str, str, str, int], bool]) -> None:
        """Source, destination, protocol and port of the first packet of a connection, and whether it arrives."""
        asked = [(self.where(key[0]), self.packet(*key)) for key in wanted]
        arrived = dict(zip(wanted, self.site.ask(asked), strict=True))
        assert arrived == dict(wanted)

    def both_ways(self, source: str, destination: str, port: int = 80) -> tuple[bool, bool]:
        """Whether a UDP packet arrives, and whether the answer to it does."""
        there = self.packet(source, destination, "udp", port)
        back = Packet(destination, source, "udp", there.source_port, port)
        (first,) = self.site.ask([(self.where(source), there)])
        (second,) = self.site.ask([(self.where(destination), back)])
        return first, second


@pytest.fixture(scope="module")
def two() -> Iterator[Site]:
    with site(2) as made:
        made.address(0, POD, "fd00::1")
        made.address(1, OTHER, "fd00::2")
        yield made


def test_a_host_endpoint_without_policy_and_profile_leaves_the_failsafe_ports(two: Site) -> None:
    case = Case(two).host("h", "eth0").load()
    case.expect(
        {
            (FAR, NODE, "tcp", 22): True,
            (FAR, NODE, "udp", 68): True,
            (FAR, NODE, "tcp", 6443): True,
            (FAR, NODE, "tcp", 80): False,
            (FAR, NODE, "udp", 22): False,
            (FAR, NODE, "icmp", 0): False,
            (NODE, FAR, "udp", 53): True,
            (NODE, FAR, "tcp", 2379): True,
            (NODE, FAR, "tcp", 22): False,
            # The other interface has no endpoint, and what is forwarded is not the host's own.
            (FAR1, NODE1, "tcp", 80): True,
            (NODE1, FAR1, "tcp", 80): True,
            (FAR, POD, "tcp", 80): True,
            (POD, FAR, "tcp", 80): True,
            (FAR, FAR1, "tcp", 80): True,
            # Pods and their own host have nothing to do with it.
            (POD, NODE, "tcp", 80): True,
            (NODE1, POD, "tcp", 80): True,
        }
    )


def test_a_host_endpoints_policies_then_profiles(two: Site) -> None:
    case = Case(two).policy("p", [tcp("allow", 80)], [tcp("allow", 81)])
    case.host("h", "eth0", tiers=tier("p"), profile_ids=("open",)).load()
    case.expect({(FAR, NODE, "tcp", p): ok for p, ok in ((80, True), (81, False), (22, True))})
    case.expect({(NODE, FAR, "tcp", p): ok for p, ok in ((80, False), (81, True))})
    assert case.both_ways(FAR, POD) == (True, True)
    # Policies that say nothing of a direction leave it to the profiles.
    case.host("h", "eth0", tiers=tier("p", out=()), profile_ids=("open",)).load()
    case.expect({(FAR, NODE, "tcp", 81): False, (NODE, FAR, "tcp", 80): True})
    case.take(m.HostEndpointRemove(m.HostEndpointID("h"))).load()
    case.expect({(FAR, NODE, "tcp", 81): True, (NODE, FAR, "tcp", 80): True})


def test_failsafe_ports_as_set_and_of_a_net(two: Site) -> None:
    inbound = (FailsafePort("tcp", 7), FailsafePort("udp", 8, "192.0.2.0/24"), FailsafePort("udp", 9, "10.0.0.0/8"))
    case = Case(two, Settings(failsafe_inbound=inbound, failsafe_outbound=())).host("h", "eth0").load()
    case.expect({(FAR, NODE, *at): ok for at, ok in ((("tcp", 7), True), (("tcp", 22), False))})
    case.expect({(FAR, NODE, "udp", 8): True, (FAR, NODE, "udp", 9): False, (NODE, FAR, "udp", 53): False})


def test_forward_policy(two: Site) -> None:
    case = Case(two).policy("p", [tcp("allow", 80), m.Rule("deny", protocol=m.Protocol(name="udp"))], [])
    case.host("h", "eth0", tiers=tier("p", out=()), forward_tiers=tier("p", out=()), profile_ids=("open",)).load()
    case.expect(
        {
            (FAR, FAR1, "tcp", 80): True,
            (FAR, FAR1, "tcp", 81): False,
            (FAR, POD, "tcp", 80): True,
            (FAR, POD, "tcp", 81): False,
            # No failsafe ports in what is forwarded.
            (FAR, POD, "tcp", 22): False,
            # Only inwards; the answers of what was let out come in.
            (POD, FAR, "tcp", 81): True,
            (FAR1, FAR, "tcp", 81): True,
            # Between pods no host endpoint is asked.
            (POD, OTHER, "tcp", 81): True,
        }
    )
    assert case.both_ways(POD, FAR) == (True, True)
    # The pod's own policy has its say too.
    case.policy("pod", [tcp("allow", 81)]).pods(0, tiers=tier("pod", out=())).load()
    case.expect({(FAR, POD, "tcp", 80): False, (FAR, OTHER, "tcp", 80): True})
    # Outwards.
    case.policy("out", [], [tcp("allow", 443)])
    case.host("h", "eth0", forward_tiers=(m.TierInfo("default", (), ("out",)),), profile_ids=("open",)).load()
    case.expect({(POD, FAR, "tcp", 443): True, (POD, FAR, "tcp", 80): False, (FAR, FAR1, "udp", 80): True})


def test_every_interface(two: Site) -> None:
    """`*` is for all interfaces but pods', the loopback, and those with an endpoint of their own."""
    case = Case(two).policy("p", [tcp("allow", 80)]).policy("q", [tcp("allow", 81)])
    case.host("every", "*", tiers=tier("p", out=()), forward_tiers=tier("p", out=()), profile_ids=("open",))
    case.host("one", "eth1", tiers=tier("q", out=()), profile_ids=("open",)).load()
    case.expect(
        {
            (FAR, NODE, "tcp", 80): True,
            (FAR, NODE, "tcp", 81): False,
            (FAR1, NODE1, "tcp", 80): False,
            (FAR1, NODE1, "tcp", 81): True,
            (FAR, FAR1, "tcp", 81): False,
            # eth1's own endpoint has no forward policy, so that everything is forwarded from there.
            (FAR1, FAR, "tcp", 99): True,
            (POD, NODE, "tcp", 99): True,
            (POD, OTHER, "tcp", 99): True,
            (POD, FAR, "tcp", 99): True,
            (NODE, NODE1, "tcp", 99): True,
        }
    )


def test_which_endpoint_is_an_interfaces(two: Site) -> None:
    """The lowest id of those that name it, or that name none and expect an address that is on it."""
    case = Case(two).policy("p", [tcp("allow", 80)]).policy("q", [tcp("allow", 81)])
    case.host("b", "eth0", tiers=tier("p", out=()), profile_ids=("open",))
    case.host("a", "", expected_ipv4_addrs=(NODE,), tiers=tier("q", out=()), profile_ids=("open",)).load()
    case.expect({(FAR, NODE, "tcp", 80): True, (FAR, NODE, "tcp", 81): False})
    case.renderer.interfaces({"eth0": (NODE,), "eth1": (NODE1,)})
    case.load().expect({(FAR, NODE, "tcp", 80): False, (FAR, NODE, "tcp", 81): True, (FAR1, NODE1, "tcp", 80): True})
    # A pod's interface is never a host endpoint's, whatever its name says.
    case.host("0", "cali0", tiers=tier("p")).load()
    case.expect({(OTHER, POD, "tcp", 99): True, (POD, OTHER, "tcp", 99): True})


def test_pre_dnat_policy_sees_the_address_before_translation(two: Site) -> None:
    two.node.space.nft("add", "table", "ip", "services")
    two.node.space.nft(
        *"add chain ip services p { type nat hook prerouting priority -100 ; }".split(),
    )
    two.node.space.nft(*f"add rule ip services p ip daddr {NODE} tcp dport 8000 dnat to {POD}:80".split())
    two.node.space.nft(*f"add rule ip services p ip daddr {NODE} tcp dport 8001 dnat to {POD}:80".split())
    try:
        case = Case(two).policy("early", [tcp("deny", 8001), tcp("deny", 80), tcp("allow", 9000)], pre_dnat=True)
        case.policy("pod", [tcp("allow", 80)]).pods(0, tiers=tier("pod", out=()))
        case.policy("host", [tcp("allow", 7000)]).policy("forward", [m.Rule("deny")])
        case.host("h", "eth0", pre_dnat_tiers=tier("early", out=()), tiers=tier("host", out=())).load()
        case.expect(
            {
                (FAR, NODE, "tcp", 8000): True,
                (FAR, NODE, "tcp", 8001): False,
                (FAR, POD, "tcp", 80): False,
                # It allows: nobody asks the host endpoint's other policies; and what falls through is theirs.
                (FAR, NODE, "tcp", 9000): True,
                (FAR, NODE, "tcp", 7000): True,
                (FAR, NODE, "tcp", 7001): False,
                # A failsafe port is open here too.
                (FAR, NODE, "tcp", 22): True,
            }
        )
        # Allowed early, but a pod still judges for itself.
        case.expect({(FAR, POD, "tcp", 9000): False, (FAR, OTHER, "tcp", 9000): True})
        case.host("h", "eth0", pre_dnat_tiers=tier("early", out=()), forward_tiers=tier("forward")).load()
        case.expect({(FAR, OTHER, "tcp", 9000): True, (FAR, OTHER, "tcp", 9001): False})
        # What was allowed on its way in is still judged where it goes out.
        case.policy("out", [], [tcp("deny", 9000), ALLOW])
        case.host("o", "eth1", forward_tiers=(m.TierInfo("default", (), ("out",)),), profile_ids=("open",)).load()
        case.expect({(FAR, FAR1, "tcp", 9000): False, (FAR, OTHER, "tcp", 9000): True})
        case.policy("early", [PASS, DENY], pre_dnat=True).load()
        case.expect({(FAR, NODE, "tcp", 22): True, (FAR, OTHER, "tcp", 9000): False})
    finally:
        two.node.space.nft("delete", "table", "ip", "services")


def test_untracked_policy(two: Site) -> None:
    case = Case(two).policy("raw", [tcp("allow", 80), tcp("deny", 81), tcp("deny", 22)], [answers(80)], untracked=True)
    case.policy("host", [tcp("allow", 81), tcp("allow", 82)], [DENY])
    case.host("h", "eth0", untracked_tiers=tier("raw"), tiers=tier("host")).load()
    watch = "table inet watch { chain i { type filter hook input priority 10; tcp dport 80 ct state untracked counter\n"
    two.node.load(watch + "tcp dport 82 ct state new counter\n }\n }\n")
    try:
        case.expect(
            {
                (FAR, NODE, "tcp", 80): True,
                (FAR, NODE, "tcp", 81): False,
                (FAR, NODE, "tcp", 82): True,
                (FAR, NODE, "tcp", 83): False,
                (FAR, NODE, "tcp", 22): True,
                (FAR1, NODE1, "tcp", 81): True,
                (NODE, FAR, "tcp", 80): False,
            }
        )
        seen = two.node.space.nft("list", "table", "inet", "watch")
        assert seen.count("counter packets 1 ") == 2, seen
        # An answer is no more known than what it answers: the policy outwards must let it out.
        answer = Packet(NODE, FAR, "tcp", 20_000, 80)
        assert two.ask([(two.node, answer)]) == [True]
        case.policy("raw", [tcp("allow", 80)], [], untracked=True).load()
        assert two.ask([(two.node, answer._replace(port=20_001))]) == [False]
    finally:
        two.node.space.nft("delete", "table", "inet", "watch")


def test_answers_of_failsafe_ports_pass_untracked_policy(two: Site) -> None:
    """Before connection tracking nobody knows that it is an answer but by its port."""
    case = Case(two).policy("none", [DENY], [DENY], untracked=True)
    case.host("h", "eth0", untracked_tiers=tier("none"), profile_ids=("open",)).load()
    from_port = Packet(FAR, NODE, "tcp", 40_001, 2379), Packet(FAR, NODE, "tcp", 40_001, 22)
    assert two.ask([(two.far[0], packet) for packet in from_port]) == [True, False]
    to_port = Packet(NODE, FAR, "tcp", 40_002, 22), Packet(NODE, FAR, "tcp", 40_002, 53)
    assert two.ask([(two.node, packet) for packet in to_port]) == [True, False]


def test_what_is_denied_is_counted_by_policy_and_endpoint(two: Site) -> None:
    case = Case(two).policy("p", [tcp("deny", 81), ALLOW], [tcp("deny", 82), tcp("allow", 80)])
    for number in (0, 1):
        case.pods(number, tiers=tier("p"))
    case.load()
    case.expect({(FAR, POD, "tcp", 81): False, (FAR, OTHER, "tcp", 81): False, (FAR, POD, "tcp", 80): True})
    case.expect({(FAR, POD, "tcp", 81): False, (OTHER, FAR, "tcp", 82): False, (POD, FAR, "tcp", 99): False})
    nft = two.node.space.nft
    assert {'"cali0" counter packets 2', '"cali1" counter packets 1'} == _counted(nft, "denied-pi-default/p")
    assert {'"cali1" counter packets 1'} == _counted(nft, "denied-po-default/p")
    assert "tcp dport 81 counter packets 3 " in nft("list", "chain", "inet", "terway", "pi-default/p")
    assert "counter packets 1 " in nft("list", "chain", "inet", "terway", "fw-n/0").partition("jump")[2]
    # It goes on counting while policies come and go around it.
    case.policy("p", [tcp("deny", 81), tcp("allow", 80)], [ALLOW]).load()
    case.expect({(FAR, POD, "tcp", 81): False})
    assert {'"cali0" counter packets 3', '"cali1" counter packets 1'} == _counted(nft, "denied-pi-default/p")


def _counted(nft: Callable[..., str], name: str) -> set[str]:
    return set(re.findall(r'"cali\d" counter packets \d+', nft("list", "set", "inet", "terway", name)))


def test_samples_of_flows_say_who_decided(two: Site) -> None:
    case = Case(two, Settings(flow_log_group=7, flow_log_rate=1))
    case.policy("p", [tcp("deny", 81), tcp("allow", 80), tcp("log", 82)], []).pods(0, tiers=tier("p", out=()))
    case.pods(1, profile_ids=()).load()
    with nflog(two.node, 7) as heard:
        # One a second and rule: that a sample is left out changes no verdict.
        for _ in range(3):
            case.expect({(FAR, POD, "tcp", 80): True, (FAR, POD, "tcp", 81): False, (FAR, POD, "tcp", 82): False})
            case.expect({(FAR, OTHER, "tcp", 80): False})
        wanted = {"A|pi-default/p|1", "D|pi-default/p|0", "D|tw-n/0|default", "D|tw-n/1|-"}
        until = time.monotonic() + 30
        while not wanted <= (seen := heard()):
            assert time.monotonic() < until, seen
        assert seen == wanted


@contextmanager
def nflog(place: Place, group: int) -> Iterator[Callable[[], set[str]]]:
    """What the kernel logs to a group in that namespace: the prefixes of all that has come so far."""
    with place.space.inside():
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
    said: set[str] = set()

    def heard() -> set[str]:
        if select.select([made], [], [], 0.2)[0]:
            for prefix in re.findall(rb"\x0a\x00([AD]\|[^\0]+)\0", made.recv(1 << 16)):  # NFULA_PREFIX
                said.add(prefix.decode())
        return said

    with made:
        for attribute in (struct.pack("HHB3x", 5, 1, 1), struct.pack("HH", 10, 2) + struct.pack("!IBx2x", 96, 2)):
            body = struct.pack("!BBH", 0, 0, group) + attribute
            made.send(struct.pack("IHHII", 16 + len(body), 4 << 8 | 1, 5, 1, 0) + body)
            code = struct.unpack_from("i", made.recv(1 << 16), 16)[0]
            assert code == 0, f"nflog refuses: {-code}"
        yield heard


def test_inside_a_pod_the_hosts_word_and_what_the_host_judges(two: Site) -> None:
    """A table in the pod's own namespace: the host's packets come in by its link alone, Services go out to the host."""
    name = m.WorkloadEndpointID("k8s", "n/0", "eth0")
    services = ("198.51.100.0/25", "fd00:f1::/64")
    near = Settings(host_addresses=(GATEWAY, NODE, "fd00:f0::1"), host_link="eth0", service_nets=services)
    case = Case(two).policy("none").pods(0, tiers=tier("none"))
    change = case.renderer.flush()
    two.node.load(NOTHING)
    pod, place = PodTable(name, near), two.pods[0]
    place.load(NOTHING + pod.follow(case.renderer.table, change).text())
    try:
        same(read(place.listing()), pod.table)
        case.expect(
            {
                (NODE, POD, "tcp", 80): True,
                (NODE1, POD, "tcp", 80): False,
                (FAR, POD, "tcp", 80): False,
                (POD, FAR, "tcp", 80): False,
                (POD, FAR1, "tcp", 80): True,
            }
        )
        elsewhere = PodTable(name, msgspec.structs.replace(near, host_link="eth7"))
        place.load(NOTHING + elsewhere.follow(case.renderer.table, change).text())
        two.node.send(case.packet(NODE, POD), 7)
        until = time.monotonic() + 30
        dropped = 'counter packets 1 bytes 40 drop comment "default: no rule of the tier matches"'
        while dropped not in (seen := place.space.nft("list", "chain", "inet", "terway", "tw-n/0")):
            assert time.monotonic() < until, seen
    finally:
        place.load(NOTHING)


@pytest.mark.parametrize(("action", "reaches"), [("ACCEPT", True), ("RETURN", True), ("DROP", False)])
def test_a_pod_and_its_own_host(two: Site, action: str, reaches: bool) -> None:
    case = Case(two, Settings(endpoint_to_host_action=action))  # type: ignore[arg-type]
    case.policy("p", [], [tcp("allow", 80)]).pods(0, tiers=tier("p")).load()
    case.expect(
        {
            (POD, NODE, "tcp", 80): reaches,
            (POD, NODE, "tcp", 81): False,
            (OTHER, NODE, "tcp", 81): reaches,
            # The kubelet's probes: whatever the pod's policy says.
            (NODE, POD, "tcp", 80): True,
            (NODE, POD, "udp", 99): True,
        }
    )
    assert case.both_ways(NODE, POD) == (True, True)


def test_a_pod_that_is_not_known_says_and_hears_nothing(two: Site) -> None:
    case = Case(two).load()
    case.take(m.WorkloadEndpointRemove(m.WorkloadEndpointID("k8s", "n/0", "eth0"))).load()
    closed = {
        (POD, OTHER, "tcp", 80): False,
        (OTHER, POD, "tcp", 80): False,
        (FAR, POD, "tcp", 80): False,
        (POD, NODE, "tcp", 80): False,
        (NODE, POD, "tcp", 80): True,
        (FAR, OTHER, "tcp", 80): True,
    }
    case.expect(closed)
    case.renderer.detach("cali0")
    case.load().expect(closed)
    waits = Attachment("cali0", (POD,), m.WorkloadEndpointID("k8s", "n/0", "eth0"), open=True)
    case.renderer.attach(waits)
    case.load().expect(dict.fromkeys(closed, True))
    case.policy("none").pods(0, tiers=tier("none")).load()
    case.expect(closed)
    case.pods(0, state="down").load().expect(closed)
    case.pods(0).load().expect(dict.fromkeys(closed, True))


def test_a_pod_sends_only_from_its_own_addresses(two: Site) -> None:
    case = Case(two).load()
    pod = two.pods[0]
    link_local = "fe80::ff:fe00:100"

    def sent(source: str, destination: str, protocol: str = "udp", port: int = 80, source_port: int = 0) -> bool:
        packet = case.packet(source, destination, protocol, port)
        return two.ask([(pod, packet._replace(source_port=source_port or packet.source_port))])[0]

    assert sent(POD, FAR) and sent("fd00::1", "fd00:f0::10")
    assert not sent(OTHER, FAR) and not sent("fd00::2", "fd00:f0::10")
    assert not sent(OTHER, NODE) and not sent("127.0.0.1", NODE) and not sent(NODE, NODE)
    # Not into somebody else's connection either.
    assert case.both_ways(OTHER, FAR) == (True, True)
    there = case.packet(OTHER, FAR, "udp", 80)
    assert two.ask([(two.pods[1], there)]) == [True]
    assert two.ask([(two.far[0], Packet(FAR, OTHER, "udp", there.source_port, 80))]) == [True]
    assert two.ask([(pod, there)]) == [False]
    # A link-local address is the link's own; who asks for an address has none to send from yet.
    assert sent(link_local, GATEWAY6)
    assert sent("0.0.0.0", EVERYBODY, "udp", 67, 68) and not sent("0.0.0.0", EVERYBODY, "udp", 66, 68)
    allowed = ("203.0.113.0/24", "fd00:bad::/64")
    case.pods(0, allow_spoofed_source_prefixes=allowed).load()
    assert sent("203.0.113.9", FAR) and sent("fd00:bad::9", "fd00:f0::10") and sent(POD, FAR)
    assert not sent("203.0.114.9", FAR) and not sent(OTHER, FAR)
    case.pods(0).load()
    assert not sent("203.0.113.9", FAR)
    # The lease's addresses count, not those that the API server still shows.
    case.pods(0, ipv4_nets=(f"{OTHER}/32",)).load()
    assert not sent(OTHER, FAR) and sent(POD, FAR)


def test_ipv6_neighbours_are_heard_whatever_policy_says(two: Site) -> None:
    """Without them the link is dead: the pod asks for its gateway, the host for its pod, others for the host."""
    case = Case(two).policy("none").pods(0, tiers=tier("none")).host("h", "eth0").load()
    case.expect({(POD, NODE, "tcp", 80): False, (FAR, NODE, "tcp", 80): False})
    ways = [
        (two.far[0], "eth0", Packet("fd00:f0::10", "fd00:f0::1", "tcp", 22)),
        (two.node, "eth0", Packet("fd00:f0::1", "fd00:f0::10", "tcp", 6443)),
        (two.node, "cali0", Packet("fd00:f0::1", "fd00::1", "tcp", 80)),
    ]
    for place, link, packet in ways:
        known = place.space.ip("-6", "neigh", "show", "nud", "permanent", "dev", link).splitlines()
        try:
            place.batch(f"neigh del {line.split()[0]} dev {link}" for line in known)
            until = time.monotonic() + 30
            # The first packet waits for the neighbour's answer, and may wait for longer than we listen.
            while two.ask([(place, packet._replace(source_port=case.packet("", "").source_port))]) != [True]:
                assert time.monotonic() < until, f"{packet} found no neighbour"
        finally:
            for line in known:
                address, _, mac, *_ = line.split()
                place.batch([f"neigh replace {address} dev {link} lladdr {mac} nud permanent"])


def test_marks_that_others_set_mean_nothing_and_ours_do_not_stay(two: Site) -> None:
    foreign = "add table inet foreign\ndelete table inet foreign\ntable inet foreign {\n"
    late = "chain late { type filter hook postrouting priority 310; meta mark & 0x20000 != 0 counter\n }\n}\n"
    marking = ""
    for hook in ("prerouting", "output"):
        marking += f"chain {hook} {{ type filter hook {hook} priority -310; meta mark set 0x30000\n }}\n"
    two.node.load(foreign + marking + late)
    try:
        case = Case(two).policy("first", [tcp("next-tier", 80), tcp("next-tier", 82)])
        case.policy("second", [tcp("next-tier", 81), tcp("allow", 82)])
        tiers = (m.TierInfo("first", ("first",)), m.TierInfo("second", ("second",)))
        case.pods(0, tiers=tiers).policy("raw", [tcp("deny", 1)], [], untracked=True)
        case.host("h", "eth0", tiers=tier("second"), untracked_tiers=tier("raw")).load()
        case.expect(
            {
                # Passed by the first tier alone, by none, by the first and allowed by the second.
                (OTHER, POD, "tcp", 80): False,
                (OTHER, POD, "tcp", 81): False,
                (OTHER, POD, "tcp", 82): True,
                (FAR, NODE, "tcp", 99): False,
                (NODE, FAR, "tcp", 99): False,
                (FAR, NODE, "tcp", 82): True,
            }
        )
        two.node.load(foreign + late)
        case.expect({(OTHER, POD, "tcp", 82): True})
        assert "counter packets 0 " in two.node.space.nft("list", "chain", "inet", "foreign", "late")
    finally:
        two.node.space.nft("delete", "table", "inet", "foreign")


@pytest.mark.parametrize("drops", [True, False])
def test_what_belongs_to_no_connection_is_dropped(two: Site, drops: bool) -> None:
    case = Case(two, Settings(drop_invalid=drops)).load()
    answer_to_nothing = {key: case.packet(*key)._replace(flags=0x12) for key in ((FAR, POD), (POD, FAR), (FAR, FAR1))}
    arrived = two.ask([(case.where(source), packet) for (source, _), packet in answer_to_nothing.items()])
    assert arrived == [not drops, not drops, True]
