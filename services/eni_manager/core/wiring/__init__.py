"""From a lease to what the kernel should hold, as values; and from there to what has to change.

    lease ─► wire(mode's file) ─► Wiring ─┐
                                          ├─► changes() ─► put / drop, one sentence each ─► ADD · CHECK · repair
    kernel ─► adapters/netlink ─► Side ───┘

One file per mode. Set-up, listing, check and teardown all read the one Wiring, so a mode cannot forget one of them.
"""

from services.eni_manager.core.wiring.values import EniLink, Node, Wiring
from services.eni_manager.core.wiring.veth import shared_veth
from shared.contracts.ipam import Lease
from shared.errors import Refused
from shared.model import Mode


def wire(lease: Lease, node: Node, eni: EniLink, *, mtu: int | None = None) -> Wiring:
    """What this lease wants of the kernel. Raises Refused for a mode that is not built."""
    match lease.mode:
        case Mode.SHARED_VETH:
            return shared_veth(lease, node, eni, mtu=mtu)
        case _:
            raise Refused(f"mode {lease.mode} has no dataplane here; pods can be wired in mode {Mode.SHARED_VETH}")
