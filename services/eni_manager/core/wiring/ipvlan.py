"""Shared ENI, IPvlan L2: the pod's interface is a slave of the ENI itself (terway.md §5.3).

pod  eth0 (slave)   podIP/<vSwitch's prefix>, default via the vSwitch's gateway onlink
                    nodeIP dev eth0 scope link, permanent neighbour nodeIP = the MAC that all slaves share
host ENI            no IPv4 address; egress: Services and host-stack ranges diverted to ipvl_…
     ipvl_<index>   the node's own slave: noarp, nodeIP/32 scope host; podIP dev ipvl_… scope link    (table main)
     table 1000+…   what was sent to a Service goes out by the pod's ENI again: default dev ENI; rule by mark and ipvl_…
     nft            that is marked; what else the node passes on bears its own address      (as with exclusive ENIs)

Slaves of one ENI reach each other, and the node, without leaving it. All else goes out by the ENI, past the node's own
stack, and so past kube-proxy's rules: hence the diversion. Once translated they leave by the pod's ENI with the pod's
address, and answers are diverted as well (core/bpf/eni_path.py), except between pods of one ENI: their answers never
reach the ENI. There, and where the kernel has no such programs, the backend sees the client's node.

Limits: what the pod sends is queued on its slave; what comes in, on an ifb that the slave leads through.
"""

from msgspec.structs import replace

from services.eni_manager.core.wiring import turning
from services.eni_manager.core.wiring.difference import Drop
from services.eni_manager.core.wiring.exclusive import IFB
from services.eni_manager.core.wiring.marks import ALIAS_PREFIX, MAX_ALIAS_BYTES, alias_of, key_of
from services.eni_manager.core.wiring.shaping import shaper
from services.eni_manager.core.wiring.standing import SeenLink, Standing
from services.eni_manager.core.wiring.values import (
    GATEWAY4,
    GATEWAY6,
    Address,
    Diversion,
    EniLink,
    Ingress,
    Link,
    Neighbour,
    Node,
    Redirect,
    Route,
    Rule,
    Side,
    Sysctl,
    Veth,
    Wiring,
)
from services.eni_manager.core.wiring.veth import DEFAULT4, DEFAULT6, forwarding, host_cidr
from shared.contracts.ipam import Lease
from shared.errors import Conflict, Invalid
from shared.model import AttachmentKey, Cidr, Ip, Mac, Mode, Subnet

COMPANION = "ipvl_"
"""How the node's own slaves are called; the ENI's ifindex follows."""
KIND = "ipvlan"
GATEWAYS_MAC = Mac("ee:ff:ff:ff:ff:ff")
"""Of every vSwitch's gateway (terway.md §5.1.2); right even for a pod whose own frames have not been seen."""


def shared_ipvlan(lease: Lease, node: Node, eni: EniLink, *, mtu: int | None = None) -> Wiring:
    """What this lease wants. `mtu` None: the node's usual one."""
    slaves = Veth(
        host=companion(eni),
        pod=lease.key.ifname,
        host_mac=lease.eni_mac,
        pod_mac=lease.eni_mac,
        mtu=node.mtu if mtu is None else mtu,
        alias=slave_alias(lease.key, lease.host_link),
    )
    return Wiring(
        key=lease.key,
        mode=lease.mode,
        veth=slaves,
        host=Side(routes=tuple(Route(slaves.host, host_cidr(ip)) for ip in lease.addresses)),
        pod=_pod_side(lease, node, slaves),
        uplink=uplink(node, eni, v6=lease.subnet6 is not None),
        eni=eni,
        ifb=IFB if lease.bandwidth.ingress else "",
    )


def companion(eni: EniLink) -> str:
    """The node's own slave of an ENI."""
    return f"{COMPANION}{eni.index}"


def uplink(node: Node, eni: EniLink, *, v6: bool) -> Side:
    """What an ENI needs, whoever uses it: the node's own slave, and the way there for what pods send to Services."""
    own = companion(eni)
    addresses: list[Address] = []
    if node.ipv4 is not None:
        addresses.append(Address(own, node.ipv4, 32, host=True))
    if v6 and node.ipv6 is not None:
        addresses.append(Address(own, node.ipv6, 128))
    ranges = frozenset(node.host_stack)
    own_address = node.shows_own_address(Mode.SHARED_IPVLAN)
    side = Side(
        sysctls=tuple(dict.fromkeys((*forwarding(eni.name, v6=v6), *forwarding(own, v6=v6)))),
        links=(Link(eni.name, node.mtu), Link(own, node.mtu, noarp=True)),
        addresses=tuple(addresses),
        diversions=(Diversion(eni.name, own if ranges else "", ranges, own_address and bool(ranges)),),
    )
    return Side.of((*side.items, *_out_again(node, eni, v6=v6).items)) if own_address else side


def _out_again(node: Node, eni: EniLink, *, v6: bool) -> Side:
    """How what a pod sent to a Service leaves by its ENI. The MAC that the kernel takes is replaced there."""
    routes: list[Route] = []
    rules: list[Rule] = []
    neighbours: list[Neighbour] = []
    for six, own in ((False, node.ipv4), (True, node.ipv6)):
        if own is None or (six and not v6):
            continue
        hop = GATEWAY6 if six else GATEWAY4
        routes.append(Route(eni.name, DEFAULT6 if six else DEFAULT4, hop, eni.table))
        rules.append(Rule(turning.PRIORITY, eni.table, mark=turning.MARK, iif=companion(eni), v6=six))
        neighbours.append(Neighbour(eni.name, hop, GATEWAYS_MAC))
    return Side(routes=tuple(routes), rules=tuple(rules), neighbours=tuple(neighbours))


def bare(eni: EniLink, actual: Side) -> list[Drop]:
    """An ENI has no IPv4 address in this mode: its slaves have them all, and none may be there twice."""
    return [Drop(item) for item in actual.addresses if item.link == eni.name and ":" not in item.ip]


def _pod_side(lease: Lease, node: Node, slaves: Veth) -> Side:
    link = slaves.pod
    addresses: list[Address] = []
    routes: list[Route] = []
    neighbours: list[Neighbour] = []
    families: tuple[tuple[Ip | None, Subnet | None, Ip | None, Cidr], ...] = (
        (lease.ipv4, lease.subnet4, node.ipv4, DEFAULT4),
        (lease.ipv6, lease.subnet6, node.ipv6, DEFAULT6),
    )
    for ip, subnet, own, default in families:
        if ip is None or subnet is None:
            continue
        addresses.append(Address(link, ip, int(subnet.cidr.partition("/")[2])))
        if own is not None:
            routes.append(Route(link, host_cidr(own)))
            neighbours.append(Neighbour(link, own, slaves.host_mac))
        routes.append(Route(link, default, subnet.gateway))
    sysctls: list[Sysctl] = []
    if lease.ipv6 is not None:
        sysctls += [Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0") for name in ("lo", "all", "default", link)]
        sysctls.append(Sysctl(f"net/ipv6/conf/{link}/accept_ra", "0"))
    side = Side(
        sysctls=tuple(sysctls),
        links=(Link(link, slaves.mtu),),
        addresses=tuple(addresses),
        routes=tuple(routes),
        neighbours=tuple(neighbours),
        shapers=shaper(link, lease.bandwidth.egress, slaves.mtu),
    )
    if not lease.bandwidth.ingress:
        return side
    return replace(
        side,
        links=(*side.links, Link(IFB, slaves.mtu)),
        shapers=(*side.shapers, *shaper(IFB, lease.bandwidth.ingress, slaves.mtu)),
        intakes=(Ingress(link),),
        redirects=(Redirect(link, IFB),),
    )


# ---- how a slave is known: it is in its pod's namespace, where nothing but its alias tells whose it is


def slave_alias(key: AttachmentKey, host_link: str) -> str:
    """The alias of a pod's slave; `host_link`: the name that the lease has for it. Raises Invalid: too long."""
    alias = f"{alias_of(key)}/{host_link}"
    if len(alias.encode()) > MAX_ALIAS_BYTES:
        raise Invalid(f"network name, container id and interface name are together too long: {key}")
    return alias


def slave_of(link: SeenLink) -> tuple[AttachmentKey, str] | None:
    """Whose slave a link in some namespace is, and the lease's name for it; None: not one of ours."""
    if link.kind != KIND or not link.alias.startswith(ALIAS_PREFIX):
        return None
    marked, _, host_link = link.alias.rpartition("/")
    key = key_of(marked)
    return None if key is None else (key, host_link)


def stand(wiring: Wiring, eni_index: int, there: SeenLink | None) -> Standing:
    """Judge the link of the wanted name in the sandbox. Raises Conflict: it is somebody else's (CNI P7)."""
    if there is None:
        return Standing.FREE
    if there.kind != KIND or there.alias != wiring.veth.alias:
        raise Conflict(f"interface {there.name} already exists in the sandbox (CNI specification, section 2, ADD)")
    return Standing.WIRED if there.peer == eni_index else Standing.REMAINS


def serves(link: SeenLink, mac: Mac) -> bool:
    """Is this link in the sandbox a slave of the ENI with that MAC?"""
    return link.kind == KIND and link.mac == mac
