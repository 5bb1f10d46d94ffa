"""The program on an ENI's egress that keeps pods' addresses, judged by the kernel (BPF_PROG_TEST_RUN)."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.eni_manager.adapters import bpf
from services.eni_manager.adapters.diversion import can_keep_source
from services.eni_manager.core.bpf import eni_path, host_path
from services.eni_manager.core.bpf.flows import KEY, MAP, PASS, PROTOCOLS, REDIRECTED, VALUE, key
from services.eni_manager.core.bpf.own_address import Part, program
from shared.model import Cidr
from tests.eni_manager.bpf.test_own_address import LOOPBACK, OTHER, OWN, PORT, REMOTE, frame, ip_packet, ports

SERVICES = [Cidr("172.21.0.0/20"), Cidr("fc00:1::/112")]
VIPS = ("172.21.0.1", "fc00:1::1")
GATEWAY, ENI, ELSEWHERE = bytes.fromhex("eeffffffffff"), bytes.fromhex("02163e000001"), bytes.fromhex("020000000009")
SLAVE = 1
"""Of the node, by which what it passes on came in: any ifindex that is there."""


class Loaded:
    """The ENI's two programs and their maps, with the Services' ranges in place."""

    def __init__(self, opened: ExitStack) -> None:
        def made(descriptor: int) -> int:
            return opened.enter_context(bpf.closing(descriptor))

        ranges = made(bpf.create_prefix_map(key_size=host_path.KEY.size, value_size=4, most=64))
        bpf.fill(ranges, host_path.entries(SERVICES, LOOPBACK), {})
        self.macs = made(bpf.create_recent_map(key_size=16, value_size=eni_path.MACS_VALUE.size, most=1024))
        self.flows = made(bpf.create_recent_map(key_size=KEY.size, value_size=VALUE.size, most=1024))
        maps = {host_path.MAP: ranges, eni_path.MACS: self.macs, MAP: self.flows}
        self.egress = made(bpf.load_classifier(eni_path.PROGRAM.linked(maps), "test"))
        self.ingress = made(bpf.load_classifier(program(Part.BACK, LOOPBACK).linked(maps), "test"))

    def clear(self) -> None:
        for held, size, value in ((self.macs, 16, eni_path.MACS_VALUE.size), (self.flows, KEY.size, VALUE.size)):
            for each in bpf.items(held, key_size=size, value_size=value):
                bpf.drop(held, each)

    def noted(self) -> set[bytes]:
        return set(bpf.items(self.flows, key_size=KEY.size, value_size=VALUE.size))


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    if os.geteuid() != 0 or not can_keep_source():
        pytest.skip("programs are loaded by root, into a kernel with cls_bpf")
    with ExitStack() as opened:
        yield Loaded(opened)


def with_macs(packet: bytes, to: bytes, source: bytes) -> bytes:
    return to + source + frame(packet)[12:]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(six=st.integers(0, 1), protocol=st.sampled_from(PROTOCOLS), own_port=PORT, port=PORT, options=st.integers(0, 10))
def test_there_and_back(six: int, protocol: int, own_port: int, port: int, options: int, loaded: Loaded) -> None:
    loaded.clear()
    content = ports(own_port, port)
    asked = with_macs(ip_packet(OWN[six], VIPS[six], protocol, content, options=options), GATEWAY, ENI)
    assert bpf.test(loaded.egress, asked) == bpf.Tested(REDIRECTED, ENI + asked[6:]), "to the node's own slave"
    assert loaded.noted() == set(), "not translated yet"
    translated = with_macs(ip_packet(OWN[six], REMOTE[six], protocol, content, options=options), ELSEWHERE, ELSEWHERE)
    done = bpf.test(loaded.egress, translated, mark=eni_path.MARK, came_in_by=SLAVE)
    assert done == bpf.Tested(PASS, GATEWAY + ENI + translated[12:]), "as the pod would have sent it"
    assert loaded.noted() == {key(OWN[six], REMOTE[six], own_port, port, protocol)}
    answer = with_macs(ip_packet(REMOTE[six], OWN[six], protocol, ports(port, own_port), options=options), ENI, GATEWAY)
    assert bpf.test(loaded.ingress, answer) == bpf.Tested(REDIRECTED, answer)
    other = with_macs(ip_packet(REMOTE[six], OTHER[six], protocol, ports(port, own_port)), ENI, GATEWAY)
    assert bpf.test(loaded.ingress, other) == bpf.Tested(PASS, other), "another pod's"


@pytest.mark.parametrize("six", [0, 1])
@pytest.mark.parametrize("mark, came_in_by", [(0, SLAVE), (eni_path.MARK, 0), (eni_path.MARK << 1, SLAVE)])
def test_what_pods_send_elsewhere_leaves_as_it_was(mark: int, came_in_by: int, six: int, loaded: Loaded) -> None:
    """Even if a pod marks it: it came in nowhere."""
    loaded.clear()
    bpf.test(loaded.egress, with_macs(ip_packet(OWN[six], VIPS[six], 6, ports(1, 2)), GATEWAY, ENI))
    packet = with_macs(ip_packet(OWN[six], REMOTE[six], 6, ports(4000, 80)), ELSEWHERE, ENI)
    assert bpf.test(loaded.egress, packet, mark=mark, came_in_by=came_in_by) == bpf.Tested(PASS, packet)
    assert loaded.noted() == set()


@pytest.mark.parametrize("six", [0, 1])
def test_macs_are_each_pods_own(six: int, loaded: Loaded) -> None:
    """What another pod writes on its frames changes nothing for this one."""
    loaded.clear()
    bpf.test(loaded.egress, with_macs(ip_packet(OWN[six], VIPS[six], 17, ports(1, 2)), GATEWAY, ENI))
    bpf.test(loaded.egress, with_macs(ip_packet(OTHER[six], VIPS[six], 17, ports(1, 2)), ELSEWHERE, ELSEWHERE))
    sent = with_macs(ip_packet(OWN[six], REMOTE[six], 17, ports(1, 2)), ELSEWHERE, ELSEWHERE)
    done = bpf.test(loaded.egress, sent, mark=eni_path.MARK, came_in_by=SLAVE)
    assert done.packet[:12] == GATEWAY + ENI
    loaded.clear()
    done = bpf.test(loaded.egress, sent, mark=eni_path.MARK, came_in_by=SLAVE)
    assert done == bpf.Tested(PASS, sent), "of a pod whose frames are not known it leaves as it is"
