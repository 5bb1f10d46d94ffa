"""Which neighbour solicitations are answered, byte for byte."""

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from compose.lab.fabric.neighbours import Neighbours
from compose.lab.fabric.port import Port
from compose.lab.fabric.script import GATEWAY_MAC
from shared.model import Cidr, Ip, Mac
from tests.lab.fabric.nodes import NODE1_6, NODE2_6, NODE3, NODE3_6, A

PREFIX = Cidr("2408:4005:3cd:1000:8000::/80")
PORT = Port("eni-3", Mac("00:16:3e:00:00:03"), A, "node3", (NODE3, NODE3_6, PREFIX))
NEIGHBOURS = Neighbours({"eni-3": PORT}, GATEWAY_MAC)


def solicitation(target: str, source: str = NODE3_6) -> bytes:
    """From `source` to the target's solicited-node group; the kernel has checked the checksum."""
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(IPv6Address(target)) & 0xFFFFFF)
    head = bytes.fromhex("6000000000183aff") + IPv6Address(source).packed + group.packed
    return head + bytes.fromhex("8700000000000000") + IPv6Address(target).packed


def test_a_mate_has_the_routers_mac() -> None:
    reply = NEIGHBOURS.answer("eni-3", solicitation(NODE1_6))
    assert reply is not None
    assert reply[4:8] == bytes.fromhex("00203aff"), "32 bytes of ICMPv6 that no router has passed on"
    assert IPv6Address(reply[8:24]) == IPv6Address(A.gateway6) and IPv6Address(reply[24:40]) == IPv6Address(NODE3_6)
    assert (reply[40], reply[44] & 0x60, reply[48:64]) == (136, 0x60, IPv6Address(NODE1_6).packed)
    assert reply[64:] == bytes.fromhex("0201" + GATEWAY_MAC.replace(":", ""))


def test_what_is_nobodys_business() -> None:
    for target in (NODE3_6, "2408:4005:3cd:1000:8000::7", A.gateway6, NODE2_6, "fe80::1"):
        assert NEIGHBOURS.answer("eni-3", solicitation(target)) is None, target
    assert NEIGHBOURS.answer("eni-3", solicitation(NODE1_6, source="::")) is None, "it looks for duplicates"
    assert NEIGHBOURS.answer("eni-4", solicitation(NODE1_6)) is None
    no_ipv6 = Port("eni-5", PORT.mac, type(A)(A.name, A.cidr, A.gateway), "node3", (Ip("192.168.0.5"),))
    assert Neighbours({"eni-5": no_ipv6}, GATEWAY_MAC).answer("eni-5", solicitation(NODE1_6)) is None


@given(st.binary(max_size=96))
def test_no_bytes_upset_it(noise: bytes) -> None:
    NEIGHBOURS.answer("eni-3", noise)
    NEIGHBOURS.answer("eni-3", solicitation(NODE1_6)[: len(noise)] + noise)
