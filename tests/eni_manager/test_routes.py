"""Mode vpc-route against the lab's cloud and Kubernetes API: the table is kept in step, nobody else's is touched."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from compose.lab.cloud import CLOUD, Account, Fault, NullFabric, build_app
from compose.lab.cloud.core import routes
from compose.lab.cloud.core.model import AccessKey, Quotas, RouteEntry
from compose.lab.kubeapi import KubeApi
from services.eni_manager.core.route_table import Owner
from services.eni_manager.service import serve
from shared.backoff import Backoff
from shared.config import KubeConfig, NodeConfig
from shared.contracts.eni import Inventory, PodRange
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NAMESPACES, NODES
from shared.model import Mode
from shared.rpc.client import Client
from tests.eni_manager.conftest import DELAYS, TYPE, NoKernel, Running, answers, free_port, settings_for

pytestmark = pytest.mark.usefixtures("nothing_blocks")

ONE, TWO, NEW = "10.244.1.0/24", "10.244.2.0/24", "10.244.9.0/24"


class Site(NamedTuple):
    """A VPC with two machines, and a cluster; eni_manager runs on the first one."""

    url: str
    account: Account
    cloud: object
    kube: KubeClient
    kube_url: str
    tmp_path: object

    def instance(self, node: str):
        return next(one for one in self.account.instances.values() if one.name == node)

    def table(self) -> dict[str, RouteEntry]:
        return {entry.destination: entry for entry in self.account.routes.values()}

    def hops(self) -> dict[str, str]:
        names = {one.id: one.name for one in self.account.instances.values()}
        return {cidr: names[entry.next_hop] for cidr, entry in self.table().items()}

    def lead(self, cidr: str, node: str, description: str = "by hand") -> None:
        """Somebody makes an entry."""
        table, hop = self.account.layout.route_table, self.instance(node).id
        entry = routes.create(
            self.account,
            time.time(),
            table=table,
            destination=cidr,
            hop_type="Instance",
            hop=hop,
            description=description,
        )
        self.account.advance(time.time())
        assert entry.status == "Available"

    def remove(self, cidr: str) -> None:
        routes.delete(self.account, time.time(), table=self.account.layout.route_table, destination=cidr)
        self.account.advance(time.time())

    async def cluster(self) -> str:
        return (await self.kube.get(NAMESPACES, dict, "kube-system"))["metadata"]["uid"]

    async def of(self, node: str) -> str:
        """What an entry of a node of this cluster says."""
        return Owner(await self.cluster(), node).description

    async def register(self, node: str, *cidrs: str) -> None:
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
        await self.kube.create(
            NODES, dict, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "spec": spec}
        )

    @asynccontextmanager
    async def running(self, *, mode=Mode.VPC_ROUTE, ip_stack="ipv4", kube=True, backoffs=None, **own):
        """eni_manager on node1; the journal stays from one to the next."""
        node = NodeConfig(
            run_dir=self.tmp_path / "run",
            state_dir=self.tmp_path / "state",
            node_name="node1",
            kube=KubeConfig(self.kube_url if kube else ""),
        )
        settings = settings_for(self.url, backoffs, http_port=(port := free_port()), ip_stack=ip_stack)
        settings = settings._replace(own=replace(settings.own, mode=mode, **own))
        stop, wiring = asyncio.Event(), NoKernel()
        service = asyncio.create_task(serve(node, settings, stop, wiring=wiring), name="eni_manager")
        async with Client(node.socket("eni_manager"), name="ipam") as client:
            running = Running(client, wiring, f"http://127.0.0.1:{port}")
            await answers(running.inventory, service)
            try:
                yield running
            finally:
                stop.set()
                await service


@pytest.fixture
async def site(tmp_path):
    account = Account(delays=DELAYS)
    account.add_key(AccessKey("ak", "s3cr3t"))
    now = time.time()
    first = account.run_instance("node1", vswitch="vsw-lab-a", instance_type=TYPE, now=now)
    account.run_instance("node2", vswitch="vsw-lab-b", instance_type=TYPE, now=now)
    app = build_app(account, NullFabric(), metadata_for=first.id)
    listening = socket.create_server(("127.0.0.1", 0))
    kube_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with (
        TestServer(app) as server,
        KubeApi().serving([listening]),
        KubeClient(KubeAddress(kube_url)) as kube,
    ):
        yield Site(str(server.make_url("")), account, app[CLOUD], kube, kube_url, tmp_path)


def routed(*cidrs: str):
    wanted = [PodRange(cidr) for cidr in cidrs]

    def check(seen: Inventory) -> bool:
        return seen.synced and seen.ranges == wanted and not seen.blocked

    return check


async def settles(true, *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 the lab's account is no event source
            await asyncio.sleep(0.01)


async def state(running: Running, page: str = "state"):
    async with aiohttp.ClientSession() as session, session.get(f"{running.http}/{page}") as answer:
        return await answer.json()


# ---- one's own entry


async def test_the_nodes_range_is_routed_here_and_the_entry_says_whose_it_is(site):
    await site.register("node1", ONE)
    async with site.running() as eni:
        await eni.until(routed(ONE))
        entry = site.table()[ONE]
        assert (entry.next_hop, entry.name) == (site.instance("node1").id, "terway-node1")
        assert entry.description == await site.of("node1")
        assert eni.wiring.nat.sources == {ONE}
        assert {"192.168.0.0/16", ONE} <= eni.wiring.nat.inside
        assert not [one for one in site.account.enis.values() if one.type == "Secondary"]
    calls = site.cloud.calls
    async with site.running() as eni:
        await eni.until(routed(ONE))
    assert list(site.table()) == [ONE] and site.cloud.calls > calls, "made once, compared each time"


async def test_pods_of_nodes_that_join_are_met_by_their_own_addresses(site):
    await site.register("node1", ONE)
    async with site.running(no_masquerade=("172.30.0.0/16",)) as eni:
        await eni.until(routed(ONE))
        await site.register("node2", TWO)
        await settles(lambda: TWO in eni.wiring.nat.inside)
        assert "172.30.0.0/16" in eni.wiring.nat.inside
        await site.kube.delete(NODES, "node2")
        await settles(lambda: TWO not in eni.wiring.nat.inside)


async def test_a_restart_never_forgets_other_nodes(site):
    await site.register("node1", ONE)
    await site.register("node2", TWO)
    site.lead(TWO, "node2", await site.of("node2"))
    for _ in range(3):
        async with site.running() as eni:
            await eni.until(routed(ONE))
            await settles(lambda: eni.wiring.nats != [])
        assert all({ONE, TWO} <= nat.inside for nat in eni.wiring.nats)


async def test_both_families_are_routed_in_dual_stack_and_one_otherwise(site):
    await site.register("node1", "fd00:1::/64", ONE)
    async with site.running() as eni:
        await eni.until(routed(ONE))
        assert list(site.table()) == [ONE]
    async with site.running(ip_stack="dual") as eni:
        seen = await eni.until(routed(ONE, "fd00:1::/64"))
        assert set(site.table()) == {ONE, "fd00:1::/64"} and seen.dual


async def test_an_entry_that_somebody_deleted_is_made_again_and_people_hear_of_it(site):
    await site.register("node1", ONE)
    async with site.running() as eni:
        await eni.until(routed(ONE))
        site.remove(ONE)
        await settles(lambda: ONE in site.table())
        await eni.until(routed(ONE))
        assert f"leads {ONE} here is gone from vtb-lab" in str((await state(eni))["notices"])


async def test_a_foreign_entry_that_leads_here_is_as_good(site):
    await site.register("node1", ONE)
    site.lead(ONE, "node1", "made by the cloud controller")
    async with site.running() as eni:
        await eni.until(routed(ONE))
    assert site.table()[ONE].description == "made by the cloud controller"


async def test_without_a_range_pods_are_told_and_the_service_is_not_ready(site):
    await site.register("node1")
    async with site.running() as eni:
        seen = await eni.until(lambda seen: "spec.podCIDR" in seen.blocked)
        assert not seen.synced and seen.ranges == []
        assert any("--allocate-node-cidrs" in why for why in (await state(eni, "readyz"))["missing"])
        await site.kube.delete(NODES, "node1")
        await site.register("node1", ONE)
        await eni.until(routed(ONE))


async def test_the_mode_needs_an_api_server(site):
    async with site.running(kube=False) as eni:
        seen = await eni.until(lambda seen: "node.kube.server" in seen.blocked)
        assert not seen.synced


# ---- what stands in the way


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda site: site.lead(ONE, "node2"), "by an entry of somebody else"),
        (
            lambda site: site.lead(ONE, "node2", Owner("another", "node1").description),
            "by an entry of node node1 of cluster another",
        ),
        (lambda site: setattr(site.account, "quotas", Quotas(route_entries=0)), "QuotaExceeded.RouteEntry"),
        (
            lambda site: site.cloud.spoil(Fault("CreateRouteEntry", code="Forbidden.RAM", status=403, message="no")),
            "Forbidden.RAM",
        ),
    ],
)
async def test_pods_are_told_what_stands_in_the_way(site, prepare, says):
    await site.register("node1", ONE)
    prepare(site)
    before = dict(site.table())
    async with site.running() as eni:
        seen = await eni.until(lambda seen: says in seen.blocked)
        assert seen.ranges == [PodRange(ONE, usable=False)] and ONE in seen.blocked
        assert any(says in why for why in (await state(eni, "readyz"))["missing"])
    assert site.table() == before


async def test_a_range_within_a_vswitch_is_refused_by_the_cloud_and_said(site):
    await site.register("node1", "192.168.1.0/24")
    async with site.running() as eni:
        await eni.until(lambda seen: "InvalidCidrBlock.Conflict" in seen.blocked)


async def test_entries_of_a_node_that_has_another_range_or_is_gone_make_way(site):
    await site.register("node1", ONE)
    await site.register("node2", TWO)
    for node in ("node2", "ghost"):
        site.lead(ONE, "node2", await site.of(node))
        async with site.running() as eni:
            await eni.until(routed(ONE))
        assert site.hops() == {ONE: "node1"}
        site.remove(ONE)


async def test_a_live_nodes_entry_does_not_make_way(site):
    await site.register("node1", ONE)
    await site.register("node2", ONE)  # which no controller does
    site.lead(ONE, "node2", await site.of("node2"))
    async with site.running() as eni:
        await eni.until(lambda seen: "of node node2" in seen.blocked)
    assert site.hops() == {ONE: "node2"}


async def test_a_new_instance_of_the_same_name_takes_its_range_over(site):
    await site.register("node1", ONE)
    site.lead(ONE, "node2", await site.of("node1"))
    async with site.running() as eni:
        await eni.until(routed(ONE))
    assert site.hops() == {ONE: "node1"}


# ---- ends


async def test_a_node_with_another_range_has_one_entry(site):
    await site.register("node1", ONE)
    async with site.running() as eni:
        await eni.until(routed(ONE))
        await site.kube.delete(NODES, "node1")
        await asyncio.sleep(0.3)  # some looks
        assert list(site.table()) == [ONE], "while the node is unknown its entry stays"
        await site.register("node1", NEW)
        await eni.until(routed(NEW))
        await settles(lambda: list(site.table()) == [NEW])


async def test_entries_of_dead_nodes_are_removed_and_all_others_stay(site):
    await site.register("node1", ONE)
    await site.register("node2", TWO)
    site.lead(TWO, "node2", await site.of("node2"))
    site.lead("10.244.3.0/24", "node2", await site.of("ghost"))
    site.lead("10.244.4.0/24", "node2", Owner("another", "ghost").description)
    site.lead("10.244.5.0/24", "node2", "by hand")
    async with site.running() as eni:
        await settles(lambda: "10.244.3.0/24" not in site.table())
        assert set(site.table()) == {ONE, TWO, "10.244.4.0/24", "10.244.5.0/24"}
        assert "node ghost is gone" in str((await state(eni))["notices"])


async def test_in_another_mode_entries_are_taken_away(site):
    await site.register("node1", ONE)
    site.lead("10.244.5.0/24", "node1", "by hand")
    async with site.running() as eni:
        await eni.until(routed(ONE))
    async with site.running(mode=Mode.SHARED_VETH) as eni:
        await settles(lambda: list(site.table()) == ["10.244.5.0/24"])
        assert not eni.wiring.nat.sources
        await eni.demand(2)
        await eni.until_usable(2)
    site.cloud.spoil(Fault("DescribeRoute*", code="Forbidden.RAM", status=403))
    async with site.running(mode=Mode.SHARED_VETH, kube=False) as eni:
        await eni.until_usable(2)
        assert (await state(eni))["troubles"] == {}, "the table is nobody's business any more"
    site.cloud.faults.clear(set())
    async with site.running() as eni:  # and back: the ENI goes
        await eni.until(routed(ONE))
        await settles(lambda: not [one for one in site.account.enis.values() if one.type == "Secondary"])


# ---- calls that go wrong in passing


@pytest.mark.parametrize("kind", ["lost_answer", "lost_effect", "error"])
@pytest.mark.parametrize("action", ["CreateRouteEntry", "DeleteRouteEntries", "DescribeRouteEntryList"])
async def test_a_call_that_fails_in_passing_is_made_again(site, action, kind):
    await site.register("node1", ONE)
    site.lead(ONE, "node2", await site.of("ghost"))
    site.cloud.spoil(Fault(action, kind, times=2))
    async with site.running() as eni:
        await eni.until(routed(ONE))
        open_calls = [call for call in await state(eni, "calls") if call["ended"] is None]
    assert site.hops() == {ONE: "node1"} and open_calls == []


async def test_without_the_cloud_pods_go_on_in_the_range_that_was_routed(site):
    await site.register("node1", ONE)
    async with site.running() as eni:
        await eni.until(routed(ONE))
    site.cloud.spoil(Fault("Describe*", code="InternalError", status=500))
    async with site.running(backoffs={"default": Backoff(0.01, steps=2)}) as eni:
        seen = await eni.until(lambda seen: bool(seen.ranges))
        assert seen.ranges == [PodRange(ONE)] and seen.synced
