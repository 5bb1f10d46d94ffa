"""IPv6 addresses of an interface, the same for every client: tokens, limits, all or none."""

from typing import Any

import pytest

from services.eni_manager.core.reactions import Reaction
from tests.contract.cloud.clients import Refused
from tests.contract.cloud.conftest import Site
from tests.contract.cloud.test_errors import judge, refused
from tests.contract.cloud.test_interfaces import until

PAIR = {"VSwitchId": "vsw-a", "SecurityGroupId": "sg-lab", "SecondaryPrivateIpAddressCount": 2, "Ipv6AddressCount": 3}


def sixes(eni: dict[str, Any]) -> list[str]:
    return [entry["Ipv6Address"] for entry in eni["Ipv6Sets"]["Ipv6Set"]]


async def attached(site: Site) -> str:
    made = await site.client.call("CreateNetworkInterface", **PAIR)
    assert len(sixes(made)) == len(made["PrivateIpSets"]["PrivateIpSet"]) == 3
    eni: str = made["NetworkInterfaceId"]
    await until(site, eni, "Available")
    await site.client.call("AttachNetworkInterface", NetworkInterfaceId=eni, InstanceId=site.node.id)
    await until(site, eni, "InUse")
    return eni


async def test_the_same_token_gives_the_same_addresses_and_another_one_others(site: Site) -> None:
    eni = await attached(site)
    wish = {"NetworkInterfaceId": eni, "Ipv6AddressCount": 2}
    first = await site.client.call("AssignIpv6Addresses", **wish, ClientToken="t1")
    again = await site.client.call("AssignIpv6Addresses", **wish, ClientToken="t1")
    other = await site.client.call("AssignIpv6Addresses", **wish, ClientToken="t2")
    assert first["Ipv6Sets"] == again["Ipv6Sets"]
    given = [*first["Ipv6Sets"]["Ipv6Address"], *other["Ipv6Sets"]["Ipv6Address"]]
    assert len(set(given)) == 4
    assert sixes(await until(site, eni, "InUse"))[3:] == given
    with pytest.raises(Refused) as another:
        await site.client.call("AssignIpv6Addresses", NetworkInterfaceId=eni, Ipv6AddressCount=1, ClientToken="t1")
    assert another.value.code in ("IdempotentParameterMismatch", "IdempotentFailed")


async def test_an_interface_takes_as_many_as_its_type_says(site: Site) -> None:
    eni = await attached(site)
    await site.client.call("AssignIpv6Addresses", NetworkInterfaceId=eni, Ipv6AddressCount=7)
    refusal = await refused(site.client, "AssignIpv6Addresses", NetworkInterfaceId=eni, Ipv6AddressCount=1)
    judge(site.client, refusal, "InvalidOperation.Ipv6CountExceeded", 403, Reaction.ENI_FULL)
    types = await site.client.call("DescribeInstanceTypes", InstanceTypes=[site.node.type])
    [kind] = types["InstanceTypes"]["InstanceType"]
    assert kind["EniIpv6AddressQuantity"] == kind["EniPrivateIpAddressQuantity"] == 10


async def test_addresses_go_all_or_none(site: Site) -> None:
    eni = await attached(site)
    there = sixes(await until(site, eni, "InUse"))
    await site.client.call("UnassignIpv6Addresses", NetworkInterfaceId=eni, Ipv6Address=there[:1])
    refusal = await refused(site.client, "UnassignIpv6Addresses", NetworkInterfaceId=eni, Ipv6Address=there[:2])
    judge(site.client, refusal, "InvalidIp.IpUnassigned", refusal.status, Reaction.GONE)
    assert sixes(await until(site, eni, "InUse")) == there[1:]


async def test_a_vswitch_says_whether_it_has_ipv6(site: Site) -> None:
    answer = await site.client.call("DescribeVSwitches")
    ranges = {v["VSwitchId"]: v["Ipv6CidrBlock"] for v in answer["VSwitches"]["VSwitch"]}
    assert ranges["vsw-a"]
    assert not ranges["vsw-b"]
