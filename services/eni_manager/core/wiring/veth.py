"""Shared ENI, veth and policy routing: the default mode (terway.md §5.2).

pod  eth0 podIP/32, default via 169.254.1.1 onlink, permanent neighbour 169.254.1.1 = MAC of cali…
host cali…                podIP dev cali… scope link                (tables main and 512)
     512:  from all       lookup 512       so two pods of one node meet on the node
     2048: from podIP     lookup 1000+ifindex of the ENI
     ENI                  nodeIP/32, default via the vSwitch's gateway onlink (that table)

Terway has a rule `512: to podIP lookup main` for each pod. The kernel walks rules one by one, for every packet, so with
200 of them a packet within the node pays more for rules than for everything else. Table 512 holds pods and nothing
else: whatever somebody routes, blackholes or suppresses in the main table does not reach packets of pods by it.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from services.eni_manager.core.wiring.marks import alias_of, mac_of
from services.eni_manager.core.wiring.shaping import shaper
from services.eni_manager.core.wiring.values import (
    GATEWAY4,
    GATEWAY6,
    PODS_TABLE,
    Address,
    EniLink,
    Link,
    Neighbour,
    Node,
    Priority,
    Route,
    Rule,
    Side,
    Sysctl,
    Veth,
    Wiring,
)
from shared.contracts.ipam import Lease
from shared.model import Cidr, Ip, Subnet

DEFAULT4 = Cidr("0.0.0.0/0")
DEFAULT6 = Cidr("::/0")


def shared_veth(lease: Lease, node: Node, eni: EniLink, *, mtu: int | None = None) -> Wiring:
    """What this lease wants. `mtu` None: the node's usual one."""
    pair = pair_of(lease, node.mtu if mtu is None else mtu)
    own = [host_cidr(ip) for ip in lease.addresses]
    host = host_side(lease, pair)
    return Wiring(
        key=lease.key,
        mode=lease.mode,
        veth=pair,
        host=replace(
            host,
            routes=(*host.routes, *(Route(pair.host, to, table=PODS_TABLE) for to in own)),
            rules=tuple(Rule(Priority.FROM_POD, eni.table, source=source) for source in own),
        ),
        pod=pod_side(lease, pair),
        uplink=uplink(node, eni, lease.subnet4, lease.subnet6 if lease.ipv6 is not None else None, mtu=node.mtu),
        eni=eni,
    )


def to_pods(*, v6: bool) -> Rule:
    """The one rule of a family by which packets find this node's pods."""
    return Rule(Priority.TO_POD, PODS_TABLE, v6=v6)


def pair_of(lease: Lease, mtu: int) -> Veth:
    """The pair between a pod and its node."""
    return Veth(
        host=lease.host_link,
        pod=lease.key.ifname,
        host_mac=mac_of(lease.key, "host"),
        pod_mac=mac_of(lease.key, "pod"),
        mtu=mtu,
        alias=alias_of(lease.key),
    )


def uplink(node: Node, eni: EniLink, subnet4: Subnet | None, subnet6: Subnet | None, *, mtu: int) -> Side:
    """What an ENI needs, whoever uses it: the node's address, and a table whose default route leaves by it.

    And before that table is asked, the ways to the node's own pods.
    """
    addresses: list[Address] = []
    routes: list[Route] = []
    rules: list[Rule] = []
    if subnet4 is not None:
        if node.ipv4 is not None:
            addresses.append(Address(eni.name, node.ipv4, 32))
        routes.append(Route(eni.name, DEFAULT4, subnet4.gateway, eni.table))
        rules.append(to_pods(v6=False))
    if subnet6 is not None:
        if node.ipv6 is not None:
            addresses.append(Address(eni.name, node.ipv6, 128))
        # In the ENI's table and not, as Terway's, in the main one, where two ENIs of a vSwitch would fight over it.
        routes.append(Route(eni.name, host_cidr(subnet6.gateway), table=eni.table))
        routes.append(Route(eni.name, DEFAULT6, subnet6.gateway, eni.table, onlink=False))
        rules.append(to_pods(v6=True))
    # First, since the link's own address is looked for duplicates as soon as it is up: until that is over, a second or
    # two, the node cannot ask for the gateway's MAC. The cloud vouches for the MAC that the address is made of.
    undoubted = () if subnet6 is None else (Sysctl(f"net/ipv6/conf/{eni.name}/accept_dad", "0"),)
    return Side(
        sysctls=(*undoubted, *forwarding(eni.name, v6=subnet6 is not None)),
        links=(Link(eni.name, mtu),),
        addresses=tuple(addresses),
        routes=tuple(routes),
        rules=tuple(rules),
    )


def forwarding(link: str, *, v6: bool) -> Iterator[Sysctl]:
    """The settings without which a link does not forward (terway.md §5.1.4), and no others (§13 R14)."""
    for name in ("all", "default", link):
        yield Sysctl(f"net/ipv4/conf/{name}/forwarding", "1")
        yield Sysctl(f"net/ipv4/conf/{name}/rp_filter", "0")
    if v6:
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")
        yield Sysctl(f"net/ipv6/conf/{link}/disable_ipv6", "0")
        yield Sysctl(f"net/ipv6/conf/{link}/forwarding", "1")
        yield from unadvised(link)


def unadvised(link: str) -> Iterator[Sysctl]:
    """Nobody on the link may teach it IPv6 routes: no router advertisements, no redirects."""
    yield Sysctl(f"net/ipv6/conf/{link}/accept_ra", "0")
    yield Sysctl(f"net/ipv6/conf/{link}/accept_redirects", "0")


def host_cidr(ip: Ip) -> Cidr:
    """The network of one address."""
    return Cidr(f"{ip}/128" if ":" in ip else f"{ip}/32")


def host_side(lease: Lease, pair: Veth) -> Side:
    """The node's end of the pair, and the way to the pod, without rules."""
    return Side(
        sysctls=(*forwarding(pair.host, v6=lease.ipv6 is not None),),
        links=(Link(pair.host, pair.mtu),),
        # Until the link's own link-local address is through duplicate detection, the node could not ask for the
        # pod's MAC, and what it forwards to a new pod would wait for more than a second.
        addresses=(Address(pair.host, GATEWAY6, 128),) if lease.ipv6 is not None else (),
        routes=tuple(Route(pair.host, host_cidr(ip)) for ip in lease.addresses),
        # Nothing has to be asked on a link that has two ends, both known; a lost solicitation costs a second.
        neighbours=(Neighbour(pair.host, lease.ipv6, pair.pod_mac),) if lease.ipv6 is not None else (),
        shapers=shaper(pair.host, lease.bandwidth.ingress, pair.mtu),
    )


def pod_side(lease: Lease, pair: Veth) -> Side:
    """The pod's end of the pair: its addresses, and the node as the way to everywhere."""
    addresses: list[Address] = []
    routes: list[Route] = []
    neighbours: list[Neighbour] = []
    sysctls: list[Sysctl] = []
    if lease.ipv4 is not None:
        addresses.append(Address(pair.pod, lease.ipv4, 32))
        routes.append(Route(pair.pod, DEFAULT4, GATEWAY4))
        neighbours.append(Neighbour(pair.pod, GATEWAY4, pair.host_mac))
    if lease.ipv6 is not None:
        addresses.append(Address(pair.pod, lease.ipv6, 128))
        routes.append(Route(pair.pod, DEFAULT6, GATEWAY6))
        neighbours.append(Neighbour(pair.pod, GATEWAY6, pair.host_mac))
        sysctls += [Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0") for name in ("lo", "all", "default", pair.pod)]
        sysctls += unadvised(pair.pod)
    return Side(
        sysctls=tuple(sysctls),
        links=(Link(pair.pod, pair.mtu),),
        addresses=tuple(addresses),
        routes=tuple(routes),
        neighbours=tuple(neighbours),
        shapers=shaper(pair.pod, lease.bandwidth.egress, pair.mtu),
    )
