"""Whatever is asked: an answer or one of the cloud's errors, and an account that is whole."""

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose.lab.cloud.core.account import Account, Layout
from compose.lab.cloud.core.actions import ACTIONS, Action
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.model import DELAYS, EniType, VSwitch
from compose.lab.cloud.core.parameters import decode

NOW = 1_000_000.0
LAYOUT = Layout(
    vswitches=(VSwitch("vsw-a", "zone-a", "10.0.0.0/26", "fd00::/64"), VSwitch("vsw-b", "z", "10.0.1.0/28"))
)

# What means something to some parameter, and what means nothing to any.
VALUES = st.sampled_from(
    [
        *("eni-lab00000002", "eni-lab00000003", "eni-lab00000004", "i-lab00000001", "vsw-a", "vsw-b", "sg-lab"),
        *("10.0.0.1", "10.0.0.2", "10.0.0.7", "10.0.0.16/28", "10.0.0.0/8", "fd00::7", "fd00:0:0:0:7::/80", "fd00::/8"),
        *("172.20.0.0/24", "vtb-lab", "Instance", "NetworkInterface", "TCP", "ALL", "80/90", "-1/-1", "drop", "egress"),
        *(
            "1",
            "2",
            "10",
            "0",
            "-1",
            "true",
            "false",
            "eni",
            "securitygroup",
            "Trunk",
            "InUse",
            "rg-lab",
            "k",
            "",
            "ü&",
        ),
        *('["i-lab00000001"]', "[", "enterprise", "rte-lab-system-0", "YXQ6MQ==", "zone-a", "vpc-lab"),
    ]
)

FITTING = {
    "NetworkInterfaceId": ["eni-lab00000002", "eni-lab00000003", "eni-lab00000004"],
    "InstanceId": ["i-lab00000001"],
    "VSwitchId": ["vsw-a", "vsw-b"],
    "SecurityGroupId": ["sg-lab", "sg-lab00000005"],
    "SecurityGroupIds": ["sg-lab"],
    "RouteTableId": ["vtb-lab"],
    "DestinationCidrBlock": ["172.20.0.0/24", "172.21.0.0/24"],
    "DstCidrBlock": ["172.20.0.0/24", "172.22.0.0/24"],
    "NextHopId": ["i-lab00000001"],
    "NextHop": ["i-lab00000001"],
    "NextHopType": ["Instance"],
    "IpProtocol": ["TCP", "ALL"],
    "PortRange": ["80/90", "-1/-1"],
    "SourceCidrIp": ["10.0.0.0/8"],
    "DestCidrIp": ["10.0.0.0/8"],
    "ResourceType": ["eni"],
    "ResourceId": ["eni-lab00000003"],
    "PrivateIpAddress": ["10.0.0.3", "10.0.0.9"],
    "Ipv4Prefix": ["10.0.0.16/28"],
    "SecondaryPrivateIpAddressCount": ["1", "2"],
}


def value(name: str) -> st.SearchStrategy[str]:
    """Mostly what the parameter is for, and sometimes anything."""
    fitting = FITTING.get(name)
    return VALUES if fitting is None else st.one_of(*[st.sampled_from(fitting)] * 5, VALUES)


def account() -> Account:
    """A machine with an interface in use and a trunk that is free."""
    made = Account(LAYOUT, delays=DELAYS["none"])
    node = made.run_instance("n", vswitch="vsw-a", instance_type="ecs.g6.xlarge", now=NOW)
    eni = made.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW, secondary_count=2, ipv6_count=1)
    made.attach_eni(eni.id, node.id, NOW)
    made.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW, kind=EniType.TRUNK)
    for each in list(made.enis):
        made.plugged(each, NOW)
    return made


@st.composite
def requests(draw: st.DrawFn) -> tuple[Action, dict[str, str]]:
    """An action and some of its parameters, lists and structures among them."""
    action = draw(st.sampled_from(list(ACTIONS.values())))
    flat: dict[str, str] = {}
    for field in msgspec.structs.fields(action.request):
        if not field.required and draw(st.integers(0, 5)):
            continue
        kind = str(field.type)
        if "list[" not in kind:
            flat[field.name] = draw(value(field.name))
            continue
        for i in range(draw(st.integers(0, 2))):
            inner = next((t for t in _structs(field.type) if f"{t.__name__}]" in kind), None)
            if inner is None:
                flat[f"{field.name}.{i + 1}"] = draw(value(field.name))
            for part in msgspec.structs.fields(inner) if inner else ():
                if part.required or draw(st.booleans()):
                    flat[f"{field.name}.{i + 1}.{part.name}"] = draw(value(part.name))
    return action, flat


def _structs(kind: Any) -> list[type]:
    """The structures that a type mentions."""
    found = [kind] if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else []
    for part in getattr(kind, "__args__", ()):
        found += _structs(part)
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests(), max_size=8))
def test_any_requests(asked: list[tuple[Action, dict[str, str]]]) -> None:
    made = account()
    for action, flat in asked:
        try:
            answer = action.run(made, decode(flat, action.request), NOW)
        except CloudError as refusal:
            assert refusal.code and refusal.message and 400 <= refusal.status < 500
        else:
            assert isinstance(msgspec.json.decode(msgspec.json.encode(answer)), dict)
        made.check()


def test_the_generator_reaches_answers_too() -> None:
    """Else the test above would only judge refusals."""
    answered: set[str] = set()

    @settings(
        max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(requests())
    def ask(one: tuple[Action, dict[str, str]]) -> None:
        action, flat = one
        try:
            action.run(account(), decode(flat, action.request), NOW)
        except CloudError:
            return
        answered.add(action.name)

    ask()
    assert len(answered) >= 12, sorted(answered)
