"""The official response models keep every field that the lab sends, as it was sent."""

from typing import Any

import pytest

from tests.contract.cloud import models
from tests.contract.cloud.clients import VPC_ACTIONS
from tests.contract.cloud.conftest import Site


async def everything(site: Site) -> dict[str, dict[str, Any]]:
    """The answer of each action that describes something, with as much to describe as there can be."""
    call = site.client.call
    ids = {"InstanceId": site.node.id}
    answers: dict[str, dict[str, Any]] = {}

    async def keep(action: str, **parameters: Any) -> dict[str, Any]:
        answers[action] = await call(action, **parameters)
        return answers[action]

    tags = [{"Key": "k", "Value": "v"}]
    group = (await keep("CreateSecurityGroup", VpcId="vpc-lab", Tag=tags))["SecurityGroupId"]
    rule = {"SecurityGroupId": group, "IpProtocol": "TCP", "PortRange": "1/2"}
    await call("AuthorizeSecurityGroup", **rule, SourceCidrIp="10.0.0.0/8", DestCidrIp="10.1.0.0/16")
    await call("AuthorizeSecurityGroupEgress", **rule, DestGroupId="sg-lab")
    made = await keep(
        "CreateNetworkInterface",
        VSwitchId="vsw-a",
        SecurityGroupId="sg-lab",
        Tag=tags,
        SecondaryPrivateIpAddressCount=1,
        Ipv4PrefixCount=1,
        Ipv6AddressCount=1,
        Ipv6PrefixCount=1,
    )
    eni = {"NetworkInterfaceId": made["NetworkInterfaceId"]}
    site.account.advance(site.cloud.clock() + 10)
    await keep("AssignPrivateIpAddresses", **eni, SecondaryPrivateIpAddressCount=1)
    await keep("AssignPrivateIpAddresses", **eni, Ipv4PrefixCount=1)
    await keep("AssignIpv6Addresses", **eni, Ipv6AddressCount=1)
    await keep("AttachNetworkInterface", **eni, **ids)
    hop = {"RouteTableId": "vtb-lab", "NextHopType": "Instance"}
    await keep("CreateRouteEntry", **hop, NextHopId=site.node.id, DestinationCidrBlock="172.20.0.0/25")
    site.account.advance(site.cloud.clock() + 10)
    entries = [{**hop, "NextHop": hop_id, "DstCidrBlock": "172.20.1.0/25"} for hop_id in (site.node.id, "i-none")]
    await keep("CreateRouteEntries", RouteEntries=entries)
    site.account.advance(site.cloud.clock() + 10)
    gone = [{"RouteTableId": "vtb-lab", "DstCidrBlock": f"172.20.{i}.0/25", "NextHop": site.node.id} for i in (1, 9)]
    await keep("DeleteRouteEntries", RouteEntries=gone)
    await keep("DescribeNetworkInterfaces", PageSize=10)
    await keep("DescribeNetworkInterfaceAttribute", **eni)
    await keep("DescribeInstances", PageSize=10)
    await keep("DescribeInstanceAttribute", **ids)
    await keep("DescribeInstanceTypes", InstanceTypes=["ecs.ebmre7p.32xlarge"])
    await keep("DescribeVSwitches")
    await keep("DescribeSecurityGroups", IsQueryEcsCount=True)
    await keep("DescribeSecurityGroupAttribute", SecurityGroupId=group)
    await keep("DescribeRouteEntryList", RouteTableId="vtb-lab")
    await keep("DescribeRouteTableList")
    await keep("ListTagResources", ResourceType="eni", ResourceId=[made["NetworkInterfaceId"]])
    return answers


@pytest.mark.parametrize("site", ["first"], indirect=True)
async def test_nothing_is_lost(site: Site) -> None:
    """The first generation hands out the JSON itself; the second generation's models read it."""
    from alibabacloud_ecs20140526 import models as ecs
    from alibabacloud_vpc20160428 import models as vpc

    answers = await everything(site)
    found = {}
    for action, sent in answers.items():
        model = getattr(vpc if action in VPC_ACTIONS else ecs, f"{action}ResponseBody")().from_map(sent)
        models.check_types(model, action)
        if lost := models.lost(sent, model.to_map()):
            found[action] = lost
    assert found == {}
    assert len(answers) >= 19


def test_the_judge_sees_what_is_wrong() -> None:
    from alibabacloud_vpc20160428 import models as vpc

    sent = {"TotalCount": "1", "VSwitches": {"VSwitch": [{"VSwitchId": "v", "Nonsense": 1}]}}
    model = vpc.DescribeVSwitchesResponseBody().from_map(sent)
    assert models.lost(sent, model.to_map()) == ["/VSwitches/VSwitch/*/Nonsense"]
    with pytest.raises(AssertionError, match="/total_count is declared int and is '1'"):
        models.check_types(model)
