"""What the kernel is told, as text for `ip -batch` and `nft -f`. Pure, so that it can be read and tested."""

from collections.abc import Iterable, Sequence

import msgspec

from shared.model import Cidr, Ip, Mac

GATEWAY_MAC = Mac("ee:ff:ff:ff:ff:ff")
"""Every vSwitch's gateway; fixed, or a bridge would take the least MAC of its ports."""

OUTSIDE_LINK = "out0"


class Subnet(msgspec.Struct, frozen=True):
    """A vSwitch; `name` becomes its bridge's, at most 15 characters."""

    name: str
    cidr: Cidr
    gateway: Ip

    @property
    def prefix(self) -> str:
        """`/20`."""
        return "/" + self.cidr.partition("/")[2]


class Plan(msgspec.Struct, frozen=True):
    """A whole fabric without nodes."""

    lab: str
    vpc_cidr: Cidr
    subnets: tuple[Subnet, ...]
    services: tuple[Ip, ...] = ()
    """Addresses that the VPC's namespace itself answers on."""
    outside_gateway: Ip = Ip("203.0.113.1")
    outside_host: Ip = Ip("203.0.113.10")
    outside_prefix: str = "/24"


class Port(msgspec.Struct, frozen=True):
    """An ENI that is plugged in; `eni` is the name of its end in the VPC, at most 15 characters."""

    eni: str
    mac: Mac
    subnet: Subnet
    node: str
    addresses: tuple[Ip, ...]


ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}
"""Of the VPC's namespace, before it has links. Redirects would teach nodes a way around the router."""

NODE_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}
"""What a machine prepared for Kubernetes has (terway.md §5.1.4, "Prerequisites")."""


def bridge_sysctls(subnet: Subnet) -> dict[str, str]:
    """Answer ARP for everybody, at once, also for those on the same bridge."""
    return {
        f"net/ipv4/conf/{subnet.name}/proxy_arp": "1",
        f"net/ipv4/conf/{subnet.name}/proxy_arp_pvlan": "1",
        f"net/ipv4/neigh/{subnet.name}/proxy_delay": "0",
    }


def vpc_links(plan: Plan, outside_namespace: str) -> list[str]:
    """ip: everything in the VPC's namespace but the ENIs."""
    lines = ["link set lo up"]
    lines += [f"address add {address}/32 dev lo" for address in plan.services]
    # Whoever is not assigned does not exist; an assigned address has a more specific route.
    lines += [f"route add blackhole {plan.vpc_cidr}"]
    for subnet in plan.subnets:
        lines += [
            f"link add {subnet.name} address {GATEWAY_MAC} type bridge stp_state 0 mcast_snooping 0",
            f"address add {subnet.gateway}/32 dev {subnet.name}",
            f"link set {subnet.name} up",
        ]
    return [
        *lines,
        f"link add {OUTSIDE_LINK} type veth peer name eth0 netns {outside_namespace}",
        f"address add {plan.outside_gateway}{plan.outside_prefix} dev {OUTSIDE_LINK}",
        f"link set {OUTSIDE_LINK} up",
    ]


def outside_links(plan: Plan) -> list[str]:
    """ip: the host outside; it knows the way back into the VPC, as over a leased line."""
    return [
        "link set lo up",
        f"address add {plan.outside_host}{plan.outside_prefix} dev eth0",
        "link set eth0 up",
        f"route add default via {plan.outside_gateway}",
    ]


FILTER = """
table bridge fabric {
    set sources { type ifname . ether_addr . ipv4_addr; counter; }
    set destinations { type ifname . ether_addr . ipv4_addr; counter; }
    set hardware { type ifname . ether_addr; }
    set refused { type ifname . ether_addr . ipv4_addr; size 1024; flags dynamic; counter; }
    chain from_eni {
        type filter hook prerouting priority -300; policy drop;
        ether type ip iifname . ether saddr . ip saddr @sources accept
        ether type arp arp operation request iifname . ether saddr @hardware accept
        ether type ip update @refused { iifname . ether saddr . ip saddr }
    }
    chain to_eni {
        type filter hook postrouting priority 300; policy drop;
        ether type ip oifname . ether daddr . ip daddr @destinations accept
        ether type arp arp operation reply accept
    }
}
"""
"""nft: a frame from an ENI carries its MAC and one of its addresses; a frame to it likewise. The VPC answers ARP
whatever the asker's own protocol address is (nodes ask from any of their addresses), and no ENI may answer it.
The sets' counters are the ENIs' packet counters; `refused` counts what was dropped on the way in."""


def elements(port: Port, addresses: Iterable[Ip]) -> str:
    """nft: the set elements of these addresses."""
    return ", ".join(f'"{port.eni}" . {port.mac} . {address}' for address in addresses)


def owners(verb: str, port: Port, addresses: Sequence[Ip]) -> list[str]:
    """nft: `add` or `delete` the right to send and receive."""
    if not addresses:
        return []
    listed = elements(port, addresses)
    return [f"{verb} element bridge fabric {name} {{ {listed} }}" for name in ("sources", "destinations")]


def hardware(verb: str, port: Port) -> list[str]:
    """nft: `add` or `delete` the right to ask by ARP."""
    return [f'{verb} element bridge fabric hardware {{ "{port.eni}" . {port.mac} }}']


def routes(verb: str, port: Port, addresses: Iterable[Ip]) -> list[str]:
    """ip: `replace` or `delete` the way to these addresses."""
    lines = []
    for address in addresses:
        lines += [
            f"neighbour {verb} {address} lladdr {port.mac} dev {port.subnet.name} nud permanent"
            if verb == "replace"
            else f"neighbour {verb} {address} dev {port.subnet.name}",
            f"route {verb} {address}/32 dev {port.subnet.name}",
        ]
    return lines


def plug_link(port: Port, *, device: str, namespace: str) -> list[str]:
    """ip: the link; its far end is born in the node, down, with the ENI's MAC."""
    return [
        f"link add {port.eni} type veth peer name {device} address {port.mac} netns {namespace}",
        f"link set {port.eni} master {port.subnet.name}",
        f"link set {port.eni} type bridge_slave isolated on learning off flood off mcast_flood off bcast_flood off",
        f"link set {port.eni} up",
    ]


def forwarding(port: Port) -> list[str]:
    """bridge: frames for the ENI's MAC go to its port and nowhere else."""
    return [f"fdb replace {port.mac} dev {port.eni} master static"]


def primary_interface(port: Port, device: str) -> list[str]:
    """ip, in the node: what cloud-init does for the primary interface."""
    return [
        f"link set {device} up",
        f"address add {port.addresses[0]}{port.subnet.prefix} dev {device}",
        f"route add default via {port.subnet.gateway} dev {device}",
    ]
