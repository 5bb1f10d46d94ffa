"""Who reaches whom, whatever the mode: pods, nodes, the world outside, Services, host ports."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compose.lab.sandbox import Sandbox
from shared.model import PodKey
from tests.system.modes.site import NODES, Site, inside

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

VIP = "172.21.0.10"
Crew = dict[str, Sandbox]


@pytest.mark.parametrize("port", ["80/tcp", "81/udp"])
@pytest.mark.parametrize("target", ["default/a", "default/b", "default/c"])
@pytest.mark.parametrize("source", ["default/a", "default/c", "node1", "node2", "outside"])
async def test_pods_are_reached(source: str, target: str, port: str, site: Site, crew: Crew) -> None:
    assert await site.by(source, f"{target}:{port}") == target


@pytest.mark.parametrize("target", [*NODES, "outside"])
@pytest.mark.parametrize("source", ["default/a", "default/c"])
async def test_pods_reach_nodes_and_the_outside(source: str, target: str, site: Site, crew: Crew) -> None:
    assert await site.by(source, f"{target}:80/tcp") == target


async def test_packets_as_large_as_the_mtu_pass_whole(site: Site, crew: Crew) -> None:
    mtu = _mtu(crew["a"].entry)
    assert mtu == 1500
    for target in ("b", "c"):
        address = crew[target].addresses[0]
        ping = ["ping", "-c1", "-W2", "-M", "do", "-s", str(mtu - 28), address]
        done = await site.pods.exec(PodKey("default", "a"), ping)
        assert done.code == 0, done.stdout
        done = await site.pods.exec(PodKey("default", "a"), [*ping[:-2], str(mtu - 27), address])
        assert done.code != 0 and b"too long" in done.stderr + done.stdout


def _mtu(netns: Path) -> int:
    return int(inside(netns, "ip", "-o", "link", "show", "eth0").split(" mtu ")[1].split()[0])


# ---- Services, as kube-proxy's rules make them


@contextmanager
def service(site: Site, node: str, backend: str, *, local: bool = False) -> Iterator[None]:
    """VIP:80 and NodePort 30080 of a node lead to a backend's port 80; `local` keeps a NodePort's client address."""
    masquerade = "" if local else "fib daddr type local tcp dport 30080 meta mark set mark or 0x4000"
    rules = f"""
        table ip kube {{
            chain services {{
                {masquerade}
                ip daddr {VIP} tcp dport 80 dnat to {backend}:80
                fib daddr type local tcp dport 30080 dnat to {backend}:80
            }}
            chain prerouting {{ type nat hook prerouting priority dstnat; jump services
            }}
            chain output {{ type nat hook output priority -100; jump services
            }}
            chain postrouting {{ type nat hook postrouting priority srcnat
                ct status dnat ip saddr {backend} ip daddr {backend} masquerade
                meta mark & 0x4000 == 0x4000 masquerade
            }}
        }}
    """
    entry = site.node(node).netns
    inside(entry, "nft", "-f", "-", stdin=rules)
    try:
        yield
    finally:
        inside(entry, "nft", "delete", "table", "ip", "kube")


@pytest.mark.parametrize("backend", ["b", "c"])
@pytest.mark.parametrize("client", ["pod", "node"])
async def test_a_service_is_reached_from_pods_and_the_node(client: str, backend: str, site: Site, crew: Crew) -> None:
    source = crew["a"].entry if client == "pod" else site.node("node1").netns
    with service(site, "node1", crew[backend].addresses[0]):
        assert await site.by_address(source, VIP, "80/tcp") == f"default/{backend}"


async def test_a_pod_reaches_itself_by_its_service(site: Site, crew: Crew) -> None:
    with service(site, "node1", crew["a"].addresses[0]):
        assert await site.by_address(crew["a"].entry, VIP, "80/tcp") == "default/a"


@pytest.mark.parametrize("backend", ["a", "c"])
@pytest.mark.parametrize("client", ["outside", "node1", "node2", "b", "c"])
async def test_a_node_port_is_reached(client: str, backend: str, site: Site, crew: Crew) -> None:
    with service(site, "node1", crew[backend].addresses[0]):
        found = await site.by_address(_entry(site, crew, client), site.address("node1"), "30080/tcp")
        assert found == f"default/{backend}"


@pytest.mark.parametrize("client", ["outside", "node2", "b", "c"])
async def test_a_node_port_that_keeps_the_clients_address(client: str, site: Site, crew: Crew) -> None:
    with service(site, "node1", crew["a"].addresses[0], local=True):
        found = await site.by_address(_entry(site, crew, client), site.address("node1"), "30080/tcp")
        assert found == "default/a"


def _entry(site: Site, crew: Crew, name: str) -> Path:
    if name == "outside":
        return site.layout.outside_netns
    return site.node(name).netns if name in NODES else crew[name].entry


async def test_a_host_port_by_the_portmap_plugin(site: Site, crew: Crew) -> None:
    node1 = site.address("node1")
    async with site.pod_with_host_port("ported", "node1", host_port=8080) as address:
        clients = ("node1", "node2", "outside", "a", "c")
        answers = await asyncio.gather(
            *(site.by_address(_entry(site, crew, client), node1, "8080/tcp") for client in clients)
        )
        assert dict(zip(clients, answers, strict=True)) == dict.fromkeys(clients, "ported")
        assert await site.by_address(crew["c"].entry, address, "80/tcp") == "ported"
    assert "refused" in await site.by_address(crew["a"].entry, node1, "8080/tcp")
