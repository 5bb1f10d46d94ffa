"""Dual stack on a lab of two nodes: the same pods by IPv6, and what becomes of a pair that loses its half.

One lab for all; its services compare with the cloud twice a second, so that losses are noticed soon.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from compose.lab import audit, control, lab, services
from compose.lab.layout import Layout
from compose.lab.pods import Pods
from compose.lab.reach import reach
from compose.lab.record import Options
from compose.lab.sandbox import Sandbox
from compose.lab.waiting import until
from services.eni_manager.config import DUAL_MODES
from shared.model import Mode, PodKey
from tests.system.modes.conftest import chain_portmap
from tests.system.modes.modes import MODES, chosen
from tests.system.modes.site import NODES, Site, eventually, inside

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

Crew = dict[str, Sandbox]
MODES_OF_PAIRS = [mode for mode in chosen() if mode in DUAL_MODES and mode is not Mode.SHARED_IPVLAN]
"""The other one's lab is dual anyway: test_dual_ipvlan.py."""
SHARED_VETH = pytest.mark.parametrize(
    "pairs", [mode for mode in MODES_OF_PAIRS if mode is Mode.SHARED_VETH], indirect=True, scope="module"
)
"""Tests of what this mode alone has: policy rules, Services in the node's own tables, pairs of shared ENIs."""
BY_THE_NODE = pytest.mark.parametrize(
    "pairs",
    [mode for mode in MODES_OF_PAIRS if mode in (Mode.SHARED_VETH, Mode.EXCLUSIVE_ENI)],
    indirect=True,
    scope="module",
)
VIP6 = "fd00:172:21::10"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES_OF_PAIRS)
async def pairs(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    mode: Mode = request.param
    layout = Layout.of(f"d{list(Mode).index(mode)}p{os.getpid()}")
    common: dict[str, Any] = {"runtime": "cni", "processes": True, "cooldown_s": 0.2, "pool_sync_s": 0.5}
    options = Options(mode=mode, stack="dual", **{**common, **MODES[mode].options})
    record = await lab.up(layout, options, say=lambda line: None)
    try:
        for node in NODES:
            chain_portmap(layout.node(node))
        async with Pods(layout, dict.fromkeys(NODES, "cni")) as pods:
            await pods.ensure_namespace("default")
            yield Site(mode, layout, record, pods)
        await audit.until_clean(layout, record, within_s=30)
    finally:
        await lab.down(layout, say=lambda line: None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crew(pairs: Site) -> AsyncIterator[Crew]:
    async with AsyncExitStack() as opened:
        yield {
            name: await opened.enter_async_context(pairs.pod(name, node))
            for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2"))
        }


def six(sandbox: Sandbox) -> str:
    [four, found] = sandbox.addresses
    assert ":" not in four and ":" in found, "IPv4 first (CNI result, and status.podIPs)"
    return found


async def by6(pairs: Site, source: str, target: str) -> str:
    answer = await reach(pairs.layout, pairs.record, pairs.pods, source=source, target=target, ipv6=True)
    return answer.by if answer.reached else f"nobody: {answer.reason}"


# ---- who reaches whom


@pytest.mark.parametrize("port", ["80/tcp", "81/udp"])
async def test_everybody_is_reached_by_ipv6(port: str, pairs: Site, crew: Crew) -> None:
    for source in ("default/a", "default/c", "node1", "node2", "outside"):
        for target in ("default/a", "default/b", "default/c"):
            assert await by6(pairs, source, f"{target}:{port}") == target, f"{source} -> {target}"


async def test_pods_reach_nodes_and_the_outside_by_ipv6(pairs: Site, crew: Crew) -> None:
    for source in ("default/a", "default/c"):
        for target in (*NODES, "outside"):
            assert await by6(pairs, source, f"{target}:80/tcp") == target


async def test_ipv4_is_as_ever(pairs: Site, crew: Crew) -> None:
    for source in ("default/a", "node1", "node2", "outside"):
        for target in ("default/b", "default/c"):
            assert await pairs.by(source, f"{target}:80/tcp") == target


async def test_packets_as_large_as_the_mtu_pass_whole(pairs: Site, crew: Crew) -> None:
    for target in ("b", "c"):
        ping = ["ping", "-6", "-c1", "-W2", "-M", "do", "-s"]
        done = await pairs.pods.exec(PodKey("default", "a"), [*ping, str(1500 - 48), six(crew[target])])
        assert done.code == 0, done.stdout
        done = await pairs.pods.exec(PodKey("default", "a"), [*ping, str(1500 - 47), six(crew[target])])
        assert done.code != 0


async def test_a_host_port_by_the_portmap_plugin_in_both_families(pairs: Site, crew: Crew) -> None:
    facts = pairs.record.facts("node1")
    async with pairs.pod_with_host_port("ported", "node1", host_port=8080):
        for client in ("node2", "outside", "a", "c"):
            entry = _entry(pairs, crew, client)
            for address in (facts.primary_ip, facts.primary_ipv6):
                assert await pairs.by_address(entry, address, "8080/tcp") == "ported", f"{client} at {address}"
    assert "refused" in await pairs.by_address(crew["a"].entry, facts.primary_ipv6, "8080/tcp")


def _entry(pairs: Site, crew: Crew, name: str) -> Path:
    if name == "outside":
        return pairs.layout.outside_netns
    return pairs.node(name).netns if name in NODES else crew[name].entry


@BY_THE_NODE
@pytest.mark.parametrize("backend", ["a", "c"])
async def test_services_and_node_ports_by_ipv6(backend: str, pairs: Site, crew: Crew) -> None:
    """As kube-proxy makes them: VIP and NodePort on node1, masqueraded where they must be; a pod by itself, too."""
    to = six(crew[backend])
    inside(pairs.node("node1").netns, "nft", "-f", "-", stdin=_kube_proxy(to))
    try:
        node1 = pairs.record.facts("node1").primary_ipv6
        for client in ("a", "b", "node1"):
            assert await pairs.by_address(_entry(pairs, crew, client), VIP6, "80/tcp") == f"default/{backend}", client
        for client in ("outside", "node2", "b", "c"):
            found = await pairs.by_address(_entry(pairs, crew, client), node1, "30080/tcp")
            assert found == f"default/{backend}", client
    finally:
        inside(pairs.node("node1").netns, "nft", "delete", "table", "ip6", "kube")


def _kube_proxy(backend: str) -> str:
    return f"""
        table ip6 kube {{
            chain services {{
                fib daddr type local tcp dport 30080 meta mark set mark or 0x4000
                ip6 daddr {VIP6} tcp dport 80 dnat to [{backend}]:80
                fib daddr type local tcp dport 30080 dnat to [{backend}]:80
            }}
            chain prerouting {{ type nat hook prerouting priority dstnat; jump services
            }}
            chain output {{ type nat hook output priority -100; jump services
            }}
            chain postrouting {{ type nat hook postrouting priority srcnat
                ct status dnat ip6 saddr {backend} ip6 daddr {backend} masquerade
                meta mark & 0x4000 == 0x4000 masquerade
            }}
        }}
    """


# ---- damage, restarts, losses


@SHARED_VETH
async def test_check_finds_ipv6_damage_and_repair_mends_the_node(pairs: Site, crew: Crew) -> None:
    entry, address = pairs.node("node1").netns, six(crew["a"])
    assert await pairs.check("node1", crew["a"]) == ""
    for command, said in (
        (f"ip -6 route del {address}", address),
        (f"ip -6 route del {address} table 512", f"{address}/128 dev"),
        ("ip -6 rule del priority 512", "IPv6 rule 512"),
        (f"ip -6 rule del priority 2048 from {address}", f"from {address}"),
    ):
        inside(entry, *command.split())
        assert said in await pairs.check("node1", crew["a"]), command
    await pairs.repair("node1")
    await eventually(lambda: pairs.check("node1", crew["a"]), "")
    assert await by6(pairs, "default/c", "default/a:80/tcp") == "default/a"


@SHARED_VETH
async def test_a_pod_leaves_nothing_of_either_family(pairs: Site, crew: Crew) -> None:
    commands = ("ip -6 rule", "ip -6 route show table all proto 84", "ip -6 neigh show nud permanent")
    entry = pairs.node("node1").netns

    def state() -> list[str]:
        return [inside(entry, *command.split()) for command in commands]

    before = state()
    async with pairs.pod("passing", "node1") as sandbox:
        assert all(six(sandbox) in text for text in state())
    assert state() == before


@SHARED_VETH
async def test_services_that_are_killed_leave_ipv6_traffic_alone(pairs: Site, crew: Crew) -> None:
    corner = pairs.node("node1")
    for name in ("eni_manager", "ipam"):
        await services.stop(corner, services.named(name), kill=True)
        assert await by6(pairs, "default/a", "default/c:80/tcp") == "default/c"
        services.start(corner, services.named(name))
    await services.wait_ready(corner)
    assert await by6(pairs, "default/a", "default/c:80/tcp") == "default/c"
    assert await pairs.check("node1", crew["a"]) == ""
    async with pairs.pod("later", "node1") as sandbox:
        assert six(sandbox)


@SHARED_VETH
async def test_a_half_that_the_cloud_takes_from_a_pod_is_reported(pairs: Site, crew: Crew) -> None:
    """And never replaced under the pod: whoever took it may give it back. When the pod has gone, the pair is whole."""
    ipam = services.named("ipam")
    async with pairs.pod("loser", "node1") as sandbox, control.connect(pairs.layout.cloud_socket) as cloud:
        address = six(sandbox)

        async def missing() -> str:
            found = services.ask(pairs.node("node1"), ipam, "/state")[1].get("differences", ["no answer"])
            return "" if any(address in difference for difference in found) else f"differences are {found}"

        async def lengths() -> set[int]:
            enis = [eni for eni in (await cloud.audit())["enis"] if eni["type"] == "Secondary"]
            return {len(eni["ipv4"]) - len(eni["ipv6"]) for eni in enis}

        assert await lengths() == {0}
        await cloud.send("POST", "/faults", {"action": "outside", "kind": "unassign", "target": address})
        await until(missing, what=f"the loss of {address} is said", within_s=30)
        assert "nobody" in await by6(pairs, "default/c", "default/loser:80/tcp")
        assert await pairs.by("default/c", "default/loser:80/tcp") == "default/loser", "IPv4 goes on"
        assert await lengths() == {0, 1}, "nothing takes its place while the pod lives"
        async with pairs.pod("other", "node1") as other:
            assert six(other) != address, "others are served"
            assert await by6(pairs, "default/c", "default/other:80/tcp") == "default/other"

    async def halves() -> str:
        async with control.connect(pairs.layout.cloud_socket) as cloud:
            enis = [eni for eni in (await cloud.audit())["enis"] if eni["type"] == "Secondary"]
        return "; ".join(f"{eni['id']} has halves" for eni in enis if len(eni["ipv6"]) != len(eni["ipv4"]))

    await until(halves, what="the pair is whole", within_s=30)
