"""The cloud half against the lab's cloud: real signatures, real asynchrony, no kernel."""

import asyncio
import json
import time

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from compose.lab.cloud import Fault
from compose.lab.cloud.core.addresses import AddressSpace
from compose.lab.cloud.core.api import ClientTokens
from compose.lab.cloud.core.catalogue import TYPES
from compose.lab.cloud.core.model import EniStatus, Tag, VSwitch
from services.eni_manager.adapters.journal import Journal
from services.eni_manager.core.drift import NODE_TAG
from shared.backoff import TABLE, Backoff
from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, Ip, Mode, PodKey
from tests.eni_manager.conftest import Site

pytestmark = pytest.mark.usefixtures("nothing_blocks")

CHANGES = (
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
)


def usable(inventory):
    return [address.ipv4 for eni in inventory.enis for address in eni.addresses if address.usable]


async def cloud_settles(true, *, within_s=20.0):
    """Until the cloud's own state is as wanted: nobody announces it."""
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 the lab's account is no event source
            await asyncio.sleep(0.01)


# ---- growing and shrinking


async def test_meets_demand_with_existing_enis_first(start, cloud):
    async with start() as eni:
        await eni.demand(3)
        seen = await eni.until_usable(3)
        assert seen.capacity == 30
        assert [len(one.ipv4) for one in cloud.enis()] == [3]
        assert seen.enis[0].subnet4.gateway == "192.168.15.253"
        assert seen.enis[0].max_addresses == 10

        await eni.demand(12)
        await eni.until_usable(12)
        assert sorted(len(one.ipv4) for one in cloud.enis()) == [2, 10]


@pytest.fixture
def cloud_of_type_without_enis(cloud):
    TYPES["ecs.none"] = replace(TYPES[cloud.instance.type], name="ecs.none", eni_quantity=1)
    cloud.account.instances[cloud.instance.id] = replace(cloud.instance, type="ecs.none")
    yield cloud
    del TYPES["ecs.none"]


async def test_an_instance_without_enis_is_refused_before_anything_is_made(start, cloud_of_type_without_enis):
    cloud = cloud_of_type_without_enis
    async with start() as eni, aiohttp.ClientSession() as session:
        await eni.demand(3)
        seen = await eni.until(lambda seen: "ecs.none" in seen.blocked)
        assert "instance type ecs.none has no ENI besides the primary one" in seen.blocked
        assert (seen.synced, seen.capacity) == (True, 0), "so that a pod is refused, and does not wait"
        async with session.get(f"{eni.http}/readyz") as answer:
            assert answer.status == 503 and "ecs.none" in await answer.text()
        calls = cloud.cloud.calls
        await eni.demand(4)
        await eni.until(lambda later: later.blocked == seen.blocked)
        assert (cloud.cloud.calls, cloud.enis()) == (calls, [])


async def test_every_eni_is_marked_as_ours(start, cloud):
    async with start(eni_tags={"ack.aliyun.com": "c1"}) as eni:
        await eni.demand(1)
        await eni.until_usable(1)
    (made,) = cloud.enis()
    assert {t.key: t.value for t in made.tags} == {
        "creator": "terway",
        "ack.aliyun.com": "c1",
        NODE_TAG: cloud.instance.id,
    }
    assert made.security_groups == ["sg-lab"]
    assert made.delete_on_release


async def test_a_burst_is_met_in_few_calls(start, cloud):
    async with start() as eni:
        before = cloud.cloud.calls
        await asyncio.gather(*(eni.demand(total, waiting=total) for total in range(1, 31)))
        await eni.until_usable(30)
        assert cloud.addresses() == 30
        # 3 × (create, attach, a few looks), and now and then a comparison
        assert cloud.cloud.calls - before < 60


async def test_demand_above_capacity_says_so(start, cloud):
    async with start() as eni:
        await eni.demand(31)
        seen = await eni.until(lambda seen: seen.blocked != "" and len(usable(seen)) == 30)
        assert "has all 3 ENIs that it may have, with 10 addresses each" in seen.blocked


async def test_secondary_addresses_go_back(start, cloud):
    async with start() as eni:
        await eni.demand(4)
        seen = await eni.until_usable(4)
        secondary = [address.ipv4 for address in seen.enis[0].addresses if not address.primary]
        await eni.demand(2)
        given = await eni.give_back(*secondary[:2])
        assert given.accepted == secondary[:2]
        assert given.refused == {}
        seen = await eni.until(lambda seen: sum(len(one.addresses) for one in seen.enis) == 2)
        assert cloud.addresses() == 2
        assert (await eni.give_back(*secondary[:2])).accepted == secondary[:2], "repeating is free"


async def test_a_primary_leaves_with_the_last_of_its_eni(start, cloud):
    async with start() as eni:
        await eni.demand(3)
        seen = await eni.until_usable(3)
        primary = next(address.ipv4 for address in seen.enis[0].addresses if address.primary)
        rest = [address.ipv4 for address in seen.enis[0].addresses if not address.primary]
        await eni.demand(0)
        await eni.give_back(primary)
        seen = await eni.until(lambda seen: len(usable(seen)) == 2)
        assert primary in cloud.enis()[0].ipv4
        await eni.give_back(*rest)
        await eni.until(lambda seen: seen.enis == [])
        assert cloud.enis() == []


async def test_an_attached_address_is_not_given_back(start, cloud, tmp_path):
    async with start() as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
    one, other = usable(seen)
    async with await Journal.open(tmp_path / "state" / "eni_manager.sqlite") as journal:
        lease = lease_of(seen.enis[0], one)
        await journal.put_attachment(lease, netns="/proc/1/fd/9")
    async with start() as eni:
        await eni.until_usable(2)
        given = await eni.give_back(one, other)
        assert given.accepted == [other]
        assert "default/web" in given.refused[one]
        seen = await eni.until(lambda seen: len(usable(seen)) == 1)
        assert usable(seen) == [one]


def lease_of(eni, address):
    return Lease(
        key=AttachmentKey("terway", "c1", "eth0"),
        pod=PodKey("default", "web"),
        pod_uid="u",
        mode=Mode.SHARED_VETH,
        host_link="cali1",
        eni_id=eni.id,
        eni_mac=eni.mac,
        ipv4=address,
    )


async def test_what_people_see(start, cloud, session):
    async with start() as eni:
        await eni.demand(3)
        await eni.until_usable(3)

        async def page(path):
            async with session.get(f"{eni.http}{path}") as response:
                return response.status, await response.text()

        assert (await page("/readyz"))[0] == 200
        state = json.loads((await page("/state"))[1])
        assert state["enis"][0]["story"][-1] == "ready: wired as eth1"
        assert state["demand"]["total"] == 3
        calls = json.loads((await page("/calls"))[1])
        assert [(call["action"], call["outcome"]) for call in calls] == [("attach", "ok"), ("create", "ok")]
        metrics = (await page("/metrics"))[1]
        assert 'terway_eniip_factory_eni_count{max_eni="3",name="eniip"} 1.0' in metrics
        assert 'aliyun_openapi_latency_count{api="CreateNetworkInterface",error="false"} 1.0' in metrics
        assert "s3cr3t" not in (await page("/state"))[1]


# ---- restarts


async def test_a_restart_finds_the_same_enis_and_buys_nothing(start, cloud):
    async with start() as eni:
        await eni.demand(12)
        first = await eni.until_usable(12)
    async with start() as eni:
        second = await eni.until(lambda seen: seen.synced)
        assert second.epoch != first.epoch
        assert second.enis == first.enis
        await eni.demand(12)
        await eni.until_usable(12)
        assert cloud.addresses() == 12


async def test_serves_from_the_journal_while_the_api_is_down(start, cloud):
    async with start() as eni:
        await eni.demand(5)
        await eni.until_usable(5)
    cloud.cloud.faults.add(Fault("*", code="ServiceUnavailable"))
    async with start(dict.fromkeys(TABLE, Backoff(0.01, 1.2, steps=3))) as eni:
        await eni.until_usable(5)
        await eni.demand(8)
        seen = await eni.until(lambda seen: seen.blocked != "")
        assert "ServiceUnavailable" in seen.blocked
        cloud.cloud.faults.clear()
        await eni.until_usable(8)


async def test_a_lost_journal_adopts_what_is_attached_and_deletes_what_is_not(start, cloud, tmp_path):
    async with start() as eni:
        await eni.demand(12)
        first = await eni.until_usable(12)
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    ours = [Tag("creator", "terway"), Tag(NODE_TAG, cloud.instance.id)]
    orphan = cloud.account.create_eni(vswitch="vsw-lab-a", security_groups=["sg-lab"], now=time.time(), tags=ours)
    foreign = cloud.account.create_eni(
        vswitch="vsw-lab-a", security_groups=["sg-lab"], now=time.time(), tags=[Tag("creator", "terway")]
    )
    async with start() as eni:
        await eni.until_usable(12)
        second = await eni.until(lambda seen: {one.id for one in seen.enis} == {one.id for one in first.enis})
        assert sorted(usable(second)) == sorted(usable(first))
        await cloud_settles(lambda: orphan.id not in cloud.account.enis)
        assert foreign.id in cloud.account.enis


# ---- a cloud that takes its time, or misbehaves


async def test_a_new_eni_is_attached_when_it_has_been_created(start, cloud):
    cloud.account.delays = msgspec.structs.replace(cloud.account.delays, create=(0.3, 0.3))
    async with start({"default": Backoff(30.0)}) as eni:
        await eni.demand(1)
        await eni.until_usable(1)


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("kind", ["lost_answer", "error"])
@pytest.mark.parametrize("tries", [1, 40])
async def test_lost_answers_and_failures_leak_and_double_nothing(start, cloud, action, kind, tries):
    """Whether the transport makes the call again (40 tries) or its keeper does (1)."""
    cloud.cloud.faults.add(Fault(action, kind=kind, times=2))
    calls = {name: Backoff(0.01, steps=tries) for name in ("eni_create", "eni_ops", "eni_ip_ops", "eni_release")}
    async with start(calls) as eni:
        await eni.demand(12)
        await eni.until_usable(12)
        assert cloud.addresses() == 12
        await eni.demand(14)
        seen = await eni.until_usable(14)
        assert cloud.addresses() == 14

        emptied = seen.enis[0]
        await eni.demand(14 - len(emptied.addresses))
        await eni.give_back(*(address.ipv4 for address in emptied.addresses))
        other = next(one for one in seen.enis if one.id != emptied.id)
        await eni.until(lambda seen: [one.id for one in seen.enis] == [other.id])
        assert [one.id for one in cloud.enis()] == [other.id]

        secondary = next(address.ipv4 for address in other.addresses if not address.primary)
        await eni.demand(len(other.addresses) - 1)
        await eni.give_back(secondary)
        await eni.until(lambda seen: len(seen.enis[0].addresses) == len(other.addresses) - 1)
        assert secondary not in cloud.enis()[0].ipv4


async def test_an_eni_made_by_a_forgotten_call_is_found_by_its_name(start, cloud):
    """The answer was lost, and so long ago that the cloud has forgotten the client token."""
    cloud.cloud.faults.add(Fault("CreateNetworkInterface", kind="lost_answer", times=1))
    cloud.cloud.faults.add(Fault("CreateNetworkInterface"))
    async with start({"eni_create": Backoff(0.01, steps=1)}) as eni:
        await eni.demand(2)
        await cloud_settles(lambda: len(cloud.enis()) == 1)
        cloud.cloud.api._tokens = ClientTokens()
        cloud.cloud.faults.clear()
        seen = await eni.until_usable(2)
        assert [one.id for one in seen.enis] == [one.id for one in cloud.enis()]


async def test_an_address_leaves_when_the_metadata_service_has_forgotten_it(start, cloud):
    async with start() as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
        gone = next(address.ipv4 for address in seen.enis[0].addresses if not address.primary)
        cloud.account.delays = msgspec.structs.replace(cloud.account.delays, metadata=(0.3, 0.3))
        await eni.demand(1)
        await eni.give_back(gone)
        await cloud_settles(lambda: gone not in cloud.enis()[0].ipv4)
        listed = [address.ipv4 for one in (await eni.inventory()).enis for address in one.addresses]
        assert gone in listed
        assert gone in cloud.enis()[0].served.ipv4
        await eni.until(lambda seen: len(seen.enis[0].addresses) == 1)
        assert gone not in cloud.enis()[0].served.ipv4


async def test_one_address_that_is_gone_already_keeps_no_other(start, cloud):
    """UnassignPrivateIpAddresses takes all or none."""
    async with start() as eni:
        await eni.demand(4)
        seen = await eni.until_usable(4)
        returned = [address.ipv4 for address in seen.enis[0].addresses if not address.primary][:2]
        cloud.cloud.faults.add(Fault("UnassignPrivateIpAddresses"))
        await eni.demand(2)
        await eni.give_back(*returned)
        cloud.account.unassign_ipv4(seen.enis[0].id, time.time(), returned[:1])
        cloud.cloud.faults.clear()
        await eni.until(lambda seen: [len(one.addresses) for one in seen.enis] == [2])
        assert cloud.addresses() == 2


async def test_an_eni_stays_while_anything_is_attached_with_it(start, cloud, tmp_path):
    """Even with an address that the cloud has taken away from the ENI since."""
    async with start() as eni, await Journal.open(tmp_path / "state" / "eni_manager.sqlite") as journal:
        await eni.demand(1)
        seen = await eni.until_usable(1)
        lease = lease_of(seen.enis[0], Ip("192.168.0.99"))
        await journal.put_attachment(lease, netns="/x")
        await eni.demand(0)
        await eni.give_back(*usable(seen))
        seen = await eni.until(lambda seen: [one.state for one in seen.enis] == ["detaching"])
        await eni.demand(9)
        seen = await eni.until(lambda seen: seen.blocked != "" or len(usable(seen)) == 9)
        assert cloud.account.enis[lease.eni_id].status is EniStatus.IN_USE
        await journal.drop_attachment(lease.key)
        await cloud_settles(lambda: lease.eni_id not in cloud.account.enis)


async def test_throttling_slows_and_loses_nothing(start, cloud):
    cloud.cloud.faults.add(Fault("*", code="Throttling.User", status=400, times=15))
    async with start() as eni:
        await eni.demand(12)
        await eni.until_usable(12)
        assert cloud.addresses() == 12


async def test_pods_that_wait_for_a_throttled_call_hear_why(start, cloud):
    """The call is being made again, with pauses longer than a pod's patience."""
    async with start({"eni_create": Backoff(60.0, steps=2)}) as eni:
        cloud.cloud.faults.add(Fault("CreateNetworkInterface", code="Throttling.User", status=400))
        await eni.demand(1, waiting=1)
        seen = await eni.until(lambda seen: seen.blocked != "")
        assert "Throttling.User" in seen.blocked


async def test_an_exhausted_vswitch_is_passed_over(start, cloud):
    small = VSwitch("vsw-small", "cn-lab-a", "192.168.240.0/29")
    add_vswitch(cloud.account, small)
    async with start(vswitches={"cn-lab-a": ["vsw-small", "vsw-lab-a"]}, vswitch_selection_policy="random") as eni:
        await eni.demand(30)
        seen = await eni.until_usable(30)
        # Whichever came first, the small one cannot carry 10.
        assert {one.vswitch for one in seen.enis} == {"vsw-lab-a"}


async def test_all_vswitches_exhausted_is_said_and_tested_again_later(start, cloud):
    small = VSwitch("vsw-small", "cn-lab-a", "192.168.240.0/29")
    add_vswitch(cloud.account, small)
    async with start(vswitches={"cn-lab-a": ["vsw-small"]}) as eni:
        await eni.demand(10)
        seen = await eni.until(lambda seen: seen.blocked != "")
        assert "vsw-small has no free addresses" in seen.blocked
        assert 0 < seen.blocked_retry_after <= 600
        assert sum(len(eni.ipv4) for eni in cloud.enis()) == 4, "what there was"


@pytest.mark.parametrize("cloud", [Site(instance_type="ecs.g7.4xlarge")], indirect=True)
async def test_a_vswitch_with_less_than_a_new_eni_could_hold_gives_what_it_has(start, cloud):
    add_vswitch(cloud.account, VSwitch("vsw-small", "cn-lab-a", "192.168.240.0/28"))  # 12 addresses, and 30 per ENI
    async with start(vswitches={"cn-lab-a": ["vsw-small"]}) as eni:
        await eni.demand(30)
        seen = await eni.until(lambda seen: len(usable(seen)) >= 10)
        assert {one.vswitch for one in seen.enis} == {"vsw-small"}


def add_vswitch(account, vswitch):
    account.vswitches[vswitch.id] = vswitch
    account._ipv4[vswitch.id] = AddressSpace(vswitch.id, vswitch.cidr)


async def test_most_free_addresses_first(start, cloud):
    add_vswitch(cloud.account, VSwitch("vsw-mid", "cn-lab-a", "192.168.240.0/24"))
    async with start(vswitches={"cn-lab-a": ["vsw-mid", "vsw-lab-a"]}, vswitch_selection_policy="ordered") as eni:
        await eni.demand(3)
        seen = await eni.until_usable(3)
        assert [one.vswitch for one in seen.enis] == ["vsw-lab-a"]


async def test_without_permission_to_count_the_configured_order_stays(start, cloud):
    add_vswitch(cloud.account, VSwitch("vsw-mid", "cn-lab-a", "192.168.240.0/24"))
    cloud.cloud.faults.add(Fault("DescribeVSwitches", code="Forbidden.RAM", status=403))
    async with start(vswitches={"cn-lab-a": ["vsw-mid", "vsw-lab-a"]}, vswitch_selection_policy="ordered") as eni:
        await eni.demand(3)
        seen = await eni.until_usable(3)
        assert [one.vswitch for one in seen.enis] == ["vsw-mid"]


async def test_a_missing_permission_is_said_and_not_hammered(start, cloud):
    cloud.cloud.faults.add(Fault("CreateNetworkInterface", code="Forbidden.RAM", status=403, message="no"))
    async with start(ip_pool_sync_period=3600) as eni:
        await eni.demand(1)
        seen = await eni.until(lambda seen: seen.blocked != "")
        assert "denies us a permission" in seen.blocked
        calls = cloud.cloud.calls
        await eni.demand(2)
        await eni.demand(1)
        await eni.inventory()
        assert cloud.cloud.calls == calls


async def test_foreign_enis_take_places_and_are_never_touched(start, cloud):
    foreign = cloud.account.create_eni(vswitch="vsw-lab-a", security_groups=["sg-lab"], now=time.time())
    cloud.account.attach_eni(foreign.id, cloud.instance.id, time.time())
    async with start() as eni:
        await eni.demand(25)
        seen = await eni.until(lambda seen: len(usable(seen)) == 20 and seen.blocked != "")
        assert seen.capacity == 20
        assert foreign.id not in {one.id for one in seen.enis}
        assert len(foreign.ipv4) == 1


async def test_an_eni_that_the_instance_cannot_take_is_disposed_of(start, cloud):
    cloud.cloud.faults.add(Fault("AttachNetworkInterface", code="EniPerInstanceLimitExceeded", status=403))
    async with start() as eni:
        await eni.demand(2)
        seen = await eni.until(lambda seen: "cannot take one more ENI" in seen.blocked)
        assert 0 < seen.blocked_retry_after <= 60
        await cloud_settles(lambda: cloud.enis() == [])


async def test_a_device_that_never_comes_is_replaced(start, cloud):
    async with start() as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
        await eni.demand(12)
        # Whatever comes next has no device, until the first of them is disposed of.
        absent = eni.wiring.absent = Everything(but={seen.enis[0].mac})
        await cloud_settles(lambda: len(set(absent.asked)) >= 2, within_s=20)
        eni.wiring.absent = set()
        await eni.until_usable(12)
        await cloud_settles(lambda: cloud.addresses() == 12)


class Everything:
    """A set of all MACs `but` some; remembers which it was asked for."""

    def __init__(self, but):
        self.but, self.asked = but, set()

    def __contains__(self, mac):
        self.asked.add(mac)
        return mac not in self.but


# ---- drift


async def test_an_address_taken_away_is_reported_and_forgotten(start, cloud):
    async with start() as eni:
        await eni.demand(4)
        seen = await eni.until_usable(4)
        lost = next(address.ipv4 for address in seen.enis[0].addresses if not address.primary)
        await eni.demand(3)
        cloud.account.unassign_ipv4(seen.enis[0].id, time.time(), [lost])
        await eni.until(lambda seen: lost not in usable(seen))
        seen = await eni.until(lambda seen: lost not in [a.ipv4 for one in seen.enis for a in one.addresses])
        assert len(usable(seen)) == 3


async def test_an_address_that_appears_is_adopted(start, cloud):
    async with start() as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
        (fresh,) = cloud.account.assign_ipv4(seen.enis[0].id, time.time(), count=1)
        seen = await eni.until_usable(3)
        assert fresh in usable(seen)


async def test_an_eni_taken_away_frees_its_place(start, cloud):
    async with start() as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
        taken = seen.enis[0].id
        cloud.account.detach_eni(taken, cloud.instance.id, time.time())
        seen = await eni.until(lambda seen: len(usable(seen)) == 2 and seen.enis[0].id != taken)
        await cloud_settles(lambda: taken not in cloud.account.enis)


async def test_an_eni_taken_from_under_a_pod_waits_for_the_pod(start, cloud, tmp_path):
    async with start() as eni:
        await eni.demand(2)
        seen = await eni.until_usable(2)
    taken, used = seen.enis[0], usable(seen)[0]
    async with await Journal.open(tmp_path / "state" / "eni_manager.sqlite") as journal:
        await journal.put_attachment(lease_of(taken, used), netns="/x")
    async with start() as eni:
        await eni.until_usable(2)
        cloud.account.detach_eni(taken.id, cloud.instance.id, time.time())
        await cloud.cloud.world.settle()
        seen = await eni.until(lambda seen: any(one.state == "draining" for one in seen.enis))
        await eni.until(
            lambda seen: all(not a.usable for one in seen.enis if one.id == taken.id for a in one.addresses)
        )
        await cloud_settles(lambda: cloud.account.enis[taken.id].status is EniStatus.AVAILABLE)
        cloud.account.attach_eni(taken.id, cloud.instance.id, time.time())
        await cloud.cloud.world.settle()
        seen = await eni.until(lambda seen: used in usable(seen))
        assert taken.id in cloud.account.enis


async def test_what_people_should_mend_is_said_when_it_is_sure(start, cloud):
    async with start(security_groups=["sg-lab"]) as eni:
        await eni.demand(1)
        seen = await eni.until_usable(1)
        assert seen.warnings == [], "ecs.g6.2xlarge is what is recommended"
        (made,) = cloud.enis()
        made.security_groups = ["sg-other"]
        seen = await eni.until(lambda seen: bool(seen.warnings))
        assert "none of the configured security groups: it has sg-other, configured are sg-lab" in seen.warnings[0]
        assert len(usable(seen)) == 1, "reported, and no more"
        made.security_groups = ["sg-lab"]
        await eni.until(lambda seen: seen.warnings == [])


async def calls(session, eni):
    async with session.get(f"{eni.http}/calls") as response:
        return json.loads(await response.text())


async def test_vswitches_that_cannot_serve_the_node_are_said_at_the_start(start, cloud, session):
    listed = ["vsw-typo", "vsw-lab-b", "vsw-lab-a"]  # the second is of the other zone
    async with start(vswitches={"cn-lab-a": listed}) as eni:
        seen = await eni.until(lambda seen: len(seen.warnings) == 2)
        assert "vsw-lab-b is in zone cn-lab-b, but eni_conf.vswitches lists it under cn-lab-a" in seen.warnings[0]
        assert "vsw-typo does not exist in this region" in seen.warnings[1]
        await eni.demand(20)
        seen = await eni.until_usable(20)
        assert {one.vswitch for one in seen.enis} == {"vsw-lab-a"}
        assert {call["outcome"] for call in await calls(session, eni)} == {"ok"}, "nothing was tried in vain"


async def test_the_only_vswitch_is_a_typing_error(start, cloud, session):
    async with start(vswitches={"cn-lab-a": ["vsw-typo"]}) as eni:
        await eni.demand(1, waiting=1)
        seen = await eni.until(lambda seen: seen.blocked != "")
        assert "vsw-typo does not exist" in seen.blocked
        assert await calls(session, eni) == []


async def test_a_zone_without_vswitches_of_its_own_takes_the_nodes_and_says_so(start, cloud):
    async with start(vswitches={"cn-lab-b": ["vsw-lab-b"]}) as eni:
        await eni.demand(1)
        seen = await eni.until_usable(1)
        assert [one.vswitch for one in seen.enis] == ["vsw-lab-a"]
        assert any("names none of this node's zone cn-lab-a, only of cn-lab-b" in text for text in seen.warnings)


async def test_without_any_security_group_nothing_is_asked_of_the_cloud(start, cloud):
    [primary] = [eni for eni in cloud.account.enis.values() if eni.type == "Primary"]
    primary.security_groups = []
    async with start(security_group="", security_groups=[]) as eni:
        await eni.demand(1, waiting=1)
        seen = await eni.until(lambda seen: seen.blocked != "")
        assert "set security_groups" in seen.blocked
    assert cloud.enis() == []


async def test_what_cannot_be_given_back_is_said_until_it_can(start, cloud):
    async with start({"eni_ip_ops": Backoff(0.01, steps=200)}) as eni:
        await eni.demand(4)
        seen = await eni.until_usable(4)
        item = next(address.ipv4 for address in seen.enis[0].addresses if not address.primary)
        cloud.cloud.faults.add(Fault("UnassignPrivateIpAddresses", code="ServiceUnavailable", status=503))
        await eni.demand(3)
        await eni.give_back(item)
        seen = await eni.until(lambda seen: seen.releasing != [])
        assert "ServiceUnavailable" in seen.releasing[0]
        assert seen.releasing[0].startswith("UnassignPrivateIpAddresses: ")
        cloud.cloud.faults.clear()
        await eni.until(lambda seen: seen.releasing == [] and len(usable(seen)) == 3)
