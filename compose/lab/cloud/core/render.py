"""How the API prints what the account holds; field names and types are those of the official SDK's models."""

from datetime import UTC, datetime
from typing import Any

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.catalogue import InstanceType
from compose.lab.cloud.core.model import Eni, Instance, VSwitch


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
        "PrivateIpSets": {
            "PrivateIpSet": [
                {"PrivateIpAddress": address, "Primary": address == one.primary_ip} for address in one.ipv4
            ]
        },
        "Ipv6Sets": {"Ipv6Set": [{"Ipv6Address": address} for address in one.ipv6]},
        "Ipv4PrefixSets": {"Ipv4PrefixSet": []},
        "Ipv6PrefixSets": {"Ipv6PrefixSet": []},
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
        entry["Attachment"] = {"InstanceId": one.instance, "DeviceIndex": 0, "NetworkCardIndex": 0}
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
        "SecurityGroupIds": {"SecurityGroupId": one.security_groups},
        "NetworkInterfaces": {
            "NetworkInterface": [
                {
                    "NetworkInterfaceId": e.id,
                    "MacAddress": e.mac,
                    "PrimaryIpAddress": e.primary_ip,
                    "Type": e.type,
                    "PrivateIpSets": {
                        "PrivateIpSet": [
                            {"PrivateIpAddress": address, "Primary": address == e.primary_ip} for address in e.ipv4
                        ]
                    },
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
        "AvailableIpAddressCount": account.free_addresses(one.id),
        "Status": "Available",
        "IsDefault": False,
        "Tags": {"Tag": []},
    }
