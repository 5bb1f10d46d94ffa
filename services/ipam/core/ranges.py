"""The node's own pod ranges as pool items: where mode vpc-route takes its addresses from (terway.md §5.6).

eni_manager says which ranges the VPC routes to this node; which addresses of them there are follows from the ranges
alone, so nothing is asked of the cloud and nothing goes back to it. Leases, rest and order of use are the pool's, as
ever: the longest unused goes first, which is host-local's round.

As with host-local, the network's address, the gateway's (the first) and, with IPv4, the broadcast address are nobody's.
With two ranges an item is a pair: the addresses of the same place in both.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from msgspec.structs import replace

from shared.contracts.eni import EniAddress, EniView, Inventory, PodRange
from shared.errors import Invalid
from shared.model import Cidr, EniId, Ip, Mac, Mode, Subnet

FROM_RANGES = frozenset({Mode.VPC_ROUTE})
"""Modes whose addresses are the node's own; in the others each is the cloud's to give."""

MOST = 4094
"""A node runs some hundreds of pods at most; of a larger range than that (an IPv6 one always is) the rest lies idle."""


def expanded(inventory: Inventory) -> Inventory:
    """The inventory with the items of its ranges, in modes that take addresses from them; else as it is.

    Interfaces that an earlier mode left are nobody's source of addresses.
    """
    if inventory.mode not in FROM_RANGES:
        return inventory
    view = _view(tuple(inventory.ranges))
    enis = [view] if view.addresses else []
    return replace(inventory, enis=enis, capacity=len(view.addresses), addresses_per_eni=len(view.addresses))


@lru_cache(maxsize=4)
def _view(ranges: tuple[PodRange, ...]) -> EniView:
    four = next((one for one in ranges if ":" not in one.cidr), None)
    six = next((one for one in ranges if ":" in one.cidr), None)
    sizes = [size(one.cidr) for one in (four, six) if one is not None]
    addresses = [
        EniAddress(
            ipv4=None if four is None else _at(four.cidr, place),
            ipv6=None if six is None else _at(six.cidr, place),
            usable=all(one.usable for one in (four, six) if one is not None),
        )
        for place in range(2, 2 + min(sizes, default=0))
    ]
    return EniView(
        id=EniId(""),
        mac=Mac(""),
        state="routed",
        addresses=addresses,
        max_addresses=len(addresses),
        subnet4=None if four is None or not addresses else subnet(four.cidr),
        subnet6=None if six is None or not addresses else subnet(six.cidr),
    )


def size(cidr: Cidr) -> int:
    """How many pods a range is for; none, if it is too small to have a gateway beside them."""
    network = _network(cidr)
    besides = 3 if network.version == 4 else 2
    return max(0, min(network.num_addresses - besides, MOST))


def subnet(cidr: Cidr) -> Subnet:
    """The range with its gateway, the first address."""
    return Subnet(cidr, _at(cidr, 1))


def _at(cidr: Cidr, place: int) -> Ip:
    return Ip(str(_network(cidr)[place]))


def _network(cidr: Cidr) -> IPv4Network | IPv6Network:
    try:
        return ip_network(cidr)
    except ValueError as error:
        raise Invalid(f"pod range {cidr!r} of this node is none: {error}") from error
