"""The cloud over HTTP, judged by the official client: its request classes, its signer, its errors."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from aliyunsdkcore.acs_exception.exceptions import ClientException, ServerException
from aliyunsdkcore.auth.credentials import StsTokenCredential
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest, RpcRequest
from aliyunsdkecs.request.v20140526 import (
    AssignPrivateIpAddressesRequest,
    AttachNetworkInterfaceRequest,
    CreateNetworkInterfaceRequest,
    DeleteNetworkInterfaceRequest,
    DescribeInstancesRequest,
    DescribeInstanceTypesRequest,
    DescribeNetworkInterfacesRequest,
    DetachNetworkInterfaceRequest,
    UnassignPrivateIpAddressesRequest,
)
from aliyunsdkvpc.request.v20160428 import DescribeVSwitchesRequest

from compose.lab.cloud import CLOUD, Account, Fault, build_app
from compose.lab.cloud.core.model import AccessKey, Delays, Instance

DELAYS = Delays(attach=(0.02, 0.02), detach=(0.02, 0.02), delete=(0.02, 0.02), metadata=(0.02, 0.02))


class Lab:
    """A cloud on loopback with one node, and the official client of it."""

    def __init__(self, server: TestServer, account: Account, instance: Instance) -> None:
        self.server = server
        self.account = account
        self.instance = instance
        self.cloud = server.app[CLOUD]
        self._clients: list[AcsClient] = []
        self.client = self.client_with("ak", "secret")

    def client_with(self, key: str | None, secret: str | None, **more: Any) -> AcsClient:
        client = AcsClient(key, secret, "cn-lab", port=self.server.port, auto_retry=False, **more)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.session.close()

    async def call(self, request: RpcRequest, client: AcsClient | None = None, **parameters: Any) -> dict[str, Any]:
        request.set_endpoint("127.0.0.1")
        for name, value in parameters.items():
            getattr(request, f"set_{name}")(value)
        answer: dict[str, Any] = json.loads(
            await asyncio.to_thread((client or self.client).do_action_with_exception, request)
        )
        return answer

    async def create(self, **parameters: Any) -> dict[str, Any]:
        request = CreateNetworkInterfaceRequest.CreateNetworkInterfaceRequest()
        return await self.call(request, VSwitchId="vsw-lab-a", SecurityGroupIdss=["sg-lab"], **parameters)

    async def attach(self, eni: str) -> None:
        request = AttachNetworkInterfaceRequest.AttachNetworkInterfaceRequest()
        await self.call(request, NetworkInterfaceId=eni, InstanceId=self.instance.id)

    async def described(self, **filters: Any) -> list[dict[str, Any]]:
        request = DescribeNetworkInterfacesRequest.DescribeNetworkInterfacesRequest()
        answer = await self.call(request, **filters)
        enis: list[dict[str, Any]] = answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]
        return enis

    async def until(self, eni: str, status: str | None) -> dict[str, Any]:
        """Poll as a client does, until the status is reached; None: until it is gone."""
        async with asyncio.timeout(5):
            while True:
                found = await self.described(NetworkInterfaceIds=[eni])
                if [e["Status"] for e in found] == ([] if status is None else [status]):
                    return found[0] if found else {}
                await asyncio.sleep(0.01)

    async def metadata(self, path: str, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.server.make_url(f"/latest/meta-data/{path}"), headers=headers) as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    account = Account(delays=DELAYS)
    account.add_key(AccessKey("ak", "secret"))
    instance = account.run_instance("n1", vswitch="vsw-lab-a", instance_type="ecs.g6.2xlarge", now=time.time())
    async with TestServer(build_app(account, metadata_for=instance.id)) as server:
        lab = Lab(server, account, instance)
        yield lab
        lab.close()


async def test_the_life_of_an_interface(lab: Lab) -> None:
    made = await lab.create(
        SecondaryPrivateIpAddressCount=2, Tags=[{"Key": "creator", "Value": "terway"}], NetworkInterfaceName="ü & +*~/"
    )
    eni = made["NetworkInterfaceId"]
    assert made["Status"] == "Available" and len(made["PrivateIpSets"]["PrivateIpSet"]) == 3
    await lab.attach(eni)
    used = await lab.until(eni, "InUse")
    assert used["InstanceId"] == lab.instance.id and used["MacAddress"] == made["MacAddress"]
    assert used["NetworkInterfaceName"] == "ü & +*~/"
    assert used["Tags"] == {"Tag": [{"TagKey": "creator", "TagValue": "terway"}]}

    assign = AssignPrivateIpAddressesRequest.AssignPrivateIpAddressesRequest()
    assigned = await lab.call(assign, NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=4)
    fresh = assigned["AssignedPrivateIpAddressesSet"]["PrivateIpSet"]["PrivateIpAddress"]
    (now,) = await lab.described(InstanceId=lab.instance.id, Type="Secondary")
    listed = [a["PrivateIpAddress"] for a in now["PrivateIpSets"]["PrivateIpSet"]]
    assert len(fresh) == 4 and listed[-4:] == fresh
    assert [a["Primary"] for a in now["PrivateIpSets"]["PrivateIpSet"]] == [True] + [False] * 6

    unassign = UnassignPrivateIpAddressesRequest.UnassignPrivateIpAddressesRequest()
    await lab.call(unassign, NetworkInterfaceId=eni, PrivateIpAddresss=fresh)
    (now,) = await lab.described(NetworkInterfaceIds=[eni])
    assert len(now["PrivateIpSets"]["PrivateIpSet"]) == 3

    detach = DetachNetworkInterfaceRequest.DetachNetworkInterfaceRequest()
    await lab.call(detach, NetworkInterfaceId=eni, InstanceId=lab.instance.id)
    assert "InstanceId" not in await lab.until(eni, "Available")
    await lab.call(DeleteNetworkInterfaceRequest.DeleteNetworkInterfaceRequest(), NetworkInterfaceId=eni)
    await lab.until(eni, None)
    lab.account.check()


async def test_facts_that_a_node_asks_for(lab: Lab) -> None:
    request = DescribeInstanceTypesRequest.DescribeInstanceTypesRequest()
    types = await lab.call(request, InstanceTypess=["ecs.g6.2xlarge", "ecs.none"])
    assert [t["EniQuantity"] for t in types["InstanceTypes"]["InstanceType"]] == [4]
    instances = await lab.call(
        DescribeInstancesRequest.DescribeInstancesRequest(), InstanceIds=json.dumps([lab.instance.id])
    )
    (instance,) = instances["Instances"]["Instance"]
    assert instance["SecurityGroupIds"]["SecurityGroupId"] == ["sg-lab"]
    vswitches = await lab.call(DescribeVSwitchesRequest.DescribeVSwitchesRequest(), VSwitchId="vsw-lab-a")
    assert [v["CidrBlock"] for v in vswitches["VSwitches"]["VSwitch"]] == ["192.168.0.0/20"]


async def test_errors_reach_the_client_as_its_exceptions(lab: Lab) -> None:
    with pytest.raises(ServerException) as caught:
        await lab.attach("eni-none")
    assert (caught.value.get_http_status(), caught.value.get_error_code()) == (404, "InvalidEniId.NotFound")
    assert caught.value.get_request_id()


async def test_a_wrong_secret_is_recognised_by_the_client_itself(lab: Lab) -> None:
    """It compares its own string to sign with the server's and says that the secret must be wrong."""
    client = lab.client_with("ak", "wrong")
    with pytest.raises((ClientException, ServerException)) as caught:
        await lab.call(DescribeVSwitchesRequest.DescribeVSwitchesRequest(), client)
    assert "InvalidAccessKeySecret" in str(caught.value)


async def test_parameters_in_the_body_are_signed_too(lab: Lab) -> None:
    request = CommonRequest(domain="127.0.0.1", version="2014-05-26", action_name="DescribeNetworkInterfaces")
    request.set_method("POST")
    request.set_protocol_type("http")
    request.add_body_params("InstanceId", lab.instance.id)
    request.add_body_params("PageSize", 5)
    answer = json.loads(await asyncio.to_thread(lab.client.do_action_with_exception, request))
    assert (answer["TotalCount"], answer["PageSize"]) == (1, 5)


async def test_the_role_of_the_instance_may_call(lab: Lab) -> None:
    _, role = await lab.metadata("ram/security-credentials/")
    _, text = await lab.metadata(f"ram/security-credentials/{role}")
    key = json.loads(text)
    assert key["Code"] == "Success"
    temporary = StsTokenCredential(key["AccessKeyId"], key["AccessKeySecret"], key["SecurityToken"])
    client = lab.client_with(None, None, credential=temporary)
    request = DescribeVSwitchesRequest.DescribeVSwitchesRequest()
    assert (await lab.call(request, client))["TotalCount"] == 2
    forged = StsTokenCredential(key["AccessKeyId"], key["AccessKeySecret"], "forged")
    with pytest.raises(ServerException) as caught:
        await lab.call(
            DescribeVSwitchesRequest.DescribeVSwitchesRequest(), lab.client_with(None, None, credential=forged)
        )
    assert caught.value.get_error_code() == "InvalidSecurityToken.MismatchWithAccessKey"


async def test_an_error_on_purpose_has_no_effect(lab: Lab) -> None:
    lab.cloud.faults.add(Fault("CreateNetworkInterface", code="Throttling", status=400, times=1))
    with pytest.raises(ServerException) as caught:
        await lab.create()
    assert caught.value.get_error_code() == "Throttling"
    assert len(lab.account.enis) == 1
    await lab.create()


async def test_a_lost_answer_has_its_effect_and_a_token_finds_it_again(lab: Lab) -> None:
    lab.cloud.faults.add(Fault("CreateNetworkInterface", kind="lost_answer", times=1))
    with pytest.raises(ClientException):
        await lab.create(ClientToken="mine")
    assert len(lab.account.enis) == 2
    again = await lab.create(ClientToken="mine")
    assert len(lab.account.enis) == 2 and again["NetworkInterfaceId"] in lab.account.enis


async def test_a_delay_on_purpose(lab: Lab) -> None:
    lab.cloud.faults.add(Fault("CreateNetworkInterface", kind="delay", delay_s=0.3, times=1))
    start = time.monotonic()
    await lab.create()
    assert time.monotonic() - start >= 0.3


async def test_metadata_follows_the_account(lab: Lab) -> None:
    primary = lab.account.eni(lab.instance.primary_eni)
    assert await lab.metadata("mac") == (200, primary.mac)
    assert await lab.metadata("instance-id") == (200, lab.instance.id)
    assert await lab.metadata("instance/instance-type") == (200, "ecs.g6.2xlarge")
    assert await lab.metadata("vpc-cidr-block") == (200, "192.168.0.0/16")
    made = await lab.create(SecondaryPrivateIpAddressCount=1)
    mac, macs = made["MacAddress"], "network/interfaces/macs"
    assert (await lab.metadata(f"{macs}/{mac}/network-interface-id"))[0] == 404, "attached to nothing"
    await lab.attach(made["NetworkInterfaceId"])
    listed = ""
    async with asyncio.timeout(5):
        while listed != f"{primary.mac}/\n{mac}/":
            _, listed = await lab.metadata(f"{macs}/")
    assert await lab.metadata(f"{macs}/{mac}/network-interface-id") == (200, made["NetworkInterfaceId"])
    assert await lab.metadata(f"{macs}/{mac}/gateway") == (200, "192.168.15.253")
    assert await lab.metadata(f"{macs}/{mac}/netmask") == (200, "255.255.240.0")
    assert await lab.metadata(f"{macs}/{mac}/vswitch-cidr-block") == (200, "192.168.0.0/20")
    addresses = [a["PrivateIpAddress"] for a in made["PrivateIpSets"]["PrivateIpSet"]]
    assert json.loads((await lab.metadata(f"{macs}/{mac}/private-ipv4s"))[1]) == addresses
    assert (await lab.metadata(f"{macs}/{mac}/ipv6s"))[0] == 404
    assert (await lab.metadata(f"{macs}/{mac}/nonsense"))[0] == 404


async def test_metadata_tokens(lab: Lab) -> None:
    async with aiohttp.ClientSession() as session:
        url = lab.server.make_url("/latest/api/token")
        for ttl in ("0", "21601", "x"):
            async with session.put(url, headers={"X-aliyun-ecs-metadata-token-ttl-seconds": ttl}) as answer:
                assert answer.status == 400
        async with session.put(url, headers={"X-aliyun-ecs-metadata-token-ttl-seconds": "60"}) as answer:
            token = await answer.text()
    header = "X-aliyun-ecs-metadata-token"
    assert (await lab.metadata("region-id", **{header: token})) == (200, "cn-lab")
    assert (await lab.metadata("region-id", **{header: "forged"}))[0] == 401


async def test_hardened_metadata_asks_for_a_token() -> None:
    account = Account(delays=DELAYS)
    instance = account.run_instance("n1", vswitch="vsw-lab-a", instance_type="ecs.g6.2xlarge", now=time.time())
    app = build_app(account, metadata_for=instance.id, token_required=True)
    async with TestServer(app) as server:
        lab = Lab(server, account, instance)
        assert (await lab.metadata("region-id"))[0] == 403
        lab.close()


async def test_strangers_get_no_metadata() -> None:
    async with TestServer(build_app(Account())) as server, aiohttp.ClientSession() as session:
        async with session.get(server.make_url("/latest/meta-data/mac")) as answer:
            assert answer.status == 404
