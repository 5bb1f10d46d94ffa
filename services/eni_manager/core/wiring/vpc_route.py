"""VPC routes: pods have addresses of the node's own range, and the VPC's route table knows the node (terway.md §5.6).

pod  as with shared-veth
host cali…    podIP dev cali… scope link     (table main)
              no rules, no ENI: what leaves goes by the node's default route
     nft      from a pod to what is no pod: masqueraded     (table ip terway_brb_masq, once per node)
              to an address of the node's range that no pod has: unreachable. The VPC hands all of the range to the
              node, whose default route leads back to the VPC: such a packet would go to and fro until its end.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

import msgspec

from services.eni_manager.core.wiring.values import Node, Wiring
from services.eni_manager.core.wiring.veth import host_side, pair_of, pod_side
from shared.contracts.ipam import Lease
from shared.model import Cidr

NFT_TABLE = "terway_brb_masq"
"""Terway's chain is `terway-brb-masq`."""
UNREACHABLE = {4: "icmp type host-unreachable", 6: "icmpv6 type addr-unreachable"}


def vpc_route(lease: Lease, node: Node, *, mtu: int | None = None) -> Wiring:
    """What this lease wants. `mtu` None: the node's usual one."""
    pair = pair_of(lease, node.mtu if mtu is None else mtu)
    return Wiring(key=lease.key, mode=lease.mode, veth=pair, host=host_side(lease, pair), pod=pod_side(lease, pair))


class Nat(msgspec.Struct, frozen=True):
    """Packets from `sources` to anywhere but `inside` bear the node's address when they leave it; empty: none does."""

    sources: frozenset[Cidr] = frozenset()
    inside: frozenset[Cidr] = frozenset()


def masquerade(nat: Nat) -> str:
    """Outbound NAT, and the end of the way for who has no pod, as one nft transaction that replaces what was there."""
    return "".join(_table(family, nat) for family in ("ip", "ip6"))


def _table(family: str, nat: Nat) -> str:
    version = 4 if family == "ip" else 6
    sources, inside = _ranges(nat.sources, version), _ranges(nat.inside, version)
    text = f"table {family} {NFT_TABLE}\ndelete table {family} {NFT_TABLE}\n"
    if not sources:
        return text
    elsewhere = f"{family} daddr != {{ {inside} }} " if inside else ""
    return f"""{text}table {family} {NFT_TABLE} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        {family} saddr {{ {sources} }} {elsewhere}masquerade
    }}
    chain forward {{
        type filter hook forward priority filter
        {family} daddr {{ {sources} }} rt {family} nexthop != {{ {sources} }} reject with {UNREACHABLE[version]}
    }}
}}
"""


def _ranges(cidrs: Iterable[Cidr], version: int) -> str:
    """Those of one family as an nft set, which takes no ranges that lie in one another."""
    networks = [ip_network(cidr) for cidr in cidrs]
    if version == 4:
        return ", ".join(map(str, collapse_addresses(one for one in networks if isinstance(one, IPv4Network))))
    return ", ".join(map(str, collapse_addresses(one for one in networks if isinstance(one, IPv6Network))))
