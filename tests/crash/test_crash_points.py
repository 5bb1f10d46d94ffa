"""kill -9 at every crash point of every service, with a kubelet that tries again: nothing leaks, nothing doubles.

The lab keeps no idle address, so that a pod's life walks the whole way each time: an ENI is created, attached and
configured for the first pod, an address is assigned for the second, unassigned when that goes, and the ENI is
detached and deleted with the last. One service is armed to die at one point; the test fails when it does not get
there. Afterwards cloud, kernel, databases and runtime must agree that nothing is there. The lab of the default mode is
in dual stack, which walks every step that IPv4 alone walks, and its own.
"""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio

from compose.lab import audit, control, lab, services
from compose.lab.layout import Layout, NodeLayout
from compose.lab.pods import CONTAINER, Pods, runtime_of
from compose.lab.record import Options, Record
from compose.lab.runtime_cni.invoke import Container, PluginFailed
from compose.lab.runtime_cni.pods import BarePods
from compose.lab.waiting import until
from shared.contracts import ipam as ipam_contract
from shared.contracts.ipam import Bandwidth
from shared.errors import SuiteError
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NETWORK_POLICIES, NODES, PODS
from shared.model import Mode, PodKey
from shared.rpc.client import Client
from tests.crash.points import SERVICE_OF, crash_points

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]

NODE = "node1"
PATIENCE_S = 60.0


class Site:
    """One node, a kubelet's patience, and services that can be armed."""

    def __init__(self, layout: Layout, record: Record, pods: Pods) -> None:
        self.layout = layout
        self.record = record
        self.pods = pods
        self.corner = layout.node(NODE)
        self.kube = KubeAddress(f"unix://{layout.kube_socket}")

    async def add(self, name: str) -> PodKey:
        """Add a pod as a kubelet would: after a failure clean up, then try again with a new sandbox."""
        pod = PodKey("default", name)

        async def missing() -> str:
            try:
                await self.pods.add(pod, node=NODE)
            except SuiteError as error:
                await self.delete(pod)
                return error.message
            return ""

        await until(missing, what=f"pod {pod} runs", within_s=PATIENCE_S)
        return pod

    async def delete(self, pod: PodKey) -> None:
        """Delete a pod; a DEL that fails is tried again with the same id."""

        async def missing() -> str:
            try:
                await self.pods.delete(pod)
            except SuiteError as error:
                return error.message
            return ""

        await until(missing, what=f"pod {pod} is gone", within_s=PATIENCE_S)

    @asynccontextmanager
    async def armed(self, point: str) -> AsyncIterator[None]:
        """The service dies at `point` in the body, and somebody starts it again. Fails when it did not die."""
        service = services.named(SERVICE_OF[point.split(".")[0]])
        await services.restart(self.corner, service, crash_at=point)
        reviving = asyncio.create_task(self._revive(service), name=f"revive-{service.name}")
        try:
            await self._started(service, reviving)
            yield
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(reviving)
        except TimeoutError:
            pytest.fail(f"{service.name} never came to {point}")
        finally:
            reviving.cancel()
            await asyncio.gather(reviving, return_exceptions=True)

    async def _started(self, service: services.Service, reviving: asyncio.Task[None]) -> None:
        async def missing() -> str:
            answers = services.ask(self.corner, service, "/healthz")[0] != 0
            return "" if answers or reviving.done() else "no answer yet"

        await until(missing, what=f"{service.name} answers", within_s=PATIENCE_S)

    async def _revive(self, service: services.Service) -> None:
        async def missing() -> str:
            return "it lives" if services.running_process(self.corner, service) else ""

        await until(missing, what=f"{service.name} dies", within_s=3 * PATIENCE_S)
        services.start(self.corner, service)

    async def nothing_left(self) -> None:
        """All services are ready again and every side agrees that there is nothing."""
        await services.wait_ready(self.corner)
        found = await audit.until_clean(self.layout, self.record, within_s=PATIENCE_S)
        node = found.nodes[NODE]
        assert (node.sandboxes, node.leases, node.attachments) == ([], [], {})
        assert (node.kernel.links, node.kernel.routes, node.kernel.rules) == ([], {}, [])

        if not self.record.options.policy:
            return

        async def missing() -> str:
            state = services.ask(self.corner, services.named("policy"), "/state")[1]
            if state["sandboxes"] or not state["settled"]:
                return f"{state['sandboxes']} sandboxes, {state['enforced']}"
            listed = await _nft(self.corner.netns, "list", "map", "inet", "terway", "to-pod")
            return "" if "cali" not in listed else listed

        await until(missing, what="no rules of pods are left", within_s=PATIENCE_S)

    async def nothing_idle(self) -> None:
        """Wait until what no pod has is back in the cloud; a primary stays as long as its ENI."""

        async def missing() -> str:
            async with control.connect(self.layout.cloud_socket) as cloud:
                enis = (await cloud.audit())["enis"]
            leased = set()
            async with Client(self.corner.run / "ipam.sock") as ipam:
                with suppress(SuiteError):
                    leases = (await ipam.call(ipam_contract.LEASES, ipam_contract.ListLeases())).leases
                    leased = {lease.ipv4 for lease in leases}
            held = [eni["ipv4"] for eni in enis if eni["type"] != "Primary"]
            idle = [set(addresses[1:]) - leased for addresses in held if leased & set(addresses)] or held
            return f"idle are {idle}" if any(idle) else ""

        await until(missing, what="idle addresses go back", within_s=PATIENCE_S)


ENFORCED = (Mode.SHARED_VETH, Mode.VPC_ROUTE, Mode.EXCLUSIVE_ENI)
"""Modes in which NetworkPolicy is enforced."""

MODES = {"eni.route.": Mode.VPC_ROUTE, "eni.nic.": Mode.EXCLUSIVE_ENI, "policy.pod.": Mode.EXCLUSIVE_ENI}
"""Points that another mode than the usual one comes to, by the beginning of their names."""

ALSO = {Mode.EXCLUSIVE_ENI: ("eni.plug.", "eni.unplug.", "eni.detach.before_call", "gateway.add.")}
"""Points that the usual mode comes to, and this one does more about (where an ENI could be lost), or in another order.
"""

EVERYWHERE = os.environ.get("TERWAY_CRASH_MODES") == "all"
"""As `make nightly` has it: every point in every mode that comes to it."""

NEVER = {
    Mode.VPC_ROUTE: ("eni.a", "eni.c", "eni.d", "eni.unassign", "ipam.give_back."),
    Mode.EXCLUSIVE_ENI: ("eni.assign", "eni.unassign"),
}
"""Points that a mode does not come to: it has no ENIs of its own (assign to configure, delete, detach), or none with
more than one address."""


ELSEWHERE = "eni.ipvlan."
"""Points of a mode that needs another kernel than most machines have: tests/kernel/test_ipvlan_crash.py walks them."""


def mode_of(point: str) -> Mode:
    return next((mode for prefix, mode in MODES.items() if point.startswith(prefix)), Mode.SHARED_VETH)


def deaths() -> list[tuple[Mode, str]]:
    """Every point in the mode that comes to it, and some in another mode too."""
    points = sorted(point for point in crash_points() if not point.startswith(ELSEWHERE))
    found = [(mode_of(point), point) for point in points]
    if not EVERYWHERE:
        return found + [(mode, point) for mode, also in ALSO.items() for point in points if point.startswith(also)]
    usual = [point for mode, point in found if mode is Mode.SHARED_VETH]
    return found + [
        (mode, point) for mode, not_here in NEVER.items() for point in usual if not point.startswith(not_here)
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(request: SimpleNamespace) -> AsyncIterator[Site]:
    mode: Mode = request.param
    layout = Layout.of(f"c{list(Mode).index(mode)}p{os.getpid()}")  # two runs at a time do not share a lab
    options = Options(
        nodes=1,
        mode=mode,
        stack="dual" if mode is Mode.SHARED_VETH else "ipv4",
        pool=(0, 0),
        runtime="cni",
        processes=True,
        delays="none",
        cooldown_s=0.2,
        pool_sync_s=0.3,
        policy=mode in ENFORCED,
    )
    record = await lab.up(layout, options, say=lambda line: None)
    _quicken_garbage(layout.node(NODE))
    try:
        async with Pods(layout, {NODE: "cni"}) as pods:
            await pods.ensure_namespace("default")
            yield Site(layout, record, pods)
    finally:
        await lab.down(layout, say=lambda line: None)


def _quicken_garbage(node: NodeLayout) -> None:
    """From ipam's next start on, what nobody uses is found within a second."""
    config = json.loads(node.config.read_bytes())
    config["ipam"] |= {"garbage_period_s": 0.5, "garbage_confirm_s": 0.2, "garbage_min_age_s": 0.5}
    services.write_config(node, config)


# ---- what leads to a crash point


async def life(site: Site) -> None:
    """Two pods come and go."""
    first = await site.add("first")
    second = await site.add("second")
    await site.delete(second)
    await site.nothing_idle()  # so that an address goes back alone, before its ENI does
    await site.delete(first)


async def refused_add(site: Site) -> None:
    """A sandbox that has an eth0 already: the ADD fails after an address was granted, and is taken back."""
    async with runtime_of(site.corner, "cni") as runtime:
        assert isinstance(runtime, BarePods)
        name = f"{site.corner.netns_name}-{secrets.token_hex(6)}"
        await _ip("netns", "add", name)
        try:
            await _ip("-n", name, "link", "add", "eth0", "type", "bridge")
            container = Container(
                id=name.rpartition("-")[2],
                netns=f"/run/netns/{name}",
                args={"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "refused"},
            )

            async def still() -> str:
                with pytest.raises(PluginFailed) as failed:
                    await runtime.network.add(container, capabilities=ANNOTATIONS)
                return failed.value.message if failed.value.cni_code == 11 else ""  # 11: services are coming back

            async with _object_of(site, "refused"):  # where rules come before the link, they are asked for first
                await until(still, what="the ADD is refused", within_s=PATIENCE_S)
                await _until_done(lambda: runtime.network.delete(container))
        finally:
            await _ip("netns", "del", name)


@asynccontextmanager
async def _object_of(site: Site, pod: str) -> AsyncIterator[None]:
    """The API server knows the pod."""
    async with KubeClient(site.kube) as kube:
        spec = {"nodeName": NODE, "containers": [CONTAINER]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec}
        await kube.create(PODS, dict, body, namespace="default")
        try:
            yield
        finally:
            await kube.delete(PODS, pod, namespace="default", grace_s=0)


async def del_without_eni_manager(site: Site) -> None:
    """A DEL while eni_manager is away becomes a note, which is honoured when it is back."""
    pod = await site.add("deferred")
    eni_manager = services.named("eni_manager")
    await services.stop(site.corner, eni_manager)
    await site.delete(pod)
    services.start(site.corner, eni_manager)


async def release_before_unplug(site: Site) -> None:
    """A caller releases an address that is still wired: eni_manager refuses to give it back.

    An ipam that dies meanwhile finds the attachment without its lease when it is back, and takes the lease over again.
    """
    pod = await site.add("early")
    async with Client(site.corner.run / "ipam.sock") as ipam:
        [lease] = (await ipam.call(ipam_contract.LEASES, ipam_contract.ListLeases())).leases
        await ipam.call(ipam_contract.RELEASE, ipam_contract.Release(lease.key))

        async def refused() -> str:
            with suppress(SuiteError):
                state = services.ask(site.corner, services.named("ipam"), "/state")[1]
                if "not given back" in str(state) or lease.key.container_id in str(state.get("leases")):
                    return ""
                return "no refusal in ipam's story, and no lease again"
            return "ipam is away"

        await until(refused, what="the address is refused", within_s=PATIENCE_S)
    await site.delete(pod)


async def relimit(site: Site) -> None:
    """A pod that runs gets a limit by its annotation, and loses it again."""
    pod = await site.add("limited")
    name = "k8s.aliyun.com/egress-bandwidth"
    async with Client(site.corner.run / "ipam.sock") as ipam, KubeClient(site.kube) as kube:
        for text, rate in (("1M", 1 << 20), (None, None)):
            patch = {"metadata": {"annotations": {name: text}}}
            await kube.patch(PODS, dict, pod.name, patch, namespace=pod.namespace)
            wanted = Bandwidth(egress=rate)

            async def missing(wanted: Bandwidth = wanted) -> str:
                with suppress(SuiteError):
                    leases = (await ipam.call(ipam_contract.LEASES, ipam_contract.ListLeases())).leases
                    return "" if [lease.bandwidth for lease in leases] == [wanted] else f"{leases}"
                return "ipam is away"

            await until(missing, what=f"the pod has {wanted}", within_s=PATIENCE_S)
    await site.delete(pod)


async def renumber(site: Site) -> None:
    """The node is registered anew with another pod range: an entry is made for it, and the old one goes."""
    async with KubeClient(site.kube) as kube:
        before = await kube.get(NODES, dict, NODE)
        [old] = before["spec"]["podCIDRs"]
        new = "10.244.78.0/24" if old == "10.244.77.0/24" else "10.244.77.0/24"
        await kube.delete(NODES, NODE)
        spec = {**before["spec"], "podCIDR": new, "podCIDRs": [new]}
        labels = before["metadata"]["labels"]
        again = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}, "spec": spec}
        await kube.create(NODES, dict, again)

    async def missing() -> str:
        async with control.connect(site.layout.cloud_socket) as cloud:
            there = {cidr for cidr in (await cloud.audit())["delivered"] if "/" in cidr}
        return "" if there == {new} else f"{there} are routed, not {new} instead of {old}"

    await until(missing, what="the new range alone is routed", within_s=PATIENCE_S)
    await site.delete(await site.add("renumbered"))


async def foreign_rules(site: Site) -> None:
    """Somebody empties the chain that every pod's packets pass; it is mended, by whoever enforces then."""
    pod = await site.add("ruled")
    await _nft(site.corner.netns, "flush", "chain", "inet", "terway", "forward-to-pod")

    async def missing() -> str:
        listed = await _nft(site.corner.netns, "list", "chain", "inet", "terway", "forward-to-pod")
        return "" if "vmap @to-pod" in listed else listed

    await until(missing, what="the rules are mended", within_s=PATIENCE_S)
    await site.delete(pod)


async def new_policy(site: Site) -> None:
    """A policy comes to select a pod that runs: its rules change where they are."""
    pod = await site.add("ruled")
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": pod.namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    async with KubeClient(site.kube) as kube:
        await kube.create(NETWORK_POLICIES, dict, body, namespace=pod.namespace)
        entry = (await site.pods.sandbox(pod)).entry

        async def missing() -> str:
            listed = await _nft(entry, "list", "table", "inet", "terway")
            return "" if "knp.default.closed" in listed else listed

        try:
            await until(missing, what="the pod's rules are of the policy", within_s=PATIENCE_S)
        finally:
            await kube.delete(NETWORK_POLICIES, "closed", namespace=pod.namespace)
    await site.delete(pod)


async def lost_del(site: Site) -> None:
    """A sandbox and its pod are gone, and nobody has said DEL: the lease and its wiring are found to be garbage."""
    pod = await site.add("lost")
    sandbox = await site.pods.sandbox(pod)
    await _ip("netns", "del", sandbox.entry.name)
    (site.corner.cni_state / "sandboxes" / f"{sandbox.id}.json").unlink()
    async with KubeClient(site.kube) as kube:
        await kube.delete(PODS, pod.name, namespace=pod.namespace, grace_s=0)


async def owner_goes(site: Site) -> None:
    """The pod that was there when ipam's database was lost ends as any other."""
    await site.delete(PodKey("default", "owner"))


async def lose_ipams_database(site: Site) -> None:
    """A pod runs, and ipam's next life knows nothing."""
    await site.add("owner")
    await services.stop(site.corner, services.named("ipam"))
    for path in site.corner.state.glob("ipam.sqlite*"):
        path.unlink()


ANNOTATIONS = {"io.kubernetes.cri.pod-annotations": {"made": "by-a-test"}}

LEADING_TO: dict[str, Callable[[Site], Awaitable[None]]] = {
    "gateway.undo.before": refused_add,
    "gateway.undo.after": refused_add,
    "gateway.spool.after_note": del_without_eni_manager,
    "gateway.spool.before_done": del_without_eni_manager,
    "ipam.give_back.before_unmark": release_before_unplug,
    "ipam.limit.before_commit": relimit,
    "ipam.limit.after_call": relimit,
    "eni.limit.after_journal": relimit,
    "ipam.garbage.after_clear": lost_del,
    "ipam.adopt.before_commit": owner_goes,
    "ipam.adopt.after_commit": owner_goes,
    "policy.repair.before_transaction": foreign_rules,
    "policy.repair.after_transaction": foreign_rules,
    "policy.pod.before_transaction": new_policy,
    "policy.pod.after_transaction": new_policy,
    "eni.route.before_create": renumber,
    "eni.route.after_create": renumber,
    "eni.route.before_delete": renumber,
    "eni.route.after_delete": renumber,
}
"""Points that a pod's ordinary life does not come to."""

BEFORE: dict[str, Callable[[Site], Awaitable[None]]] = {
    "ipam.adopt.before_commit": lose_ipams_database,
    "ipam.adopt.after_commit": lose_ipams_database,
}
"""What must have happened before the service is armed: it dies while it starts."""


async def _ip(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *argv)
    assert await process.wait() == 0, argv


async def _nft(netns: Path, *argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={netns}", "nft", *argv, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, argv
    return said.decode()


async def _until_done(act: Callable[[], Awaitable[None]]) -> None:
    async def missing() -> str:
        try:
            await act()
        except SuiteError as error:
            return error.message
        return ""

    await until(missing, what="done", within_s=PATIENCE_S)


# ---- the matrix


def test_every_special_way_leads_somewhere() -> None:
    assert LEADING_TO.keys() <= crash_points().keys()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("site", "point"), deaths(), indirect=["site"])
async def test_death_leaves_nothing_behind(site: Site, point: str) -> None:
    if point in BEFORE:
        await BEFORE[point](site)
    async with site.armed(point):
        await LEADING_TO.get(point, life)(site)
    await site.nothing_idle()
    await site.nothing_left()
