"""The metadata service: tokens, retries, and answers that are none."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.eni_manager.adapters.imds import Metadata
from shared.backoff import Backoff
from shared.errors import NotFound, Unavailable

TTL = "X-aliyun-ecs-metadata-token-ttl-seconds"
TOKEN = "X-aliyun-ecs-metadata-token"
MAC = "00:16:3e:00:00:01"


class Service:
    """Answers from `pages`; `answers` come first, one per request."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.answers: list[tuple[int, str]] = []
        self.tokens = 0
        self.ttl = ""
        self.token_status = 200
        self.asked = 0

    async def token(self, request: web.Request) -> web.Response:
        self.ttl = request.headers[TTL]
        self.tokens += 1
        return web.Response(status=self.token_status, text=f"t{self.tokens}")

    async def page(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.token_status == 200 and request.headers.get(TOKEN) != f"t{self.tokens}":
            return web.Response(status=401)
        if self.answers:
            status, text = self.answers.pop(0)
            return web.Response(status=status, text=text)
        path = request.match_info["path"]
        return web.Response(text=self.pages[path]) if path in self.pages else web.Response(status=404)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def metadata(service: Service) -> AsyncIterator[Metadata]:
    app = web.Application()
    app.add_routes([web.put("/latest/api/token", service.token), web.get("/latest/meta-data/{path:.*}", service.page)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Metadata(session, base_url=str(server.make_url("")), backoff=Backoff(0.001, steps=4))


async def test_one_token_for_all(metadata, service):
    service.pages["instance-id"] = "i-1\n"
    assert set(await asyncio.gather(*(metadata.instance_id() for _ in range(10)))) == {"i-1"}
    assert (service.tokens, service.ttl) == (1, "21600")


async def test_a_token_that_is_refused_is_replaced(metadata, service):
    service.pages["zone-id"] = "z"
    await metadata.zone()
    service.tokens += 1  # the service has forgotten ours
    assert await metadata.zone() == "z"


async def test_a_service_without_tokens_is_asked_without(metadata, service):
    service.token_status = 404
    service.pages["region-id"] = "cn-lab"
    assert await metadata.region() == "cn-lab"


@pytest.mark.parametrize("bad", [(200, ""), (200, " \n"), (500, "oops"), (429, "")])
async def test_an_answer_that_is_none_is_asked_again(metadata, service, bad):
    service.pages["zone-id"] = "z"
    service.answers = [bad, bad]
    assert await metadata.zone() == "z"


async def test_an_empty_answer_is_an_error_not_a_fact(metadata, service):
    service.pages[f"network/interfaces/macs/{MAC}/network-interface-id"] = ""
    with pytest.raises(Unavailable, match="answers nothing"):
        await metadata.eni_id(MAC)
    assert service.asked == 4


async def test_404_says_that_it_does_not_exist(metadata, service):
    with pytest.raises(NotFound):
        await metadata.eni_id(MAC)
    assert service.asked == 1


async def test_what_enis_have(metadata, service):
    base = f"network/interfaces/macs/{MAC}"
    service.pages |= {
        f"{base}/network-interface-id": "eni-1",
        f"{base}/private-ipv4s": '["10.0.0.1","10.0.0.2"]',
        f"{base}/vswitch-cidr-block": "10.0.0.0/24",
        f"{base}/gateway": "10.0.0.253",
    }
    assert await metadata.eni_id(MAC) == "eni-1"
    assert await metadata.private_ipv4s(MAC) == {"10.0.0.1", "10.0.0.2"}
    subnet = await metadata.subnet4(MAC)
    assert (subnet.cidr, subnet.gateway) == ("10.0.0.0/24", "10.0.0.253")
    assert await metadata.subnet6(MAC) is None
    assert await metadata.ipv6s(MAC) == frozenset()
    service.pages |= {
        f"{base}/ipv6s": "[2001:db8::1,2001:DB8:0::2]",
        f"{base}/vswitch-ipv6-cidr-block": "2001:db8::/64",
        f"{base}/ipv6-gateway": "2001:db8::fffd",
    }
    assert await metadata.ipv6s(MAC) == {"2001:db8::1", "2001:db8::2"}
    subnet = await metadata.subnet6(MAC)
    assert (subnet.cidr, subnet.gateway) == ("2001:db8::/64", "2001:db8::fffd")


@pytest.mark.parametrize("text", ["[", "2001:db8::1", '{"a":1}', "[2001:db8::1,]", "[x]"])
async def test_a_list_of_ipv6_addresses_that_is_none(metadata, service, text):
    service.pages[f"network/interfaces/macs/{MAC}/ipv6s"] = text
    with pytest.raises(Unavailable, match="lists the IPv6 addresses"):
        await metadata.ipv6s(MAC)


@pytest.mark.parametrize("text", ["[", '["x"]', '{"a":1}', "10.0.0.1"])
async def test_an_address_list_that_is_none(metadata, service, text):
    service.pages[f"network/interfaces/macs/{MAC}/private-ipv4s"] = text
    with pytest.raises(Unavailable, match="lists the addresses"):
        await metadata.private_ipv4s(MAC)


async def test_role_credentials_that_cannot_be_read_are_not_shown(metadata, service):
    service.pages["ram/security-credentials/r"] = '{"AccessKeyId":"hunter2"'
    with pytest.raises(Unavailable) as raised:
        await metadata.role_credentials("r")
    assert "hunter2" not in raised.value.message
    assert raised.value.__cause__ is None


async def test_nobody_there():
    async with aiohttp.ClientSession() as session:
        away = Metadata(session, base_url="http://127.0.0.1:1", backoff=Backoff(0.001, steps=2))
        with pytest.raises(Unavailable, match="does not answer"):
            await away.instance_id()
