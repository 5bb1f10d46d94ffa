"""Actions on security groups and their rules."""

from collections.abc import Sequence

from compose.lab.cloud.core import paging, render, security
from compose.lab.cloud.core import requests_network as requests
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions.registry import (
    ECS,
    Body,
    action,
    at_most_one,
    has_tags,
    id_array,
    new_tags,
    resource_group,
)
from compose.lab.cloud.core.errors import CloudError, at_least_one, malformed, missing
from compose.lab.cloud.core.model import Direction, Eni, Rule


@action(ECS, changes=True)
def create(account: Account, r: requests.CreateSecurityGroup, now: float) -> Body:
    """Normal, or enterprise."""
    if r.SecurityGroupType not in ("normal", "enterprise"):
        raise malformed("SecurityGroupType", "normal or enterprise")
    if r.VpcId not in (None, account.layout.vpc):
        raise CloudError("InvalidVpcId.NotFound", f"The specified VPC {r.VpcId} does not exist.", 404)
    made = security.create(
        account,
        now,
        name=r.SecurityGroupName,
        description=r.Description,
        kind=r.SecurityGroupType,
        tags=new_tags(account, r.Tag),
        resource_group=resource_group(account, r.ResourceGroupId),
    )
    return {"SecurityGroupId": made.id}


@action(ECS, changes=True)
def delete(account: Account, r: requests.DeleteSecurityGroup, now: float) -> Body:
    """Only one that nobody uses."""
    security.delete(account, r.SecurityGroupId)
    return {}


@action(ECS, changes=True)
def join(account: Account, r: requests.JoinSecurityGroup, now: float) -> Body:
    """Its rules apply at once."""
    eni = _interface(account, r)
    if r.SecurityGroupId in eni.security_groups:
        sentence = f"The interface is in the security group {r.SecurityGroupId} already."
        raise CloudError("InvalidInstanceId.AlreadyExists", sentence, 403)
    account.set_groups(eni, [*eni.security_groups, r.SecurityGroupId])
    return {}


@action(ECS, changes=True)
def leave(account: Account, r: requests.LeaveSecurityGroup, now: float) -> Body:
    """All but the last one can be left."""
    eni = _interface(account, r)
    security.group(account, r.SecurityGroupId)
    if r.SecurityGroupId not in eni.security_groups:
        sentence = f"The interface is not in the security group {r.SecurityGroupId}."
        raise CloudError("InstanceNotInSecurityGroup", sentence, 403)
    if len(eni.security_groups) == 1:
        raise CloudError("InstanceLastSecurityGroup", "The instance is in one security group only.", 403)
    account.set_groups(eni, [g for g in eni.security_groups if g != r.SecurityGroupId])
    return {}


def _interface(account: Account, r: requests.JoinSecurityGroup | requests.LeaveSecurityGroup) -> Eni:
    at_most_one(NetworkInterfaceId=r.NetworkInterfaceId, InstanceId=r.InstanceId)
    if r.InstanceId:
        return account.eni(account.instance(r.InstanceId).primary_eni)
    if not r.NetworkInterfaceId:
        raise at_least_one("NetworkInterfaceId", "InstanceId")
    return account.eni(r.NetworkInterfaceId)


@action(ECS, changes=True)
def authorize(account: Account, r: requests.AuthorizeSecurityGroup, now: float) -> Body:
    """Let in, or with `Policy` drop keep out."""
    security.authorize(account, r.SecurityGroupId, _rules(r, Direction.INGRESS), now)
    return {}


@action(ECS, changes=True)
def authorize_egress(account: Account, r: requests.AuthorizeSecurityGroupEgress, now: float) -> Body:
    """Let out, or keep in."""
    security.authorize(account, r.SecurityGroupId, _rules(r, Direction.EGRESS), now)
    return {}


@action(ECS, changes=True)
def revoke(account: Account, r: requests.RevokeSecurityGroup, now: float) -> Body:
    """Take permissions of packets that come in away."""
    rules = [] if r.SecurityGroupRuleId else _rules(r, Direction.INGRESS)
    security.revoke(account, r.SecurityGroupId, rules, r.SecurityGroupRuleId)
    return {}


@action(ECS, changes=True)
def revoke_egress(account: Account, r: requests.RevokeSecurityGroupEgress, now: float) -> Body:
    """Take permissions of packets that go out away."""
    rules = [] if r.SecurityGroupRuleId else _rules(r, Direction.EGRESS)
    security.revoke(account, r.SecurityGroupId, rules, r.SecurityGroupRuleId)
    return {}


def _rules(r: requests.Permission, direction: Direction) -> list[Rule]:
    """One permission given directly, or several in `Permissions`."""
    several: Sequence[requests.Permission] = getattr(r, "Permissions", ())
    if several and r.IpProtocol:
        at_most_one(Permissions=several, IpProtocol=r.IpProtocol)
    return [_rule(each, direction) for each in several or [r]]


def _rule(p: requests.Permission, direction: Direction) -> Rule:
    if not p.IpProtocol:
        raise missing("IpProtocol")
    if p.NicType not in ("intranet", "internet"):
        raise malformed("NicType", "intranet or internet")
    if p.Policy.lower() not in ("accept", "drop"):
        raise malformed("Policy", "accept or drop")
    protocol = {name.upper(): name for name in security.PROTOCOLS}.get(p.IpProtocol.upper(), p.IpProtocol)
    if not p.PortRange and protocol in ("TCP", "UDP"):
        raise missing("PortRange")
    inbound = direction is Direction.INGRESS
    return Rule(
        id="",
        direction=direction,
        protocol=protocol,
        ports=p.PortRange or security.ANY_PORT,
        peer_cidr=_network(p.SourceCidrIp if inbound else p.DestCidrIp),
        peer_cidr6=_network(p.Ipv6SourceCidrIp if inbound else p.Ipv6DestCidrIp),
        peer_group=p.SourceGroupId if inbound else p.DestGroupId,
        own_cidr=_network((p.DestCidrIp or p.Ipv6DestCidrIp) if inbound else (p.SourceCidrIp or p.Ipv6SourceCidrIp)),
        accept=p.Policy.lower() == "accept",
        priority=p.Priority,
        source_ports=p.SourcePortRange or security.ANY_PORT,
        description=p.Description,
    )


def _network(text: str) -> str:
    """A single address is a network of one."""
    if not text or "/" in text:
        return text
    return f"{text}/{128 if ':' in text else 32}"


@action(ECS, changes=False)
def describe(account: Account, r: requests.DescribeSecurityGroups, now: float) -> Body:
    """What is not there is left out."""
    wanted = id_array("SecurityGroupIds", r.SecurityGroupIds)
    matching = security.matching(
        account,
        lambda g: wanted is None or g.id in wanted,
        lambda g: r.SecurityGroupId in (None, g.id),
        lambda g: r.SecurityGroupName in (None, g.name),
        lambda g: r.SecurityGroupType in (None, g.kind),
        lambda g: r.VpcId in (None, account.layout.vpc),
        lambda g: r.ResourceGroupId in (None, g.resource_group or account.layout.resource_groups[0]),
        lambda g: has_tags(r.Tag, g.tags),
    )
    page, fields = paging.either(
        matching, number=r.PageNumber, size=r.PageSize, token=r.NextToken, most=r.MaxResults, default=10
    )
    groups = [render.security_group(account, g, counted=bool(r.IsQueryEcsCount)) for g in page]
    return {**fields, "RegionId": account.layout.region, "SecurityGroups": {"SecurityGroup": groups}}


@action(ECS, changes=False)
def describe_one(account: Account, r: requests.DescribeSecurityGroupAttribute, now: float) -> Body:
    """With its rules, those of the least priority number first."""
    found = security.group(account, r.SecurityGroupId)
    if r.Direction not in ("all", *Direction):
        raise malformed("Direction", "ingress, egress or all")
    rules = [rule for rule in found.rules if r.Direction in ("all", rule.direction)]
    page, fields = paging.tokened(sorted(rules, key=lambda rule: rule.priority), r.NextToken, r.MaxResults, 500)
    return {
        **render.security_group_attribute(account, found, page),
        "NextToken": fields["NextToken"],
    }
