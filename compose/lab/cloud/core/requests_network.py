"""What the actions on security groups, route tables and tags take, with the names and limits of the API reference."""

from typing import Annotated

import msgspec
from msgspec import Meta

from compose.lab.cloud.core.requests import Count, TagPair

Tags = Annotated[list[TagPair], Meta(max_length=20)]
Name = Annotated[str, Meta(max_length=128)]
Text = Annotated[str, Meta(max_length=512)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As in `requests.py`."""


class CreateSecurityGroup(Request, frozen=True):
    """A security group without rules."""

    SecurityGroupName: Name = ""
    Description: Text = ""
    SecurityGroupType: str = "normal"
    VpcId: str | None = None
    ResourceGroupId: str = ""
    Tag: Tags = []
    ClientToken: str | None = None


class DeleteSecurityGroup(Request, frozen=True):
    """One that nobody is in."""

    SecurityGroupId: str


class Permission(Request, frozen=True):
    """One rule. Which of `Source…` and `Dest…` is the peer, the action says."""

    IpProtocol: str = ""
    PortRange: str = ""
    SourcePortRange: str = ""
    SourceCidrIp: str = ""
    Ipv6SourceCidrIp: str = ""
    SourceGroupId: str = ""
    DestCidrIp: str = ""
    Ipv6DestCidrIp: str = ""
    DestGroupId: str = ""
    Policy: str = "accept"
    Priority: int = 1
    NicType: str = "intranet"
    Description: Text = ""


class _Rules(Permission, frozen=True, kw_only=True):
    SecurityGroupId: str
    Permissions: Annotated[list[Permission], Meta(max_length=100)] = []
    ClientToken: str | None = None


class AuthorizeSecurityGroup(_Rules, frozen=True):
    """Rules for packets that come in."""


class AuthorizeSecurityGroupEgress(_Rules, frozen=True):
    """Rules for packets that go out."""


class RevokeSecurityGroup(_Rules, frozen=True):
    """By what they say, or by id."""

    SecurityGroupRuleId: Annotated[list[str], Meta(max_length=100)] = []


class RevokeSecurityGroupEgress(_Rules, frozen=True):
    """By what they say, or by id."""

    SecurityGroupRuleId: Annotated[list[str], Meta(max_length=100)] = []


class DescribeSecurityGroups(Request, frozen=True):
    """Page through security groups."""

    SecurityGroupId: str | None = None
    SecurityGroupIds: str | None = None
    """A JSON array of ids, in one string."""
    SecurityGroupName: str | None = None
    SecurityGroupType: str | None = None
    VpcId: str | None = None
    NetworkType: str | None = None
    ResourceGroupId: str | None = None
    Tag: Tags = []
    IsQueryEcsCount: bool | None = None
    PageNumber: Count | None = None
    PageSize: Annotated[int, Meta(ge=1, le=100)] | None = None
    NextToken: str | None = None
    MaxResults: Annotated[int, Meta(ge=1, le=100)] | None = None


class DescribeSecurityGroupAttribute(Request, frozen=True):
    """One security group and its rules."""

    SecurityGroupId: str
    Direction: str = "all"
    NicType: str = "intranet"
    Attribute: str | None = None
    NextToken: str | None = None
    MaxResults: Annotated[int, Meta(ge=1, le=1000)] | None = None


class JoinSecurityGroup(Request, frozen=True):
    """One more group for an interface, or for the primary one of an instance."""

    SecurityGroupId: str
    NetworkInterfaceId: str | None = None
    InstanceId: str | None = None


class LeaveSecurityGroup(Request, frozen=True):
    """One group less."""

    SecurityGroupId: str
    NetworkInterfaceId: str | None = None
    InstanceId: str | None = None


class NextHop(Request, frozen=True):
    """One of `NextHopList.N`."""

    NextHopId: str
    NextHopType: str = "Instance"
    Weight: int | None = None


class CreateRouteEntry(Request, frozen=True):
    """One entry of the route table."""

    RouteTableId: str
    DestinationCidrBlock: str
    NextHopId: str = ""
    NextHopType: str = "Instance"
    NextHopList: list[NextHop] = []
    RouteEntryName: Name = ""
    Description: Text = ""
    DryRun: bool = False
    ClientToken: str | None = None


class DeleteRouteEntry(Request, frozen=True):
    """By id, or by destination and next hop."""

    RouteTableId: str = ""
    RouteEntryId: str = ""
    DestinationCidrBlock: str = ""
    NextHopId: str = ""
    NextHopList: list[NextHop] = []
    DryRun: bool = False


class WantedRoute(Request, frozen=True):
    """One of `RouteEntries.N`."""

    RouteTableId: str
    DstCidrBlock: str
    NextHop: str
    NextHopType: str = "Instance"
    IpVersion: int | None = None
    Name: Annotated[str, Meta(max_length=128)] = ""
    Description: Text = ""


class CreateRouteEntries(Request, frozen=True):
    """Several at once, up to 50."""

    RouteEntries: Annotated[list[WantedRoute], Meta(min_length=1, max_length=50)]
    DryRun: bool = False


class UnwantedRoute(Request, frozen=True):
    """One of `RouteEntries.N`."""

    RouteTableId: str
    RouteEntryId: str = ""
    DstCidrBlock: str = ""
    NextHop: str = ""


class DeleteRouteEntries(Request, frozen=True):
    """Several at once, up to 50."""

    RouteEntries: Annotated[list[UnwantedRoute], Meta(min_length=1, max_length=50)]
    DryRun: bool = False


class DescribeRouteEntryList(Request, frozen=True):
    """Page through the entries of one table."""

    RouteTableId: str
    RouteEntryId: str | None = None
    RouteEntryName: str | None = None
    RouteEntryType: str | None = None
    DestinationCidrBlock: str | None = None
    DestCidrBlockList: Annotated[list[str], Meta(max_length=50)] = []
    NextHopId: str | None = None
    NextHopType: str | None = None
    IpVersion: str | None = None
    ServiceType: str | None = None
    NextToken: str | None = None
    MaxResult: Annotated[int, Meta(ge=1, le=500)] | None = None


class DescribeRouteTableList(Request, frozen=True):
    """Page through route tables."""

    RouteTableId: str | None = None
    RouteTableName: str | None = None
    RouteTableType: str | None = None
    RouterId: str | None = None
    RouterType: str | None = None
    VpcId: str | None = None
    ResourceGroupId: str | None = None
    Tag: Tags = []
    PageNumber: Count | None = None
    PageSize: Annotated[int, Meta(ge=1, le=50)] | None = None


Resources = Annotated[list[str], Meta(min_length=1, max_length=50)]


class TagResources(Request, frozen=True):
    """`ResourceType` is eni or securitygroup."""

    ResourceType: str
    ResourceId: Resources
    Tag: Annotated[list[TagPair], Meta(min_length=1, max_length=20)]


class UntagResources(Request, frozen=True):
    """These keys, or all."""

    ResourceType: str
    ResourceId: Resources
    TagKey: Annotated[list[str], Meta(max_length=20)] = []
    All: bool = False


class ListTagResources(Request, frozen=True):
    """The tags of these resources, or of those with these tags."""

    ResourceType: str
    ResourceId: Annotated[list[str], Meta(max_length=50)] = []
    Tag: Tags = []
    NextToken: str | None = None
