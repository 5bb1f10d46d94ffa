"""Route tables and security groups, the same for every client."""

import asyncio
from typing import Any

import pytest

from compose.lab.cloud.core.model import Quotas
from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.reactions import Reaction
from services.eni_manager.core.route_table import Owner
from shared.errors import NotFound
from shared.model import Cidr
from tests.contract.cloud.clients import Answer, Ours, Refused
from tests.contract.cloud.conftest import Site

TABLE = {"RouteTableId": "vtb-lab"}


async def entries(site: Site, **filters: Any) -> list[Answer]:
    answer = await site.client.call("DescribeRouteEntryList", **TABLE, **filters)
    found: list[Answer] = answer["RouteEntrys"]["RouteEntry"]
    return found


async def settled(site: Site) -> list[Answer]:
    """The customer's entries, when none is on its way."""
    async with asyncio.timeout(10):
        while True:
            found = await entries(site, RouteEntryType="Custom")
            if all(e["Status"] == "Available" for e in found):
                return found


async def test_route_entries(site: Site) -> None:
    client = site.client
    (table,) = (await client.call("DescribeRouteTableList", VpcId="vpc-lab"))["RouterTableList"]["RouterTableListType"]
    assert table["RouteTableId"] == "vtb-lab" and "vsw-a" in table["VSwitchIds"]["VSwitchId"]
    system = await entries(site)
    assert {e["Type"] for e in system} == {"System"}
    assert "192.168.16.0/20" in [e["DestinationCidrBlock"] for e in system]

    hop = {"NextHopType": "Instance", "NextHopId": site.node.id}
    await client.call("CreateRouteEntry", **TABLE, DestinationCidrBlock="172.20.1.0/25", **hop)
    (entry,) = await settled(site)
    assert entry["NextHops"]["NextHop"][0]["NextHopId"] == site.node.id
    assert await entries(site, DestinationCidrBlock="172.20.1.0/25") == [entry]
    assert await entries(site, NextHopId="i-none", RouteEntryType="Custom") == []
    await client.call("DeleteRouteEntry", **TABLE, DestinationCidrBlock="172.20.1.0/25", NextHopId=site.node.id)
    assert await settled(site) == []


async def test_several_route_entries_at_once(site: Site) -> None:
    def wanted(cidr: str, hop: str) -> dict[str, Any]:
        return {**TABLE, "DstCidrBlock": cidr, "NextHop": hop, "NextHopType": "Instance"}

    node = site.node.id
    mixed = [wanted("172.20.1.0/25", node), wanted("172.20.2.0/25", "i-none"), wanted("172.20.3.0/25", node)]
    answer = await site.client.call("CreateRouteEntries", RouteEntries=mixed)
    assert (answer["SuccessCount"], answer["FailedCount"], len(answer["RouteEntryIds"])) == (2, 1, 2)
    (failed,) = answer["FailedRouteEntries"]
    assert (failed["DstCidrBlock"], failed["FailedCode"]) == ("172.20.2.0/25", "InvalidEcsId.NotFound")
    assert len(await settled(site)) == 2
    gone = [{**TABLE, "RouteEntryId": each} for each in answer["RouteEntryIds"]]
    answer = await site.client.call("DeleteRouteEntries", RouteEntries=gone)
    assert (answer["SuccessCount"], answer["FailedCount"]) == (2, 0)
    assert await settled(site) == []


@pytest.mark.parametrize(
    ("destination", "hop", "code", "status"),
    [
        ("172.20.1.0/25", "", "InvalidCidrBlock.Duplicate", 400),
        ("192.168.16.0/24", "", "InvalidCidrBlock.Conflict", 400),
        ("100.100.0.0/16", "", "InvalidCidrBlock.Conflict", 400),
        ("172.20.1.1/25", "", "InvalidCidrBlock.Malformed", 400),
        ("172.20.9.0/25", "i-none", "InvalidEcsId.NotFound", 404),
    ],
)
async def test_route_entries_that_cannot_be(site: Site, destination: str, hop: str, code: str, status: int) -> None:
    make = {**TABLE, "NextHopType": "Instance", "NextHopId": site.node.id}
    await site.client.call("CreateRouteEntry", **make, DestinationCidrBlock="172.20.1.0/25")
    await settled(site)
    with pytest.raises(Refused) as caught:
        await site.client.call(
            "CreateRouteEntry", **make | {"NextHopId": hop or site.node.id}, DestinationCidrBlock=destination
        )
    assert (caught.value.code, caught.value.status) == (code, status)
    assert len(await settled(site)) == 1


async def test_a_table_that_is_full_is_busy_or_is_not_there(site: Site) -> None:
    make = {"NextHopType": "Instance", "NextHopId": site.node.id}

    async def refused(**parameters: Any) -> str:
        with pytest.raises(Refused) as caught:
            await site.client.call("CreateRouteEntry", **make, **parameters)
        return caught.value.code

    site.account.delays = type(site.account.delays)(route=(3600, 3600))
    await site.client.call("CreateRouteEntry", **make, **TABLE, DestinationCidrBlock="172.20.0.0/25")
    (entry,) = await entries(site, RouteEntryType="Custom")
    assert entry["Status"] == "Pending"
    assert await refused(**TABLE, DestinationCidrBlock="172.20.1.0/25") == "IncorrectRouteEntryStatus"
    site.account.advance(site.cloud.clock() + 3601)
    site.account.delays = type(site.account.delays)(route=(0, 0))
    for i in (1, 2):
        await site.client.call("CreateRouteEntry", **make, **TABLE, DestinationCidrBlock=f"172.20.{i}.0/25")
    assert await refused(**TABLE, DestinationCidrBlock="172.20.9.0/25") == "QuotaExceeded.RouteEntry"
    assert (
        await refused(RouteTableId="vtb-none", DestinationCidrBlock="172.20.9.0/25") == "InvalidRouteTableId.NotFound"
    )
    with pytest.raises(Refused) as caught:
        await site.client.call("DeleteRouteEntry", **TABLE, DestinationCidrBlock="172.30.0.0/25", NextHopId="x")
    assert caught.value.code == "InvalidRouteEntry.NotFound"


@pytest.mark.parametrize("site", ["ours"], indirect=True)
async def test_the_calls_on_the_table_that_our_service_makes(site: Site) -> None:
    """Its typed calls read what the official models read, and the same token makes one entry."""
    assert isinstance(site.client, Ours)
    vpc, own, table = site.client.vpc, Owner("c1", "node1"), TABLE["RouteTableId"]
    assert await vpc.system_table("vpc-lab") == table
    with pytest.raises(NotFound, match="vpc-none"):
        await vpc.system_table("vpc-none")
    six = Cidr("fd00:1::/64")
    for cidr in (Cidr("172.20.1.0/25"), six):
        for _ in range(2):
            await vpc.create(
                table, cidr, site.node.id, name="n" * 200, description=own.description, token=f"token of {cidr}"
            )
        await settled(site)
    four, last = sorted(await vpc.entries(table), key=lambda entry: entry.destination)
    assert (four.destination, four.hop, four.status, four.owner) == (
        "172.20.1.0/25",
        site.node.id,
        "Available",
        own,
    ), "the cloud's own entries are none of ours"
    assert last.destination == six
    with pytest.raises(CloudError) as caught:
        await vpc.create(table, four.destination, site.node.id, name="n", description="d", token="another")
    assert caught.value.reaction is Reaction.LOOK
    await vpc.delete(table, four)
    with pytest.raises(CloudError) as caught:  # the table is busy
        await vpc.delete(table, last)
    assert caught.value.reaction is Reaction.AGAIN
    await settled(site)
    await vpc.delete(table, four)
    await vpc.delete(table, last)
    assert await settled(site) == []
    site.account.quotas = Quotas(route_entries=0)
    with pytest.raises(CloudError) as caught:
        await vpc.create(table, six, site.node.id, name="n", description="d", token="third")
    assert caught.value.reaction is Reaction.NO_QUOTA


@pytest.mark.parametrize("site", ["ours"], indirect=True)
async def test_a_long_table_is_read_whole(site: Site) -> None:
    assert isinstance(site.client, Ours)
    site.account.quotas = Quotas(route_entries=1000)
    many = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(700)]
    for at in range(0, len(many), 50):
        wanted = [{**TABLE, "DstCidrBlock": c, "NextHop": site.node.id} for c in many[at : at + 50]]
        await site.client.call("CreateRouteEntries", RouteEntries=wanted)
        site.account.advance(site.cloud.clock() + 1)
    assert {entry.destination for entry in await site.client.vpc.entries("vtb-lab")} == set(many)


async def test_a_dry_run_says_that_it_would_do_and_does_nothing(site: Site) -> None:
    make = {"NextHopType": "Instance", "NextHopId": site.node.id, "DestinationCidrBlock": "172.20.1.0/25"}
    for table, said in (("vtb-lab", "DryRunOperation"), ("vtb-none", "InvalidRouteTableId.NotFound")):
        with pytest.raises(Refused) as caught:
            await site.client.call("CreateRouteEntry", **make, RouteTableId=table, DryRun=True)
        assert caught.value.code == said
    assert await settled(site) == []


# ---- security groups


async def new_group(site: Site, **more: Any) -> str:
    return str((await site.client.call("CreateSecurityGroup", VpcId="vpc-lab", **more))["SecurityGroupId"])


async def rules(site: Site, group: str, **filters: Any) -> list[Answer]:
    answer = await site.client.call("DescribeSecurityGroupAttribute", SecurityGroupId=group, **filters)
    found: list[Answer] = answer["Permissions"]["Permission"]
    return found


async def test_a_security_group_from_its_birth_to_its_end(site: Site) -> None:
    client = site.client
    group = await new_group(
        site, SecurityGroupName="web", Description="d", SecurityGroupType="enterprise", Tag=[{"Key": "k", "Value": "v"}]
    )
    peer = await new_group(site)
    answer = await client.call("DescribeSecurityGroups", SecurityGroupName="web")
    (found,) = answer["SecurityGroups"]["SecurityGroup"]
    assert (found["SecurityGroupId"], found["SecurityGroupType"], found["VpcId"]) == (group, "enterprise", "vpc-lab")
    by_ids = await client.call("DescribeSecurityGroups", SecurityGroupIds=f'["{group}","{peer}","sg-none"]')
    assert len(by_ids["SecurityGroups"]["SecurityGroup"]) == 2
    by_tag = await client.call("DescribeSecurityGroups", Tag=[{"Key": "k", "Value": "v"}], MaxResults=1)
    assert [g["SecurityGroupId"] for g in by_tag["SecurityGroups"]["SecurityGroup"]] == [group]

    web = {"IpProtocol": "tcp", "PortRange": "80/90", "SourceCidrIp": "10.0.0.0/8", "Priority": "2"}
    await client.call("AuthorizeSecurityGroup", SecurityGroupId=group, **web, Description="web")
    await client.call("AuthorizeSecurityGroup", SecurityGroupId=group, **web)
    both = [
        {"IpProtocol": "ALL", "PortRange": "-1/-1", "SourceGroupId": peer, "Policy": "drop", "Priority": "1"},
        {"IpProtocol": "UDP", "PortRange": "53/53", "Ipv6SourceCidrIp": "fd00::/8"},
    ]
    await client.call("AuthorizeSecurityGroup", SecurityGroupId=group, Permissions=both)
    out = {"IpProtocol": "ICMP", "PortRange": "-1/-1", "DestCidrIp": "0.0.0.0/0", "Policy": "accept"}
    await client.call("AuthorizeSecurityGroupEgress", SecurityGroupId=group, **out)

    inward = await rules(site, group, Direction="ingress")
    said = [(r["IpProtocol"], r["PortRange"], r["Policy"], r["Priority"]) for r in inward]
    assert said == [("ALL", "-1/-1", "Drop", "1"), ("UDP", "53/53", "Accept", "1"), ("TCP", "80/90", "Accept", "2")]
    assert (inward[0]["SourceGroupId"], inward[1]["Ipv6SourceCidrIp"]) == (peer, "fd00::/8")
    assert (inward[2]["SourceCidrIp"], inward[2]["Description"]) == ("10.0.0.0/8", "web"), (
        "authorized twice, there once"
    )
    (outward,) = await rules(site, group, Direction="egress")
    assert outward["DestCidrIp"] == "0.0.0.0/0" and len(await rules(site, group)) == 4

    with pytest.raises(Refused) as caught:
        await client.call("DeleteSecurityGroup", SecurityGroupId=peer)
    assert caught.value.code == "DependencyViolation", "a rule names it"
    await client.call("RevokeSecurityGroup", SecurityGroupId=group, **web)
    await client.call("RevokeSecurityGroup", SecurityGroupId=group, **web)
    ids = [r["SecurityGroupRuleId"] for r in inward[:2]]
    await client.call("RevokeSecurityGroup", SecurityGroupId=group, SecurityGroupRuleId=ids)
    await client.call("RevokeSecurityGroupEgress", SecurityGroupId=group, **out)
    assert await rules(site, group) == []
    for each in (peer, group):
        await client.call("DeleteSecurityGroup", SecurityGroupId=each)
    answer = await client.call("DescribeSecurityGroups")
    assert [g["SecurityGroupId"] for g in answer["SecurityGroups"]["SecurityGroup"]] == ["sg-lab"]


async def test_an_interface_joins_and_leaves(site: Site) -> None:
    group, primary = await new_group(site), site.account.eni(site.node.primary_eni)
    await site.client.call("JoinSecurityGroup", SecurityGroupId=group, NetworkInterfaceId=primary.id)
    assert primary.security_groups == ["sg-lab", group]

    async def refused(action: str, **parameters: Any) -> tuple[str, int]:
        with pytest.raises(Refused) as caught:
            await site.client.call(action, **parameters)
        return caught.value.code, caught.value.status

    join = {"SecurityGroupId": group, "NetworkInterfaceId": primary.id}
    assert await refused("JoinSecurityGroup", **join) == ("InvalidInstanceId.AlreadyExists", 403)
    await site.client.call("LeaveSecurityGroup", SecurityGroupId="sg-lab", InstanceId=site.node.id)
    assert primary.security_groups == [group]
    instances = await site.client.call("DescribeInstances", SecurityGroupId=group)
    assert [i["SecurityGroupIds"]["SecurityGroupId"] for i in instances["Instances"]["Instance"]] == [[group]]
    assert await refused("LeaveSecurityGroup", **join) == ("InstanceLastSecurityGroup", 403)
    other = {**join, "SecurityGroupId": "sg-lab"}
    assert await refused("LeaveSecurityGroup", **other) == ("InstanceNotInSecurityGroup", 403)
    assert await refused("JoinSecurityGroup", SecurityGroupId=group) == ("MissingParameter", 400)
    await site.client.call("JoinSecurityGroup", **other)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"IpProtocol": "SCTP"}, "InvalidParameter"),
        ({"PortRange": "90/80"}, "InvalidParameter"),
        ({"PortRange": "0/80"}, "InvalidParameter"),
        ({"PortRange": ""}, "MissingParameter"),
        ({"Priority": "101"}, "InvalidPriority.ValueNotSupported"),
        ({"SourceCidrIp": "10.0.0.1/8"}, "InvalidParameter"),
        ({"SourceCidrIp": "fd00::/8"}, "InvalidParameter"),
        ({"SourceCidrIp": ""}, "MissingParameter"),
        ({"SourceGroupId": "sg-lab"}, "InvalidParameter.Conflict"),
        ({"SourceCidrIp": "", "SourceGroupId": "sg-none"}, "InvalidSecurityGroupId.NotFound"),
        ({"Policy": "maybe"}, "InvalidParameter"),
        ({"SecurityGroupId": "sg-none"}, "InvalidSecurityGroupId.NotFound"),
    ],
)
async def test_rules_that_cannot_be(site: Site, change: dict[str, str], code: str) -> None:
    group = await new_group(site)
    rule = {"SecurityGroupId": group, "IpProtocol": "TCP", "PortRange": "80/80", "SourceCidrIp": "10.0.0.0/8"}
    with pytest.raises(Refused) as caught:
        await site.client.call("AuthorizeSecurityGroup", **rule | change)
    assert caught.value.code == code
    assert await rules(site, group) == []


async def test_quotas_of_groups_and_of_their_rules(site: Site) -> None:
    groups = [await new_group(site) for _ in range(3)]
    with pytest.raises(Refused) as caught:
        await new_group(site)
    assert (caught.value.code, caught.value.status) == ("QuotaExceeded.SecurityGroup", 403)
    many = [{"IpProtocol": "TCP", "PortRange": f"{p}/{p}", "SourceCidrIp": "10.0.0.0/8"} for p in range(1, 7)]
    with pytest.raises(Refused) as caught:
        await site.client.call("AuthorizeSecurityGroup", SecurityGroupId=groups[0], Permissions=many)
    assert caught.value.code == "AuthorizationLimitExceed"
    assert await rules(site, groups[0]) == [], "all or none"
