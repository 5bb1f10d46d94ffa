"""A network interface through its whole life, the same for every client."""

import asyncio
from typing import Any

import pytest

from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.reactions import Reaction
from shared.model import EniId
from tests.contract.cloud.clients import Answer, Ours, Refused
from tests.contract.cloud.conftest import Site

CREATE = {"VSwitchId": "vsw-a", "SecurityGroupIds": ["sg-lab"]}


async def described(site: Site, **filters: Any) -> list[Answer]:
    answer = await site.client.call("DescribeNetworkInterfaces", **filters)
    enis: list[Answer] = answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]
    return enis


async def until(site: Site, eni: str, status: str | None) -> Answer:
    """Poll, as clients do; None: until it is gone."""
    async with asyncio.timeout(10):
        while True:
            found = await described(site, NetworkInterfaceId=[eni])
            if [e["Status"] for e in found] == ([] if status is None else [status]):
                return found[0] if found else {}


def addresses(eni: Answer) -> list[str]:
    return [a["PrivateIpAddress"] for a in eni["PrivateIpSets"]["PrivateIpSet"]]


async def test_a_whole_life(site: Site) -> None:
    client = site.client
    made = await client.call(
        "CreateNetworkInterface",
        **CREATE,
        SecondaryPrivateIpAddressCount=2,
        Ipv6AddressCount=1,
        NetworkInterfaceName="ü & +*~/%=",
        Description="interface create by terway",
        Tag=[{"Key": "creator", "Value": "terway"}, {"Key": "ack.aliyun.com", "Value": "c1"}],
        ResourceGroupId="rg-lab",
        DeleteOnRelease=True,
        ClientToken="t-1",
    )
    eni = made["NetworkInterfaceId"]
    assert len(addresses(made)) == 3 and len(made["Ipv6Sets"]["Ipv6Set"]) == 1
    free = await until(site, eni, "Available")
    assert free["NetworkInterfaceName"] == "ü & +*~/%=" and free["ResourceGroupId"] == "rg-lab"
    assert {t["TagKey"]: t["TagValue"] for t in free["Tags"]["Tag"]} == {"creator": "terway", "ack.aliyun.com": "c1"}

    await client.call("AttachNetworkInterface", NetworkInterfaceId=eni, InstanceId=site.node.id)
    used = await until(site, eni, "InUse")
    assert used["InstanceId"] == site.node.id and used["Attachment"]["DeviceIndex"] == 0

    assigned = await client.call("AssignPrivateIpAddresses", NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=3)
    fresh = assigned["AssignedPrivateIpAddressesSet"]["PrivateIpSet"]["PrivateIpAddress"]
    blocks = await client.call("AssignPrivateIpAddresses", NetworkInterfaceId=eni, Ipv4PrefixCount=2)
    prefixes = blocks["AssignedPrivateIpAddressesSet"]["Ipv4PrefixSet"]["Ipv4Prefixes"]
    six = await client.call("AssignIpv6Addresses", NetworkInterfaceId=eni, Ipv6AddressCount=2)
    ipv6 = six["Ipv6Sets"]["Ipv6Address"]
    six = await client.call("AssignIpv6Addresses", NetworkInterfaceId=eni, Ipv6PrefixCount=1)
    prefixes6 = six["Ipv6PrefixSets"]["Ipv6Prefix"]
    assert (len(fresh), len(ipv6)) == (3, 2)
    assert [p[-3:] for p in (*prefixes, *prefixes6)] == ["/28", "/28", "/80"]
    (now,) = await described(site, InstanceId=site.node.id, Type="Secondary")
    assert addresses(now) == addresses(made) + fresh
    assert [a["Primary"] for a in now["PrivateIpSets"]["PrivateIpSet"]] == [True] + [False] * 5
    assert [p["Ipv4Prefix"] for p in now["Ipv4PrefixSets"]["Ipv4PrefixSet"]] == prefixes
    assert [p["Ipv6Prefix"] for p in now["Ipv6PrefixSets"]["Ipv6PrefixSet"]] == prefixes6
    assert [a["Ipv6Address"] for a in now["Ipv6Sets"]["Ipv6Set"]][1:] == ipv6
    one = await client.call("DescribeNetworkInterfaceAttribute", NetworkInterfaceId=eni)
    assert addresses(one) == addresses(now) and one["SecurityGroupIds"]["SecurityGroupId"] == ["sg-lab"]

    await client.call("UnassignPrivateIpAddresses", NetworkInterfaceId=eni, PrivateIpAddress=fresh)
    await client.call("UnassignPrivateIpAddresses", NetworkInterfaceId=eni, Ipv4Prefix=prefixes)
    await client.call("UnassignIpv6Addresses", NetworkInterfaceId=eni, Ipv6Address=ipv6)
    await client.call("UnassignIpv6Addresses", NetworkInterfaceId=eni, Ipv6Prefix=prefixes6)
    (now,) = await described(site, NetworkInterfaceId=[eni])
    assert addresses(now) == addresses(made) and len(now["Ipv6Sets"]["Ipv6Set"]) == 1
    assert now["Ipv4PrefixSets"]["Ipv4PrefixSet"] == now["Ipv6PrefixSets"]["Ipv6PrefixSet"] == []

    await client.call("DetachNetworkInterface", NetworkInterfaceId=eni, InstanceId=site.node.id)
    assert not (await until(site, eni, "Available")).get("InstanceId")
    await client.call("DeleteNetworkInterface", NetworkInterfaceId=eni)
    await until(site, eni, None)


async def test_a_token_makes_one_interface(site: Site) -> None:
    make = {**CREATE, "ClientToken": "same"}
    first = await site.client.call("CreateNetworkInterface", **make)
    again = await site.client.call("CreateNetworkInterface", **make)
    assert first["NetworkInterfaceId"] == again["NetworkInterfaceId"]
    assert first["RequestId"] != again["RequestId"]
    with pytest.raises(Refused) as caught:
        await site.client.call("CreateNetworkInterface", **make, Description="other")
    assert (caught.value.code, caught.value.status) == ("IdempotentParameterMismatch", 400)


async def test_addresses_by_name(site: Site) -> None:
    made = await site.client.call("CreateNetworkInterface", **CREATE, PrimaryIpAddress="192.168.3.3")
    eni = made["NetworkInterfaceId"]
    assert addresses(made) == ["192.168.3.3"]
    await until(site, eni, "Available")
    await site.client.call("AssignPrivateIpAddresses", NetworkInterfaceId=eni, PrivateIpAddress=["192.168.3.9"])
    await site.client.call("AssignPrivateIpAddresses", NetworkInterfaceId=eni, Ipv4Prefix=["192.168.5.16/28"])
    six = "2408:4005:3cd:1000::abcd"
    await site.client.call("AssignIpv6Addresses", NetworkInterfaceId=eni, Ipv6Address=[six])
    for filters in ({"PrivateIpAddress": ["192.168.3.9"]}, {"Ipv6Address": [six]}, {"PrimaryIpAddress": "192.168.3.3"}):
        assert [e["NetworkInterfaceId"] for e in await described(site, **filters)] == [eni], filters
    for taken in ({"PrivateIpAddress": ["192.168.5.17"]}, {"Ipv4Prefix": ["192.168.3.0/28"]}):
        with pytest.raises(Refused) as caught:
            await site.client.call("AssignPrivateIpAddresses", NetworkInterfaceId=eni, **taken)
        assert caught.value.code == "InvalidIp.IpAssigned", taken


async def test_filters_and_both_ways_of_paging(site: Site) -> None:
    group = await site.client.call("CreateSecurityGroup", VpcId="vpc-lab", SecurityGroupName="other")
    for i in range(7):
        await site.client.call(
            "CreateNetworkInterface",
            VSwitchId="vsw-a" if i < 5 else "vsw-b",
            SecurityGroupId=group["SecurityGroupId"] if i == 3 else "sg-lab",
            NetworkInterfaceName=f"n{i}",
            Tag=[{"Key": "creator", "Value": "terway" if i % 2 else "other"}, {"Key": "odd", "Value": str(i % 2)}],
        )

    async def names(**filters: Any) -> list[str]:
        return [e["NetworkInterfaceName"] for e in await described(site, **filters)]

    answer = await site.client.call("DescribeNetworkInterfaces", PageNumber=2, PageSize=3, Type="Secondary")
    page = [e["NetworkInterfaceName"] for e in answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]]
    assert (page, answer["TotalCount"], answer["PageNumber"], answer["PageSize"]) == (["n3", "n4", "n5"], 7, 2, 3)
    seen: list[str] = []
    token: dict[str, str] = {}
    while True:
        answer = await site.client.call("DescribeNetworkInterfaces", MaxResults=3, Type="Secondary", **token)
        seen += [e["NetworkInterfaceName"] for e in answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]]
        if not answer["NextToken"]:
            break
        token = {"NextToken": answer["NextToken"]}
    assert seen == [f"n{i}" for i in range(7)]
    assert await names(VSwitchId="vsw-b") == ["n5", "n6"]
    assert await names(SecurityGroupId=group["SecurityGroupId"]) == ["n3"]
    assert await names(NetworkInterfaceName="n4") == ["n4"]
    assert await names(Tag=[{"Key": "creator", "Value": "terway"}, {"Key": "odd", "Value": "1"}]) == ["n1", "n3", "n5"]
    assert await names(InstanceId="i-none") == await names(VpcId="vpc-none") == []
    assert len(await names(Type="Primary", Status="InUse")) == 1


async def test_an_interface_changes_its_groups_and_tags(site: Site) -> None:
    group = (await site.client.call("CreateSecurityGroup", VpcId="vpc-lab"))["SecurityGroupId"]
    eni = (await site.client.call("CreateNetworkInterface", **CREATE))["NetworkInterfaceId"]
    await site.client.call("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=eni, SecurityGroupId=[group, "sg-lab"])
    (found,) = await described(site, NetworkInterfaceId=[eni])
    assert found["SecurityGroupIds"]["SecurityGroupId"] == [group, "sg-lab"]
    with pytest.raises(Refused) as caught:
        await site.client.call("DeleteSecurityGroup", SecurityGroupId=group)
    assert (caught.value.code, caught.value.status) == ("DependencyViolation", 403)

    tags = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    await site.client.call("TagResources", ResourceType="eni", ResourceId=[eni], Tag=tags)
    await site.client.call("UntagResources", ResourceType="eni", ResourceId=[eni], TagKey=["a"])
    listed = await site.client.call("ListTagResources", ResourceType="eni", ResourceId=[eni])
    assert [(t["TagKey"], t["TagValue"]) for t in listed["TagResources"]["TagResource"]] == [("b", "2")]


async def test_a_trunk_and_a_member(site: Site) -> None:
    node = site.account.run_instance("big", vswitch="vsw-a", instance_type="ecs.ebmre7p.32xlarge", now=1)
    trunk = (await site.client.call("CreateNetworkInterface", **CREATE, InstanceType="Trunk"))["NetworkInterfaceId"]
    member = (await site.client.call("CreateNetworkInterface", **CREATE))["NetworkInterfaceId"]
    for eni, more in ((trunk, {}), (member, {"TrunkNetworkInstanceId": trunk})):
        await until(site, eni, "Available")
        await site.client.call("AttachNetworkInterface", NetworkInterfaceId=eni, InstanceId=node.id, **more)
        await until(site, eni, "InUse")
    (found,) = await described(site, InstanceId=node.id, Type="Member")
    assert found["NetworkInterfaceId"] == member
    assert (found["Attachment"]["TrunkNetworkInterfaceId"], found["Attachment"]["DeviceIndex"]) == (trunk, 1)
    leave = {"NetworkInterfaceId": member, "InstanceId": node.id, "TrunkNetworkInstanceId": trunk}
    await site.client.call("DetachNetworkInterface", **leave)
    assert (await until(site, member, "Available"))["Type"] == "Secondary"


async def test_facts_of_instances_and_vswitches(site: Site) -> None:
    types = await site.client.call("DescribeInstanceTypes", InstanceTypes=["ecs.g6.2xlarge", "ecs.none"])
    (kind,) = types["InstanceTypes"]["InstanceType"]
    assert (kind["EniQuantity"], kind["EniPrivateIpAddressQuantity"], kind["EniTotalQuantity"]) == (4, 10, 4)
    instances = await site.client.call("DescribeInstances", InstanceIds=f'["{site.node.id}"]')
    (instance,) = instances["Instances"]["Instance"]
    assert instance["VpcAttributes"]["VSwitchId"] == "vsw-a"
    one = await site.client.call("DescribeInstanceAttribute", InstanceId=site.node.id)
    assert one["SecurityGroupIds"]["SecurityGroupId"] == ["sg-lab"]
    listed = await site.client.call("DescribeVSwitches", VSwitchId="vsw-a,vsw-small")
    facts = [(v["CidrBlock"], v["AvailableIpAddressCount"]) for v in listed["VSwitches"]["VSwitch"]]
    assert facts == [("192.168.0.0/20", 4091), ("192.168.32.0/28", 12)]
    zone = await site.client.call("DescribeVSwitches", ZoneId="cn-lab-b", PageSize=1)
    assert [v["VSwitchId"] for v in zone["VSwitches"]["VSwitch"]] == ["vsw-b"] and zone["TotalCount"] == 1


@pytest.mark.parametrize("site", ["ours"], indirect=True)
async def test_the_calls_that_our_service_makes(site: Site) -> None:
    """Its typed calls read what the official models read."""
    assert isinstance(site.client, Ours)
    ecs = site.client.ecs
    made = await ecs.create_eni(
        name="n", token="t", vswitch="vsw-a", security_groups=["sg-lab"], addresses=3, tags={"creator": "terway"}
    )
    assert len(made.ipv4) == 3 and made.ipv4[0].primary
    await until(site, made.id, "Available")
    await ecs.attach_eni(made.id, site.node.id, token="u")
    await until(site, made.id, "InUse")
    fresh = await ecs.assign_ipv4(made.id, 2, token="v")
    assert await ecs.assign_ipv4(made.id, 2, token="v") == fresh, "the same token, the same addresses"
    (seen,) = await ecs.describe_enis(instance=site.node.id, tags={"creator": "terway"})
    assert (seen.id, seen.status, [a.ip for a in seen.ipv4][-2:]) == (made.id, "InUse", fresh)
    await ecs.unassign_ipv4(made.id, fresh)
    with pytest.raises(CloudError) as caught:
        await ecs.delete_eni(made.id)
    assert caught.value.reaction is Reaction.LOOK
    await ecs.detach_eni(made.id, site.node.id)
    await until(site, made.id, "Available")
    await ecs.delete_eni(made.id)
    await until(site, made.id, None)
    with pytest.raises(CloudError) as caught:
        await ecs.delete_eni(EniId(made.id))
    assert caught.value.reaction is Reaction.GONE
    vswitch = await ecs.describe_vswitch("vsw-b")
    assert (vswitch.free, vswitch.zone) == (4092, "cn-lab-b")
    assert (await ecs.describe_vswitch("vsw-never")).zone == "", "it does not exist"
    assert (await ecs.describe_instance_type("ecs.g6.2xlarge")).enis == 4
