"""Actions on instances, their types, and vSwitches: nothing here changes anything."""

from compose.lab.cloud.core import paging, render, requests
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions.registry import ECS, VPC, Body, action, id_array
from compose.lab.cloud.core.catalogue import TYPES


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
    wanted = id_array("InstanceIds", r.InstanceIds)
    matching = [
        i
        for i in account.instances.values()
        if (wanted is None or i.id in wanted)
        and r.VpcId in (None, account.layout.vpc)
        and r.VSwitchId in (None, i.vswitch)
        and r.ZoneId in (None, i.zone)
        and r.InstanceName in (None, i.name)
        and r.InstanceType in (None, i.type)
        and r.Status in (None, "Running")
        and (r.SecurityGroupId is None or r.SecurityGroupId in account.eni(i.primary_eni).security_groups)
    ]
    page, fields = paging.either(
        matching, number=r.PageNumber, size=r.PageSize, token=r.NextToken, most=r.MaxResults, default=10
    )
    return {**fields, "Instances": {"Instance": [render.instance(account, i) for i in page]}}


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
        if (wanted is None or v.id in wanted)
        and r.ZoneId in (None, v.zone)
        and r.VpcId in (None, account.layout.vpc)
        and r.VSwitchName in (None, v.id)
        and r.RouteTableId in (None, account.layout.route_table)
        and r.ResourceGroupId in (None, account.layout.resource_groups[0])
        and r.EnableIpv6 in (None, bool(v.ipv6_cidr))
        and r.IsDefault in (None, False)
        and not r.Tag
    ]
    page, fields = paging.numbered(matching, r.PageNumber, r.PageSize, 10)
    return {**fields, "VSwitches": {"VSwitch": [render.vswitch(account, v) for v in page]}}
