"""Exclusive ENI: the pod has one to itself, moved into its namespace, and a second link to the node (terway.md §5.4).

pod  eth0 (the ENI)  podIP/32, default via the vSwitch's gateway onlink
     veth1           podIP/32, 169.254.1.1 scope link, permanent neighbour 169.254.1.1 = MAC of cali…
                     Services, host-stack ranges and the node itself via 169.254.1.1
     both, in        classifiers: Services' packets, back from the node, out by the ENI; answers to them to the node
host cali…           podIP dev cali… scope link                (table main)
     terway-turn     what is marked leaves by it, and a classifier sends it back to where it came in    (once per node)
     nft             what a pod sends to a Service is marked once it is translated; what else the node passes on bears
                     its own address                                   (tables ip, ip6 terway_masq, once per node)

Where the CNI configuration has `disable_host_peer`, nothing goes by the second link: both its ends are down, without
address and route. It stays, for it is by it that the pod is known again and found, and its ENI comes home.

What the node passes on comes from a pod and goes to a Service's backend, or goes to a pod by a NodePort: answers would
go by the ENIs and never come by this node again. So what it passes on bears the node's address. Except what pods send
to Services: that goes back to the pod, out by its ENI, and answers take the same way (core/wiring/turning.py). Where
the kernel has no programs for that (`Node.own_address`), a Service's backend sees the client's node.

Limits: what the pod sends is queued on each of its links; what comes in by either, on one ifb that both lead through.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from services.eni_manager.core.bpf.own_address import Part
from services.eni_manager.core.wiring import turning
from services.eni_manager.core.wiring.shaping import shaper
from services.eni_manager.core.wiring.values import (
    GATEWAY4,
    GATEWAY6,
    Address,
    Classifier,
    Ingress,
    Link,
    Neighbour,
    Nic,
    Node,
    Redirect,
    Route,
    Side,
    Sysctl,
    Veth,
    Wiring,
)
from services.eni_manager.core.wiring.veth import DEFAULT4, DEFAULT6, host_cidr, host_side, pair_of, unadvised
from shared.contracts.ipam import Lease
from shared.model import Cidr, Ip, Subnet, host_peer_name

IFB = "terway-in"
"""The pod's link on which what comes in is queued, where that is limited."""
NFT_TABLE = "terway_masq"
"""Terway's chain is `terway-masq`."""


def exclusive_eni(lease: Lease, node: Node, *, mtu: int | None = None) -> Wiring:
    """What this lease wants. `mtu` None: the node's usual one."""
    pair = replace(pair_of(lease, node.mtu if mtu is None else mtu), pod=host_peer(lease.key.ifname))
    nic = Nic(lease.eni_mac, lease.key.ifname)
    parts = [_by_the_eni(lease, nic, pair.mtu), _by_the_node(lease, node, pair), _limits(lease, nic, pair)]
    turned = lease.host_peer and node.shows_own_address(lease.mode)  # without the peer Services are past the node
    if turned:
        parts.append(_turned(lease, nic, pair))
    return Wiring(
        key=lease.key,
        mode=lease.mode,
        veth=pair,
        host=replace(host_side(lease, pair), shapers=()) if lease.host_peer else _idle(pair.host, pair.mtu),
        pod=Side.of(item for part in parts for item in part.items),
        uplink=turning.turn(node) if turned else Side(),
        nic=nic,
        ifb=IFB if lease.bandwidth.ingress else "",
    )


def host_peer(ifname: str) -> str:
    """What the pod's link to the node is called: `veth1` beside eth0, another name beside each further interface."""
    return host_peer_name(ifname)


def _by_the_eni(lease: Lease, nic: Nic, mtu: int) -> Side:
    """The ENI, and by it the way to everywhere."""
    addresses: list[Address] = []
    routes: list[Route] = []
    sysctls: list[Sysctl] = []
    for ip, subnet, default in _families(lease):
        addresses.append(Address(nic.name, ip, 128 if ":" in ip else 32))
        if subnet is None:
            continue
        if ":" in ip:
            routes.append(Route(nic.name, host_cidr(subnet.gateway)))
        routes.append(Route(nic.name, default, subnet.gateway))
    if lease.ipv6 is not None:
        sysctls += [Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0") for name in ("lo", "all", "default", nic.name)]
        sysctls += unadvised(nic.name)
    return Side(sysctls=tuple(sysctls), links=(Link(nic.name, mtu),), addresses=tuple(addresses), routes=tuple(routes))


def _by_the_node(lease: Lease, node: Node, pair: Veth) -> Side:
    """The second link, and what is reached by it."""
    if not lease.host_peer:
        return _idle(pair.pod, pair.mtu)
    sysctls: list[Sysctl] = []
    addresses: list[Address] = []
    routes: list[Route] = []
    neighbours: list[Neighbour] = []
    for ip, _, _ in _families(lease):
        v6 = ":" in ip
        gateway, own = (GATEWAY6, node.ipv6) if v6 else (GATEWAY4, node.ipv4)
        addresses.append(Address(pair.pod, ip, 128 if v6 else 32))
        routes.append(Route(pair.pod, host_cidr(gateway)))
        ranges = [*of_family(node.host_stack, v6=v6), *([] if own is None else [host_cidr(own)])]
        routes += [Route(pair.pod, to, gateway) for to in dict.fromkeys(ranges)]
        neighbours.append(Neighbour(pair.pod, gateway, pair.host_mac))
    if lease.ipv6 is not None:
        sysctls += [Sysctl(f"net/ipv6/conf/{pair.pod}/disable_ipv6", "0"), *unadvised(pair.pod)]
    return Side(
        sysctls=tuple(sysctls),
        links=(Link(pair.pod, pair.mtu),),
        addresses=tuple(addresses),
        routes=tuple(routes),
        neighbours=tuple(neighbours),
    )


def _idle(link: str, mtu: int) -> Side:
    """An end of the second link where nothing is to go by it: it only tells whose the ENI is (`Lease.host_peer`)."""
    return Side(links=(Link(link, mtu, up=False),))


def _limits(lease: Lease, nic: Nic, pair: Veth) -> Side:
    both = (nic.name, pair.pod) if lease.host_peer else (nic.name,)
    out = tuple(limit for name in both for limit in shaper(name, lease.bandwidth.egress, pair.mtu))
    if not lease.bandwidth.ingress:
        return Side(shapers=out)
    return Side(
        links=(Link(IFB, pair.mtu),),
        shapers=(*out, *shaper(IFB, lease.bandwidth.ingress, pair.mtu)),
        intakes=tuple(Ingress(name) for name in both),
        redirects=tuple(Redirect(name, IFB) for name in both),
    )


def _turned(lease: Lease, nic: Nic, pair: Veth) -> Side:
    """Both ends of the way that what the pod sends to Services takes, and their answers take back."""
    if not lease.host_peer:
        return Side()
    return Side(
        intakes=(Ingress(nic.name), Ingress(pair.pod)),
        classifiers=(
            Classifier(pair.pod, Part.ONWARD, to=nic.name, own=lease.addresses),
            Classifier(nic.name, Part.ANSWERS, to=pair.pod),
        ),
    )


def _families(lease: Lease) -> list[tuple[Ip, Subnet | None, Cidr]]:
    found = ((lease.ipv4, lease.subnet4, DEFAULT4), (lease.ipv6, lease.subnet6, DEFAULT6))
    return [(ip, subnet, default) for ip, subnet, default in found if ip is not None]


def of_family(ranges: Iterable[Cidr], *, v6: bool) -> list[Cidr]:
    """Those of one family."""
    return [cidr for cidr in ranges if (":" in cidr) == v6]


def masquerade(node: Node) -> str:
    """One nft transaction that replaces what was there: what is passed on bears the node's address, or is turned.

    What the node itself sends keeps its source. Not told apart by the link that it came in by: kernels before 5.7 do
    not know that any more when it goes out.
    """
    return "".join(_masquerade(node, family, own) for family, own in _own(node))


def without_masquerade(node: Node) -> str:
    """The transaction after which there is none of it, whether there was any or not."""
    return "".join(_nothing(family) for family, _ in _own(node))


def _own(node: Node) -> list[tuple[str, Ip]]:
    return [(family, own) for family, own in (("ip", node.ipv4), ("ip6", node.ipv6)) if own is not None]


def _masquerade(node: Node, family: str, own: Ip) -> str:
    turns = node.own_address and node.mode in turning.PODS_LINKS
    ranges = of_family(node.host_stack, v6=family == "ip6") if turns else []
    return f"""{_nothing(family)}
table {family} {NFT_TABLE} {{{turning.chains(family, ranges, node.mode)}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "lo" return
        fib saddr type local return
        snat to {own}
    }}
}}
"""


def _nothing(family: str) -> str:
    return f"table {family} {NFT_TABLE}\ndelete table {family} {NFT_TABLE}\n"
