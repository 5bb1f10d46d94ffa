"""Each class of error reaches each client's users as the exception that they expect."""

import asyncio
from typing import Any

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException

from compose.lab.cloud import Fault
from compose.lab.cloud.core.model import AccessKey
from compose.lab.cloud.core.throttle import Limit, Limits
from services.eni_manager.adapters.openapi import CloudError
from services.eni_manager.core.reactions import Reaction
from tests.contract.cloud.clients import Client, FirstGeneration, Ours, Refused
from tests.contract.cloud.conftest import Site

CREATE = {"VSwitchId": "vsw-a", "SecurityGroupId": "sg-lab"}


async def refused(client: Client, action: str, **parameters: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await client.call(action, **parameters)
    return caught.value


def judge(client: Client, refusal: Refused, code: str, status: int, reaction: Reaction) -> None:
    """The right class for this client, with code, status and request id."""
    assert (refusal.code, refusal.status) == (code, status)
    assert len(refusal.request_id) == 36
    if isinstance(client, Ours):
        assert isinstance(refusal.raised, CloudError) and refusal.raised.reaction is reaction
    elif isinstance(client, FirstGeneration):
        assert type(refusal.raised) is ServerException and refusal.raised.get_error_msg()
    else:
        from alibabacloud_tea_openapi import exceptions

        throttled = code.startswith("Throttling")
        kind = exceptions.ClientException if status < 500 else exceptions.ServerException
        assert type(refusal.raised) is (exceptions.ThrottlingException if throttled else kind)


async def test_a_wrong_secret(site: Site) -> None:
    client = site.client_with(("ak", "wrong", ""))
    refusal = await refused(client, "DescribeVSwitches")
    # The first generation compares the server's string with its own, and concludes that the secret is wrong.
    code = "InvalidAccessKeySecret" if isinstance(client, FirstGeneration) else "SignatureDoesNotMatch"
    judge(client, refusal, code, 400, Reaction.DENIED)


@pytest.mark.parametrize(
    ("key", "code", "status", "reaction"),
    [
        (("nobody", "s", ""), "InvalidAccessKeyId.NotFound", 404, Reaction.NEW_CREDENTIALS),
        (("off", "s", ""), "InvalidAccessKeyId.Inactive", 400, Reaction.NEW_CREDENTIALS),
        (("STS.old", "s", "tok"), "InvalidSecurityToken.Expired", 400, Reaction.NEW_CREDENTIALS),
        (("STS.new", "s", "forged"), "InvalidSecurityToken.MismatchWithAccessKey", 400, Reaction.REFUSED),
        (("STS.new", "s", ""), "MissingSecurityToken", 400, Reaction.REFUSED),
        (("poor", "s", ""), "Forbidden.RAM", 403, Reaction.DENIED),
    ],
)
async def test_keys_that_may_not_call(
    site: Site, key: tuple[str, str, str], code: str, status: int, reaction: Reaction
) -> None:
    now = site.cloud.clock()
    site.account.add_key(AccessKey("off", "s", active=False))
    site.account.add_key(AccessKey("STS.old", "s", "tok", now - 1))
    site.account.add_key(AccessKey("STS.new", "s", "tok", now + 60))
    site.account.add_key(AccessKey("poor", "s", forbidden=("DescribeVSwitches",)))
    client = site.client_with(key)
    judge(client, await refused(client, "DescribeVSwitches"), code, status, reaction)


async def test_a_temporary_key_and_its_token_may_call(site: Site) -> None:
    site.account.add_key(AccessKey("STS.new", "s", "tok", site.cloud.clock() + 60))
    client = site.client_with(("STS.new", "s", "tok"))
    assert (await client.call("DescribeVSwitches"))["TotalCount"] == 3


async def test_a_clock_that_is_wrong(site: Site) -> None:
    clock = site.cloud.clock
    site.cloud.clock = lambda: clock() + 1000
    judge(
        site.client, await refused(site.client, "DescribeVSwitches"), "InvalidTimeStamp.Expired", 400, Reaction.DENIED
    )


@pytest.mark.parametrize(
    ("action", "parameters", "code", "status", "reaction"),
    [
        ("DeleteNetworkInterface", {"NetworkInterfaceId": "eni-none"}, "InvalidEniId.NotFound", 404, Reaction.GONE),
        (
            "CreateNetworkInterface",
            {**CREATE, "VSwitchId": "vsw-none"},
            "InvalidVSwitchId.NotFound",
            404,
            Reaction.REFUSED,
        ),
        (
            "CreateNetworkInterface",
            {**CREATE, "SecurityGroupId": "sg-none"},
            "InvalidSecurityGroupId.NotFound",
            404,
            Reaction.REFUSED,
        ),
        (
            "CreateNetworkInterface",
            {**CREATE, "ResourceGroupId": "rg-none"},
            "InvalidResourceGroup.NotFound",
            404,
            Reaction.REFUSED,
        ),
        (
            "CreateNetworkInterface",
            {**CREATE, "VSwitchId": "vsw-small", "SecondaryPrivateIpAddressCount": 12},
            "InvalidVSwitchId.IpNotEnough",
            403,
            Reaction.NO_ADDRESSES,
        ),
        (
            "CreateNetworkInterface",
            {**CREATE, "VSwitchId": "vsw-b", "Ipv6AddressCount": 1},
            "InvalidVSwitchId.Ipv6NotTurnOn",
            403,
            Reaction.NO_IPV6,
        ),
        ("CreateNetworkInterface", {"SecurityGroupId": "sg-lab"}, "MissingParameter", 400, Reaction.REFUSED),
        (
            "CreateNetworkInterface",
            {**CREATE, "SecondaryPrivateIpAddressCount": 50},
            "InvalidParameter",
            400,
            Reaction.REFUSED,
        ),
        (
            "CreateNetworkInterface",
            {**CREATE, "SecurityGroupIds": ["sg-lab"]},
            "InvalidParameter.Conflict",
            400,
            Reaction.REFUSED,
        ),
        (
            "DescribeNetworkInterfaces",
            {"PageNumber": 1, "MaxResults": 2},
            "InvalidParameter.Conflict",
            400,
            Reaction.REFUSED,
        ),
        ("DescribeNetworkInterfaces", {"PageSize": 501}, "InvalidParameter", 400, Reaction.REFUSED),
        ("DescribeNetworkInterfaces", {"Status": "Gone"}, "InvalidParameter", 400, Reaction.REFUSED),
        ("DescribeNetworkInterfaces", {"NextToken": "mine"}, "InvalidParameter.NextToken", 400, Reaction.REFUSED),
    ],
)
async def test_calls_that_cannot_be(
    site: Site, action: str, parameters: dict[str, Any], code: str, status: int, reaction: Reaction
) -> None:
    before = len(site.account.enis)
    judge(site.client, await refused(site.client, action, **parameters), code, status, reaction)
    assert len(site.account.enis) == before


@pytest.mark.parametrize("site", ["second"], indirect=True)
async def test_another_region(site: Site) -> None:
    """The first generation and ours always send their own."""
    refusal = await refused(site.client, "DescribeVSwitches", RegionId="cn-none")
    judge(site.client, refusal, "InvalidRegionId.NotFound", 404, Reaction.REFUSED)


async def attached(site: Site) -> dict[str, str]:
    """Ids of an interface that is in use, and of its instance."""
    eni = (await site.client.call("CreateNetworkInterface", **CREATE))["NetworkInterfaceId"]
    await until(site, eni, "Available")
    ids = {"NetworkInterfaceId": eni, "InstanceId": site.node.id}
    await site.client.call("AttachNetworkInterface", **ids)
    await until(site, eni, "InUse")
    return ids


async def until(site: Site, eni: str, status: str) -> None:
    async with asyncio.timeout(10):
        while site.account.eni(eni).status != status:
            await site.client.call("DescribeVSwitches")  # the cloud goes on by itself; this only passes the time


async def test_a_wrong_state(site: Site) -> None:
    ids = await attached(site)
    for action in ("AttachNetworkInterface", "DeleteNetworkInterface"):
        parameters = ids if action == "AttachNetworkInterface" else {"NetworkInterfaceId": ids["NetworkInterfaceId"]}
        refusal = await refused(site.client, action, **parameters)
        judge(site.client, refusal, "InvalidOperation.InvalidEniState", 400, Reaction.LOOK)


async def test_quotas(site: Site) -> None:
    ids = await attached(site)
    eni = {"NetworkInterfaceId": ids["NetworkInterfaceId"]}
    for count, kind in ((10, "SecondaryPrivateIpAddressCount"), (10, "Ipv4PrefixCount")):
        refusal = await refused(site.client, "AssignPrivateIpAddresses", **eni, **{kind: count})
        judge(site.client, refusal, "InvalidOperation.Ipv4CountExceeded", 403, Reaction.ENI_FULL)
    await site.client.call("AssignIpv6Addresses", **eni, Ipv6AddressCount=10)
    refusal = await refused(site.client, "AssignIpv6Addresses", **eni, Ipv6PrefixCount=1)
    judge(site.client, refusal, "InvalidOperation.Ipv6CountExceeded", 403, Reaction.ENI_FULL)
    for _ in range(2):
        await attached(site)
    extra = (await site.client.call("CreateNetworkInterface", **CREATE))["NetworkInterfaceId"]
    await until(site, extra, "Available")
    refusal = await refused(site.client, "AttachNetworkInterface", NetworkInterfaceId=extra, InstanceId=site.node.id)
    judge(site.client, refusal, "EniPerInstanceLimitExceeded", 403, Reaction.NO_ENI_SLOT)
    while len(site.account.enis) < site.account.quotas.enis:
        await site.client.call("CreateNetworkInterface", **CREATE)
    refusal = await refused(site.client, "CreateNetworkInterface", **CREATE)
    judge(site.client, refusal, "QuotaExceeded.Eni", 403, Reaction.REFUSED)


async def test_an_address_that_is_not_there_and_the_primary_one(site: Site) -> None:
    ids = await attached(site)
    eni = {"NetworkInterfaceId": ids["NetworkInterfaceId"]}
    refusal = await refused(site.client, "UnassignPrivateIpAddresses", **eni, PrivateIpAddress=["192.168.9.9"])
    judge(site.client, refusal, "InvalidIp.IpUnassigned", 400, Reaction.GONE)
    primary = site.account.eni(ids["NetworkInterfaceId"]).primary_ip
    refusal = await refused(site.client, "UnassignPrivateIpAddresses", **eni, PrivateIpAddress=[primary])
    judge(site.client, refusal, "InvalidParameter", 400, Reaction.REFUSED)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(actions={"DescribeVSwitches": Limit(1, burst=2)}), "Throttling.User"),
        (Limits(account=Limit(1, burst=2)), "Throttling"),
    ],
)
async def test_too_many_calls(site: Site, limits: Limits, code: str) -> None:
    site.cloud.api.throttle.limits = limits
    for _ in range(2):
        await site.client.call("DescribeVSwitches")
    refusal = await refused(site.client, "DescribeVSwitches")
    judge(site.client, refusal, code, 400, Reaction.AGAIN)
    assert getattr(refusal.raised, "retry_after", 1) > 0
    if code == "Throttling.User":
        await site.client.call("DescribeNetworkInterfaces")
    clock = site.cloud.clock
    site.cloud.clock = lambda: clock() + 61
    await site.client.call("DescribeVSwitches")


async def test_the_servers_own_fault(site: Site) -> None:
    site.cloud.spoil(Fault("Describe*", code="ServiceUnavailable", status=503, times=1))
    refusal = await refused(site.client, "DescribeVSwitches")
    judge(site.client, refusal, "ServiceUnavailable", 503, Reaction.AGAIN)
    await site.client.call("DescribeVSwitches")


async def test_an_answer_that_is_lost(site: Site) -> None:
    """Neither official client wraps it in an exception of its cloud; a token finds the effect again."""
    site.cloud.spoil(Fault("CreateNetworkInterface", kind="lost_answer", times=1))
    with pytest.raises(Exception) as caught:
        await site.client.call("CreateNetworkInterface", **CREATE, ClientToken="t")
    assert len(site.account.enis) == 2
    assert getattr(caught.value, "code", "NoAnswer") in ("NoAnswer", None, "SDK.HttpError")
    again = await site.client.call("CreateNetworkInterface", **CREATE, ClientToken="t")
    assert len(site.account.enis) == 2 and again["NetworkInterfaceId"] in site.account.enis


async def test_an_effect_that_is_lost(site: Site) -> None:
    ids = await attached(site)
    eni = {"NetworkInterfaceId": ids["NetworkInterfaceId"]}
    site.cloud.spoil(Fault("AssignPrivateIpAddresses", kind="lost_effect", times=1))
    answer = await site.client.call("AssignPrivateIpAddresses", **eni, SecondaryPrivateIpAddressCount=2)
    said = answer["AssignedPrivateIpAddressesSet"]["PrivateIpSet"]["PrivateIpAddress"]
    assert len(said) == 2 and len(site.account.eni(ids["NetworkInterfaceId"]).ipv4) == 1
    assert site.account.eni_at(said[0]) is None


async def test_a_listing_that_is_stale(site: Site) -> None:
    fault = site.cloud.spoil(Fault("DescribeNetworkInterfaces", kind="stale"))
    made = await site.client.call("CreateNetworkInterface", **CREATE)
    ask = {"NetworkInterfaceId": [made["NetworkInterfaceId"]]}
    assert (await site.client.call("DescribeNetworkInterfaces", **ask))["TotalCount"] == 0
    site.cloud.faults.clear([fault.id])
    assert (await site.client.call("DescribeNetworkInterfaces", **ask))["TotalCount"] == 1
