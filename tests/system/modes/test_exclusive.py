"""What only pods with an ENI of their own have: an ENI that must not be lost."""

import json
import shutil

import pytest

from compose.lab import audit, process, services
from compose.lab.pods import Pods
from compose.lab.sandbox import Sandbox
from compose.lab.waiting import until
from shared.model import Mode, PodKey
from tests.eni_manager.kubelet import Kubelet, read
from tests.system.modes.site import Site, inside, ip

ONLY = Mode.EXCLUSIVE_ENI
pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]


def mac(sandbox: Sandbox) -> str:
    return inside(sandbox.entry, "ip", "-o", "link", "show", "eth0").split(" link/ether ")[1].split()[0]


async def at_home(site: Site, wanted: str) -> None:
    async def missing() -> str:
        return "" if wanted in inside(site.node("node1").netns, "ip", "-o", "link") else f"{wanted} is not at home"

    await until(missing, what="the ENI comes home", within_s=30)


async def test_a_pod_has_an_eni_to_itself(site: Site) -> None:
    async with site.pod("one", "node1") as one, site.pod("two", "node1") as two:
        assert mac(one) != mac(two)
        found = (await audit.until_clean(site.layout, site.record)).nodes["node1"]
        assert found.devices[mac(one)] == [one.id] and found.devices[mac(two)] == [two.id]
        assert [len(addresses) for addresses in found.enis.values()] == [1] * len(found.enis)


async def test_a_namespace_that_ends_without_del_loses_no_eni(site: Site) -> None:
    async with site.pod("lost", "node1") as lost:
        eni = mac(lost)
        ip("netns", "del", lost.entry.name)
        await _end_of(site, "serve-default-lost")
        await at_home(site, eni)
    assert (await audit.until_clean(site.layout, site.record)).problems == []
    async with site.pod("next", "node1"):
        assert await site.by("outside", "default/next:80/tcp") == "default/next"


async def test_ranges_of_the_cni_configuration_go_by_the_node(site: Site) -> None:
    """`host_stack_cidrs` (terway.md §2.3), through a restart too."""
    [path] = site.node("node2").cni_conf.glob("*.conflist")
    before = path.read_text()
    network = json.loads(before)
    network["plugins"][0]["host_stack_cidrs"] = ["10.9.1.2/16"]
    path.write_text(json.dumps(network))
    async with Pods(site.layout, {"node2": "cni"}) as pods:
        try:
            await pods.add(PodKey("default", "stated"), node="node2")
            path.write_text(before)
            sandbox = await pods.sandbox(PodKey("default", "stated"))
            wanted = "10.9.0.0/16 via 169.254.1.1 dev veth1 proto 84 onlink"
            assert wanted in inside(sandbox.entry, "ip", "route")
            await services.restart(site.node("node2"), services.named("eni_manager"))
            await services.wait_ready(site.node("node2"))
            inside(sandbox.entry, "ip", "route", "del", "10.9.0.0/16")

            async def missing() -> str:
                known = wanted in inside(sandbox.entry, "ip", "route") or "10.9" in await site.check("node2", sandbox)
                return "" if known else "nobody misses the route"

            await until(missing, what="it is reported, or put back by a repair", within_s=20)
        finally:
            path.write_text(before)
            await pods.delete(PodKey("default", "stated"))


async def test_a_pod_without_a_way_by_its_node(site: Site) -> None:
    """`disable_host_peer` (terway.md §2.3): kept with the pod when the configuration says otherwise by then."""
    [path] = site.node("node2").cni_conf.glob("*.conflist")
    before = path.read_text()
    network = json.loads(before)
    network["plugins"][0]["disable_host_peer"] = True
    path.write_text(json.dumps(network))
    async with Pods(site.layout, {"node2": "cni"}) as pods:
        try:
            await pods.add(PodKey("default", "peerless"), node="node2")
            path.write_text(before)
            sandbox = await pods.sandbox(PodKey("default", "peerless"))
            assert "veth1" not in inside(sandbox.entry, "ip", "route")
            await services.restart(site.node("node2"), services.named("eni_manager"))
            await services.wait_ready(site.node("node2"))
            assert await site.check("node2", sandbox) == ""
            assert "veth1" not in inside(sandbox.entry, "ip", "route")
            assert await site.by("default/peerless", "outside:80/tcp") == "outside"
            assert "refused" in await site.by("outside", "default/peerless:80/tcp"), (
                "nobody serves there, and it says so"
            )
        finally:
            path.write_text(before)
            await pods.delete(PodKey("default", "peerless"))
    assert (await audit.until_clean(site.layout, site.record)).problems == []


async def test_kubelet_is_offered_as_many_enis_as_the_instance_type_has(site: Site) -> None:
    """By the service as it runs: uvloop, and gRPC imported only now."""
    folder = site.node("node2").folder / "device-plugins"
    folder.mkdir()
    async with Kubelet(folder).running() as kubelet:
        registered = await kubelet.next()
        async with kubelet.dial(registered) as channel:
            watching = channel.unary_stream("/v1beta1.DevicePlugin/ListAndWatch")(b"")
            assert len(read("ListAndWatchResponse", await watching.read()).devices) == 7  # ecs.g6.4xlarge has 8 ENIs
            watching.cancel()
    shutil.rmtree(folder)


async def test_a_restart_finds_the_enis_where_they_are(site: Site) -> None:
    async with site.pod("stays", "node1") as stays:
        await services.restart(site.node("node1"), services.named("eni_manager"))
        await services.wait_ready(site.node("node1"))
        assert await site.by("outside", "default/stays:80/tcp") == "default/stays"
        assert await site.check("node1", stays) == ""
        await audit.until_clean(site.layout, site.record)


async def _end_of(site: Site, server: str) -> None:
    """What lives in a pod keeps its namespace."""
    corner = site.node("node1")
    if (running := process.find(corner.processes, server)) is not None:
        await process.stop(running, grace_s=0)
