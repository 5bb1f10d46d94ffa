"""VPC routes: pods have addresses of the node's own range, and the VPC's route table knows the node (terway.md §5.6).

pod  as with shared-veth
host cali…    podIP dev cali… scope link     (table main)
              no rules, no ENI: what leaves goes by the node's default route
     nft      from a pod to what is no pod: masqueraded     (table ip terway_brb_masq, once per node)
"""

from services.eni_manager.core.wiring.values import Node, Wiring
from services.eni_manager.core.wiring.veth import host_side, pair_of, pod_side
from shared.contracts.ipam import Lease
from shared.model import Cidr

NFT_TABLE = "terway_brb_masq"
"""Terway's chain is `terway-brb-masq`."""


def vpc_route(lease: Lease, node: Node, *, mtu: int | None = None) -> Wiring:
    """What this lease wants. `mtu` None: the node's usual one."""
    pair = pair_of(lease, node.mtu if mtu is None else mtu)
    return Wiring(key=lease.key, mode=lease.mode, veth=pair, host=host_side(lease, pair), pod=pod_side(lease, pair))


def masquerade(pod_cidr: Cidr) -> str:
    """Outbound NAT as one nft transaction that replaces what was there."""
    return f"""table ip {NFT_TABLE}
delete table ip {NFT_TABLE}
table ip {NFT_TABLE} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ip saddr {pod_cidr} ip daddr != {pod_cidr} masquerade
    }}
}}
"""
