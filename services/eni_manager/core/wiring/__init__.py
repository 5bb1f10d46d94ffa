"""From a lease to what the kernel should hold, as values; and from there to what has to change.

    lease ─► wire(mode's file) ─► Wiring ─┐
                                          ├─► changes() ─► put / drop, one sentence each ─► ADD · CHECK · repair
    kernel ─► adapters/netlink ─► Side ───┘

One file per mode. Set-up, listing, check and teardown all read the one Wiring, so a mode cannot forget one of them.
"""

from services.eni_manager.core.wiring.exclusive import exclusive_eni
from services.eni_manager.core.wiring.ipvlan import shared_ipvlan
from services.eni_manager.core.wiring.values import EniLink, Node, Wiring
from services.eni_manager.core.wiring.veth import shared_veth
from services.eni_manager.core.wiring.vpc_route import vpc_route
from shared.contracts.ipam import Lease
from shared.errors import Refused
from shared.model import Mode

WITHOUT_ENI = frozenset({Mode.VPC_ROUTE, Mode.EXCLUSIVE_ENI})
"""Modes whose pods are on no ENI that is the node's: on none, or on one that is theirs."""


def wire(lease: Lease, node: Node, eni: EniLink | None, *, mtu: int | None = None) -> Wiring:
    """What this lease wants of the kernel; `eni` is None for the modes WITHOUT_ENI. Raises Refused: no match."""
    match lease.mode, eni:
        case Mode.SHARED_VETH, EniLink():
            return shared_veth(lease, node, eni, mtu=mtu)
        case Mode.SHARED_IPVLAN, EniLink():
            return shared_ipvlan(lease, node, eni, mtu=mtu)
        case Mode.VPC_ROUTE, None:
            return vpc_route(lease, node, mtu=mtu)
        case Mode.EXCLUSIVE_ENI, None:
            return exclusive_eni(lease, node, mtu=mtu)
        case _:
            with_or_without = "without" if eni is None else "on"
            raise Refused(f"a pod of mode {lease.mode} cannot be wired {with_or_without} an ENI of the node's")
