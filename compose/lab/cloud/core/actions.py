"""The actions: one function each, from a typed request to the body of its answer."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar, cast

import msgspec

from compose.lab.cloud.core import paging, render, requests
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.catalogue import TYPES
from compose.lab.cloud.core.errors import CloudError, exclusive, malformed, missing, security_group_not_found
from compose.lab.cloud.core.model import Eni, EniType, Tag

R = TypeVar("R", bound=msgspec.Struct)
Body = dict[str, Any]
Handler = Callable[[Account, R, float], Body]

ECS, VPC = "2014-05-26", "2016-04-28"


class Action(msgspec.Struct, frozen=True):
    """One entry of the API."""

    name: str
    version: str
    request: type[msgspec.Struct]
    run: Callable[[Account, Any, float], Body]
    changes: bool
    """Whether a ClientToken means something to it."""


ACTIONS: dict[tuple[str, str], Action] = {}
"""By version and name."""


def action(version: str, *, changes: bool) -> Callable[[Handler[R]], Handler[R]]:
    """Register a function as the action that its request's class is named after."""

    def register(run: Handler[R]) -> Handler[R]:
        kind = cast(type[msgspec.Struct], run.__annotations__["r"])
        ACTIONS[version, kind.__name__] = Action(kind.__name__, version, kind, run, changes)
        return run

    return register


def _no_prefixes(*values: object) -> None:
    if any(values):
        raise CloudError("UnsupportedOperation.Prefix", "The lab's cloud does not give IP prefixes yet.", 403)


# ---- network interfaces


@action(ECS, changes=True)
def create(account: Account, r: requests.CreateNetworkInterface, now: float) -> Body:
    """Answers before the network interface is of any use; its status says when."""
    _no_prefixes(r.Ipv4PrefixCount, r.Ipv6PrefixCount)
    if r.SecurityGroupId and r.SecurityGroupIds:
        raise exclusive("SecurityGroupId", "SecurityGroupIds")
    if r.PrivateIpAddress and r.SecondaryPrivateIpAddressCount:
        raise exclusive("PrivateIpAddress", "SecondaryPrivateIpAddressCount")
    groups = r.SecurityGroupIds or [r.SecurityGroupId or ""]
    if not groups[0]:
        raise missing("SecurityGroupId")
    if r.InstanceType not in (EniType.SECONDARY, EniType.TRUNK):
        raise malformed("InstanceType", "Secondary or Trunk")
    eni = account.create_eni(
        vswitch=r.VSwitchId,
        security_groups=groups,
        now=now,
        kind=EniType(r.InstanceType),
        primary_ip=r.PrimaryIpAddress,
        addresses=r.PrivateIpAddress,
        secondary_count=r.SecondaryPrivateIpAddressCount or 0,
        ipv6_count=r.Ipv6AddressCount or 0,
        name=r.NetworkInterfaceName,
        description=r.Description,
        tags=[Tag(t.Key, t.Value) for t in r.Tag],
        resource_group=r.ResourceGroupId,
        delete_on_release=r.DeleteOnRelease,
        source_dest_check=r.SourceDestCheck,
        traffic_mode=r.NetworkInterfaceTrafficMode,
    )
    return render.created_eni(account, eni)


@action(ECS, changes=True)
def attach(account: Account, r: requests.AttachNetworkInterface, now: float) -> Body:
    """Asynchronous: Attaching, later InUse."""
    if r.TrunkNetworkInstanceId:
        raise CloudError("UnsupportedOperation.Trunk", "The lab's cloud has no trunk members yet.", 403)
    account.attach_eni(r.NetworkInterfaceId, r.InstanceId, now)
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
    matching = list(_candidates(account, r))
    for keep in _filters(account, r):
        matching = [eni for eni in matching if keep(eni)]
    page, fields = paging.either(
        matching, number=r.PageNumber, size=r.PageSize, token=r.NextToken, most=r.MaxResults, default=10
    )
    return {**fields, "NetworkInterfaceSets": {"NetworkInterfaceSet": [render.eni(account, e) for e in page]}}


def _candidates(account: Account, r: requests.DescribeNetworkInterfaces) -> Iterable[Eni]:
    """The narrowest index that the filters allow: listing one node's must not cost the account's 10,000."""
    if r.NetworkInterfaceId:
        return [account.enis[e] for e in dict.fromkeys(r.NetworkInterfaceId) if e in account.enis]
    if r.InstanceId:
        return account.enis_of(r.InstanceId)
    if r.PrivateIpAddress:
        owners = (account.eni_at(address) for address in r.PrivateIpAddress)
        return {eni.id: eni for eni in owners if eni is not None}.values()
    return account.enis.values()


def _filters(account: Account, r: requests.DescribeNetworkInterfaces) -> list[Callable[[Eni], bool]]:
    """Only what was asked for."""
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
    filters: list[Callable[[Eni], bool]] = []
    if r.VpcId not in (None, account.layout.vpc):
        filters.append(lambda eni: False)
    filters += [partial(_is, name, value) for name, value in equal.items() if value is not None]
    filters += [partial(_has_any, name, values) for name, values in contained.items() if values]
    filters += [partial(_has_tag, wanted) for wanted in r.Tag]
    return filters


def _is(name: str, value: str, eni: Eni) -> bool:
    return bool(getattr(eni, name) == value)


def _has_any(name: str, values: list[str], eni: Eni) -> bool:
    return not set(values).isdisjoint(getattr(eni, name))


def _has_tag(wanted: requests.TagPair, eni: Eni) -> bool:
    return any(tag.key == wanted.Key and wanted.Value in ("", tag.value) for tag in eni.tags)


@action(ECS, changes=False)
def describe_one(account: Account, r: requests.DescribeNetworkInterfaceAttribute, now: float) -> Body:
    """The same fields as in a listing."""
    return render.eni(account, account.eni(r.NetworkInterfaceId))


@action(ECS, changes=True)
def modify(account: Account, r: requests.ModifyNetworkInterfaceAttribute, now: float) -> Body:
    """Only what is given changes."""
    eni = account.eni(r.NetworkInterfaceId)
    for group in r.SecurityGroupId:
        if group not in account.security_groups:
            raise security_group_not_found(group)
    eni.security_groups = r.SecurityGroupId or eni.security_groups
    if r.NetworkInterfaceName is not None:
        eni.name = r.NetworkInterfaceName
    if r.Description is not None:
        eni.description = r.Description
    if r.DeleteOnRelease is not None:
        eni.delete_on_release = r.DeleteOnRelease
    if r.SourceDestCheck is not None:
        eni.source_dest_check = r.SourceDestCheck
    return {}


# ---- addresses


@action(ECS, changes=True)
def assign_ipv4(account: Account, r: requests.AssignPrivateIpAddresses, now: float) -> Body:
    """Takes effect on packets before the answer; the metadata service lags behind."""
    _no_prefixes(r.Ipv4PrefixCount)
    count, addresses = r.SecondaryPrivateIpAddressCount, r.PrivateIpAddress
    if count and addresses:
        raise exclusive("SecondaryPrivateIpAddressCount", "PrivateIpAddress")
    if not count and not addresses:
        raise missing("SecondaryPrivateIpAddressCount")
    fresh = account.assign_ipv4(r.NetworkInterfaceId, now, count=count or 0, addresses=addresses)
    return {
        "AssignedPrivateIpAddressesSet": {
            "NetworkInterfaceId": r.NetworkInterfaceId,
            "PrivateIpSet": {"PrivateIpAddress": fresh},
            "Ipv4PrefixSet": {"Ipv4Prefixes": []},
        }
    }


@action(ECS, changes=True)
def unassign_ipv4(account: Account, r: requests.UnassignPrivateIpAddresses, now: float) -> Body:
    """Takes effect on packets before the answer; the metadata service lags behind."""
    _no_prefixes(r.Ipv4Prefix)
    if not r.PrivateIpAddress:
        raise missing("PrivateIpAddress")
    account.unassign_ipv4(r.NetworkInterfaceId, now, r.PrivateIpAddress)
    return {}


@action(ECS, changes=True)
def assign_ipv6(account: Account, r: requests.AssignIpv6Addresses, now: float) -> Body:
    """Known to the account and the metadata service; the fabric does not carry IPv6 yet."""
    _no_prefixes(r.Ipv6PrefixCount)
    if r.Ipv6AddressCount and r.Ipv6Address:
        raise exclusive("Ipv6AddressCount", "Ipv6Address")
    if not r.Ipv6AddressCount and not r.Ipv6Address:
        raise missing("Ipv6AddressCount")
    fresh = account.assign_ipv6(r.NetworkInterfaceId, now, count=r.Ipv6AddressCount or 0, addresses=r.Ipv6Address)
    return {
        "NetworkInterfaceId": r.NetworkInterfaceId,
        "Ipv6Sets": {"Ipv6Address": fresh},
        "Ipv6PrefixSets": {"Ipv6Prefix": []},
    }


@action(ECS, changes=True)
def unassign_ipv6(account: Account, r: requests.UnassignIpv6Addresses, now: float) -> Body:
    """The counterpart."""
    _no_prefixes(r.Ipv6Prefix)
    if not r.Ipv6Address:
        raise missing("Ipv6Address")
    account.unassign_ipv6(r.NetworkInterfaceId, now, r.Ipv6Address)
    return {}


# ---- instances and vSwitches


@action(ECS, changes=False)
def describe_types(account: Account, r: requests.DescribeInstanceTypes, now: float) -> Body:
    """Unknown names are left out."""
    family = r.InstanceTypeFamily
    matching = [
        t for t in TYPES.values() if (not r.InstanceTypes or t.name in r.InstanceTypes) and family in (None, t.family)
    ]
    page, fields = paging.tokened(matching, r.NextToken, r.MaxResults, 100)
    return {
        "NextToken": fields["NextToken"],
        "InstanceTypes": {"InstanceType": [render.instance_type(t) for t in page]},
    }


@action(ECS, changes=False)
def describe_instances(account: Account, r: requests.DescribeInstances, now: float) -> Body:
    """Unknown ids are left out."""
    wanted = _id_array(r.InstanceIds)
    matching = [
        i
        for i in account.instances.values()
        if (wanted is None or i.id in wanted)
        and r.VpcId in (None, account.layout.vpc)
        and r.VSwitchId in (None, i.vswitch)
        and r.ZoneId in (None, i.zone)
        and r.InstanceName in (None, i.name)
    ]
    page, fields = paging.either(
        matching, number=r.PageNumber, size=r.PageSize, token=r.NextToken, most=r.MaxResults, default=10
    )
    return {**fields, "Instances": {"Instance": [render.instance(account, i) for i in page]}}


def _id_array(text: str | None) -> list[str] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as e:
        raise malformed("InstanceIds", "a JSON array of instance ids") from e


@action(ECS, changes=False)
def describe_instance(account: Account, r: requests.DescribeInstanceAttribute, now: float) -> Body:
    """The older call for one instance."""
    return render.instance_attribute(account, account.instance(r.InstanceId))


@action(VPC, changes=False)
def describe_vswitches(account: Account, r: requests.DescribeVSwitches, now: float) -> Body:
    """`VSwitchId` may be several, separated by commas."""
    wanted = r.VSwitchId.split(",") if r.VSwitchId else None
    matching = [
        v
        for v in account.vswitches.values()
        if (wanted is None or v.id in wanted) and r.ZoneId in (None, v.zone) and r.VpcId in (None, account.layout.vpc)
    ]
    page, fields = paging.numbered(matching, r.PageNumber, r.PageSize, 10)
    return {**fields, "VSwitches": {"VSwitch": [render.vswitch(account, v) for v in page]}}
