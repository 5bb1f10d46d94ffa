"""From a lease to what mode shared-ipvlan wants; and how its slaves are known."""

import pytest
from msgspec.structs import replace

from services.eni_manager.core.wiring import wire
from services.eni_manager.core.wiring.ipvlan import COMPANION, bare, slave_alias, slave_of, stand, uplink
from services.eni_manager.core.wiring.standing import SeenLink, Standing
from services.eni_manager.core.wiring.values import Address, Diversion, EniLink, Link, Node, Side
from shared.contracts.ipam import Bandwidth, Lease
from shared.errors import Conflict, Invalid, Refused
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, PodKey, Subnet

ENI = EniLink("eth1", 3)
MAC = Mac("02:16:3e:00:00:01")
KEY = AttachmentKey("terway", "sandbox", "eth0")
SERVICES = (Cidr("172.21.0.0/20"), Cidr("2001:db8:5::/112"))
NODE = Node(Ip("10.0.0.5"), Ip("2001:db8::5"), host_stack=SERVICES)


def lease(*, ipv6: bool = False, bandwidth: Bandwidth | None = None) -> Lease:
    return Lease(
        key=KEY,
        pod=PodKey("default", "nginx-0"),
        pod_uid="uid",
        mode=Mode.SHARED_IPVLAN,
        host_link="calic048fd9a750",
        eni_id=EniId("eni-1"),
        eni_mac=MAC,
        ipv4=Ip("192.168.32.17"),
        subnet4=Subnet(Cidr("192.168.32.0/19"), Ip("192.168.63.253")),
        ipv6=Ip("2001:db8:1::17") if ipv6 else None,
        subnet6=Subnet(Cidr("2001:db8:1::/64"), Ip("2001:db8:1::fd")) if ipv6 else None,
        bandwidth=bandwidth or Bandwidth(),
    )


def said(side: Side) -> list[str]:
    return [str(item) for item in side.items if "sysctl" not in str(item)]


def test_one_pod_in_words() -> None:
    wiring = wire(lease(), NODE, ENI)
    assert said(wiring.pod) == [
        "link eth0 mtu 1500 up",
        "address 192.168.32.17/19 dev eth0",
        "route 10.0.0.5/32 dev eth0 scope link",
        "route default via 192.168.63.253 dev eth0 onlink",
        "neighbour 10.0.0.5 lladdr 02:16:3e:00:00:01 dev eth0 permanent",
    ]
    assert said(wiring.host) == ["route 192.168.32.17/32 dev ipvl_3 scope link"]
    assert said(wiring.uplink) == [
        "link eth1 mtu 1500 up",
        "link ipvl_3 mtu 1500 up noarp",
        "address 10.0.0.5/32 dev ipvl_3 scope host",
        "classifier dev eth1 egress: 172.21.0.0/20, 2001:db8:5::/112 diverted to ipvl_3",
    ]
    assert not any("ipv6" in item.path for item in wiring.pod.sysctls)


def test_services_backends_see_the_pod_where_the_kernel_can() -> None:
    node = replace(NODE, mode=Mode.SHARED_IPVLAN, own_address=True)
    for ipv6 in (False, True):
        wiring, without = wire(lease(ipv6=ipv6), node, ENI), wire(lease(ipv6=ipv6), NODE, ENI)
        four = [
            "route default via 169.254.1.1 dev eth1 onlink table 1003",
            "rule 500: from all fwmark 0x20/0x20 iif ipvl_3 lookup 1003",
            "neighbour 169.254.1.1 lladdr ee:ff:ff:ff:ff:ff dev eth1 permanent",
        ]
        six = [
            "route default via fe80::1 dev eth1 onlink table 1003",
            "IPv6 rule 500: from all fwmark 0x20/0x20 iif ipvl_3 lookup 1003",
            "neighbour fe80::1 lladdr ee:ff:ff:ff:ff:ff dev eth1 permanent",
        ]
        back = "classifier dev eth1 egress: 172.21.0.0/20, 2001:db8:5::/112 diverted to ipvl_3, and answers back"
        gained = set(said(wiring.uplink)) - set(said(without.uplink))
        assert gained == {*four, *(six if ipv6 else ()), back}
        assert (wiring.pod, wiring.host) == (without.pod, without.host)


def test_a_pod_that_an_earlier_mode_left_is_masqueraded() -> None:
    later = replace(NODE, mode=Mode.SHARED_VETH, own_address=True)
    assert wire(lease(), later, ENI) == wire(lease(), NODE, ENI)


def test_a_pair_of_addresses_adds_the_same_of_ipv6() -> None:
    wiring = wire(lease(ipv6=True), NODE, ENI)
    assert {
        "address 2001:db8:1::17/64 dev eth0",
        "route 2001:db8::5/128 dev eth0 scope link",
        "route default via 2001:db8:1::fd dev eth0 onlink",
        "neighbour 2001:db8::5 lladdr 02:16:3e:00:00:01 dev eth0 permanent",
    } <= set(said(wiring.pod))
    assert "address 2001:db8::5/128 dev ipvl_3" in said(wiring.uplink)
    assert {route.to for route in wiring.host.routes} == {"192.168.32.17/32", "2001:db8:1::17/128"}


def test_limits_are_a_queue_for_each_direction() -> None:
    wiring = wire(lease(bandwidth=Bandwidth(ingress=125_000, egress=250_000)), NODE, ENI)
    assert [(item.link, item.rate) for item in wiring.pod.shapers] == [("eth0", 250_000), ("terway-in", 125_000)]
    assert (wiring.ifb, [str(item) for item in wiring.pod.redirects]) == (
        "terway-in",
        ["filter dev eth0 ingress: all redirected to terway-in"],
    )
    assert wiring.host.shapers == ()


def test_without_ranges_nothing_is_diverted() -> None:
    assert uplink(Node(), ENI, v6=False).diversions == (Diversion("eth1", "", frozenset()),)


def test_an_eni_keeps_no_ipv4_address() -> None:
    addresses = (Address("eth1", Ip("192.168.32.2"), 19), Address("eth1", Ip("2001:db8::9"), 64))
    other = Address(f"{COMPANION}3", Ip("10.0.0.5"), 32, host=True)
    assert [drop.item for drop in bare(ENI, Side(addresses=(*addresses, other)))] == [addresses[0]]


def test_a_pod_on_a_slave_needs_an_eni_of_the_nodes() -> None:
    with pytest.raises(Refused, match="shared-ipvlan cannot be wired without an ENI"):
        wire(lease(), NODE, None)


# ---- how slaves are known


def seen(name: str, alias: str, *, kind: str = "ipvlan", parent: int = 3) -> SeenLink:
    return SeenLink(index=9, name=name, mac=MAC, mtu=1500, up=True, alias=alias, peer=parent, kind=kind)


def test_a_slave_says_whose_it_is() -> None:
    alias = slave_alias(KEY, "calic048fd9a750")
    assert slave_of(seen("eth0", alias)) == (KEY, "calic048fd9a750")
    assert slave_of(seen("eth0", alias, kind="veth")) is None
    assert slave_of(seen("eth0", "")) is None
    assert slave_of(seen("eth0", "terway terway/sandbox/eth0")) is None
    with pytest.raises(Invalid, match="too long"):
        slave_alias(AttachmentKey("n" * 240, "c", "eth0"), "calic048fd9a750")


def test_what_stands_in_the_sandbox() -> None:
    wiring = wire(lease(), NODE, ENI)
    alias = slave_alias(KEY, "calic048fd9a750")
    assert stand(wiring, 3, None) is Standing.FREE
    assert stand(wiring, 3, seen("eth0", alias)) is Standing.WIRED
    assert stand(wiring, 4, seen("eth0", alias)) is Standing.REMAINS
    for foreign in (seen("eth0", ""), seen("eth0", alias, kind="dummy"), seen("eth0", "terway a/b/eth0/cali1")):
        with pytest.raises(Conflict, match="already exists"):
            stand(wiring, 3, foreign)
    assert Link("ipvl_3", 1500, noarp=True) in wiring.uplink.links
