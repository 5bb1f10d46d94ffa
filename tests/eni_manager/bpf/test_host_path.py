"""The program judged by the kernel: verified, and run on packets (BPF_PROG_TEST_RUN)."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from struct import pack

import pytest

from services.eni_manager.adapters import bpf
from services.eni_manager.core.bpf.host_path import KEY, MAP, PASS, PROGRAM, REDIRECTED, VALUE, entries, key
from shared.model import Cidr

GATEWAY, POD = bytes.fromhex("eeffffffffff"), bytes.fromhex("0216 3e00 0001".replace(" ", ""))
SERVICES = [Cidr("172.21.0.0/20"), Cidr("169.254.20.10/32"), Cidr("fc00:1::/112")]
LOOPBACK = 1


class Loaded:
    """The program and its map, in the kernel."""

    def __init__(self, opened: ExitStack) -> None:
        self.map = opened.enter_context(
            bpf.closing(bpf.create_prefix_map(key_size=KEY.size, value_size=VALUE.size, most=64))
        )
        self.program = opened.enter_context(bpf.closing(bpf.load_classifier(PROGRAM.linked({MAP: self.map}), "test")))

    def run(self, packet: bytes) -> bpf.Tested:
        return bpf.test(self.program, packet)


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    if os.geteuid() != 0:
        pytest.skip("programs are loaded by root")
    with ExitStack() as opened:
        yield Loaded(opened)


def frame(to: str) -> bytes:
    """A datagram to an address, as a pod sends it to its gateway."""
    address = ip_address(to)
    if address.version == 4:
        head = pack(">BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0, ip_address("192.168.32.11").packed, address.packed)
        kind = 0x0800
    else:
        head = pack(">IHBB16s16s", 6 << 28, 8, 17, 64, ip_address("2001:db8:1::b").packed, address.packed)
        kind = 0x86DD
    return GATEWAY + POD + pack(">H", kind) + head + pack(">HHHH", 1, 2, 8, 0)


@pytest.mark.parametrize("to", ["172.21.0.1", "172.21.15.255", "169.254.20.10", "fc00:1::1", "fc00:1::ffff"])
def test_what_goes_to_a_service_arrives_on_the_nodes_link(to: str, loaded: Loaded) -> None:
    bpf.fill(loaded.map, entries(SERVICES, LOOPBACK), {})
    packet = frame(to)
    done = loaded.run(packet)
    assert done.result == REDIRECTED
    assert done.packet == POD + POD + packet[12:]


@pytest.mark.parametrize("to", ["172.21.16.0", "172.20.255.255", "169.254.20.11", "fc00:1::1:0", "::ac15:1"])
def test_all_else_leaves_as_it_was(to: str, loaded: Loaded) -> None:
    bpf.fill(loaded.map, entries(SERVICES, LOOPBACK), {})
    packet = frame(to)
    assert loaded.run(packet) == bpf.Tested(PASS, packet)


def test_what_is_neither_ipv4_nor_ipv6_leaves(loaded: Loaded) -> None:
    bpf.fill(loaded.map, entries([Cidr("0.0.0.0/0"), Cidr("::/0")], LOOPBACK), {})
    arp = GATEWAY + POD + pack(">H", 0x0806) + bytes(46)
    assert loaded.run(arp) == bpf.Tested(PASS, arp)


def test_packets_cut_short_leave(loaded: Loaded) -> None:
    bpf.fill(loaded.map, entries([Cidr("0.0.0.0/0"), Cidr("::/0")], LOOPBACK), {})
    for to in ("172.21.0.1", "fc00:1::1"):
        whole = frame(to)
        ends = 14 + (20 if "." in to else 40)
        assert loaded.run(whole[:ends]).result == REDIRECTED
        for size in range(15, ends):
            try:
                assert loaded.run(whole[:size]) == bpf.Tested(PASS, whole[:size])
            except OSError as refused:  # newer kernels make no packet of so little
                assert refused.errno == errno.EINVAL


def test_ranges_change_while_the_program_stays(loaded: Loaded) -> None:
    def held() -> dict[bytes, bytes]:
        return bpf.items(loaded.map, key_size=KEY.size, value_size=VALUE.size)

    assert held() == {}
    bpf.fill(loaded.map, entries(SERVICES, LOOPBACK), held())
    assert held() == entries(SERVICES, LOOPBACK)
    assert loaded.run(frame("172.21.0.1")).result == REDIRECTED
    bpf.fill(loaded.map, entries([Cidr("10.96.0.0/12")], LOOPBACK), held())
    assert held() == entries([Cidr("10.96.0.0/12")], LOOPBACK)
    assert loaded.run(frame("172.21.0.1")).result == PASS
    assert loaded.run(frame("10.96.0.10")).result == REDIRECTED
    bpf.drop(loaded.map, key(Cidr("1.2.3.4/32")))  # was not there


def test_a_map_is_found_again_by_what_is_loaded(loaded: Loaded) -> None:
    [number] = bpf.maps_of(loaded.program)
    bpf.fill(loaded.map, entries(SERVICES, LOOPBACK), {})
    with bpf.closing(bpf.map_by_id(number)) as again:
        assert bpf.items(again, key_size=KEY.size, value_size=VALUE.size) == entries(SERVICES, LOOPBACK)


def test_what_the_verifier_refuses_is_said_in_its_words(loaded: Loaded) -> None:
    with pytest.raises(OSError, match="R0 !read_ok"):
        bpf.load_classifier(bytes.fromhex("9500000000000000"), "bad")
