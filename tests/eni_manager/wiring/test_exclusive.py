"""What a lease with an ENI of its own wants, line by line as terway.md §5.4 says it."""

from msgspec.structs import replace

from services.eni_manager.core.wiring import wire
from services.eni_manager.core.wiring.exclusive import host_peer, masquerade, without_masquerade
from services.eni_manager.core.wiring.values import Nic, Side, Wiring
from shared.contracts.ipam import Bandwidth
from shared.model import AttachmentKey, Cidr, Mode
from tests.eni_manager.wiring import leases
from tests.eni_manager.wiring.leases import lease

NODE = replace(
    leases.NODE,
    mode=Mode.EXCLUSIVE_ENI,
    host_stack=(Cidr("172.21.0.0/20"), Cidr("169.254.20.10/32"), Cidr("2001:db8:5::/112")),
)


def wired(*, ipv6: str | None = None, ingress: int | None = None, egress: int | None = None) -> Wiring:
    wanted = replace(lease(ipv6=ipv6, bandwidth=Bandwidth(ingress, egress)), mode=Mode.EXCLUSIVE_ENI)
    return wire(wanted, NODE, None)


def shown(side: Side) -> list[str]:
    return [str(item) for item in side.items]


def test_an_ipv4_pod() -> None:
    wiring = wired()
    assert shown(wiring.pod) == [
        "link eth0 mtu 1500 up",
        "link veth1 mtu 1500 up",
        "address 192.168.32.17/32 dev eth0",
        "address 192.168.32.17/32 dev veth1",
        "route default via 192.168.63.253 dev eth0 onlink",
        "route 169.254.1.1/32 dev veth1 scope link",
        "route 172.21.0.0/20 via 169.254.1.1 dev veth1 onlink",
        "route 169.254.20.10/32 via 169.254.1.1 dev veth1 onlink",
        "route 10.0.0.5/32 via 169.254.1.1 dev veth1 onlink",
        f"neighbour 169.254.1.1 lladdr {wiring.veth.host_mac} dev veth1 permanent",
    ]
    assert shown(wiring.host)[-2:] == [
        "link calic048fd9a750 mtu 1500 up",
        "route 192.168.32.17/32 dev calic048fd9a750 scope link",
    ]
    assert wiring.uplink == Side() and wiring.host.rules == ()
    assert wiring.nic == Nic(leases.lease().eni_mac, "eth0") and wiring.pod_mac == leases.lease().eni_mac


def test_a_dual_stack_pod_has_both_of_everything() -> None:
    wiring = wired(ipv6="2001:db8:1::17")
    for line in (
        "address 2001:db8:1::17/128 dev eth0",
        "address 2001:db8:1::17/128 dev veth1",
        "route 2001:db8:1::fd/128 dev eth0 scope link",
        "route default via 2001:db8:1::fd dev eth0 onlink",
        "route fe80::1/128 dev veth1 scope link",
        "route 2001:db8:5::/112 via fe80::1 dev veth1 onlink",
        "route 2001:db8::5/128 via fe80::1 dev veth1 onlink",
        f"neighbour fe80::1 lladdr {wiring.veth.host_mac} dev veth1 permanent",
        *(
            f"sysctl net/ipv6/conf/{link}/{key} = 0"
            for link in ("eth0", "veth1")
            for key in ("disable_ipv6", "accept_ra")
        ),
    ):
        assert line in shown(wiring.pod), line
    assert set(shown(wired().pod)) <= set(shown(wiring.pod))


def test_a_pod_without_ipv6_meets_nothing_of_it() -> None:
    assert not any("ipv6" in line or "::" in line.split(" lladdr ")[0] for line in shown(wired().pod))


def test_what_comes_in_by_either_link_is_queued_on_one() -> None:
    limited = wired(ingress=1_000_000, egress=2_000_000)
    fresh = [line for line in shown(limited.pod) if line not in shown(wired().pod)]
    assert fresh == [
        "link terway-in mtu 1500 up",
        "qdisc tbf dev eth0 rate 2000000 B/s limit 53000 B",
        "qdisc tbf dev veth1 rate 2000000 B/s limit 53000 B",
        "qdisc tbf dev terway-in rate 1000000 B/s limit 28000 B",
        "qdisc ingress dev eth0",
        "qdisc ingress dev veth1",
        "filter dev eth0 ingress: all redirected to terway-in",
        "filter dev veth1 ingress: all redirected to terway-in",
    ]
    assert limited.ifb == "terway-in" and limited.host.shapers == ()
    assert wired(egress=1).ifb == ""


def test_further_interfaces_have_a_link_to_the_node_each() -> None:
    names = [host_peer(name) for name in ("eth0", "eth1", "net1", "a-long-name-0123")]
    assert names[0] == "veth1" and len(set(names)) == 4 and all(len(name) <= 15 for name in names)
    second = replace(lease(), key=AttachmentKey("terway", "0123456789ab", "eth1"), mode=Mode.EXCLUSIVE_ENI)
    assert wire(second, NODE, None).veth.pod == "v-eth1"


def test_services_backends_see_the_pod_where_the_kernel_can() -> None:
    with_it = replace(NODE, own_address=True)
    for ipv6, limit in ((None, None), ("2001:db8:1::17", 1_000_000)):
        lease_ = replace(lease(ipv6=ipv6, bandwidth=Bandwidth(limit, None)), mode=Mode.EXCLUSIVE_ENI)
        wiring, without = wire(lease_, with_it, None), wire(lease_, NODE, None)
        gained = [str(item) for item in wiring.pod.items if item not in without.pod.items]
        intakes = [] if limit else ["qdisc ingress dev eth0", "qdisc ingress dev veth1"]
        assert gained == [
            *intakes,
            "classifier dev veth1: Services' packets, onward to eth0",
            "classifier dev eth0: Services' packets, answers to veth1",
        ]
        assert wiring.pod.classifiers[0].own == lease_.addresses
        assert wiring.host == without.host and without.uplink == Side()
        assert [line for line in shown(wiring.uplink) if "sysctl" not in line] == [
            "link terway-turn mtu 1500 up noarp",
            "route default via 169.254.1.1 dev terway-turn onlink table 101",
            "route default via fe80::1 dev terway-turn onlink table 101",
            "rule 500: from all fwmark 0x20/0x20 lookup 101",
            "IPv6 rule 500: from all fwmark 0x20/0x20 lookup 101",
            "classifier dev terway-turn: Services' packets, turn",
        ]


def test_a_pod_that_wants_nothing_of_the_node_has_nothing_turned() -> None:
    alone = replace(lease(), mode=Mode.EXCLUSIVE_ENI, host_peer=False)
    assert wire(alone, replace(NODE, own_address=True), None) == wire(alone, NODE, None)


def test_what_is_turned_is_a_matter_of_the_services_ranges() -> None:
    rules = masquerade(replace(NODE, own_address=True))
    assert "ct original ip daddr != { 172.21.0.0/20, 169.254.20.10/32 } return" in rules
    assert "ct original ip6 daddr != { 2001:db8:5::/112 } return" in rules
    four = masquerade(replace(NODE, own_address=True, host_stack=(Cidr("172.21.0.0/20"),)))
    assert four.count("jump turned") == 1, "a family without ranges has nothing to turn"
    assert "turn" not in masquerade(NODE).replace("return", "")


def test_only_families_that_the_node_has_are_masqueraded() -> None:
    both = masquerade(NODE)
    assert "table ip terway_masq" in both and "snat to 10.0.0.5\n" in both
    assert "table ip6 terway_masq" in both and "snat to 2001:db8::5\n" in both
    assert "ip6" not in masquerade(replace(NODE, ipv6=None))
    assert without_masquerade(NODE).splitlines() == [
        f"{verb}table {family} terway_masq" for family in ("ip", "ip6") for verb in ("", "delete ")
    ]
