"""Actions on the addresses and prefixes of a network interface.

Each takes effect on packets before its answer; the metadata service lags behind.
"""

from compose.lab.cloud.core import requests
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions.registry import ECS, Body, action, at_most_one
from compose.lab.cloud.core.errors import missing
from shared.model import Cidr, Ip


@action(ECS, changes=True)
def assign_ipv4(account: Account, r: requests.AssignPrivateIpAddresses, now: float) -> Body:
    """So many, or exactly these; addresses or prefixes."""
    count, prefixes = r.SecondaryPrivateIpAddressCount, r.Ipv4PrefixCount
    at_most_one(
        SecondaryPrivateIpAddressCount=count,
        PrivateIpAddress=r.PrivateIpAddress,
        Ipv4PrefixCount=prefixes,
        Ipv4Prefix=r.Ipv4Prefix,
    )
    fresh: list[Ip] = []
    blocks: list[Cidr] = []
    if prefixes or r.Ipv4Prefix:
        blocks = account.assign_ipv4_prefixes(r.NetworkInterfaceId, now, count=prefixes or 0, prefixes=r.Ipv4Prefix)
    elif count or r.PrivateIpAddress:
        fresh = account.assign_ipv4(r.NetworkInterfaceId, now, count=count or 0, addresses=r.PrivateIpAddress)
    else:
        raise missing("SecondaryPrivateIpAddressCount")
    return {
        "AssignedPrivateIpAddressesSet": {
            "NetworkInterfaceId": r.NetworkInterfaceId,
            "PrivateIpSet": {"PrivateIpAddress": fresh},
            "Ipv4PrefixSet": {"Ipv4Prefixes": blocks},
        }
    }


@action(ECS, changes=True)
def unassign_ipv4(account: Account, r: requests.UnassignPrivateIpAddresses, now: float) -> Body:
    """All that are named, or none."""
    if not r.PrivateIpAddress and not r.Ipv4Prefix:
        raise missing("PrivateIpAddress")
    account.unassign_ipv4(r.NetworkInterfaceId, now, r.PrivateIpAddress, r.Ipv4Prefix)
    return {}


@action(ECS, changes=True)
def assign_ipv6(account: Account, r: requests.AssignIpv6Addresses, now: float) -> Body:
    """So many, or exactly these; addresses or prefixes."""
    count, prefixes = r.Ipv6AddressCount, r.Ipv6PrefixCount
    at_most_one(Ipv6AddressCount=count, Ipv6Address=r.Ipv6Address, Ipv6PrefixCount=prefixes, Ipv6Prefix=r.Ipv6Prefix)
    fresh: list[Ip] = []
    blocks: list[Cidr] = []
    if prefixes or r.Ipv6Prefix:
        blocks = account.assign_ipv6_prefixes(r.NetworkInterfaceId, now, count=prefixes or 0, prefixes=r.Ipv6Prefix)
    elif count or r.Ipv6Address:
        fresh = account.assign_ipv6(r.NetworkInterfaceId, now, count=count or 0, addresses=r.Ipv6Address)
    else:
        raise missing("Ipv6AddressCount")
    return {
        "NetworkInterfaceId": r.NetworkInterfaceId,
        "Ipv6Sets": {"Ipv6Address": fresh},
        "Ipv6PrefixSets": {"Ipv6Prefix": blocks},
    }


@action(ECS, changes=True)
def unassign_ipv6(account: Account, r: requests.UnassignIpv6Addresses, now: float) -> Body:
    """All that are named, or none."""
    if not r.Ipv6Address and not r.Ipv6Prefix:
        raise missing("Ipv6Address")
    account.unassign_ipv6(r.NetworkInterfaceId, now, r.Ipv6Address, r.Ipv6Prefix)
    return {}
