"""What a lease wants, line by line as terway.md §5.2 prints it."""

import pytest
from msgspec.structs import replace

from services.eni_manager.core.wiring import wire
from services.eni_manager.core.wiring.marks import MAX_ALIAS_BYTES, alias_of, key_of, mac_of, retired_name
from services.eni_manager.core.wiring.shaping import TICKS_PER_SECOND, shaper
from services.eni_manager.core.wiring.values import Side
from shared.contracts.ipam import Bandwidth
from shared.errors import Invalid, Refused
from shared.model import AttachmentKey, Mode
from tests.eni_manager.wiring.leases import ENI, NODE, lease


def shown(side: Side) -> list[str]:
    return [str(item) for item in side.items]


def test_an_ipv4_pod() -> None:
    wiring = wire(lease(), NODE, ENI)
    mac = wiring.veth.host_mac
    assert shown(wiring.pod) == [
        "link eth0 mtu 1500 up",
        "address 192.168.32.17/32 dev eth0",
        "route default via 169.254.1.1 dev eth0 onlink",
        f"neighbour 169.254.1.1 lladdr {mac} dev eth0 permanent",
    ]
    assert shown(wiring.host) == [
        *("sysctl net/ipv4/conf/all/forwarding = 1", "sysctl net/ipv4/conf/all/rp_filter = 0"),
        *("sysctl net/ipv4/conf/default/forwarding = 1", "sysctl net/ipv4/conf/default/rp_filter = 0"),
        "sysctl net/ipv4/conf/calic048fd9a750/forwarding = 1",
        "sysctl net/ipv4/conf/calic048fd9a750/rp_filter = 0",
        "link calic048fd9a750 mtu 1500 up",
        "route 192.168.32.17/32 dev calic048fd9a750 scope link",
        "route 192.168.32.17/32 dev calic048fd9a750 scope link table 512",
        "rule 2048: from 192.168.32.17/32 lookup 1003",
    ]
    assert shown(wiring.uplink)[6:] == [
        "link eth1 mtu 1500 up",
        "address 10.0.0.5/32 dev eth1",
        "route default via 192.168.63.253 dev eth1 onlink table 1003",
        "rule 512: from all lookup 512",
    ]


def test_a_dual_stack_pod_has_both_of_everything() -> None:
    wiring = wire(lease(ipv6="2001:db8:1::17"), NODE, ENI)
    assert "address 2001:db8:1::17/128 dev eth0" in shown(wiring.pod)
    assert "route default via fe80::1 dev eth0 onlink" in shown(wiring.pod)
    assert f"neighbour fe80::1 lladdr {wiring.veth.host_mac} dev eth0 permanent" in shown(wiring.pod)
    for name in ("lo", "all", "default", "eth0"):
        assert f"sysctl net/ipv6/conf/{name}/disable_ipv6 = 0" in shown(wiring.pod)
    for side, link in ((wiring.pod, "eth0"), (wiring.host, "calic048fd9a750"), (wiring.uplink, "eth1")):
        assert f"sysctl net/ipv6/conf/{link}/accept_ra = 0" in shown(side)
        assert f"sysctl net/ipv6/conf/{link}/accept_redirects = 0" in shown(side)
    assert "rule 2048: from 2001:db8:1::17/128 lookup 1003" in shown(wiring.host)
    assert "route 2001:db8:1::17/128 dev calic048fd9a750 scope link" in shown(wiring.host)
    assert "route 2001:db8:1::17/128 dev calic048fd9a750 scope link table 512" in shown(wiring.host)
    assert shown(wiring.uplink)[-7:] == [
        "address 10.0.0.5/32 dev eth1",
        "address 2001:db8::5/128 dev eth1",
        "route default via 192.168.63.253 dev eth1 onlink table 1003",
        "route 2001:db8:1::fd/128 dev eth1 scope link table 1003",
        "route default via 2001:db8:1::fd dev eth1 table 1003",
        "rule 512: from all lookup 512",
        "IPv6 rule 512: from all lookup 512",
    ]


def test_a_pod_without_ipv6_meets_nothing_of_it() -> None:
    wiring = wire(lease(), NODE, ENI)
    everything = " ".join(shown(wiring.pod) + shown(wiring.host) + shown(wiring.uplink))
    assert "ipv6" not in everything and "::" not in everything


def test_only_the_stated_settings_are_touched() -> None:
    wiring = wire(lease(ipv6="2001:db8:1::17"), NODE, ENI)
    named = {item.path.rsplit("/", 1)[1] for side in (wiring.host, wiring.pod, wiring.uplink) for item in side.sysctls}
    assert named == {"forwarding", "rp_filter", "disable_ipv6", "accept_ra", "accept_redirects", "accept_dad"}


def test_the_sandbox_mtu_does_not_change_the_enis() -> None:
    wiring = wire(lease(), NODE, ENI, mtu=1400)
    assert (wiring.veth.mtu, wiring.host.links[0].mtu, wiring.pod.links[0].mtu) == (1400, 1400, 1400)
    assert wiring.uplink.links[0].mtu == 1500


def test_limits_are_on_the_side_that_the_packets_leave() -> None:
    wiring = wire(lease(bandwidth=Bandwidth(ingress=1 << 20, egress=125_000_000)), NODE, ENI)
    assert [(item.link, item.rate) for item in wiring.host.shapers] == [("calic048fd9a750", 1 << 20)]
    assert [(item.link, item.rate) for item in wiring.pod.shapers] == [("eth0", 125_000_000)]


@pytest.mark.parametrize(
    ("rate", "burst", "limit"), [(1_048_576, 4195, 29_214), (125_000_000, 500_000, 3_250_000), (125_000, 3000, 6125)]
)
def test_tbf_queues_are_those_of_the_reference_and_bursts_last_a_tick(rate: int, burst: int, limit: int) -> None:
    (limited,) = shaper("eth0", rate, 1500)
    assert limited.limit == limit
    assert abs(limited.buffer_ticks - burst * TICKS_PER_SECOND / rate) < 1


def test_a_pod_of_the_nodes_own_range_needs_no_eni_and_no_rules() -> None:
    wiring = wire(replace(lease(), mode=Mode.VPC_ROUTE), NODE, None)
    assert shown(wiring.pod) == shown(wire(lease(), NODE, ENI).pod)
    assert wiring.uplink == Side() and wiring.host.rules == () and wiring.eni is None
    assert shown(wiring.host)[-2:] == [
        "link calic048fd9a750 mtu 1500 up",
        "route 192.168.32.17/32 dev calic048fd9a750 scope link",
    ]


def test_modes_with_and_without_eni_are_not_confused() -> None:
    with pytest.raises(Refused):
        wire(lease(), NODE, None)
    with pytest.raises(Refused):
        wire(replace(lease(), mode=Mode.VPC_ROUTE), NODE, ENI)
    with pytest.raises(Refused, match="exclusive-eni"):
        wire(replace(lease(), mode=Mode.EXCLUSIVE_ENI), NODE, ENI)


def test_macs_are_steady_distinct_unicast_and_local() -> None:
    one, other = AttachmentKey("net", "a", "eth0"), AttachmentKey("net", "b", "eth0")
    assert mac_of(one, "pod") == mac_of(one, "pod")
    assert len({mac_of(key, end) for key in (one, other) for end in ("pod", "host")}) == 4
    assert int(mac_of(one, "pod")[:2], 16) & 3 == 2


def test_an_alias_says_whose_a_link_is() -> None:
    key = AttachmentKey("k8s-pod-network", "f" * 64, "eth0")
    assert key_of(alias_of(key)) == key
    for foreign in ("", "uplink", "terway ", "terway a/b", "terway a/b/c/d", "my terway a/b/c"):
        assert key_of(foreign) is None


def test_a_key_that_fits_no_alias_is_refused() -> None:
    room = MAX_ALIAS_BYTES - len("terway /container/eth0")
    alias_of(AttachmentKey("n" * room, "container", "eth0"))
    with pytest.raises(Invalid, match="too long"):
        alias_of(AttachmentKey("n" * (room + 1), "container", "eth0"))


def test_a_retired_name_fits_any_index() -> None:
    assert len(retired_name(2**31 - 1)) <= 15
