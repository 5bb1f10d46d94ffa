"""ipam and this node's pods: annotations that the runtime did not hand over, and leases that nobody uses any more."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from compose.lab.kubeapi import KubeApi
from services.ipam.adapters.pods import Pods
from services.ipam.core.garbage import PodFacts
from services.ipam.core.stickiness import STATEFUL_KINDS
from shared.config import NodeConfig
from shared.contracts.eni import EniAddress, Limit
from shared.contracts.ipam import Bandwidth
from shared.errors import Exhausted, NotFound, Unavailable
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.mirror import Applied, Change
from shared.kube.objects import Event, Node, Pod
from shared.kube.reflector import Reflector
from shared.kube.resources import EVENTS, NODES, PODS
from shared.model import AttachmentKey, PodKey
from tests.ipam.conftest import RunningIpam, Start
from tests.ipam.eni_manager import ScriptedEniManager
from tests.ipam.world import eni, inventory, ip, key, one_eni

QUICK = {"garbage_period_s": 0.05, "garbage_confirm_s": 0.1, "garbage_min_age_s": 0.1, "cooldown_s": 0.1}
LIMITED = {"k8s.aliyun.com/ingress-bandwidth": "1M"}


class Cluster:
    def __init__(self, client: KubeClient, server: str) -> None:
        self.client = client
        self.server = server

    async def add(self, name: str, *, node: str = "node1", **metadata: object) -> str:
        spec = {"nodeName": node, "containers": [{"name": "main", "image": "tools:1"}]}
        body = {"metadata": {"name": name, **metadata}, "spec": spec}
        return (await self.client.create(PODS, Pod, body, namespace="default")).metadata.uid

    async def annotate(self, name: str, **annotations: str | None) -> None:
        """`ingress=…`, `egress=…`: Terway's annotations; None takes one away."""
        named = {f"k8s.aliyun.com/{way}-bandwidth": text for way, text in annotations.items()}
        await self.client.patch(PODS, Pod, name, {"metadata": {"annotations": named}}, namespace="default")

    async def remove(self, name: str) -> None:
        await self.client.delete(PODS, name, namespace="default", grace_s=0)


@asynccontextmanager
async def serving(api: KubeApi, port: int = 0) -> AsyncIterator[Cluster]:
    listening = socket.create_server(("127.0.0.1", port))
    server = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with api.serving([listening]), KubeClient(KubeAddress(server)) as client:
        yield Cluster(client, server)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving(KubeApi()) as running:
        yield running


@pytest.fixture
def enis_socket(node: NodeConfig) -> Path:
    return node.socket("eni_manager")


async def test_annotations_are_read_from_the_pod(start: Start, enis_socket: Path, cluster: Cluster) -> None:
    uid = await cluster.add("web", annotations=LIMITED)
    await cluster.add("elsewhere", node="node2", annotations=LIMITED)
    async with ScriptedEniManager(enis_socket, one_eni(4)), start(kube=cluster.server) as ipam:
        lease = await ipam.add("a", pod="web", pod_uid=uid, annotations=None)
        assert lease.bandwidth == Bandwidth(ingress=1 << 20)
        handed_over = await ipam.add("b", pod="web", annotations={})
        assert handed_over.bandwidth == Bandwidth(), "what the runtime handed over is not asked for again"
        missed = await ipam.add("c", pod="elsewhere", annotations=None)
        assert missed.bandwidth == Bandwidth(ingress=1 << 20), "a pod that the node's watch does not show is read"
        with pytest.raises(NotFound, match="pods"):
            await ipam.add("d", pod="nobody", annotations=None)
        with pytest.raises(NotFound, match="was replaced by one with UID"):
            await ipam.add("e", pod="web", pod_uid="another", annotations=None)


async def test_an_annotation_that_cannot_be_read_is_an_event_on_the_pod(
    start: Start, enis_socket: Path, cluster: Cluster
) -> None:
    uid = await cluster.add("web")
    posted: asyncio.Queue[Event] = asyncio.Queue()

    def changed(change: Change[Event]) -> None:
        if isinstance(change, Applied):
            posted.put_nowait(change.obj)

    watching = asyncio.create_task(Reflector(cluster.client, EVENTS, Event, on_change=changed).run())
    async with ScriptedEniManager(enis_socket, one_eni(4)), start(kube=cluster.server) as ipam:
        lease = await ipam.add("a", pod="web", pod_uid=uid, annotations={"k8s.aliyun.com/ingress-bandwidth": "10"})
        assert lease.bandwidth == Bandwidth()
        async with asyncio.timeout(10.0):
            event = await posted.get()
    watching.cancel()
    await asyncio.wait([watching])
    assert (event.type, event.reason, event.source.component) == ("Warning", "ParseFailed", "terway-daemon")
    assert (event.involved_object.name, event.involved_object.uid) == ("web", uid)
    assert "'10' is not a rate" in event.message


async def test_limits_follow_the_annotations_of_a_running_pod(
    start: Start, enis_socket: Path, cluster: Cluster
) -> None:
    uid = await cluster.add("web", annotations=LIMITED)
    await cluster.add("other")
    async with ScriptedEniManager(enis_socket, one_eni(4)) as enis:
        async with start(kube=cluster.server) as ipam:
            lease = await ipam.add("a", pod="web", pod_uid=uid, annotations=None)
            other = await ipam.add("b", pod="other", annotations=None, bandwidth=Bandwidth(ingress=7))
            enis.unplugged = {lease.key}
            await cluster.annotate("web", ingress="2M", egress="1M")
            await ipam.until("/state", lambda _, state: state["pods"]["objects"] == 2)
            enis.unplugged = set()
            await enis.until(lambda: len(enis.limits) == 1)
            assert enis.limits[-1] == Limit(lease.key, Bandwidth(2 << 20, 1 << 20))
            await limited(ipam, lease.key, Bandwidth(2 << 20, 1 << 20))

            await cluster.annotate("web", egress="fast")
            await ipam.until("/state", lambda _, state: "'fast' is not a rate" in str(state["annotation_problems"]))
            assert (await ipam.leases())[lease.key].bandwidth == Bandwidth(2 << 20, 1 << 20), "what holds goes on"
        async with start(kube=cluster.server) as ipam:
            await limited(ipam, lease.key, Bandwidth(2 << 20, 1 << 20))
            await cluster.annotate("web", ingress=None, egress=None)
            await enis.until(lambda: len(enis.limits) == 2)
            assert enis.limits[-1] == Limit(lease.key, Bandwidth())
            await limited(ipam, lease.key, Bandwidth())
            assert (await ipam.leases())[other.key].bandwidth == Bandwidth(ingress=7), "the runtime said so"
            await cluster.annotate("other", ingress="1M", egress="1M")
            await limited(ipam, other.key, Bandwidth(ingress=7, egress=1 << 20))
            assert await ipam.add("a", pod="web", pod_uid=uid) == (await ipam.leases())[lease.key]


async def limited(ipam: RunningIpam, held: AttachmentKey, bandwidth: Bandwidth) -> None:
    async with asyncio.timeout(10.0):
        while (await ipam.leases())[held].bandwidth != bandwidth:  # noqa: ASYNC110 it says nothing by itself
            await asyncio.sleep(0.01)


@asynccontextmanager
async def events_of(cluster: Cluster) -> AsyncIterator[asyncio.Queue[Event]]:
    posted: asyncio.Queue[Event] = asyncio.Queue()

    def changed(change: Change[Event]) -> None:
        if isinstance(change, Applied):
            posted.put_nowait(change.obj)

    watching = asyncio.create_task(Reflector(cluster.client, EVENTS, Event, on_change=changed).run())
    try:
        async with asyncio.timeout(20.0):
            yield posted
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_pod_is_told_what_became_of_its_address(start: Start, enis_socket: Path, cluster: Cluster) -> None:
    uid = await cluster.add("web")
    async with ScriptedEniManager(enis_socket, one_eni(1, capacity=1)) as enis, start(kube=cluster.server) as ipam:
        async with events_of(cluster) as posted:
            await ipam.add("a", pod="web", pod_uid=uid)
            event = await posted.get()
            assert (event.type, event.reason, event.involved_object.uid) == ("Normal", "AllocIPSucceed", uid)
            assert event.message.startswith("Alloc IP 192.168.0.1/20 took ")
            await ipam.add("a", pod="web", pod_uid=uid)  # a repeated ADD is no news
            for _ in range(2):
                with pytest.raises(Exhausted):
                    await ipam.add("b", pod="web", pod_uid=uid, deadline_s=2.0)
            first, again = await posted.get(), await posted.get()
            assert (first.type, first.reason, again.count) == ("Warning", "AllocIPFailed", 2)
            assert "the node's addresses are exhausted: 1 of at most 1" in first.message
            await enis.change(inventory(eni(1, EniAddress(ipv4=ip(1), usable=False, gone=True)), capacity=1))
            event = await posted.get()
            assert (event.reason, event.involved_object.uid) == ("ResourceInvalid", uid)
            assert "the cloud has taken it away from eni-1" in event.message


async def test_a_warning_of_eni_manager_is_an_event_on_the_node_once(
    start: Start, enis_socket: Path, cluster: Cluster
) -> None:
    warned = msgspec.structs.replace(one_eni(1), warnings=["the type is small"])
    async with ScriptedEniManager(enis_socket, warned) as enis, start(kube=cluster.server) as ipam:
        async with events_of(cluster) as posted:
            event = await posted.get()
            assert (event.type, event.reason) == ("Warning", "ResourceInvalid")
            assert (event.involved_object.kind, event.involved_object.name) == ("Node", "node1")
            await enis.change(msgspec.structs.replace(one_eni(2), warnings=["another", "the type is small"]))
            assert (await posted.get()).message == "another"
            await ipam.ready()
            assert posted.empty()


async def test_the_node_says_whether_it_has_addresses_and_says_it_once(
    start: Start, enis_socket: Path, cluster: Cluster
) -> None:
    body = {"metadata": {"name": "node1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await cluster.client.create(NODES, Node, body)
    await cluster.client.patch(NODES, Node, "node1", {"status": body["status"]}, subresource="status")
    versions: asyncio.Queue[Node] = asyncio.Queue()

    def changed(change: Change[Node]) -> None:
        if isinstance(change, Applied):
            versions.put_nowait(change.obj)

    async def condition() -> tuple[str, str, str]:
        conditions = {one.type: one for one in (await versions.get()).status.conditions}
        assert conditions["Ready"].status == "True", "the other conditions stay"
        found = conditions.get("SufficientIP")
        return ("", "", "") if found is None else (found.status, found.reason, found.message)

    watching = asyncio.create_task(Reflector(cluster.client, NODES, Node, on_change=changed).run())
    async with asyncio.timeout(20.0), ScriptedEniManager(enis_socket, one_eni(1)) as enis:
        assert await condition() == ("", "", "")
        async with start(kube=cluster.server) as ipam:
            assert await condition() == ("True", "SufficientIP", "")
            await ipam.add("a")
            await enis.change(one_eni(1, blocked="vSwitch a has no free addresses"))
            assert await condition() == ("False", "InsufficientIP", "vSwitch a has no free addresses")
            await enis.change(one_eni(2))
            assert await condition() == ("True", "SufficientIP", "")
        assert versions.empty(), "what has not changed is not said"
    watching.cancel()
    await asyncio.wait([watching])


async def test_without_an_api_server_annotations_that_were_handed_over_suffice(start: Start, enis_socket: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with ScriptedEniManager(enis_socket, one_eni(4)), start(kube=nobody, **QUICK) as ipam:
        await ipam.ready()
        await ipam.add("a", annotations=LIMITED)
        with pytest.raises(Unavailable):
            await ipam.add("b", annotations=None)
        state = (await ipam.get("/state"))[1]
        assert not state["pods"]["synced"]
        assert state["suspects"] == {}, "while nobody can be asked, nothing is garbage"


async def test_static_pods_have_two_uids(cluster: Cluster) -> None:
    uid = await cluster.add("static", annotations={"kubernetes.io/config.mirror": "hash", **LIMITED})
    pods = Pods(cluster.client, "node1", STATEFUL_KINDS)
    static = PodKey("default", "static")
    assert await pods.ask(static) == PodFacts(frozenset({uid, "hash"}))
    assert (await pods.annotations(static, "hash")).items() >= LIMITED.items()
    assert await pods.ask(PodKey("default", "nobody")) is None
    assert pods.facts() is None, "nothing is known before the first list"


async def test_the_address_of_a_stateful_pod_waits_for_it(start: Start, enis_socket: Path, cluster: Cluster) -> None:
    def owned_by(kind: str) -> list[dict[str, object]]:
        return [{"apiVersion": "apps/v1", "kind": kind, "name": "db", "uid": "u-owner", "controller": True}]

    await cluster.add("db-0", ownerReferences=owned_by("StatefulSet"))
    await cluster.add("game-0", ownerReferences=owned_by("GameServer"))
    await cluster.add("web", ownerReferences=owned_by("ReplicaSet"))
    conf = {"custom_stateful_workload_kinds": ["gameserver"]}
    async with (
        ScriptedEniManager(enis_socket, one_eni(9)),
        start(kube=cluster.server, conf=conf, cooldown_s=60.0) as ipam,
    ):
        await ipam.until("/state", lambda _, state: state["pods"]["synced"])
        had = {name: (await ipam.add(f"old-{name}", pod=name)).ipv4 for name in ("db-0", "game-0", "web")}
        for name in had:
            await ipam.delete(f"old-{name}")
        has = {name: (await ipam.add(f"new-{name}", pod=name)).ipv4 for name in had}
        assert (has["db-0"], has["game-0"]) == (had["db-0"], had["game-0"])
        assert has["web"] != had["web"]


async def test_a_pod_that_the_watch_shows_only_after_its_add_is_sticky_all_the_same(
    start: Start, enis_socket: Path, cluster: Cluster
) -> None:
    owner = [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u-owner", "controller": True}]
    async with ScriptedEniManager(enis_socket, one_eni(9)), start(kube=cluster.server, cooldown_s=60.0) as ipam:
        had = await ipam.add("old", pod="db-0")
        assert not had.sticky
        await ipam.until("/state", lambda _, state: state["pods"]["synced"])
        await cluster.add("db-0", ownerReferences=owner)
        await ipam.until("/state", lambda _, state: state["pods"]["objects"] == 1)
        await cluster.remove("db-0")
        await ipam.until("/state", lambda _, state: state["pods"]["objects"] == 0)
        await ipam.delete("old")
        assert (await ipam.add("new", pod="db-0")).ipv4 == had.ipv4


async def test_leases_of_pods_that_are_gone_end_after_two_looks_unless_something_is_connected(
    start: Start, enis_socket: Path, cluster: Cluster
) -> None:
    uid = await cluster.add("stays")
    async with ScriptedEniManager(enis_socket, one_eni(9)) as enis:
        async with start(kube=cluster.server) as ipam:
            await ipam.add("stays", pod="stays", pod_uid=uid)
            await ipam.add("gone", pod="gone")
            await ipam.add("forced", pod="forced")
            await ipam.add("replaced", pod="stays", pod_uid="an older one")
        enis.attached = {key("forced"): True, key("gone"): False, key("stranger"): True, key("relic"): False}
        async with start(kube=cluster.server, **QUICK) as ipam:
            state = await ipam.until("/state", lambda _, state: state["tally"]["reclaimed"] == 2)
            assert set(await ipam.leases()) == {key("stays"), key("forced")}
            assert state["strangers"] == ["terway/stranger/eth0"]
            await enis.until(lambda: {key("gone"), key("relic")} <= set(enis.cleared))
            assert set(enis.attached) == {key("forced"), key("stranger")}, "rules and record of the dead are gone"
            enis.attached = {}
            await ipam.until("/state", lambda _, state: state["tally"]["reclaimed"] == 3)
            assert set(await ipam.leases()) == {key("stays")}
            await cluster.remove("stays")
            await ipam.until("/state", lambda _, state: state["tally"]["reclaimed"] == 4)
            assert "terway_ipam_reclaimed_count 4.0" in (await ipam.get("/metrics"))[1]


async def test_a_pod_list_that_is_wrong_ends_no_lease(start: Start, enis_socket: Path) -> None:
    """The watch shows only this node's pods; the last word is the API server's on the pod itself."""
    api = KubeApi()
    async with serving(api) as cluster, ScriptedEniManager(enis_socket, one_eni(9)):
        uid = await cluster.add("web", node="node2")
        async with start(kube=cluster.server, **QUICK) as ipam:
            await ipam.add("a", pod="web", pod_uid=uid)
            suspected = "terway/a/eth0"
            for _ in range(2):  # suspected, asked about, acquitted, suspected again
                await ipam.until("/state", lambda _, state: suspected in state["suspects"])
                await ipam.until("/state", lambda _, state: suspected not in state["suspects"])
            assert set(await ipam.leases()) == {key("a")}


async def test_addresses_are_written_on_the_pod_when_that_is_wanted(
    start: Start, enis_socket: Path, cluster: Cluster
) -> None:
    """For policies of other nodes; a namesake that came in its place is left alone, and an ADD does not wait for it."""

    async def written(name: str) -> str | None:
        pod = await cluster.client.get(PODS, Pod, name, namespace="default")
        return pod.metadata.annotations.get("k8s.aliyun.com/pod-ips")

    web = await cluster.add("web")
    await cluster.add("other")
    async with ScriptedEniManager(enis_socket, one_eni(4)):
        async with start(kube=cluster.server) as ipam:
            await ipam.add("off", pod="other")
        async with start(kube=cluster.server, annotate_pods=True) as ipam:
            await ipam.add("gone", pod="gone", pod_uid="u0", annotations={})  # of no pod that there is
            lease = await ipam.add("a", pod="web", pod_uid=web)
            async with asyncio.timeout(20):
                while await written("web") is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert await written("web") == ",".join(lease.addresses)
            assert await written("other") is None
