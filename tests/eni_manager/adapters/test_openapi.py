"""The transport, judged by a server that computes signatures itself, from the API reference's description."""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from urllib.parse import quote, unquote

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aliyunsdkecs.request.v20140526.AttachNetworkInterfaceRequest import AttachNetworkInterfaceRequest
from aliyunsdkecs.request.v20140526.CreateNetworkInterfaceRequest import CreateNetworkInterfaceRequest
from aliyunsdkvpc.request.v20160428.DescribeVSwitchesRequest import DescribeVSwitchesRequest

from services.eni_manager.adapters.credentials import Credentials, FixedKeys
from services.eni_manager.adapters.openapi import CloudError, Endpoints, OpenApi, with_parameters
from services.eni_manager.adapters.pacing import Bucket, Buckets
from services.eni_manager.core.reactions import NO_ANSWER, REACTIONS, Reaction, react
from shared.backoff import Backoff
from shared.secret import Secret

QUICK = Backoff(0.001, steps=4)
DEFINITE = sorted(c for c, r in REACTIONS.items() if r not in (Reaction.AGAIN, Reaction.NEW_CREDENTIALS))


def encoded(text: str) -> str:
    """RFC 3986, as the API reference asks for it."""
    return quote(text, safe="-_.~")


class Answer(msgspec.Struct, rename="pascal"):
    request_id: str


class Judge:
    """Answers what it is told to, after checking the signature of every call."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        self.answers: list[tuple[int, bytes] | None] = []
        self.secrets = {"ak": "sk", "sts-ak": "sts-sk"}
        self.forged: list[str] = []

    async def serve(self, request: web.Request) -> web.Response:
        parameters = dict(request.query)
        signed_as_sent = all(
            part == encoded(unquote(part)) for part in re.split("[&=]", request.rel_url.raw_query_string)
        )
        if parameters.pop("Signature") != self.signature(request.method, parameters) or not signed_as_sent:
            self.forged.append(request.rel_url.raw_query_string)
        self.calls.append(parameters)
        answer = self.answers.pop(0) if self.answers else (200, b'{"RequestId":"R"}')
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=answer[0], body=answer[1], content_type="application/json")

    def signature(self, method: str, parameters: dict[str, str]) -> str:
        canonical = "&".join(f"{encoded(key)}={encoded(value)}" for key, value in sorted(parameters.items()))
        to_sign = f"{method}&%2F&{encoded(canonical)}"
        key = self.secrets[parameters["AccessKeyId"]] + "&"
        return base64.b64encode(hmac.new(key.encode(), to_sign.encode(), hashlib.sha1).digest()).decode()


@pytest.fixture
async def judge() -> AsyncIterator[Judge]:
    judge = Judge()
    yield judge
    assert judge.forged == []


@pytest.fixture
async def url(judge: Judge) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/", judge.serve)
    async with TestServer(app) as server:
        yield str(server.make_url(""))


def api(session, url, keys=None, **more):
    return OpenApi(
        session,
        keys or FixedKeys(Credentials("ak", Secret("sk"))),
        region="cn-lab",
        endpoints=Endpoints("cn-lab", overrides={"Ecs": url, "Vpc": url}),
        buckets=Buckets({}),
        **more,
    )


def create(**parameters):
    request = CreateNetworkInterfaceRequest()
    request.set_VSwitchId("vsw-1")
    request.set_ClientToken("token-1")
    request.set_Tags([{"Key": "k", "Value": "ünï cöde+ *~/&=%"}])
    return with_parameters(request, **parameters)


def refusal(code, status=400):
    return status, msgspec.json.encode({"Code": code, "Message": "told so", "RequestId": "R-1"})


async def test_signs_what_it_sends_whatever_is_in_it(session, url, judge):
    await api(session, url).call(create(Description="a b+c*d~e'(f)"), Answer, QUICK)
    (call,) = judge.calls
    assert call["Tag.1.Value"] == "ünï cöde+ *~/&=%"
    assert call["Description"] == "a b+c*d~e'(f)"
    assert (call["Action"], call["Version"], call["RegionId"]) == ("CreateNetworkInterface", "2014-05-26", "cn-lab")


async def test_signs_with_a_temporary_key_and_drops_its_token_with_it(session, url, judge):
    keys = FixedKeys(Credentials("sts-ak", Secret("sts-sk"), token=Secret("sts+token/=")))
    request = create()
    await api(session, url, keys).call(request, Answer, QUICK)
    await api(session, url).call(request, Answer, QUICK)
    assert [call.get("SecurityToken") for call in judge.calls] == ["sts+token/=", None]


@pytest.mark.parametrize(
    "trouble",
    [refusal("Throttling.User"), refusal("InternalError", 500), refusal("New.Code", 503), (502, b"<html>"), None],
)
async def test_makes_the_same_call_again_signed_anew(session, url, judge, trouble):
    judge.answers = [trouble, trouble]
    answer = await api(session, url).call(create(), Answer, QUICK)
    assert answer.request_id == "R"
    assert len(judge.calls) == 3
    assert {call["ClientToken"] for call in judge.calls} == {"token-1"}
    assert len({call["SignatureNonce"] for call in judge.calls}) == 3


@pytest.mark.parametrize("action", ["AttachNetworkInterface", "AssignPrivateIpAddresses", "DetachNetworkInterface"])
async def test_every_action_is_tried_again(session, url, judge, action):
    """The SDK's own client does this only for a list of actions that has none of these."""
    request = AttachNetworkInterfaceRequest()
    request.set_action_name(action)
    judge.answers = [refusal("ServiceUnavailable", 503)]
    await api(session, url).call(with_parameters(request, ClientToken="t"), Answer, QUICK)
    assert len(judge.calls) == 2


@pytest.mark.parametrize("code", DEFINITE)
async def test_a_definite_refusal_is_told_at_once(session, url, judge, code):
    judge.answers = [refusal(code, 403)]
    with pytest.raises(CloudError, match="told so") as raised:
        await api(session, url).call(create(), Answer, QUICK)
    error = raised.value
    assert (error.cloud_code, error.request_id, error.reaction) == (code, "R-1", REACTIONS[code])
    assert len(judge.calls) == 1


async def test_gives_up_with_what_happened_last(session, url, judge):
    judge.answers = [refusal("Throttling")] * 9
    with pytest.raises(CloudError) as raised:
        await api(session, url).call(create(), Answer, QUICK)
    assert raised.value.reaction is Reaction.AGAIN
    assert len(judge.calls) == QUICK.steps


async def test_no_answer_in_time_is_a_failure_that_passes(session):
    gone = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await gone.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/", hang)
    async with TestServer(app) as server:
        slow = api(session, str(server.make_url("")), attempt_timeout_s=0.05)
        with pytest.raises(CloudError) as raised:
            await slow.call(create(), Answer, Backoff(0.001, steps=1))
        gone.set()
    assert (raised.value.cloud_code, raised.value.reaction) == (NO_ANSWER, Reaction.AGAIN)


async def test_nobody_there_is_a_failure_that_passes(session):
    with pytest.raises(CloudError) as raised:
        await api(session, "http://127.0.0.1:1").call(create(), Answer, Backoff(0.001, steps=2))
    assert raised.value.cloud_code == NO_ANSWER


async def test_an_unreadable_answer_may_have_had_its_effect(session, url, judge):
    judge.answers = [(200, b'{"RequestId": 7'), (200, b'{"RequestId": "R"}')]
    await api(session, url).call(create(), Answer, QUICK)
    assert [call["ClientToken"] for call in judge.calls] == ["token-1", "token-1"]


async def test_refused_keys_are_fetched_again(session, url, judge):
    class Rotating:
        def __init__(self) -> None:
            self.keys = [Credentials("ak", Secret("sk")), Credentials("sts-ak", Secret("sts-sk"), token=Secret("t"))]

        async def get(self) -> Credentials:
            return self.keys[0]

        def refused(self, credentials: Credentials) -> None:
            self.keys.remove(credentials)

    judge.answers = [refusal("InvalidSecurityToken.Expired", 403)]
    await api(session, url, Rotating()).call(create(), Answer, QUICK)
    assert [call["AccessKeyId"] for call in judge.calls] == ["ak", "sts-ak"]


async def test_tells_an_observer_of_each_attempt(session, url, judge):
    seen = []
    judge.answers = [refusal("Throttling")]
    observed = api(session, url, observe=lambda action, failed, took, waited: seen.append((action, failed)))
    await observed.call(create(), Answer, QUICK)
    assert seen == [("CreateNetworkInterface", True), ("CreateNetworkInterface", False)]


def test_endpoints_follow_the_sdks_rules():
    def host(request, *, region="cn-hangzhou", **how):
        return Endpoints(region, overrides=how.pop("overrides", {}), **how).url(request)

    assert host(create()) == "https://ecs-vpc.cn-hangzhou.aliyuncs.com"
    assert host(DescribeVSwitchesRequest()) == "https://vpc-vpc.cn-hangzhou.aliyuncs.com"
    assert host(create(), scheme="HTTP", network="public") == "http://ecs-cn-hangzhou.aliyuncs.com"
    assert host(create(), overrides={"Ecs": "10.0.0.1:8080"}, scheme="http") == "http://10.0.0.1:8080"
    assert host(create(), overrides={"Ecs": "http://lab/"}) == "http://lab"


def test_unknown_codes_are_judged_by_status():
    assert react("Brand.New", 500) is Reaction.AGAIN
    assert react("Brand.New", 429) is Reaction.AGAIN
    assert react("Brand.New", 400) is Reaction.REFUSED
    assert react("Throttling.Something", 400) is Reaction.AGAIN


@pytest.mark.looptime
async def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    loop = asyncio.get_running_loop()
    bucket, began = Bucket(2.0, 3), loop.time()
    await asyncio.gather(*(bucket.take() for _ in range(7)))
    assert loop.time() - began == pytest.approx(2.0)  # 3 at once, 4 more at 2 a second
    await asyncio.sleep(10)
    assert [await bucket.take() for _ in range(3)] == [0, 0, 0]
    assert await bucket.take() > 0, "no more than a burst is saved"


@pytest.mark.looptime
async def test_who_gives_up_waiting_gives_its_token_back():
    bucket = Bucket(1.0, 1)
    await bucket.take()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await bucket.take()
    assert await bucket.take() == pytest.approx(0.5)


@pytest.mark.looptime
async def test_buckets_are_per_action_and_configurable():
    buckets = Buckets({"Slow": 60})
    assert await buckets.take("Slow") == 0
    assert await buckets.take("Slow") == pytest.approx(1.0)
    assert await buckets.take("Other") == 0
