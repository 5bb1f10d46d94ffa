"""Actions on network interfaces."""

from collections.abc import Iterable

from compose.lab.cloud.core import paging, render, requests
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions.registry import (
    ECS,
    Body,
    action,
    at_most_one,
    has_tags,
    new_tags,
    resource_group,
)
from compose.lab.cloud.core.errors import malformed, missing
from compose.lab.cloud.core.model import Eni, EniStatus, EniType


@action(ECS, changes=True)
def create(account: Account, r: requests.CreateNetworkInterface, now: float) -> Body:
    """Answers before the network interface is of any use; its status says when."""
    at_most_one(SecurityGroupId=r.SecurityGroupId, SecurityGroupIds=r.SecurityGroupIds)
    at_most_one(PrivateIpAddress=r.PrivateIpAddress, SecondaryPrivateIpAddressCount=r.SecondaryPrivateIpAddressCount)
    at_most_one(Ipv4Prefix=r.Ipv4Prefix, Ipv4PrefixCount=r.Ipv4PrefixCount)
    at_most_one(Ipv6Address=r.Ipv6Address, Ipv6AddressCount=r.Ipv6AddressCount)
    at_most_one(Ipv6Prefix=r.Ipv6Prefix, Ipv6PrefixCount=r.Ipv6PrefixCount)
    groups = r.SecurityGroupIds or [r.SecurityGroupId or ""]
    if not groups[0]:
        raise missing("SecurityGroupId")
    if r.InstanceType not in (EniType.SECONDARY, EniType.TRUNK):
        raise malformed("InstanceType", "Secondary or Trunk")
    if r.NetworkInterfaceTrafficMode not in ("Standard", "HighPerformance"):
        raise malformed("NetworkInterfaceTrafficMode", "Standard or HighPerformance")
    eni = account.create_eni(
        vswitch=r.VSwitchId,
        security_groups=groups,
        now=now,
        kind=EniType(r.InstanceType),
        primary_ip=r.PrimaryIpAddress,
        addresses=r.PrivateIpAddress,
        secondary_count=r.SecondaryPrivateIpAddressCount or 0,
        ipv6_count=r.Ipv6AddressCount or 0,
        ipv6_addresses=r.Ipv6Address,
        ipv4_prefix_count=r.Ipv4PrefixCount or 0,
        ipv4_prefixes=r.Ipv4Prefix,
        ipv6_prefix_count=r.Ipv6PrefixCount or 0,
        ipv6_prefixes=r.Ipv6Prefix,
        name=r.NetworkInterfaceName,
        description=r.Description,
        tags=new_tags(account, r.Tag),
        resource_group=resource_group(account, r.ResourceGroupId),
        delete_on_release=r.DeleteOnRelease,
        source_dest_check=r.SourceDestCheck,
        traffic_mode=r.NetworkInterfaceTrafficMode,
    )
    return render.created_eni(account, eni)


@action(ECS, changes=True)
def attach(account: Account, r: requests.AttachNetworkInterface, now: float) -> Body:
    """Asynchronous: Attaching, later InUse."""
    account.attach_eni(r.NetworkInterfaceId, r.InstanceId, now, trunk=r.TrunkNetworkInstanceId)
    return {}


@action(ECS, changes=True)
def detach(account: Account, r: requests.DetachNetworkInterface, now: float) -> Body:
    """Asynchronous: Detaching, later Available."""
    account.detach_eni(r.NetworkInterfaceId, r.InstanceId, now)
    return {}


@action(ECS, changes=True)
def delete(account: Account, r: requests.DeleteNetworkInterface, now: float) -> Body:
    """Asynchronous: Deleting, later gone."""
    account.delete_eni(r.NetworkInterfaceId, now)
    return {}


@action(ECS, changes=False)
def describe(account: Account, r: requests.DescribeNetworkInterfaces, now: float) -> Body:
    """What is not there is left out; there is no "not found"."""
    _check(r)
    matching = _filtered(account, r, _candidates(account, r))
    page, fields = paging.either(
        matching, number=r.PageNumber, size=r.PageSize, token=r.NextToken, most=r.MaxResults, default=10
    )
    return {**fields, "NetworkInterfaceSets": {"NetworkInterfaceSet": [render.eni(account, e) for e in page]}}


def _check(r: requests.DescribeNetworkInterfaces) -> None:
    """What cannot be is refused, not an empty list: a misspelt status must not look like "none"."""
    if r.Status is not None and r.Status not in tuple(EniStatus):
        raise malformed("Status", ", ".join(EniStatus))
    if r.Type is not None and r.Type not in tuple(EniType):
        raise malformed("Type", ", ".join(EniType))


def _candidates(account: Account, r: requests.DescribeNetworkInterfaces) -> Iterable[Eni]:
    """The narrowest index that the filters allow: listing one node's must not cost the account's 10,000."""
    if r.NetworkInterfaceId:
        return [account.enis[e] for e in dict.fromkeys(r.NetworkInterfaceId) if e in account.enis]
    if r.InstanceId:
        return account.enis_of(r.InstanceId)
    if at := (r.PrivateIpAddress or r.Ipv6Address or ([r.PrimaryIpAddress] if r.PrimaryIpAddress else [])):
        owners = (account.eni_at(address) for address in at)
        return {eni.id: eni for eni in owners if eni is not None}.values()
    if r.SecurityGroupId:
        return [account.enis[e] for e in account.members.get(r.SecurityGroupId, ())]
    return account.enis.values()


def _filtered(account: Account, r: requests.DescribeNetworkInterfaces, enis: Iterable[Eni]) -> list[Eni]:
    """Those that fit all that was asked for. Of 10,000, so no calls per interface where a comparison does."""
    if r.VpcId not in (None, account.layout.vpc):
        return []
    equal: dict[str, str | None] = {
        "vswitch": r.VSwitchId,
        "instance": r.InstanceId,
        "type": r.Type,
        "status": r.Status,
        "name": r.NetworkInterfaceName,
        "resource_group": r.ResourceGroupId,
        "primary_ip": r.PrimaryIpAddress,
    }
    contained: dict[str, list[str]] = {
        "security_groups": [r.SecurityGroupId] if r.SecurityGroupId else [],
        "ipv4": r.PrivateIpAddress,
        "ipv6": r.Ipv6Address,
    }
    found = list(enis)
    for name, value in equal.items():
        if value is not None:
            found = [eni for eni in found if getattr(eni, name) == value]
    for name, values in contained.items():
        if values:
            wanted = frozenset(values)
            found = [eni for eni in found if not wanted.isdisjoint(getattr(eni, name))]
    return [eni for eni in found if has_tags(r.Tag, eni.tags)] if r.Tag else found


@action(ECS, changes=False)
def describe_one(account: Account, r: requests.DescribeNetworkInterfaceAttribute, now: float) -> Body:
    """The same fields as in a listing."""
    return render.eni(account, account.eni(r.NetworkInterfaceId))


@action(ECS, changes=True)
def modify(account: Account, r: requests.ModifyNetworkInterfaceAttribute, now: float) -> Body:
    """Only what is given changes."""
    eni = account.eni(r.NetworkInterfaceId)
    if r.SecurityGroupId:
        account.set_groups(eni, list(dict.fromkeys(r.SecurityGroupId)))
    if r.NetworkInterfaceName is not None:
        eni.name = r.NetworkInterfaceName
    if r.Description is not None:
        eni.description = r.Description
    if r.DeleteOnRelease is not None:
        eni.delete_on_release = r.DeleteOnRelease
    if r.SourceDestCheck is not None:
        eni.source_dest_check = r.SourceDestCheck
    return {}
