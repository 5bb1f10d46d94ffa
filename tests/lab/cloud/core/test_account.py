"""The account's rules, one by one, and then all of them under random use."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from compose.lab.cloud.core.account import Account, Layout
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.model import (
    DELAYS,
    AddNode,
    Assign,
    Delays,
    Eni,
    EniStatus,
    EniType,
    Plug,
    Quotas,
    RemoveNode,
    Served,
    Unassign,
    Unplug,
    VSwitch,
)

NOW = 1_000_000.0
SLOW = Delays(create=(1, 1), attach=(2, 2), detach=(3, 3), delete=(4, 4), metadata=(5, 5))
SMALL = Layout(
    vswitches=(
        VSwitch("vsw-a", "zone-a", "10.0.0.0/28", "fd00::/64"),
        VSwitch("vsw-b", "zone-b", "10.0.1.0/28"),
    )
)
WITH_PREFIXES = Layout(
    vswitches=(VSwitch("vsw-a", "zone-a", "10.0.0.0/26", "fd00::/64"), VSwitch("vsw-b", "zone-b", "10.0.1.0/28"))
)


class Kernel:
    """What a fabric would hold, from the effects alone."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.nodes: set[str] = set()
        self.plugged: dict[str, set[str]] = {}

    def follow(self, now: float) -> None:
        """Carry out every effect, as `World` does."""
        while effects := self.account.take_effects():
            for effect in effects:
                match effect:
                    case AddNode(node):
                        assert node not in self.nodes
                        self.nodes.add(node)
                    case RemoveNode(node):
                        self.nodes.remove(node)
                    case Plug(eni, _, _, node, addresses, _):
                        assert node in self.nodes and eni not in self.plugged
                        self.plugged[eni] = set(addresses)
                        self.account.plugged(eni, now)
                    case Unplug(eni):
                        self.plugged.pop(eni, None)
                        self.account.unplugged(eni, now)
                    case Assign(eni, addresses):
                        assert self.plugged[eni].isdisjoint(addresses)
                        self.plugged[eni].update(addresses)
                    case Unassign(eni, addresses):
                        assert self.plugged[eni].issuperset(addresses)
                        self.plugged[eni].difference_update(addresses)


def account_with_node(
    delays: Delays = DELAYS["none"], instance_type: str = "ecs.g6.large"
) -> tuple[Account, str, Kernel]:
    account = Account(SMALL, delays=delays)
    instance = account.run_instance("node1", vswitch="vsw-a", instance_type=instance_type, now=NOW)
    kernel = Kernel(account)
    kernel.follow(NOW)
    return account, instance.id, kernel


def new_eni(account: Account, *, vswitch: str = "vsw-a", secondary_count: int = 0, now: float = NOW) -> Eni:
    return account.create_eni(vswitch=vswitch, security_groups=["sg-lab"], now=now, secondary_count=secondary_count)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(CloudError) as caught:
        call()
    return caught.value.code


def test_a_machine_is_born_with_a_primary_interface() -> None:
    account, instance_id, _ = account_with_node()
    (primary,) = account.enis_of(instance_id)
    assert (primary.type, primary.status, primary.ipv4) == (EniType.PRIMARY, EniStatus.IN_USE, ["10.0.0.1"])
    assert primary.mac.startswith("00:16:3e:")


def test_the_same_machine_is_made_once_and_another_of_that_name_is_refused() -> None:
    account, instance_id, _ = account_with_node()
    again = account.run_instance("node1", vswitch="vsw-a", instance_type="ecs.g6.large", now=NOW)
    assert again.id == instance_id and not account.take_effects()
    other = lambda: account.run_instance("node1", vswitch="vsw-b", instance_type="ecs.g6.large", now=NOW)  # noqa: E731
    assert code_of(other) == "IdempotentParameterMismatch"


def test_an_interface_lives_through_every_state_in_time() -> None:
    account, instance_id, _ = account_with_node(SLOW)
    eni = new_eni(account)
    assert eni.status is EniStatus.CREATING
    assert code_of(lambda: account.attach_eni(eni.id, instance_id, NOW)) == "InvalidOperation.InvalidEniState"
    account.advance(NOW + 1)
    assert eni.status is EniStatus.AVAILABLE

    account.attach_eni(eni.id, instance_id, NOW + 1)
    account.advance(NOW + 2.9)
    assert eni.status is EniStatus.ATTACHING and not account.take_effects()
    account.advance(NOW + 3)
    assert [type(e) for e in account.take_effects()] == [Plug]
    assert eni.status is EniStatus.ATTACHING, "in use only when the device is there"
    account.plugged(eni.id, NOW + 3)
    assert eni.status is EniStatus.IN_USE and eni.served is None, "the metadata service lags behind"
    account.advance(NOW + 8)
    assert eni.served == Served(tuple(eni.ipv4), ())

    account.detach_eni(eni.id, instance_id, NOW + 10)
    assert eni.status is EniStatus.DETACHING and eni.served is None
    account.advance(NOW + 13)
    assert account.take_effects() == [Unplug(eni.id)]
    assert eni.status is EniStatus.DETACHING
    account.unplugged(eni.id, NOW + 13)
    assert eni.status is EniStatus.AVAILABLE and eni.instance is None

    account.delete_eni(eni.id, NOW + 20)
    assert eni.status is EniStatus.DELETING
    account.delete_eni(eni.id, NOW + 21)
    account.advance(NOW + 24)
    assert code_of(lambda: account.eni(eni.id)) == "InvalidEniId.NotFound"


def test_quotas_of_the_instance_type() -> None:
    account, instance_id, kernel = account_with_node()  # ecs.g6.large: 2 interfaces of 6 addresses
    eni, third, crowded = new_eni(account), new_eni(account), new_eni(account, secondary_count=6)
    assert code_of(lambda: account.attach_eni(crowded.id, instance_id, NOW)) == "InvalidOperation.Ipv4CountExceeded"
    account.attach_eni(eni.id, instance_id, NOW)
    assert code_of(lambda: account.attach_eni(third.id, instance_id, NOW)) == "EniPerInstanceLimitExceeded"
    kernel.follow(NOW)
    account.delete_eni(crowded.id, NOW)
    assert len(account.assign_ipv4(eni.id, NOW, count=5)) == 5
    assert code_of(lambda: account.assign_ipv4(eni.id, NOW, count=1)) == "InvalidOperation.Ipv4CountExceeded"
    assert len(eni.ipv4) == 6


def test_quota_of_the_account() -> None:
    account = Account(msgspec.structs.replace(SMALL, quotas=Quotas(enis=1)), delays=DELAYS["none"])
    new_eni(account)
    assert code_of(lambda: new_eni(account)) == "QuotaExceeded.Eni"


def test_a_vswitch_runs_out_and_recovers() -> None:
    account = Account(SMALL, delays=DELAYS["none"])
    full = new_eni(account, secondary_count=11)
    assert account.free_addresses("vsw-a") == 0
    assert code_of(lambda: new_eni(account)) == "InvalidVSwitchId.IpNotEnough"
    assert len(account.enis) == 1, "a refused call has no effect"
    account.unassign_ipv4(full.id, NOW, full.ipv4[1:3])
    assert code_of(lambda: account.assign_ipv4(full.id, NOW, count=3)) == "InvalidVSwitchId.IpNotEnough"
    assert len(account.assign_ipv4(full.id, NOW, count=2)) == 2


def test_a_freed_address_rests_as_long_as_possible() -> None:
    account = Account(SMALL, delays=DELAYS["none"])
    eni = new_eni(account, secondary_count=1)
    freed = eni.ipv4[1]
    account.unassign_ipv4(eni.id, NOW, [freed])
    following = [account.assign_ipv4(eni.id, NOW, count=1)[0] for _ in range(account.free_addresses("vsw-a"))]
    assert following.index(freed) == len(following) - 1


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("10.0.0.1", "InvalidIp.IpAssigned"),
        ("10.0.0.0", "InvalidParameter"),
        ("10.0.0.13", "InvalidParameter"),
        ("10.0.0.15", "InvalidParameter"),
        ("10.0.1.4", "InvalidParameter"),
        ("10.0.0.300", "InvalidParameter"),
        ("fd00::7", "InvalidParameter"),
    ],
)
def test_addresses_that_cannot_be_asked_for(address: str, code: str) -> None:
    account, _, _ = account_with_node()
    eni = new_eni(account)
    assert code_of(lambda: account.assign_ipv4(eni.id, NOW, addresses=["10.0.0.7", address])) == code
    assert len(eni.ipv4) == 1, "all or none"
    account.check()


def test_addresses_that_cannot_be_taken_away() -> None:
    account, _, _ = account_with_node()
    eni = new_eni(account, secondary_count=1)
    assert code_of(lambda: account.unassign_ipv4(eni.id, NOW, [eni.primary_ip])) == "InvalidParameter"
    assert code_of(lambda: account.unassign_ipv4(eni.id, NOW, [eni.ipv4[1], "10.0.0.9"])) == "InvalidIp.IpUnassigned"
    assert len(eni.ipv4) == 2, "all or none"


def test_packets_feel_an_assignment_only_while_attached() -> None:
    account, instance_id, _ = account_with_node()
    eni = new_eni(account)
    account.assign_ipv4(eni.id, NOW, count=1)
    assert account.take_effects() == []
    account.attach_eni(eni.id, instance_id, NOW)
    (plug,) = account.take_effects()
    assert isinstance(plug, Plug) and plug.addresses == tuple(eni.ipv4)
    account.plugged(eni.id, NOW)
    fresh = account.assign_ipv4(eni.id, NOW, count=2)
    account.unassign_ipv4(eni.id, NOW, fresh[:1])
    assert account.take_effects() == [Assign(eni.id, tuple(fresh)), Unassign(eni.id, tuple(fresh[:1]))]


def test_an_interface_stays_in_its_zone_and_the_primary_in_its_machine() -> None:
    account, instance_id, _ = account_with_node()
    far = new_eni(account, vswitch="vsw-b")
    attach = lambda: account.attach_eni(far.id, instance_id, NOW)  # noqa: E731
    assert code_of(attach) == "InvalidOperation.AvailabilityZoneMismatch"
    (primary,) = account.enis_of(instance_id)
    detach = lambda: account.detach_eni(primary.id, instance_id, NOW)  # noqa: E731
    assert code_of(detach) == "InvalidOperation.DetachPrimaryEniNotAllowed"


def test_a_released_machine_takes_its_interfaces_along_but_those_that_are_to_stay() -> None:
    account, instance_id, kernel = account_with_node(instance_type="ecs.g6.xlarge")
    goes, stays = new_eni(account), new_eni(account)
    stays.delete_on_release = False
    for eni in (goes, stays):
        account.attach_eni(eni.id, instance_id, NOW)
        kernel.follow(NOW)
    account.release_instance(instance_id)
    kernel.follow(NOW)
    assert list(account.enis) == [stays.id]
    assert (stays.status, stays.instance) == (EniStatus.AVAILABLE, None)
    assert not kernel.nodes and not kernel.plugged
    account.check()


def test_ipv6_only_where_the_vswitch_has_it() -> None:
    account = Account(SMALL, delays=DELAYS["none"])
    eni, plain = new_eni(account), new_eni(account, vswitch="vsw-b")
    assert account.assign_ipv6(eni.id, NOW, count=2) == ["fd00::1", "fd00::2"]
    account.unassign_ipv6(eni.id, NOW, ["fd00::1"])
    assert eni.ipv6 == ["fd00::2"]
    assert code_of(lambda: account.assign_ipv6(plain.id, NOW, count=1)) == "InvalidVSwitchId.Ipv6NotTurnOn"


def test_role_keys_are_renewed_before_they_expire() -> None:
    account, instance_id, _ = account_with_node()
    first = account.keys.of_role(instance_id, NOW, lifetime=1000)
    assert account.keys.of_role(instance_id, NOW + 800, lifetime=1000) == first
    second = account.keys.of_role(instance_id, NOW + 950, lifetime=1000)
    assert second != first and first.id in account.keys.by_id, "the old one is good until its end"
    account.keys.of_role(instance_id, NOW + 5000, lifetime=1000)
    assert first.id not in account.keys.by_id


def test_the_source_of_a_packet_is_its_machine() -> None:
    account, instance_id, kernel = account_with_node()
    eni = new_eni(account, secondary_count=1)
    assert account.instance_at(eni.ipv4[1]) is None, "attached to nothing"
    account.attach_eni(eni.id, instance_id, NOW)
    kernel.follow(NOW)
    for address in ("10.0.0.1", *eni.ipv4):
        found = account.instance_at(address)
        assert found is not None and found.id == instance_id
    assert account.instance_at("10.0.0.12") is None
    assert account.instance_at("nonsense") is None


class AccountMachine(RuleBasedStateMachine):
    """Any calls, in any order, at any time: nothing is doubled, nothing lost, no quota passed."""

    @initialize(slow=st.booleans())
    def begin(self, slow: bool) -> None:
        self.now = NOW
        self.account = Account(WITH_PREFIXES, delays=SLOW if slow else DELAYS["none"])
        self.kernel = Kernel(self.account)

    def attempt(self, call: Callable[[], object]) -> None:
        before = {e.id: (e.status, e.everything) for e in self.account.enis.values()}
        try:
            call()
        except CloudError:
            after = {e.id: (e.status, e.everything) for e in self.account.enis.values()}
            assert after == before, "a refused call has no effect"

    def some_eni(self, pick: int) -> str:
        enis = list(self.account.enis)
        return enis[pick % len(enis)] if enis else "eni-none"

    def some_instance(self, pick: int) -> str:
        instances = list(self.account.instances)
        return instances[pick % len(instances)] if instances else "i-none"

    picks = st.integers(0, 20)
    vswitches = st.sampled_from(["vsw-a", "vsw-b"])

    @rule(name=st.sampled_from(["n1", "n2", "n3"]), vswitch=vswitches)
    def run_instance(self, name: str, vswitch: str) -> None:
        types = {"n1": "ecs.g6.large", "n2": "ecs.g6.xlarge", "n3": "ecs.g6.large"}
        self.attempt(lambda: self.account.run_instance(name, vswitch=vswitch, instance_type=types[name], now=self.now))

    @rule(instance=picks)
    def release_instance(self, instance: int) -> None:
        self.attempt(lambda: self.account.release_instance(self.some_instance(instance)))

    @rule(vswitch=vswitches, count=st.integers(0, 7))
    def create(self, vswitch: str, count: int) -> None:
        self.attempt(lambda: new_eni(self.account, vswitch=vswitch, secondary_count=count, now=self.now))

    @rule(eni=picks, instance=picks)
    def attach(self, eni: int, instance: int) -> None:
        self.attempt(lambda: self.account.attach_eni(self.some_eni(eni), self.some_instance(instance), self.now))

    @rule(eni=picks, instance=picks)
    def detach(self, eni: int, instance: int) -> None:
        self.attempt(lambda: self.account.detach_eni(self.some_eni(eni), self.some_instance(instance), self.now))

    @rule(eni=picks)
    def delete(self, eni: int) -> None:
        self.attempt(lambda: self.account.delete_eni(self.some_eni(eni), self.now))

    @rule(eni=picks, count=st.integers(1, 6))
    def assign(self, eni: int, count: int) -> None:
        self.attempt(lambda: self.account.assign_ipv4(self.some_eni(eni), self.now, count=count))

    @rule(eni=picks, wanted=st.lists(st.integers(0, 16), min_size=1, max_size=3))
    def assign_these(self, eni: int, wanted: list[int]) -> None:
        addresses = [f"10.0.0.{n}" for n in wanted]
        self.attempt(lambda: self.account.assign_ipv4(self.some_eni(eni), self.now, addresses=addresses))

    @rule(eni=picks, positions=st.lists(st.integers(0, 6), min_size=1, max_size=3))
    def unassign(self, eni: int, positions: list[int]) -> None:
        found = self.account.enis.get(self.some_eni(eni))
        if found is not None:
            gone = [found.ipv4[p % len(found.ipv4)] for p in positions]
            self.attempt(lambda: self.account.unassign_ipv4(found.id, self.now, gone))

    @rule(eni=picks, count=st.integers(1, 3), ipv6=st.booleans())
    def assign_more(self, eni: int, count: int, ipv6: bool) -> None:
        name = self.some_eni(eni)
        self.attempt(lambda: self.account.assign_ipv4_prefixes(name, self.now, count=count))
        if ipv6:
            self.attempt(lambda: self.account.assign_ipv6(name, self.now, count=count))
            self.attempt(lambda: self.account.assign_ipv6_prefixes(name, self.now, count=count))

    @rule(eni=picks, some=st.integers(0, 3))
    def unassign_more(self, eni: int, some: int) -> None:
        found = self.account.enis.get(self.some_eni(eni))
        if found is not None:
            blocks, six, blocks6 = found.ipv4_prefixes[:some], found.ipv6[:some], found.ipv6_prefixes[:some]
            self.attempt(lambda: self.account.unassign_ipv4(found.id, self.now, [], blocks))
            if six or blocks6:
                self.attempt(lambda: self.account.unassign_ipv6(found.id, self.now, six, blocks6))

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.account.advance(self.now)

    @precondition(lambda self: self.account.next_due is not None)
    @rule()
    def wait_for_everything(self) -> None:
        while self.account.next_due is not None:
            self.now = self.account.next_due
            self.account.advance(self.now)
            self.kernel.follow(self.now)
        middle = [e for e in self.account.enis.values() if e.status not in (EniStatus.AVAILABLE, EniStatus.IN_USE)]
        assert not middle, "nothing stays half done"

    @rule()
    def kernel_follows(self) -> None:
        self.kernel.follow(self.now)
        wanted = {
            e.id: set(e.everything)
            for e in self.account.enis.values()
            if e.status is EniStatus.IN_USE or (e.status is EniStatus.DETACHING)
        }
        assert self.kernel.plugged == wanted

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "account"):
            self.account.check()


TestAccountMachine = AccountMachine.TestCase
TestAccountMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
