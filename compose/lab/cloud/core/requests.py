"""What each action takes, with the names and limits of the API reference (terway.md §6.12).

A parameter that is not listed here is refused: on a development cloud a misspelt name should hurt.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
PerCall = Annotated[int, Meta(ge=1, le=10)]
"""Addresses that one Assign call may ask for (terway.md §6.12)."""
Some = Annotated[list[str], Meta(max_length=10)]
"""Addresses or prefixes that one call may name."""
Ids = Annotated[list[str], Meta(max_length=100)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ClientToken` makes a call idempotent; any changing action takes it."""


class TagPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `Tag.N`."""

    Key: Annotated[str, Meta(min_length=1, max_length=128)]
    Value: Annotated[str, Meta(max_length=128)] = ""


class CreateNetworkInterface(Request, frozen=True):
    """A new secondary network interface."""

    VSwitchId: str
    SecurityGroupId: str | None = None
    SecurityGroupIds: Annotated[list[str], Meta(max_length=16)] = []
    InstanceType: str = "Secondary"
    NetworkInterfaceTrafficMode: str = "Standard"
    PrimaryIpAddress: str | None = None
    PrivateIpAddress: Annotated[list[str], Meta(max_length=49)] = []
    SecondaryPrivateIpAddressCount: Annotated[int, Meta(ge=1, le=49)] | None = None
    Ipv6AddressCount: PerCall | None = None
    Ipv6Address: Some = []
    Ipv4PrefixCount: PerCall | None = None
    Ipv4Prefix: Some = []
    Ipv6PrefixCount: PerCall | None = None
    Ipv6Prefix: Some = []
    NetworkInterfaceName: Annotated[str, Meta(max_length=128)] = ""
    Description: Annotated[str, Meta(max_length=256)] = ""
    Tag: Annotated[list[TagPair], Meta(max_length=20)] = []
    ResourceGroupId: str = ""
    DeleteOnRelease: bool = True
    SourceDestCheck: bool = False
    ClientToken: str | None = None


class AttachNetworkInterface(Request, frozen=True):
    """Put a network interface into an instance."""

    NetworkInterfaceId: str
    InstanceId: str
    TrunkNetworkInstanceId: str | None = None
    NetworkCardIndex: int | None = None
    WaitForNetworkConfigurationReady: bool = False
    ClientToken: str | None = None


class DetachNetworkInterface(Request, frozen=True):
    """Take a network interface out of an instance."""

    NetworkInterfaceId: str
    InstanceId: str
    TrunkNetworkInstanceId: str | None = None
    ClientToken: str | None = None


class DeleteNetworkInterface(Request, frozen=True):
    """Delete a network interface that no instance has."""

    NetworkInterfaceId: str
    ClientToken: str | None = None


class DescribeNetworkInterfaces(Request, frozen=True):
    """Page through network interfaces; every filter that is given must match."""

    VpcId: str | None = None
    VSwitchId: str | None = None
    InstanceId: str | None = None
    Type: str | None = None
    Status: str | None = None
    SecurityGroupId: str | None = None
    NetworkInterfaceName: str | None = None
    ResourceGroupId: str | None = None
    PrimaryIpAddress: str | None = None
    NetworkInterfaceId: Ids = []
    PrivateIpAddress: Ids = []
    Ipv6Address: Ids = []
    Tag: Annotated[list[TagPair], Meta(max_length=20)] = []
    PageNumber: Count | None = None
    PageSize: Annotated[int, Meta(ge=1, le=500)] | None = None
    NextToken: str | None = None
    MaxResults: Annotated[int, Meta(ge=1, le=500)] | None = None


class DescribeNetworkInterfaceAttribute(Request, frozen=True):
    """One network interface."""

    NetworkInterfaceId: str
    Attribute: str | None = None
    Tag: list[TagPair] = []


class ModifyNetworkInterfaceAttribute(Request, frozen=True):
    """Change a network interface's security groups, name and description."""

    NetworkInterfaceId: str
    SecurityGroupId: list[str] = []
    NetworkInterfaceName: Annotated[str, Meta(max_length=128)] | None = None
    Description: Annotated[str, Meta(max_length=256)] | None = None
    DeleteOnRelease: bool | None = None
    SourceDestCheck: bool | None = None
    ClientToken: str | None = None


class AssignPrivateIpAddresses(Request, frozen=True):
    """Secondary private addresses: so many, or exactly these."""

    NetworkInterfaceId: str
    SecondaryPrivateIpAddressCount: PerCall | None = None
    PrivateIpAddress: Some = []
    Ipv4PrefixCount: PerCall | None = None
    Ipv4Prefix: Some = []
    ClientToken: str | None = None


class UnassignPrivateIpAddresses(Request, frozen=True):
    """Give secondary private addresses back."""

    NetworkInterfaceId: str
    PrivateIpAddress: Annotated[list[str], Meta(max_length=49)] = []
    Ipv4Prefix: Some = []
    ClientToken: str | None = None


class AssignIpv6Addresses(Request, frozen=True):
    """IPv6 addresses: so many, or exactly these."""

    NetworkInterfaceId: str
    Ipv6AddressCount: PerCall | None = None
    Ipv6Address: Some = []
    Ipv6PrefixCount: PerCall | None = None
    Ipv6Prefix: Some = []
    ClientToken: str | None = None


class UnassignIpv6Addresses(Request, frozen=True):
    """Give IPv6 addresses back."""

    NetworkInterfaceId: str
    Ipv6Address: Annotated[list[str], Meta(max_length=49)] = []
    Ipv6Prefix: Some = []
    ClientToken: str | None = None


class DescribeInstanceTypes(Request, frozen=True):
    """What types of machines there are."""

    InstanceTypes: Annotated[list[str], Meta(max_length=10)] = []
    InstanceTypeFamily: str | None = None
    NextToken: str | None = None
    MaxResults: Annotated[int, Meta(ge=1, le=100)] | None = None


class DescribeInstances(Request, frozen=True):
    """Page through instances."""

    InstanceIds: str | None = None
    """A JSON array of ids, in one string."""
    VpcId: str | None = None
    VSwitchId: str | None = None
    ZoneId: str | None = None
    InstanceName: str | None = None
    InstanceType: str | None = None
    Status: str | None = None
    SecurityGroupId: str | None = None
    PageNumber: Count | None = None
    PageSize: Annotated[int, Meta(ge=1, le=100)] | None = None
    NextToken: str | None = None
    MaxResults: Annotated[int, Meta(ge=1, le=100)] | None = None


class DescribeInstanceAttribute(Request, frozen=True):
    """One instance."""

    InstanceId: str


class DescribeVSwitches(Request, frozen=True):
    """Page through vSwitches (VPC API)."""

    VSwitchId: str | None = None
    VpcId: str | None = None
    ZoneId: str | None = None
    VSwitchName: str | None = None
    RouteTableId: str | None = None
    ResourceGroupId: str | None = None
    EnableIpv6: bool | None = None
    IsDefault: bool | None = None
    Tag: Annotated[list[TagPair], Meta(max_length=20)] = []
    PageNumber: Count | None = None
    PageSize: Annotated[int, Meta(ge=1, le=50)] | None = None
