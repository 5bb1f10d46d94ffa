"""The three programs judged by the kernel: verified, and run on packets (BPF_PROG_TEST_RUN)."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from struct import pack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.eni_manager.adapters import bpf
from services.eni_manager.adapters.classifiers import able
from services.eni_manager.core.bpf.flows import (
    DROPPED,
    FRAGMENT,
    KEY,
    MAP,
    PASS,
    PROTOCOLS,
    REDIRECTED,
    VALUE,
    key,
)
from services.eni_manager.core.bpf.own_address import Part, program
from shared.model import Ip

OWN = (Ip("192.168.32.11"), Ip("2001:db8:1::b"))
REMOTE = (Ip("203.0.113.10"), Ip("fd00:9::1"))
OTHER = (Ip("192.168.32.12"), Ip("2001:db8:1::c"))
LOOPBACK = 1
MOST = 1024


class Loaded:
    """Both of a pod's programs and the one of the node, with their map of flows."""

    def __init__(self, opened: ExitStack) -> None:
        self.flows = opened.enter_context(
            bpf.closing(bpf.create_recent_map(key_size=KEY.size, value_size=VALUE.size, most=MOST))
        )
        self._programs = {
            part: opened.enter_context(
                bpf.closing(bpf.load_classifier(program(part, LOOPBACK, OWN).linked({MAP: self.flows}), "test"))
            )
            for part in Part
        }

    def run(self, part: Part, packet: bytes) -> int:
        done = bpf.test(self._programs[part], packet)
        assert done.packet == packet, "nothing of a packet is changed here"
        return done.result

    def noted(self) -> set[bytes]:
        return set(bpf.items(self.flows, key_size=KEY.size, value_size=VALUE.size))

    def clear(self) -> None:
        for each in self.noted():
            bpf.drop(self.flows, each)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    if os.geteuid() != 0 or not able():
        pytest.skip("programs are loaded by root, into Linux 5.10 or later")
    with ExitStack() as opened:
        yield Loaded(opened)


def ip_packet(
    source: Ip,
    to: Ip,
    protocol: int,
    content: bytes,
    *,
    options: int = 0,
    at: int = 0,
    more: bool = False,
    number: int = 0,
) -> bytes:
    """`options`: 32-bit words of them in an IPv4 header; `at`, in units of eight bytes, and `more`: a fragment's."""
    from_, dest = ip_address(source), ip_address(to)
    if from_.version == 4:
        head = pack(
            ">BBHHHBBH4s4s",
            0x45 + options,
            0,
            20 + 4 * options + len(content),
            number & 0xFFFF,
            at | (0x2000 if more else 0),
            64,
            protocol,
            0,
            from_.packed,
            dest.packed,
        )
        return head + bytes(4 * options) + content
    if at or more:
        content = pack(">BBHI", protocol, 0, at << 3 | more, number) + content
        protocol = 44
    return pack(">IHBB16s16s", 6 << 28, len(content), protocol, 64, from_.packed, dest.packed) + content


def frame(packet: bytes) -> bytes:
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return bytes.fromhex("02000000000102000000000f") + pack(">H", kind) + packet


def ports(source: int, to: int) -> bytes:
    return pack(">HHHH", source, to, 8, 0) + bytes(16)


PORT = st.integers(1, 65535)
flows = st.tuples(st.integers(0, 1), st.sampled_from(PROTOCOLS), PORT, PORT, st.integers(0, 10))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(flow=flows)
def test_what_comes_from_the_pods_own_address_goes_on_and_its_answers_come_back(
    flow: tuple[int, int, int, int, int], loaded: Loaded
) -> None:
    six, protocol, own_port, remote_port, options = flow
    loaded.clear()
    out = frame(ip_packet(OWN[six], REMOTE[six], protocol, ports(own_port, remote_port), options=options))
    back = frame(ip_packet(REMOTE[six], OWN[six], protocol, ports(remote_port, own_port), options=options))
    assert loaded.run(Part.ANSWERS, back) == PASS, "nobody asked"
    assert loaded.run(Part.ONWARD, out) == REDIRECTED
    assert loaded.noted() == {key(OWN[six], REMOTE[six], own_port, remote_port, protocol)}
    assert loaded.run(Part.ANSWERS, back) == REDIRECTED
    for source, to, from_port, to_port, other in (
        (OTHER[six], OWN[six], remote_port, own_port, protocol),
        (REMOTE[six], OTHER[six], remote_port, own_port, protocol),
        (REMOTE[six], OWN[six], remote_port ^ 1, own_port, protocol),
        (REMOTE[six], OWN[six], remote_port, own_port ^ 1, protocol),
        (REMOTE[six], OWN[six], remote_port, own_port, 6 + 17 - protocol if protocol != 132 else 6),
    ):
        stray = frame(ip_packet(source, to, other, ports(from_port, to_port), options=options))
        assert loaded.run(Part.ANSWERS, stray) == PASS, "of another flow"
    assert len(loaded.noted()) == 1, "looking notes nothing"


@pytest.mark.parametrize("six", [0, 1])
def test_what_comes_from_elsewhere_stays(six: int, loaded: Loaded) -> None:
    loaded.clear()
    for protocol in (*PROTOCOLS, 1, 47):
        assert loaded.run(Part.ONWARD, frame(ip_packet(OTHER[six], OWN[six], protocol, ports(80, 4000)))) == PASS
    assert loaded.noted() == set()


@pytest.mark.parametrize("six", [0, 1])
def test_what_has_no_ports_goes_on_and_notes_nothing(six: int, loaded: Loaded) -> None:
    """Errors about answers, and pieces of datagrams but the first."""
    loaded.clear()
    assert loaded.run(Part.ONWARD, frame(ip_packet(OWN[six], REMOTE[six], 58 if six else 1, bytes(16)))) == REDIRECTED
    piece = frame(ip_packet(OWN[six], REMOTE[six], 17, bytes(64), at=185, number=7))
    assert loaded.run(Part.ONWARD, piece) == REDIRECTED
    assert loaded.noted() == set()
    first = frame(ip_packet(OWN[six], REMOTE[six], 17, ports(4000, 53), more=True, number=7))
    assert loaded.run(Part.ONWARD, first) == REDIRECTED
    assert loaded.noted() == {key(OWN[six], REMOTE[six], 4000, 53, 17)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(six=st.integers(0, 1), number=st.integers(0, 65535), at=st.integers(1, 8000), more=st.booleans())
def test_pieces_of_an_answer_follow_the_first(six: int, number: int, at: int, more: bool, loaded: Loaded) -> None:
    loaded.clear()
    loaded.run(Part.ONWARD, frame(ip_packet(OWN[six], REMOTE[six], 17, ports(4000, 53))))
    first = frame(ip_packet(REMOTE[six], OWN[six], 17, ports(53, 4000), more=True, number=number))
    later = frame(ip_packet(REMOTE[six], OWN[six], 17, bytes(64), at=at, more=more, number=number))
    assert loaded.run(Part.ANSWERS, later) == PASS, "the first has not come"
    assert loaded.run(Part.ANSWERS, first) == REDIRECTED
    assert {each for each in loaded.noted() if KEY.unpack(each)[-1] & FRAGMENT}
    assert loaded.run(Part.ANSWERS, later) == REDIRECTED
    foreign = frame(ip_packet(REMOTE[six], OWN[six], 17, bytes(64), at=at, more=more, number=number ^ 1))
    assert loaded.run(Part.ANSWERS, foreign) == PASS, "of another datagram"
    stray = frame(ip_packet(REMOTE[six], OWN[six], 17, ports(53, 4001), more=True, number=number ^ 2))
    assert loaded.run(Part.ANSWERS, stray) == PASS, "the first piece of no answer"


@pytest.mark.parametrize("options", [0, 3])
@pytest.mark.parametrize("six, kinds", [(0, (3, 11, 12)), (1, (1, 2, 3, 4))])
def test_errors_about_a_flow_go_where_its_packets_go(
    six: int, kinds: tuple[int, ...], options: int, loaded: Loaded
) -> None:
    loaded.clear()
    question = ip_packet(OWN[six], REMOTE[six], 17, ports(4000, 53), options=options)
    other = ip_packet(OWN[six], REMOTE[six], 17, ports(4001, 53), options=options)
    loaded.run(Part.ONWARD, frame(question))
    protocol, router = 58 if six else 1, OTHER[six]  # it need not be the backend that says so

    def error(kind: int, quoted: bytes) -> bytes:
        return frame(ip_packet(router, OWN[six], protocol, bytes((kind, 0)) + bytes(6) + quoted, options=options))

    for kind in range(256):
        expected = REDIRECTED if kind in kinds else PASS
        assert loaded.run(Part.ANSWERS, error(kind, question)) == expected, kind
        assert loaded.run(Part.ANSWERS, error(kind, other)) == PASS, kind


@pytest.mark.parametrize("six", [0, 1])
def test_packets_cut_short_pass(six: int, loaded: Loaded) -> None:
    loaded.clear()
    loaded.run(Part.ONWARD, frame(ip_packet(OWN[six], REMOTE[six], 6, ports(4000, 53))))
    whole = frame(ip_packet(REMOTE[six], OWN[six], 6, ports(53, 4000)))
    ends = 14 + (40 if six else 20) + 4
    assert loaded.run(Part.ANSWERS, whole[:ends]) == REDIRECTED
    for size in range(34, ends):
        try:
            assert loaded.run(Part.ANSWERS, whole[:size]) == PASS
        except OSError:  # newer kernels make no packet of so little
            continue


def test_what_is_neither_ipv4_nor_ipv6_passes(loaded: Loaded) -> None:
    arp = bytes.fromhex("02000000000102000000000f0806") + bytes(46)
    assert loaded.run(Part.ONWARD, arp) == loaded.run(Part.ANSWERS, arp) == PASS


def test_the_node_turns_nothing_of_its_own(loaded: Loaded) -> None:
    assert loaded.run(Part.TURN, frame(ip_packet(OWN[0], REMOTE[0], 17, ports(1, 2)))) == DROPPED


@pytest.mark.parametrize("own", [OWN[:1], OWN[1:]])
def test_a_pod_of_one_family_sends_on_nothing_of_the_other(own: tuple[Ip, ...], loaded: Loaded) -> None:
    with bpf.closing(bpf.load_classifier(program(Part.ONWARD, LOOPBACK, own).linked({MAP: loaded.flows}), "t")) as fd:
        for six in (0, 1):
            packet = frame(ip_packet(OWN[six], REMOTE[six], 6, ports(4000, 80)))
            assert bpf.test(fd, packet).result == (REDIRECTED if OWN[six] in own else PASS)


def test_more_flows_than_the_map_holds_push_out_old_ones(loaded: Loaded) -> None:
    loaded.clear()
    for port in range(1, 3 * MOST):
        assert loaded.run(Part.ONWARD, frame(ip_packet(OWN[0], REMOTE[0], 6, ports(port, 80)))) == REDIRECTED
    assert 0 < len(loaded.noted()) <= MOST
    last = frame(ip_packet(REMOTE[0], OWN[0], 6, ports(80, 3 * MOST - 1)))
    assert loaded.run(Part.ANSWERS, last) == REDIRECTED


def test_programs_are_told_apart_by_what_is_in_them() -> None:
    digests = {
        program(part, to, own).digest for part in (Part.ONWARD, Part.ANSWERS) for to in (1, 2) for own in (OWN, OTHER)
    }
    assert len(digests) == 4 + 2, "answers do not depend on the pod's addresses"
    assert program(Part.ONWARD, 1, OWN).digest == program(Part.ONWARD, 1, OWN).digest
