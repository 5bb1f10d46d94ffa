"""What `ip` and /proc/sys are told. Pure, so that it can be read and tested; `firewall.py` is the same for nft."""

import msgspec

from compose.lab.fabric.port import Port, Subnet
from shared.model import Cidr, Ip, Mac

GATEWAY_MAC = Mac("ee:ff:ff:ff:ff:ff")
"""Every vSwitch's gateway, on every port: no two ports share a link."""

OUTSIDE_LINK = "out0"

NEXT_HOP = "fe80::1"
"""The VPC's own name for the far end of any port; a permanent neighbour says which MAC that is."""


class Plan(msgspec.Struct, frozen=True):
    """A whole fabric without nodes. Without `outside_gateway6` the outside speaks IPv4 only."""

    lab: str
    vpc_cidr: Cidr
    subnets: tuple[Subnet, ...]
    services: tuple[Ip, ...] = ()
    """Addresses that the VPC's namespace itself answers on."""
    outside_gateway: Ip = Ip("203.0.113.1")
    outside_host: Ip = Ip("203.0.113.10")
    outside_prefix: str = "/24"
    outside_gateway6: Ip = Ip("2001:db8:113::1")
    outside_host6: Ip = Ip("2001:db8:113::10")
    outside_prefix6: str = "/64"


ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/default/proxy_arp": "1",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/accept_dad": "0",
}
"""Of the VPC's namespace, before it has links. Redirects would teach nodes a way around the router; without
proxy_arp nobody would answer for the mates of a vSwitch."""

NODE_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "1",
}
"""What a machine prepared for Kubernetes has (terway.md §5.1.4, "Prerequisites")."""


def port_sysctls(port: Port) -> dict[str, str]:
    """Answer ARP for others at once, not after the random delay that a proxy owes to the real owner."""
    return {f"net/ipv4/neigh/{port.eni}/proxy_delay": "0"}


def vpc_links(plan: Plan, outside_namespace: str) -> list[str]:
    """ip: everything in the VPC's namespace but the ENIs."""
    gateways = [subnet.gateway for subnet in plan.subnets]
    # Whoever is not assigned does not exist; an assigned address has a more specific route.
    unassigned = [plan.vpc_cidr, *(subnet.cidr6 for subnet in plan.subnets if subnet.cidr6)]
    return [
        "link set lo up",
        *(f"address add {address}/32 dev lo" for address in (*plan.services, *gateways)),
        *(f"route add blackhole {cidr}" for cidr in unassigned),
        f"link add {OUTSIDE_LINK} type veth peer name eth0 netns {outside_namespace}",
        f"address add {plan.outside_gateway}{plan.outside_prefix} dev {OUTSIDE_LINK}",
        *_outside6(plan, plan.outside_gateway6, OUTSIDE_LINK),
        f"link set {OUTSIDE_LINK} up",
    ]


def outside_links(plan: Plan) -> list[str]:
    """ip: the host outside; it knows the way back into the VPC, as over a leased line."""
    return [
        "link set lo up",
        f"address add {plan.outside_host}{plan.outside_prefix} dev eth0",
        *_outside6(plan, plan.outside_host6, "eth0"),
        "link set eth0 up",
        f"route add default via {plan.outside_gateway}",
        *([f"route add default via {plan.outside_gateway6}"] if plan.outside_gateway6 else []),
    ]


def _outside6(plan: Plan, address: Ip, device: str) -> list[str]:
    return [f"address add {address}{plan.outside_prefix6} dev {device} nodad"] if plan.outside_gateway6 else []


def plug_link(port: Port, *, devices: str, namespace: str) -> list[str]:
    """ip: the link; its far end is born in the node, down, with the ENI's MAC, as the first free one of `devices`.

    The kernel chooses its number, as for hardware: whoever looked for a free one first would meet others' renames.
    """
    gateway6 = port.subnet.gateway6
    return [
        f"link add {port.eni} address {GATEWAY_MAC} type veth"
        f" peer name {devices}%d address {port.mac} netns {namespace}",
        f"link set {port.eni} up",
        f"neighbour replace {NEXT_HOP} lladdr {port.mac} dev {port.eni} nud permanent",
        *([f"address add {gateway6}/128 dev {port.eni} nodad"] if gateway6 else []),
    ]


def ways(before: Port | None, after: Port) -> list[str]:
    """ip: what makes the ranges of `after` reachable, and no others, where those of `before` were."""
    old = set(before.ranges) if before else set()
    way = f"via inet6 {NEXT_HOP} dev {after.eni} onlink"
    return [
        *(f"route delete {gone} dev {after.eni}" for gone in sorted(old.difference(after.ranges))),
        *(f"route replace {fresh} {way}" for fresh in after.ranges if fresh not in old),
    ]


def primary_interface(port: Port, device: str) -> list[str]:
    """ip, in the node: what cloud-init does for the primary interface. IPv6 as from DHCPv6: one host, no mates."""
    lines = [
        f"link set {device} up",
        f"address add {port.addresses[0]}{port.subnet.prefix} dev {device}",
        f"route add default via {port.subnet.gateway} dev {device}",
    ]
    if own6 := [a for a in port.addresses if ":" in a and "/" not in a]:
        lines += [f"address add {address}/128 dev {device} nodad" for address in own6]
        lines += [f"route add default via {port.subnet.gateway6} dev {device} onlink"]
    return lines
