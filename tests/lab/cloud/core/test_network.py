"""Prefixes, trunk members, security groups and routes: what the account decides, and what the world is told."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.cloud.core import routes, security
from compose.lab.cloud.core.account import Account, Layout
from compose.lab.cloud.core.addresses import AddressSpace
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.model import (
    DELAYS,
    Assign,
    DefineGroup,
    Delays,
    Direction,
    Eni,
    EniStatus,
    EniType,
    ForgetGroup,
    Guard,
    Instance,
    Plug,
    Quotas,
    Route,
    RouteStatus,
    Rule,
    Unassign,
    VSwitch,
)

NOW = 1_000_000.0
LAYOUT = Layout(vswitches=(VSwitch("vsw-a", "zone-a", "10.0.0.0/24", "fd00:1::/64"),))


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(CloudError) as caught:
        call()
    return caught.value.code


def in_use(instance_type: str = "ecs.g6.2xlarge", delays: Delays = DELAYS["none"]) -> tuple[Account, Instance, Eni]:
    """An account with a machine and a second interface in it, the world up to date."""
    account = Account(LAYOUT, delays=delays)
    node = account.run_instance("n", vswitch="vsw-a", instance_type=instance_type, now=NOW)
    account.plugged(node.primary_eni, NOW)
    eni = account.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW)
    account.attach_eni(eni.id, node.id, NOW)
    account.plugged(eni.id, NOW)
    account.take_effects()
    return account, node, eni


# ---- prefixes


def test_a_prefix_takes_the_place_of_one_address_and_packets_feel_it() -> None:
    account, _, eni = in_use()
    blocks = account.assign_ipv4_prefixes(eni.id, NOW, count=2)
    assert blocks == ["10.0.0.16/28", "10.0.0.32/28"], "the first block has the cloud's own address"
    six = account.assign_ipv6_prefixes(eni.id, NOW, count=1)
    assert six == ["fd00:1:0:0:1::/80"]
    assert account.take_effects() == [Assign(eni.id, tuple(blocks)), Assign(eni.id, tuple(six))]
    assert account.free_addresses("vsw-a") == 252 - 2 - 32
    assert account.eni_at("10.0.0.20") is eni and account.eni_at("fd00:1::1:0:0:7") is eni
    assert eni.served is not None and eni.served.ipv4_prefixes == tuple(blocks)
    many = lambda: account.assign_ipv4_prefixes(eni.id, NOW, count=8)  # noqa: E731
    assert code_of(many) == "InvalidOperation.Ipv4CountExceeded", "ten slots, three taken"
    account.unassign_ipv4(eni.id, NOW, [], blocks[:1])
    assert account.take_effects() == [Unassign(eni.id, (blocks[0],))]
    assert account.eni_at("10.0.0.20") is None
    account.check()


def test_a_call_that_cannot_be_carried_out_whole_is_not_begun() -> None:
    account, _, eni = in_use()
    (block,) = account.assign_ipv4_prefixes(eni.id, NOW, count=1)
    (address,) = account.assign_ipv4(eni.id, NOW, count=1)
    both = lambda: account.unassign_ipv4(eni.id, NOW, [address], ["10.0.0.96/28"])  # noqa: E731
    assert code_of(both) == "InvalidIp.IpUnassigned"
    assert address in eni.ipv4 and eni.ipv4_prefixes == [block]
    make = lambda: account.create_eni(  # noqa: E731
        vswitch="vsw-a", security_groups=["sg-lab"], now=NOW, secondary_count=3, ipv4_prefix_count=40
    )
    before = account.free_addresses("vsw-a")
    assert code_of(make) == "InvalidVSwitchId.IpNotEnough" and account.free_addresses("vsw-a") == before
    account.check()


@pytest.mark.parametrize("prefix", ["10.0.0.16/27", "10.0.0.17/28", "10.0.0.0/28", "10.0.0.240/28", "10.1.0.0/28", "x"])
def test_prefixes_that_cannot_be_asked_for(prefix: str) -> None:
    account, _, eni = in_use()
    ask = lambda: account.assign_ipv4_prefixes(eni.id, NOW, prefixes=[prefix])  # noqa: E731
    assert code_of(ask) == "InvalidParameter"


@given(st.lists(st.tuples(st.sampled_from(["take", "block", "claim", "back", "unblock"]), st.integers(0, 300))))
def test_no_address_is_given_twice(steps: list[tuple[str, int]]) -> None:
    space, singles, blocks = AddressSpace("v", "10.0.0.0/24"), list[str](), list[str]()
    for step, number in steps:
        try:
            match step:
                case "take":
                    singles += space.take("x", number % 20)
                case "block":
                    blocks += space.take_prefixes("x", number % 4)
                case "claim":
                    singles += space.claim("x", [f"10.0.0.{number}"], "p")
                case "back" if singles:
                    space.give_back([singles.pop(number % len(singles))])
                case "unblock" if blocks:
                    space.give_back_prefixes([blocks.pop(number % len(blocks))])
        except CloudError:
            pass
        held = [int(a.split(".")[3]) for a in singles]
        held += [int(b.split(".")[3].split("/")[0]) + i for b in blocks for i in range(16)]
        assert len(set(held)) == len(held) and all(1 <= n <= 252 for n in held)
        assert space.free == 252 - len(held)


# ---- members of a trunk


def test_a_trunk_carries_members_up_to_its_limit() -> None:
    account, node, _ = in_use("ecs.ebmre7p.32xlarge")
    trunk = account.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW, kind=EniType.TRUNK)
    account.attach_eni(trunk.id, node.id, NOW)
    account.plugged(trunk.id, NOW)
    account.take_effects()
    members = [account.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW) for _ in range(79)]
    for member in members[:78]:
        account.attach_eni(member.id, node.id, NOW, trunk=trunk.id)
    assert {m.type for m in members[:78]} == {EniType.MEMBER}
    assert [m.vlan for m in members[:3]] == [1, 2, 3] and not account.take_effects(), "no device of its own"
    more = lambda: account.attach_eni(members[78].id, node.id, NOW, trunk=trunk.id)  # noqa: E731
    assert code_of(more) == "EniPerInstanceLimitExceeded"
    assert code_of(lambda: account.detach_eni(trunk.id, node.id, NOW)) == "InvalidOperation.InvalidEniState"
    account.detach_eni(members[1].id, node.id, NOW)
    assert (members[1].type, members[1].status) == (EniType.SECONDARY, EniStatus.AVAILABLE)
    account.attach_eni(members[78].id, node.id, NOW, trunk=trunk.id)
    assert members[78].vlan == 2, "a VLAN that is free again"
    account.release_instance(node.id)
    account.check()


def test_where_there_is_no_trunk() -> None:
    account, node, eni = in_use()
    trunk = account.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW, kind=EniType.TRUNK)
    assert code_of(lambda: account.attach_eni(trunk.id, node.id, NOW)) == "InvalidInstanceType.TrunkNotSupported"
    other = account.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW)
    assert code_of(lambda: account.attach_eni(other.id, node.id, NOW, trunk=eni.id)) == "InvalidParameter"


# ---- security groups


def rule(port: int = 80, **more: object) -> Rule:
    fields = {"peer_cidr": "10.0.0.0/8", "ports": f"{port}/{port}"} | more
    return Rule("", Direction.INGRESS, "TCP", **fields)  # type: ignore[arg-type]


def test_the_world_is_told_of_groups_before_it_needs_them() -> None:
    account = Account(LAYOUT, delays=DELAYS["none"])
    account.run_instance("n", vswitch="vsw-a", instance_type="ecs.g6.2xlarge", now=NOW)
    first, *_, plug = account.take_effects()
    assert first == DefineGroup(account.security_groups["sg-lab"])
    assert isinstance(plug, Plug) and plug.groups == ("sg-lab",)


def test_every_change_of_a_group_is_told_once_and_whole() -> None:
    account, _, eni = in_use()
    group = security.create(account, NOW, name="g")
    security.authorize(account, group.id, [rule(80), rule(81), rule(80)], NOW)
    defined = account.take_effects()
    assert [type(e) for e in defined] == [DefineGroup, DefineGroup]
    now = account.security_groups[group.id]
    assert [r.ports for r in now.rules] == ["80/80", "81/81"] and len({r.id for r in now.rules}) == 2
    account.set_groups(eni, [group.id])
    assert account.take_effects() == [Guard(eni.id, (group.id,))]
    assert code_of(lambda: security.delete(account, group.id)) == "DependencyViolation"
    account.set_groups(eni, ["sg-lab"])
    security.revoke(account, group.id, [rule(80, description="said otherwise")])
    assert [r.ports for r in account.security_groups[group.id].rules] == ["81/81"]
    no_id = lambda: security.revoke(account, group.id, [], ["sgr-none"])  # noqa: E731
    assert code_of(no_id) == "InvalidSecurityGroupRule.RuleNotExist"
    security.delete(account, group.id)
    assert account.take_effects()[-1] == ForgetGroup(group.id)
    account.check()


def test_a_group_that_is_full() -> None:
    layout = Layout(vswitches=LAYOUT.vswitches, quotas=Quotas(enis_per_group=2))
    account = Account(layout, delays=DELAYS["none"])
    make = lambda: account.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW)  # noqa: E731
    first, second = make(), make()
    assert code_of(make) == "SecurityGroupInstanceLimitExceed"
    account.set_groups(second, ["sg-lab"])
    account.delete_eni(first.id, NOW)
    make()


def test_a_quota_of_addresses_in_a_vswitch() -> None:
    layout = Layout(vswitches=LAYOUT.vswitches, quotas=Quotas(private_ips_per_vswitch=3))
    account = Account(layout, delays=DELAYS["none"])
    eni = account.create_eni(vswitch="vsw-a", security_groups=["sg-lab"], now=NOW, secondary_count=1)
    assert code_of(lambda: account.assign_ipv4(eni.id, NOW, count=2)) == "QuotaExceeded.PrivateIpAddress"
    account.assign_ipv4(eni.id, NOW, count=1)


# ---- routes


def test_packets_are_routed_while_an_entry_is_available() -> None:
    account, node, eni = in_use(delays=Delays(*[(0, 0)] * 5, route=(2, 2)))
    make = {"table": "vtb-lab", "hop_type": "Instance", "hop": node.id}
    entry = routes.create(account, NOW, destination="172.20.0.0/25", **make)
    assert entry.status is RouteStatus.PENDING and account.take_effects() == []
    busy = lambda: routes.create(account, NOW, destination="172.21.0.0/25", **make)  # noqa: E731
    assert code_of(busy) == "IncorrectRouteEntryStatus"
    account.advance(NOW + 2)
    assert account.take_effects() == [Route("172.20.0.0/25", node.primary_eni)]
    to_eni = {**make, "hop_type": "NetworkInterface", "hop": eni.id}
    routes.create(account, NOW + 2, destination="fd99::/64", **to_eni)
    account.advance(NOW + 4)
    assert account.take_effects() == [Route("fd99::/64", eni.id)]
    routes.delete(account, NOW + 4, table="vtb-lab", entry=entry.id)
    assert account.take_effects() == [Route("172.20.0.0/25", None)], "at once: nobody can rely on it any more"
    assert entry.status is RouteStatus.DELETING and len(account.routes) == 2
    account.advance(NOW + 6)
    assert len(account.routes) == 1


def test_the_cloud_s_own_entries() -> None:
    account, node, _ = in_use()
    own = [e.destination for e in routes.system_entries(account)]
    assert own == ["100.64.0.0/10", "10.0.0.0/24", "fd00:1::/64"]
    make = {"table": "vtb-lab", "hop_type": "Instance", "hop": node.id}
    for destination in own:
        inside = lambda d=destination: routes.create(account, NOW, destination=d, **make)  # noqa: E731
        assert code_of(inside) == "InvalidCidrBlock.Conflict"
    routes.create(account, NOW, destination="10.0.0.0/16", **make)  # wider than a vSwitch, which stays more specific
