"""Signatures, parameters, paging, client tokens and faults, without HTTP."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.cloud.core import paging
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions import ACTIONS
from compose.lab.cloud.core.api import TOKEN_LIFE_S, Api
from compose.lab.cloud.core.catalogue import TYPES
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.faults import Fault, FaultPlan
from compose.lab.cloud.core.model import DELAYS, AccessKey
from compose.lab.cloud.core.parameters import decode, nest
from compose.lab.cloud.core.requests import CreateNetworkInterface, TagPair
from compose.lab.cloud.core.signature import MAX_SKEW_S, sign, string_to_sign

NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


class Caller:
    """Signs and calls, as a client would; `change` edits the signed parameters last."""

    def __init__(self) -> None:
        self.account = Account(delays=DELAYS["none"])
        self.account.add_key(AccessKey("ak", "secret"))
        self.api = Api(self.account)
        self.nonce = 0

    def signed(
        self, action: str, at: float = NOW, key: str = "ak", secret: str = "secret", **more: str
    ) -> dict[str, str]:
        self.nonce += 1
        parameters = {
            "Action": action,
            "Version": "2016-04-28" if action == "DescribeVSwitches" else "2014-05-26",
            "AccessKeyId": key,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureNonce": str(self.nonce),
            "Timestamp": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "RegionId": "cn-lab",
        } | more
        parameters["Signature"] = sign(secret, string_to_sign("POST", parameters))
        return parameters

    def send(self, parameters: dict[str, str], now: float = NOW) -> dict[str, Any]:
        return self.api.carry_out(self.api.admit("POST", parameters, now), now)

    def call(self, action: str, now: float = NOW, **parameters: str) -> dict[str, Any]:
        return self.send(self.signed(action, at=now, **parameters), now)

    def refused(self, parameters: dict[str, str], now: float = NOW) -> CloudError:
        with pytest.raises(CloudError) as caught:
            self.send(parameters, now)
        return caught.value


@pytest.fixture
def caller() -> Caller:
    return Caller()


CREATE = {"VSwitchId": "vsw-lab-a", "SecurityGroupId": "sg-lab"}


# ---- who calls


def test_the_documented_example_of_a_signature() -> None:
    """The worked example of the API's signature page."""
    parameters = {
        "TimeStamp": "2016-02-23T12:46:24Z",
        "Format": "XML",
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "Version": "2014-05-26",
        "SignatureVersion": "1.0",
    }
    parameters["Timestamp"] = parameters.pop("TimeStamp")
    assert sign("testsecret", string_to_sign("GET", parameters)) == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


def test_a_changed_parameter_breaks_the_signature_and_the_answer_says_what_was_expected(caller: Caller) -> None:
    parameters = caller.signed("CreateNetworkInterface", **CREATE)
    parameters["VSwitchId"] = "vsw-lab-b"
    error = caller.refused(parameters)
    assert (error.code, error.status) == ("SignatureDoesNotMatch", 400)
    assert error.message.split(":")[1] == string_to_sign("POST", parameters)
    assert not caller.account.enis


@pytest.mark.parametrize("name", ["Signature", "AccessKeyId", "Timestamp", "SignatureNonce", "Action"])
def test_nothing_goes_unsigned(caller: Caller, name: str) -> None:
    parameters = caller.signed("DescribeNetworkInterfaces")
    del parameters[name]
    error = caller.refused(parameters)
    assert error.code == "MissingParameter" and name in error.message


def test_an_unknown_key(caller: Caller) -> None:
    error = caller.refused(caller.signed("DescribeNetworkInterfaces", key="nobody"))
    assert (error.code, error.status) == ("InvalidAccessKeyId.NotFound", 404)


@pytest.mark.parametrize("skew", [-MAX_SKEW_S - 1, MAX_SKEW_S + 1])
def test_a_clock_that_is_wrong(caller: Caller, skew: float) -> None:
    assert caller.refused(caller.signed("DescribeNetworkInterfaces", at=NOW + skew)).code == "InvalidTimeStamp.Expired"


def test_a_clock_that_is_a_little_wrong(caller: Caller) -> None:
    caller.send(caller.signed("DescribeNetworkInterfaces", at=NOW - MAX_SKEW_S + 1))


def test_a_replayed_call_is_refused_and_has_no_effect(caller: Caller) -> None:
    parameters = caller.signed("CreateNetworkInterface", **CREATE)
    caller.send(parameters)
    assert caller.refused(parameters).code == "SignatureNonceUsed"
    assert len(caller.account.enis) == 1


def test_a_temporary_key_needs_its_token_and_ends(caller: Caller) -> None:
    caller.account.add_key(AccessKey("STS.x", "s", token="tok", expires_at=NOW + 60))
    describe = "DescribeNetworkInterfaces"
    assert caller.refused(caller.signed(describe, key="STS.x", secret="s")).code == "MissingSecurityToken"
    wrong = caller.signed(describe, key="STS.x", secret="s", SecurityToken="other")
    assert caller.refused(wrong).code == "InvalidSecurityToken.MismatchWithAccessKey"
    right = {"key": "STS.x", "secret": "s", "SecurityToken": "tok"}
    caller.send(caller.signed(describe, **right))
    assert caller.refused(caller.signed(describe, **right), NOW + 60).code == "InvalidSecurityToken.Expired"


# ---- what is wanted


def test_unknown_action_version_and_region(caller: Caller) -> None:
    assert caller.refused(caller.signed("DescribeWeather")).code == "InvalidAction.NotFound"
    assert caller.refused(caller.signed("DescribeNetworkInterfaces", Version="1999-01-01")).code == "InvalidVersion"
    elsewhere = caller.signed("DescribeNetworkInterfaces", RegionId="cn-elsewhere")
    assert caller.refused(elsewhere).code == "InvalidRegionId.NotFound"


@pytest.mark.parametrize(
    ("parameters", "code", "named"),
    [
        ({"SecurityGroupId": "sg-lab"}, "MissingParameter", "VSwitchId"),
        ({"VSwitchId": "vsw-lab-a"}, "MissingParameter", "SecurityGroupId"),
        ({**CREATE, "VSwitchId": "vsw-x"}, "InvalidVSwitchId.NotFound", "vsw-x"),
        ({**CREATE, "SecurityGroupId": "sg-x"}, "InvalidSecurityGroupId.NotFound", "sg-x"),
        ({**CREATE, "SecurityGroupIds.1": "sg-lab"}, "InvalidParameter.Conflict", "SecurityGroupIds"),
        ({**CREATE, "SecondaryPrivateIpAddressCount": "many"}, "InvalidParameter", "SecondaryPrivateIpAddressCount"),
        ({**CREATE, "SecondaryPrivateIpAddressCount": "50"}, "InvalidParameter", "SecondaryPrivateIpAddressCount"),
        ({**CREATE, "SecondaryIpCount": "1"}, "UnsupportedParameter", "SecondaryIpCount"),
        ({**CREATE, "Tag.1.Value": "v"}, "MissingParameter", "Tag[0].Key"),
        ({**CREATE, "Tag": "v", "Tag.1.Key": "k"}, "InvalidParameter", "Tag"),
        ({**CREATE, "InstanceType": "Primary"}, "InvalidParameter", "InstanceType"),
    ],
)
def test_wrong_parameters_are_named(caller: Caller, parameters: dict[str, str], code: str, named: str) -> None:
    error = caller.refused(caller.signed("CreateNetworkInterface", **parameters))
    assert error.code == code and named in error.message
    assert not caller.account.enis


def test_lists_and_structures_are_nested_in_numerical_order() -> None:
    flat = {"Tag.2.Key": "b", "Tag.10.Key": "c", "Tag.1.Key": "a", "Tag.1.Value": "x", "Id.1": "i", "Plain": "p"}
    assert nest(flat) == {"Tag": [{"Key": "a", "Value": "x"}, {"Key": "b"}, {"Key": "c"}], "Id": ["i"], "Plain": "p"}


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(max_size=5)), max_size=12))
def test_nesting_undoes_flattening(pairs: list[tuple[str, str]]) -> None:
    flat = {**CREATE}
    for i, (key, value) in enumerate(pairs, start=1):
        flat |= {f"Tag.{i}.Key": key, f"Tag.{i}.Value": value}
    assert decode(flat, CreateNetworkInterface).Tag == [TagPair(k, v) for k, v in pairs]


@given(st.dictionaries(st.text("ab.1", max_size=6), st.text(max_size=3), max_size=6))
def test_any_names_nest_or_are_refused(flat: dict[str, str]) -> None:
    try:
        nest(flat)
    except CloudError as e:
        assert e.code == "InvalidParameter"


def test_every_action_of_shared_mode_is_there() -> None:
    ecs = {name for version, name in ACTIONS if version == "2014-05-26"}
    assert ecs >= {
        *("CreateNetworkInterface", "AttachNetworkInterface", "DetachNetworkInterface", "DeleteNetworkInterface"),
        *("DescribeNetworkInterfaces", "DescribeNetworkInterfaceAttribute", "ModifyNetworkInterfaceAttribute"),
        *("AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "AssignIpv6Addresses", "UnassignIpv6Addresses"),
        *("DescribeInstanceTypes", "DescribeInstances", "DescribeInstanceAttribute"),
    }
    assert ("2016-04-28", "DescribeVSwitches") in ACTIONS


# ---- asked before


def test_the_same_token_makes_one_interface(caller: Caller) -> None:
    first = caller.call("CreateNetworkInterface", ClientToken="t", **CREATE)
    again = caller.call("CreateNetworkInterface", ClientToken="t", **CREATE)
    assert again["NetworkInterfaceId"] == first["NetworkInterfaceId"]
    assert len(caller.account.enis) == 1
    other = caller.signed("CreateNetworkInterface", ClientToken="t", Description="other", **CREATE)
    assert caller.refused(other).code == "IdempotentParameterMismatch"


def test_a_token_is_forgotten_after_a_day_and_by_a_failure(caller: Caller) -> None:
    caller.call("CreateNetworkInterface", ClientToken="t", **CREATE)
    caller.call("CreateNetworkInterface", now=NOW + TOKEN_LIFE_S + 1, ClientToken="t", **CREATE)
    assert len(caller.account.enis) == 2
    eni = next(iter(caller.account.enis))
    attach = {"NetworkInterfaceId": eni, "InstanceId": "i-none", "ClientToken": "u"}
    assert caller.refused(caller.signed("AttachNetworkInterface", **attach)).code == "InvalidEcsId.NotFound"
    instance = caller.account.run_instance("n", vswitch="vsw-lab-a", instance_type="ecs.g7.large", now=NOW)
    caller.call("AttachNetworkInterface", **attach | {"InstanceId": instance.id})


def test_an_assignment_is_repeated_once(caller: Caller) -> None:
    eni = caller.call("CreateNetworkInterface", **CREATE)["NetworkInterfaceId"]
    ask = {"NetworkInterfaceId": eni, "SecondaryPrivateIpAddressCount": "3", "ClientToken": "a"}
    first = caller.call("AssignPrivateIpAddresses", **ask)
    assert caller.call("AssignPrivateIpAddresses", **ask) == first
    assert len(caller.account.eni(eni).ipv4) == 4


# ---- listing


def test_filters_and_both_ways_of_paging(caller: Caller) -> None:
    for i in range(7):
        tags = {"Tag.1.Key": "creator", "Tag.1.Value": "terway" if i % 2 else "other"}
        caller.call("CreateNetworkInterface", NetworkInterfaceName=f"n{i}", **tags, **CREATE)

    def names(answer: dict[str, Any]) -> list[str]:
        return [e["NetworkInterfaceName"] for e in answer["NetworkInterfaceSets"]["NetworkInterfaceSet"]]

    describe = "DescribeNetworkInterfaces"
    answer = caller.call(describe, PageNumber="2", PageSize="3")
    assert (names(answer), answer["TotalCount"]) == (["n3", "n4", "n5"], 7)
    seen, token = [], ""
    while True:
        answer = caller.call(describe, MaxResults="3", **({"NextToken": token} if token else {}))
        seen += names(answer)
        if not (token := answer["NextToken"]):
            break
    assert seen == [f"n{i}" for i in range(7)]
    both = caller.signed(describe, PageNumber="1", MaxResults="3")
    assert caller.refused(both).code == "InvalidParameter.Conflict"
    assert names(caller.call(describe, **{"Tag.1.Key": "creator", "Tag.1.Value": "terway"})) == ["n1", "n3", "n5"]
    some = next(e for e in caller.account.enis.values() if e.name == "n4")
    assert names(caller.call(describe, **{"PrivateIpAddress.1": some.primary_ip})) == ["n4"]
    assert names(caller.call(describe, **{"NetworkInterfaceId.1": some.id, "NetworkInterfaceId.2": "eni-x"})) == ["n4"]
    assert names(caller.call(describe, Status="InUse")) == []
    assert names(caller.call(describe, InstanceId="i-none")) == []


@given(st.integers(0, 40), st.integers(1, 9))
def test_pages_join_to_the_whole(length: int, size: int) -> None:
    items = list(range(length))
    by_token: list[int] = []
    token: str | None = None
    while True:
        page, fields = paging.tokened(items, token, size, 10)
        by_token += page
        if not (token := fields["NextToken"]):
            break
    by_number = [i for n in range(1, length // size + 2) for i in paging.numbered(items, n, size, 10)[0]]
    assert by_token == by_number == items


@pytest.mark.parametrize("token", ["x", "YXQ6eA==", "b3V0OjM=", "é"])
def test_a_token_that_is_not_ours(token: str) -> None:
    with pytest.raises(CloudError) as caught:
        paging.tokened([], token, None, 10)
    assert caught.value.code == "InvalidParameter.NextToken"


def test_instance_types_and_vswitches(caller: Caller) -> None:
    types = caller.call("DescribeInstanceTypes", **{"InstanceTypes.1": "ecs.g6.2xlarge"})["InstanceTypes"][
        "InstanceType"
    ]
    (found,) = types
    assert (found["EniQuantity"], found["EniPrivateIpAddressQuantity"]) == (4, 10)
    (vswitch,) = caller.call("DescribeVSwitches", VSwitchId="vsw-lab-b")["VSwitches"]["VSwitch"]
    assert (vswitch["AvailableIpAddressCount"], vswitch["ZoneId"]) == (4092, "cn-lab-b")


@pytest.mark.parametrize(
    ("name", "shared"),
    [("ecs.g7.4xlarge", 210), ("ecs.g6.xlarge", 20), ("ecs.ebmre7p.32xlarge", 465), ("ecs.sn2ne.14xlarge", 140)],
)
def test_the_catalogue_agrees_with_the_worked_capacities(name: str, shared: int) -> None:
    kind = TYPES[name]
    assert (kind.eni_quantity - 1) * kind.ipv4_per_eni == shared
    assert len(TYPES) >= 40


# ---- going wrong on purpose


def test_faults_are_taken_in_order_and_run_out() -> None:
    plan = FaultPlan()
    plan.add(Fault("AttachNetworkInterface", code="Throttling", times=2))
    plan.add(Fault("*", code="Other", times=1))
    assert plan.take("DescribeInstances") == Fault("*", code="Other", times=1, id="f2")
    taken = [plan.take("AttachNetworkInterface") for _ in range(3)]
    assert [f.code if f else None for f in taken] == ["Throttling", "Throttling", None]
    assert plan.list() == []
    plan.add(Fault("*"))
    assert plan.take("x") and plan.take("y")
    plan.clear()
    assert plan.take("x") is None
