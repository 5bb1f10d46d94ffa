"""ipam as its neighbours meet it: over its socket, with an eni_manager that does as the test says."""

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from services.ipam.config import IpamConfig, Settings
from services.ipam.service import serve
from shared.config import NodeConfig
from shared.contracts import ipam as contract
from shared.contracts.ipam import Bandwidth
from shared.duration import Duration
from shared.errors import Conflict, DeadlineExceeded, Exhausted, Invalid, Refused, Unavailable
from shared.model import host_link_name
from tests.ipam.conftest import RunningIpam, Start
from tests.ipam.eni_manager import ScriptedEniManager, empty
from tests.ipam.world import eni, inventory, ip, item, key, one_eni

pytestmark = pytest.mark.usefixtures("nothing_blocks")


@pytest.fixture
def enis_socket(node: NodeConfig) -> Path:
    return node.socket("eni_manager")


async def status(ipam: RunningIpam) -> contract.Status:
    return await ipam.client.call(contract.STATUS, contract.AskStatus())


async def waiting(ipam: RunningIpam, number: int) -> None:
    await ipam.until("/state", lambda _, state: len(state["waiting"]) == number)


# ---- ADD and DEL


async def test_an_address_is_leased_released_rested_and_leased_again(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(1, capacity=1)), start(cooldown_s=0.3) as ipam:
        first = await ipam.add("a", pod_uid="u1")
        assert (first.ipv4, first.pod_uid, first.eni_id) == (ip(1), "u1", "eni-1")
        assert await ipam.add("a", pod_uid="u1") == first, "a repeated ADD is answered with the same lease"
        assert await ipam.leases() == {key("a"): first}
        assert await ipam.delete("a") == first
        released = asyncio.get_running_loop().time()
        assert await ipam.delete("a") is None, "a repeated DEL is success"
        second = await ipam.add("b")
        assert second.ipv4 == ip(1)
        assert asyncio.get_running_loop().time() - released >= 0.29, "a cooled address is never used before its time"


async def test_two_sandboxes_of_one_pod_do_not_disturb_each_other(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(3)), start() as ipam:
        old = await ipam.add("old", pod="web")
        new = await ipam.add("new", pod="web")
        assert old.ipv4 != new.ipv4
        assert old.host_link == host_link_name(old.pod, "eth0")
        assert new.host_link == host_link_name(old.pod, "eth0", salt="new")
        assert await ipam.delete("old") == old
        assert await ipam.leases() == {key("new"): new}
        assert await ipam.add("new", pod="web") == new


async def test_inspect_and_leases(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(3)), start() as ipam:
        lease = await ipam.add("a")
        ask = ipam.client.call
        assert (await ask(contract.INSPECT, contract.Inspect(key("a")))).lease == lease
        assert (await ask(contract.INSPECT, contract.Inspect(key("b")))).lease is None
        assert (await ask(contract.LEASES, contract.ListLeases("terway"))).leases == [lease]
        assert (await ask(contract.LEASES, contract.ListLeases("other"))).leases == []


async def test_a_key_of_another_pod_and_an_empty_key(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(3)), start() as ipam:
        await ipam.add("a")
        with pytest.raises(Conflict, match="belongs to the pod default/pod-a"):
            await ipam.add("a", pod="other")
        with pytest.raises(Invalid, match="must not be empty"):
            await ipam.add("")


async def test_everything_survives_a_restart(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(2, capacity=2)) as enis:
        async with start(cooldown_s=60.0) as ipam:
            kept, gone = await ipam.add("a"), await ipam.add("b")
            await ipam.delete("b")
        async with start(cooldown_s=60.0) as ipam:
            assert await ipam.leases() == {key("a"): kept}
            assert await ipam.add("a") == kept
            await ipam.ready()
            with pytest.raises(Exhausted, match="1 of at most 2 addresses are in use and 1 cool down"):
                await ipam.add("c", deadline_s=0.3)
            state = (await ipam.get("/state"))[1]
            assert state["addresses"][gone.ipv4]["state"] == "cooling"
        assert enis.demands[-1].total == 2


# ---- sticky addresses, warm-up, slow reclaim

STICKY = {"k8s.aliyun.com/pod-ip-reservation": "true"}


async def test_a_reserved_address_waits_for_its_pod_through_a_restart(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(4)):
        async with start(cooldown_s=60.0) as ipam:
            had = await ipam.add("old", pod="db-0", annotations=STICKY)
            assert had.sticky
            await ipam.delete("old")
        async with start(cooldown_s=60.0) as ipam:
            await ipam.ready()
            state = (await ipam.get("/state"))[1]["addresses"][had.ipv4]
            assert (state["state"], state["waits_for"]) == ("promised", "default/db-0")
            assert (await ipam.add("other")).ipv4 != had.ipv4
            assert (await ipam.add("new", pod="db-0")).ipv4 == had.ipv4


async def test_at_capacity_a_reserved_address_goes_to_the_pod_that_waits(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(1, capacity=1)), start(cooldown_s=0.2) as ipam:
        had = await ipam.add("old", pod="db-0", annotations=STICKY)
        await ipam.delete("old")
        assert (await ipam.add("other")).ipv4 == had.ipv4, "as soon as it has rested"


async def test_a_reservation_that_cannot_be_read_is_none_and_is_told(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(2)), start() as ipam:
        assert not (await ipam.add("a", annotations={"k8s.aliyun.com/pod-ip-reservation": "5m"})).sticky
        (problem,) = (await ipam.get("/state"))[1]["annotation_problems"]
        assert "expected true or false" in problem["problem"]


async def test_a_node_warms_up_once(start: Start, enis_socket: Path) -> None:
    warm = {"pool": (0, 2), "conf": {"ip_warm_up_size": 8}, "sync_period_s": 0.05}
    async with ScriptedEniManager(enis_socket, empty(), grows=True) as enis:
        async with start(**warm) as ipam:
            await enis.until(lambda: bool(enis.given_back))
            assert max(demand.total for demand in enis.demands) == 8
            assert len(enis.given_back[0]) == 6, "then the high mark counts again"
            await ipam.until("/state", lambda _, state: state["watermarks"]["warm_up"] == 0)
        enis.demands.clear()
        await enis.take_back([a for items in enis.given_back for a in items])
        async with start(**warm) as ipam:
            await ipam.ready()
            await enis.until(lambda: bool(enis.demands))
            assert max(demand.total for demand in enis.demands) == 2, "not again after a restart"


async def test_a_quiet_node_gives_back_what_is_idle_a_few_at_a_time(start: Start, enis_socket: Path) -> None:
    slowly = {
        "idle_ip_reclaim_after": Duration(0.3),
        "idle_ip_reclaim_interval": Duration(0.3),
        "idle_ip_reclaim_batch_size": 2,
    }
    async with ScriptedEniManager(enis_socket, one_eni(8)) as enis, start(pool=(1, 9), conf=slowly) as ipam:
        await ipam.add("a")
        moved = asyncio.get_running_loop().time()
        await enis.until(lambda: bool(enis.given_back))
        assert asyncio.get_running_loop().time() - moved >= 0.29
        assert len(enis.given_back[0]) <= 2
        await ipam.until("/state", lambda _, state: state["counts"]["given_back"] == 6)
        assert (await ipam.get("/state"))[1]["counts"]["idle"] == 1, "the low mark stays"


# ---- waiting


async def test_200_pods_on_an_empty_node_are_all_served_by_few_demands(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty(250), grows=True) as enis, start() as ipam:
        leases = await asyncio.gather(*(ipam.add(f"c{n}") for n in range(200)))
        assert len({lease.ipv4 for lease in leases}) == 200
        assert len({lease.host_link for lease in leases}) == 200
        assert len(enis.demands) <= 200 / 4, "one demand speaks for many"
        assert max(demand.total for demand in enis.demands) == 200
        assert (await ipam.get("/state"))[1]["counts"]["used"] == 200


async def test_the_line_is_served_first_come_first_served(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty()) as enis, start() as ipam:
        order: list[str] = []

        async def add(name: str) -> None:
            await ipam.add(name)
            order.append(name)

        async with asyncio.TaskGroup() as tasks:
            for number, name in enumerate("abcd", start=1):
                tasks.create_task(add(name))
                await waiting(ipam, number)
            assert [line["attachment"] for line in (await ipam.get("/state"))[1]["waiting"]] == [
                f"terway/{name}/eth0" for name in "abcd"
            ]
            for count in (1, 2, 4):
                await enis.change(one_eni(count))
                await waiting(ipam, 4 - count)
        assert order[:2] == ["a", "b"]


async def test_a_caller_that_has_gone_swallows_no_address(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty(1)) as enis, start() as ipam:
        with pytest.raises((Exhausted, DeadlineExceeded)):
            await ipam.add("gone", deadline_s=0.2)
        await waiting(ipam, 0)
        late = asyncio.create_task(ipam.add("late"))
        await waiting(ipam, 1)
        await enis.change(one_eni(1, capacity=1))
        assert (await late).ipv4 == ip(1)
        assert list(await ipam.leases()) == [key("late")]


async def test_waiting_ends_with_the_reason_before_the_deadline(start: Start, enis_socket: Path) -> None:
    blocked = msgspec.structs.replace(empty(), blocked="vsw-a has no free address", blocked_retry_after=600.0)
    async with ScriptedEniManager(enis_socket, blocked), start() as ipam:
        with pytest.raises(Exhausted, match=r"no address for default/pod-a within .* s: vsw-a has no free") as failed:
            await ipam.add("a", deadline_s=0.5)
        assert failed.value.retry_after == 600.0
        await waiting(ipam, 0)


async def test_a_node_that_can_hold_no_address_refuses_at_once(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty(0)), start() as ipam:
        with pytest.raises(Exhausted, match="its capacity is 0"):
            await ipam.add("a", deadline_s=60.0)


async def test_a_delete_ends_the_wait_of_its_add(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty()), start() as ipam:
        adding = asyncio.create_task(ipam.add("a"))
        await waiting(ipam, 1)
        assert await ipam.delete("a") is None
        with pytest.raises(Conflict, match="was released while it waited"):
            await adding


async def test_the_same_add_twice_at_once_is_one_lease(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty()) as enis, start() as ipam:
        adding = [asyncio.create_task(ipam.add("a")) for _ in range(3)]
        await waiting(ipam, 1)
        with pytest.raises(Conflict, match="is being made for the pod default/pod-a"):
            await ipam.add("a", pod="other")
        await enis.change(one_eni(5))
        leases = await asyncio.gather(*adding)
        assert leases[0] == leases[1] == leases[2]
        assert len(await ipam.leases()) == 1


async def test_a_cooled_address_wakes_the_line_at_its_time(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(2, capacity=2)), start(cooldown_s=0.2) as ipam:
        await asyncio.gather(ipam.add("a"), ipam.add("b"))
        await asyncio.gather(ipam.delete("a"), ipam.delete("b"))
        leases = await asyncio.gather(ipam.add("c"), ipam.add("d"))
        assert {lease.ipv4 for lease in leases} == {ip(1), ip(2)}


async def test_stopping_tells_those_who_wait(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty()):
        async with start() as ipam:
            adding = asyncio.create_task(ipam.add("a"))
            await waiting(ipam, 1)
        with pytest.raises(Unavailable, match="ipam is stopping"):
            await adding


# ---- neighbours


async def test_without_eni_manager_known_leases_are_answered_and_new_ones_fail_at_once(
    start: Start, enis_socket: Path
) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(2)), start() as ipam:
        lease = await ipam.add("a")
    async with start() as ipam:
        body = await ipam.until("/readyz", lambda _, body: "cannot be reached" in str(body))
        assert body["ready"] is False
        assert await ipam.add("a") == lease
        with pytest.raises(Unavailable, match="eni_manager cannot be reached"):
            await ipam.add("b")
        assert (await status(ipam)).reason.startswith("eni_manager cannot be reached")
        assert await ipam.delete("a") == lease
        async with ScriptedEniManager(enis_socket, one_eni(2, epoch="e2")):
            await ipam.ready()
            assert (await ipam.add("b")).ipv4 == ip(2), "the first address cools down"
            assert (await status(ipam)).able


async def test_a_restarted_eni_manager_is_told_the_demand_again(start: Start, enis_socket: Path) -> None:
    async with start(pool=(3, 5)) as ipam:
        for epoch in ("e1", "e2"):
            view = msgspec.structs.replace(empty(), epoch=epoch)
            async with ScriptedEniManager(enis_socket, view) as enis:
                await enis.until(lambda enis=enis: bool(enis.demands))
                assert enis.demands[0].total == 3
                await ipam.ready()


async def test_an_eni_manager_that_was_away_learns_what_changed_meanwhile(start: Start, enis_socket: Path) -> None:
    async with start(pool=(2, 5)) as ipam:
        async with ScriptedEniManager(enis_socket, one_eni(1)) as enis:
            await ipam.ready()
            await ipam.add("a")
            await enis.until(lambda: any(demand.total == 3 for demand in enis.demands))
        await ipam.until("/readyz", lambda _, body: "eni_manager" in str(body))
        await ipam.delete("a")
        async with ScriptedEniManager(enis_socket, one_eni(1)) as enis:
            await enis.until(lambda: bool(enis.demands))
            assert enis.demands[0].total == 2


async def test_the_same_demand_is_not_said_twice(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty()) as enis, start(pool=(3, 5)) as ipam:
        await enis.until(lambda: bool(enis.demands))
        for view in (one_eni(1), one_eni(2), one_eni(3)):
            await enis.change(view)
            generation = enis.view.generation
            await ipam.until("/state", lambda _, state, seen=generation: state["inventory"]["generation"] == seen)
            assert (await ipam.get("/state"))[1]["demanded"] == ["e1", 3, 0]
        await ipam.add("a")
        await enis.until(lambda: len(enis.demands) > 1)
        assert [demand.total for demand in enis.demands] == [3, 4]


async def test_an_unsynced_inventory_means_no_demand_and_no_readiness(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty(synced=False)) as enis, start(pool=(2, 5)) as ipam:
        body = await ipam.until("/readyz", lambda _, body: "not compared" in str(body))
        assert body["missing"] == ["inventory: eni_manager has not compared this node's addresses with the cloud yet"]
        assert not (await status(ipam)).able
        assert enis.demands == []
        await enis.change(empty())
        await ipam.ready()
        await enis.until(lambda: bool(enis.demands))
        assert enis.demands[0].total == 2


async def test_a_leased_address_that_vanishes_is_reported_and_kept(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(2)) as enis, start() as ipam:
        lease = await ipam.add("a")
        await enis.change(inventory(eni(1, item(2))))
        sentence = "192.168.0.1 is leased to default/pod-a, but this node no longer has it"
        await ipam.until("/state", lambda _, state: state["differences"] == [sentence])
        assert "terway_ipam_leases_not_in_inventory 1.0" in (await ipam.get("/metrics"))[1]
        assert await ipam.add("a") == lease


async def test_status(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(1, capacity=1)), start(cooldown_s=60.0) as ipam:
        await ipam.ready()
        assert await status(ipam) == contract.Status(able=True)
        await ipam.add("a")
        assert await status(ipam) == contract.Status(
            able=False, reason="the node's addresses are exhausted: 1 of at most 1 addresses are in use and 0 cool down"
        )


# ---- the pool's size


async def test_idle_addresses_are_kept_between_the_marks(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, empty(), grows=True) as enis, start(pool=(3, 5)) as ipam:
        await enis.until(lambda: len(enis.addresses) == 3)
        await ipam.add("a")
        await enis.until(lambda: len(enis.addresses) == 4)
        assert [demand.total for demand in enis.demands] == [3, 4]


async def test_what_is_too_much_is_given_back_in_two_steps(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(4)) as enis:
        enis.refuse_once = {ip(3): "an attachment uses it"}
        options = {"pool": (0, 1), "sync_period_s": 0.1, "cooldown_s": 0.1}
        async with start(**options) as ipam:
            lease = await ipam.add("a")
            assert lease.ipv4 == ip(1), "the primary address stays"
            await enis.until(lambda: len(enis.given_back) >= 2)
            assert enis.given_back[:2] == [[ip(2), ip(3)], [ip(4)]], "what was refused rests, another goes instead"
            state = (await ipam.get("/state"))[1]
            assert state["addresses"][ip(2)]["state"] == "given-back"
        async with start(**options) as ipam:
            await enis.until(lambda: len(enis.given_back) >= 3)
            assert set(enis.given_back[2]) == {ip(2), ip(4)}, "a restarted ipam says it again"
            await enis.take_back([ip(2), ip(4)])
            state = await ipam.until("/state", lambda _, state: state["tally"]["given_back"] == 2)
            assert state["counts"]["given_back"] == 0
            assert (await ipam.add("b")).ipv4 == ip(3)


async def test_metrics_have_terways_names(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(4)), start() as ipam:
        await ipam.ready()
        await ipam.add("a")
        text = (await ipam.get("/metrics"))[1]
        labels = 'capacity="30",max_idle="5",min_idle="0",name="eniip",type="eniip"'
        assert f"terway_resource_pool_total_count{{{labels}}} 4.0" in text
        assert f"terway_resource_pool_idle_count{{{labels}}} 3.0" in text
        assert 'terway_ipam_addresses{state="leased"} 1.0' in text
        assert 'terway_rpc_latency_count{error="false",rpc_api="ipam.acquire"} 1.0' in text


# ---- annotations


async def test_bandwidth_from_annotations_and_capability(start: Start, enis_socket: Path) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(4)), start() as ipam:
        asked = {"k8s.aliyun.com/ingress-bandwidth": "1M", "k8s.aliyun.com/egress-bandwidth": "10"}
        lease = await ipam.add("a", annotations=asked, bandwidth=Bandwidth(egress=5))
        assert lease.bandwidth == Bandwidth(ingress=1 << 20, egress=5)
        assert (await ipam.add("b", annotations=asked)).bandwidth == Bandwidth(ingress=1 << 20)
        problems = (await ipam.get("/state"))[1]["annotation_problems"]
        assert [problem["pod"] for problem in problems] == ["default/pod-b"]
        assert "is not a rate" in problems[0]["problem"]
        assert (await ipam.add("c", annotations=None)).bandwidth == Bandwidth(), "there is no API server to ask"


# ---- one at a time


async def test_a_second_instance_is_refused(start: Start, enis_socket: Path) -> None:
    async with start():
        with pytest.raises(Refused, match="runs already"):
            async with start():
                raise AssertionError("it started")


async def test_a_taken_port_is_refused_in_one_sentence(node: NodeConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"cannot serve HTTP at 127.0.0.1:{port}"):
            await serve(node, Settings(IpamConfig(http_port=port)), asyncio.Event())
