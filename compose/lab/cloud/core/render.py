"""How the API prints what the account holds; field names and types are those of the official SDK's models."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.catalogue import InstanceType
from compose.lab.cloud.core.model import Direction, Eni, Instance, RouteEntry, Rule, SecurityGroup, VSwitch
from shared.model import Ip


class PrivateIp(msgspec.Struct, frozen=True, gc=False):
    """`PrivateIpSet`: there are 10,000 of them in a large page, which the collector of garbage need not look at."""

    PrivateIpAddress: Ip
    Primary: bool = False


def private_ips(one: Eni) -> list[PrivateIp]:
    """The primary address first."""
    return [PrivateIp(one.primary_ip, True), *map(PrivateIp, one.ipv4[1:])]


def stamp(at: float) -> str:
    """A moment as the API writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def eni(account: Account, one: Eni) -> dict[str, Any]:
    """`NetworkInterfaceSet` of DescribeNetworkInterfaces."""
    entry: dict[str, Any] = {
        "NetworkInterfaceId": one.id,
        "NetworkInterfaceName": one.name,
        "Description": one.description,
        "MacAddress": one.mac,
        "Status": one.status,
        "Type": one.type,
        "VpcId": account.layout.vpc,
        "VSwitchId": one.vswitch,
        "ZoneId": one.zone,
        "CreationTime": stamp(one.created_at),
        "PrivateIpAddress": one.primary_ip,
        "PrivateIpSets": {"PrivateIpSet": private_ips(one)},
        "Ipv6Sets": {"Ipv6Set": [{"Ipv6Address": address} for address in one.ipv6]},
        "Ipv4PrefixSets": {"Ipv4PrefixSet": [{"Ipv4Prefix": prefix} for prefix in one.ipv4_prefixes]},
        "Ipv6PrefixSets": {"Ipv6PrefixSet": [{"Ipv6Prefix": prefix} for prefix in one.ipv6_prefixes]},
        "SecurityGroupIds": {"SecurityGroupId": one.security_groups},
        "Tags": {"Tag": [{"TagKey": t.key, "TagValue": t.value} for t in one.tags]},
        "ResourceGroupId": one.resource_group,
        "NetworkInterfaceTrafficMode": one.traffic_mode,
        "DeleteOnRelease": one.delete_on_release,
        "SourceDestCheck": one.source_dest_check,
        "QueueNumber": 2,
        "OwnerId": "1",
        "ServiceID": 0,
        "ServiceManaged": False,
    }
    if one.instance is not None:
        entry["InstanceId"] = one.instance
        entry["Attachment"] = {"InstanceId": one.instance, "DeviceIndex": one.vlan, "NetworkCardIndex": 0}
        if one.trunk is not None:
            entry["Attachment"]["TrunkNetworkInterfaceId"] = one.trunk
    return entry


_NOT_WHEN_CREATED = ("CreationTime", "NetworkInterfaceTrafficMode", "DeleteOnRelease", "QueueNumber")


def created_eni(account: Account, one: Eni) -> dict[str, Any]:
    """The answer of CreateNetworkInterface, which knows less than a listing."""
    return {name: value for name, value in eni(account, one).items() if name not in _NOT_WHEN_CREATED}


def instance(account: Account, one: Instance) -> dict[str, Any]:
    """`Instance` of DescribeInstances."""
    enis = account.enis_of(one.id)
    return {
        "InstanceId": one.id,
        "InstanceName": one.name,
        "HostName": one.name,
        "InstanceType": one.type,
        "InstanceTypeFamily": account.instance_type(one.type).family,
        "RegionId": account.layout.region,
        "ZoneId": one.zone,
        "Status": "Running",
        "InstanceNetworkType": "vpc",
        "CreationTime": stamp(one.created_at),
        "VpcAttributes": {
            "VpcId": account.layout.vpc,
            "VSwitchId": one.vswitch,
            "PrivateIpAddress": {"IpAddress": [account.eni(one.primary_eni).primary_ip]},
            "NatIpAddress": "",
        },
        "SecurityGroupIds": {"SecurityGroupId": account.eni(one.primary_eni).security_groups},
        "NetworkInterfaces": {
            "NetworkInterface": [
                {
                    "NetworkInterfaceId": e.id,
                    "MacAddress": e.mac,
                    "PrimaryIpAddress": e.primary_ip,
                    "Type": e.type,
                    "PrivateIpSets": {"PrivateIpSet": private_ips(e)},
                }
                for e in enis
            ]
        },
    }


def instance_attribute(account: Account, one: Instance) -> dict[str, Any]:
    """The answer of DescribeInstanceAttribute, which knows less than a listing."""
    known = instance(account, one)
    return {name: value for name, value in known.items() if name not in ("InstanceTypeFamily", "NetworkInterfaces")}


def instance_type(one: InstanceType) -> dict[str, Any]:
    """`InstanceType` of DescribeInstanceTypes."""
    return {
        "InstanceTypeId": one.name,
        "InstanceTypeFamily": one.family,
        "CpuCoreCount": one.cpus,
        "MemorySize": 4.0 * one.cpus,
        "EniQuantity": one.eni_quantity,
        "EniTotalQuantity": one.eni_total,
        "EniPrivateIpAddressQuantity": one.ipv4_per_eni,
        "EniIpv6AddressQuantity": one.ipv6_per_eni,
        "EniTrunkSupported": one.trunk,
        "EriQuantity": 0,
        "InstanceBandwidthRx": 10_240_000,
        "InstanceBandwidthTx": 10_240_000,
        "NetworkCardQuantity": 1,
        "NetworkCards": {"NetworkCardInfo": [{"NetworkCardIndex": 0}]},
    }


def vswitch(account: Account, one: VSwitch) -> dict[str, Any]:
    """`VSwitch` of DescribeVSwitches."""
    return {
        "VSwitchId": one.id,
        "VSwitchName": one.id,
        "VpcId": account.layout.vpc,
        "ZoneId": one.zone,
        "CidrBlock": one.cidr,
        "Ipv6CidrBlock": one.ipv6_cidr,
        "EnabledIpv6": bool(one.ipv6_cidr),
        "Description": "",
        "CreationTime": stamp(0),
        "ResourceGroupId": account.layout.resource_groups[0],
        "RouteTable": {"RouteTableId": account.layout.route_table, "RouteTableType": "System"},
        "AvailableIpAddressCount": account.free_addresses(one.id),
        "Status": "Available",
        "IsDefault": False,
        "Tags": {"Tag": []},
    }


def security_group(account: Account, one: SecurityGroup, *, counted: bool) -> dict[str, Any]:
    """`SecurityGroup` of DescribeSecurityGroups; counting who is in it is for those who ask."""
    entry: dict[str, Any] = {
        "SecurityGroupId": one.id,
        "SecurityGroupName": one.name,
        "SecurityGroupType": one.kind,
        "Description": one.description,
        "VpcId": account.layout.vpc,
        "CreationTime": stamp(one.created_at),
        "ResourceGroupId": one.resource_group or account.layout.resource_groups[0],
        "RuleCount": len(one.rules),
        "GroupToGroupRuleCount": sum(bool(rule.peer_group) for rule in one.rules),
        "ServiceManaged": False,
        "ServiceID": 0,
        "Tags": {"Tag": [{"TagKey": t.key, "TagValue": t.value} for t in one.tags]},
    }
    if counted:
        instances = {account.enis[eni].instance for eni in account.members[one.id]} - {None}
        most = account.quotas.enis_per_group
        entry["EcsCount"] = len(instances)
        entry["AvailableInstanceAmount"] = 2000 - len(instances) if most is None else most - len(instances)
    return entry


def security_group_attribute(account: Account, one: SecurityGroup, rules: Iterable[Rule]) -> dict[str, Any]:
    """The answer of DescribeSecurityGroupAttribute with these rules."""
    return {
        "SecurityGroupId": one.id,
        "SecurityGroupName": one.name,
        "Description": one.description,
        "VpcId": account.layout.vpc,
        "RegionId": account.layout.region,
        "InnerAccessPolicy": "Accept" if one.kind == "normal" else "Drop",
        "Permissions": {"Permission": [_rule(account, rule) for rule in rules]},
    }


def _rule(account: Account, one: Rule) -> dict[str, Any]:
    """All fields are there, those without a meaning empty, as the API has it."""
    inbound = one.direction is Direction.INGRESS
    peer, own = ("Source", "Dest") if inbound else ("Dest", "Source")
    own_is_ipv6 = ":" in one.own_cidr
    named = account.security_groups.get(one.peer_group)
    return {
        "SecurityGroupRuleId": one.id,
        "Direction": one.direction,
        "IpProtocol": one.protocol,
        "PortRange": one.ports,
        "SourcePortRange": one.source_ports,
        f"{peer}CidrIp": one.peer_cidr,
        f"Ipv6{peer}CidrIp": one.peer_cidr6,
        f"{own}CidrIp": "" if own_is_ipv6 else one.own_cidr,
        f"Ipv6{own}CidrIp": one.own_cidr if own_is_ipv6 else "",
        f"{peer}GroupId": one.peer_group,
        f"{peer}GroupName": named.name if named else "",
        f"{own}GroupId": "",
        f"{own}GroupName": "",
        "Policy": "Accept" if one.accept else "Drop",
        "Priority": str(one.priority),
        "NicType": "intranet",
        "Description": one.description,
        "CreateTime": stamp(one.created_at),
    }


def route_entry(account: Account, one: RouteEntry, kind: str) -> dict[str, Any]:
    """`RouteEntry` of DescribeRouteEntryList; `kind` is System or Custom."""
    hop: dict[str, Any] = {"NextHopType": one.next_hop_type, "NextHopId": one.next_hop, "Enabled": 1, "Weight": 0}
    if one.next_hop:
        hop["NextHopRegionId"] = account.layout.region
    return {
        "RouteEntryId": one.id,
        "RouteTableId": one.table,
        "DestinationCidrBlock": one.destination,
        "IpVersion": "ipv6" if ":" in one.destination else "ipv4",
        "Type": kind,
        "Status": one.status,
        "RouteEntryName": one.name,
        "Description": one.description,
        "GmtModified": stamp(one.created_at),
        "NextHops": {"NextHop": [hop]},
    }


def route_table(account: Account) -> dict[str, Any]:
    """`RouterTableListType` of DescribeRouteTableList."""
    layout = account.layout
    return {
        "RouteTableId": layout.route_table,
        "RouteTableName": layout.route_table,
        "RouteTableType": "System",
        "RouterId": layout.router,
        "RouterType": "VRouter",
        "VpcId": layout.vpc,
        "VSwitchIds": {"VSwitchId": list(account.vswitches)},
        "AssociateType": "VSwitch",
        "Status": "Available",
        "Description": "",
        "CreationTime": stamp(0),
        "ResourceGroupId": layout.resource_groups[0],
        "RoutePropagationEnable": False,
        "Tags": {"Tag": []},
    }
