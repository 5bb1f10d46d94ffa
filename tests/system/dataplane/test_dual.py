"""IPv6 beside IPv4: usable at once, every part checked and mended, nobody else's routes believed, several ENIs."""

import asyncio
import socket
import struct
import time

import pytest
from msgspec.structs import replace

from services.eni_manager.adapters import host
from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Unplug
from shared.model import Mac
from tests.system.dataplane.world import (
    FAR6,
    NODE_IP6,
    PATIENCE_S,
    SUBNET,
    SUBNET6,
    Memory,
    Sandbox,
    Space,
    World,
    plug,
    problems_of,
    running,
    talks,
    until,
)

pytestmark = pytest.mark.system

OTHER_MAC = Mac("02:16:3e:00:00:02")


def eni_table(world: World, link: str = "eth1") -> int:
    return 1000 + int(world.node.seen("link", "show", link)[0]["ifindex"])


def way(space: Space, to: str, source: str) -> str:
    return space.ip("-6", "route", "get", to, "from", source)


def test_the_nodes_own_address_is_the_one_that_its_default_route_gives(world: World) -> None:
    assert host.has_ipv6()
    assert host.default_source6() is None, "there is no default route"
    world.node.ip("-6", "route", "add", "default", "via", "2001:db8::1")
    assert host.default_source6() == NODE_IP6


# ---- packets


@pytest.mark.alone
async def test_the_first_packet_of_a_pod_arrives_and_is_answered(world: World, dataplane: Dataplane) -> None:
    """No duplicate address detection, no lost neighbour solicitation: each would cost a second."""
    for _ in range(5):
        box = world.sandbox(ipv6=True)
        with world.vpc.socket(FAR6, 7000) as far:
            await plug(dataplane, box)
            with box.socket(box.ipv6) as pod:
                began = time.monotonic()
                pod.sendto(b"first", (FAR6, 7000))
                assert far.recvfrom(16)[1][0] == box.ipv6
                far.sendto(b"answer", pod.getsockname()[:2])
                assert pod.recv(16) == b"answer"
                assert time.monotonic() - began < 0.8


@pytest.mark.alone
async def test_who_asks_first_is_answered_by_the_pod(world: World, dataplane: Dataplane) -> None:
    """The node need not ask for the pod's MAC, and may: a pod that has come to rest answers a solicitation."""
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    with box.socket(box.ipv6, 7000) as pod, world.node.socket(NODE_IP6) as node:
        began = time.monotonic()
        node.sendto(b"first", (box.ipv6, 7000))
        assert pod.recvfrom(16)[1][0] == NODE_IP6
        assert time.monotonic() - began < 0.8
        world.node.ip("-6", "neigh", "del", box.ipv6, "dev", box.lease.host_link)
        pod.settimeout(5)
        node.sendto(b"second", (box.ipv6, 7000))
        assert pod.recvfrom(16)[0] == b"second"


async def test_a_full_packet_passes_and_a_larger_one_is_refused_at_home(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    headers = 40 + 8
    with box.socket(box.ipv6) as pod, world.vpc.socket(FAR6, 7000) as far:
        pod.setsockopt(socket.IPPROTO_IPV6, 62, 1)  # IPV6_DONTFRAG
        pod.sendto(bytes(1500 - headers), (FAR6, 7000))
        assert len(far.recv(2000)) == 1500 - headers
        with pytest.raises(OSError, match="Message too long"):
            pod.sendto(bytes(1501 - headers), (FAR6, 7000))


async def test_each_family_is_unplugged_with_the_other(world: World, dataplane: Dataplane) -> None:
    box, next_one = world.sandbox(ipv6=True), world.sandbox(ipv6=True)
    await plug(dataplane, box)
    await dataplane.unplug(Unplug(key=box.lease.key, lease=box.lease))
    for listing in (world.node.ip("-6", "rule"), world.node.ip("-6", "route", "show", "table", "all")):
        assert box.ipv6 not in listing
    next_one.lease = replace(next_one.lease, ipv4=box.ipv4, ipv6=box.ipv6)
    await plug(dataplane, next_one)
    assert talks(next_one, box.ipv6, world.vpc, FAR6), "the pair serves another pod at once"


# ---- damage

NODE_DAMAGE = {
    "-6 rule del priority 512": ["node: IPv6 rule 512: from all lookup 512 is missing"],
    "-6 route del {ip} table 512": ["node: route {ip}/128 dev {link} scope link table 512 is missing"],
    "-6 rule del priority 2048": ["node: rule 2048: from {ip}/128 lookup {table} is missing"],
    "-6 route del {ip}": ["node: route {ip}/128 dev {link} scope link is missing"],
    "-6 neigh del {ip} dev {link}": ["node: neighbour {ip} lladdr {pod} dev {link} permanent is missing"],
    "-6 addr del fe80::1/128 dev {link}": ["node: address fe80::1/128 dev {link} is missing"],
    "-6 route del default table {table}": ["node: route default via {gateway} dev eth1 table {table} is missing"],
    "-6 addr del 2001:db8::5/128 dev eth1": ["node: address 2001:db8::5/128 dev eth1 is missing"],
    "-6 route flush table {table}": [
        "node: route {gateway}/128 dev eth1 scope link table {table} is missing",
        "node: route default via {gateway} dev eth1 table {table} is missing",
    ],
}
SETTINGS = {
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/{link}/forwarding": "1",
    "net/ipv6/conf/eth1/forwarding": "1",
    "net/ipv6/conf/{link}/accept_ra": "0",
    "net/ipv6/conf/eth1/accept_ra": "0",
    "net/ipv6/conf/{link}/accept_redirects": "0",
}
POD_DAMAGE = {
    "-6 addr del {ip}/128 dev eth0": "address {ip}/128 dev eth0 is missing",
    "-6 addr add 2001:db8:9::9/64 dev eth0 nodad": "address 2001:db8:9::9/64 dev eth0 should not be there",
    "-6 route del default": "route default via fe80::1 dev eth0 onlink is missing",
    "-6 neigh del fe80::1 dev eth0": "neighbour fe80::1 lladdr {mac} dev eth0 permanent is missing",
    "-6 neigh replace fe80::1 lladdr 02:00:00:00:00:09 dev eth0 nud permanent": (
        "neighbour fe80::1 lladdr {mac} dev eth0 permanent is missing"
    ),
}
POD_SETTINGS = {"disable_ipv6": "0", "accept_ra": "0", "accept_redirects": "0"}


def filled(text: str, world: World, box: Sandbox) -> str:
    link = box.lease.host_link
    return text.format(
        ip=box.ipv6,
        link=link,
        table=eni_table(world),
        gateway=SUBNET6.gateway,
        mac=world.node.seen("link", "show", link)[0]["address"],
        pod=box.seen("link", "show", "eth0")[0]["address"],
    )


@pytest.mark.parametrize("damage", NODE_DAMAGE)
async def test_damage_on_the_node_is_found_and_mended(damage: str, world: World, dataplane: Dataplane) -> None:
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    assert await problems_of(dataplane, box) == []
    expected = [filled(text, world, box) for text in NODE_DAMAGE[damage]]
    world.node.ip(*filled(damage, world, box).split())
    assert await problems_of(dataplane, box) == expected
    dataplane.repair()
    async with asyncio.timeout(PATIENCE_S):
        while await problems_of(dataplane, box):  # noqa: ASYNC110 the kernel offers no event for it
            await asyncio.sleep(0.01)
    assert talks(box, box.ipv6, world.vpc, FAR6)
    assert talks(world.node, NODE_IP6, box, box.ipv6)


@pytest.mark.parametrize("setting", SETTINGS)
async def test_settings_that_others_flipped_are_found_and_mended(
    setting: str, world: World, dataplane: Dataplane
) -> None:
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    path, good = setting.format(link=box.lease.host_link), SETTINGS[setting]
    bad = "0" if good == "1" else "1"
    world.node.sysctl(path, bad)
    assert f"node: sysctl {path} = {bad} should be sysctl {path} = {good}" in await problems_of(dataplane, box)
    dataplane.repair()
    await until(lambda: world.node.sysctl(path) == good)
    assert await problems_of(dataplane, box) == []


@pytest.mark.parametrize("damage", POD_DAMAGE)
async def test_damage_in_the_sandbox_is_found_and_mended_by_another_plug(
    damage: str, world: World, dataplane: Dataplane
) -> None:
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    box.ip(*filled(damage, world, box).split())
    assert f"sandbox: {filled(POD_DAMAGE[damage], world, box)}" in await problems_of(dataplane, box)
    await plug(dataplane, box)
    assert await problems_of(dataplane, box) == []
    assert talks(box, box.ipv6, world.vpc, FAR6)


@pytest.mark.parametrize("name", POD_SETTINGS)
async def test_a_sandbox_setting_that_was_flipped_is_found_and_mended(
    name: str, world: World, dataplane: Dataplane
) -> None:
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    path, good = f"net/ipv6/conf/eth0/{name}", POD_SETTINGS[name]
    box.sysctl(path, "1")
    assert f"sandbox: sysctl {path} = 1 should be sysctl {path} = {good}" in await problems_of(dataplane, box)
    await plug(dataplane, box)  # switching IPv6 off has taken addresses, routes and neighbours with it
    assert await problems_of(dataplane, box) == []
    assert talks(box, box.ipv6, world.vpc, FAR6)


async def test_a_runtime_that_switches_ipv6_off_is_overruled(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox(ipv6=True)
    for name in ("all", "default", "lo"):
        box.sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
    await plug(dataplane, box)
    assert await problems_of(dataplane, box) == []
    assert talks(box, box.ipv6, world.vpc, FAR6)


async def test_repair_takes_away_ipv6_rules_of_dead_pods(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    world.node.ip(*"-6 rule add priority 512 to 2001:db8:1::99 lookup main protocol 84".split())
    world.node.ip(*"-6 rule add priority 2048 from 2001:db8:1::99 lookup 1003 protocol 84".split())
    world.node.ip(*"-6 rule add priority 2048 from 2001:db8:1::98 lookup 1003".split())
    dataplane.repair()
    await until(lambda: "2001:db8:1::99" not in world.node.ip("-6", "rule"))
    assert "2001:db8:1::98" in world.node.ip("-6", "rule"), "it does not bear our mark"
    assert world.node.ip("-6", "rule").count(box.ipv6) == 1


# ---- whom nobody believes


def _router_advertisement() -> bytes:
    """A default router for half an hour, and a prefix to make addresses of (RFC 4861 section 4.2)."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 1800, 1800, 0) + socket.inet_pton(
        socket.AF_INET6, "2001:db8:666::"
    )
    return struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix


def _send(space: Space, link: str, message: bytes, to: str = "ff02::1") -> None:
    with space.inside():
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        index = int(space.seen("link", "show", link)[0]["ifindex"])
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        raw.sendto(message, (to, 0, 0, index))


async def test_nobody_teaches_a_pod_or_the_node_routes(world: World, dataplane: Dataplane) -> None:
    box, naive = world.sandbox(ipv6=True), Space(world.node.fd)
    await plug(dataplane, box)
    link = box.lease.host_link
    try:
        # Beside the pod, a host that believes everybody, so that silence proves something.
        naive.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
        naive.sysctl("net/ipv6/conf/eth0/accept_ra", "1")
        for name in ("eth0", "peer0"):
            naive.sysctl(f"net/ipv6/conf/{name}/accept_dad", "0")
            naive.ip("link", "set", name, "up")
        before = box.ip("-6", "route", "show", "table", "all"), box.ip("-6", "addr")
        on_node = world.node.ip("-6", "route", "show", "default"), world.node.ip("-6", "addr", "show", "dev", link)
        await until(lambda: "fe80" in naive.ip("-6", "addr", "show", "dev", "peer0", "-tentative"))
        await until(lambda: "tentative" not in box.ip("-6", "addr"))
        before = box.ip("-6", "route", "show", "table", "all"), box.ip("-6", "addr")
        _send(naive, "peer0", _router_advertisement())
        _send(world.node, link, _router_advertisement())
        _send(box, "eth0", _router_advertisement())
        await until(lambda: "2001:db8:666:" in naive.ip("-6", "addr", "show", "dev", "eth0"))
        assert talks(box, box.ipv6, world.vpc, FAR6)
        assert (box.ip("-6", "route", "show", "table", "all"), box.ip("-6", "addr")) == before
        after = world.node.ip("-6", "route", "show", "default"), world.node.ip("-6", "addr", "show", "dev", link)
        assert [text.replace("tentative ", "") for text in after] == [t.replace("tentative ", "") for t in on_node]
    finally:
        naive.close()


async def test_a_redirect_changes_no_pod_s_way(world: World, dataplane: Dataplane) -> None:
    """From the gateway's own address, about a packet that the pod has really sent: all that makes one credible."""
    box = world.sandbox(ipv6=True)
    await plug(dataplane, box)
    assert talks(box, box.ipv6, world.vpc, FAR6)
    target = socket.inet_pton(socket.AF_INET6, "fe80::bad")
    about = socket.inet_pton(socket.AF_INET6, FAR6)
    message = struct.pack("!BBHI", 137, 0, 0, 0) + target + about
    _send(world.node, box.lease.host_link, message, to=box.ipv6)
    assert talks(box, box.ipv6, world.vpc, FAR6)
    assert "fe80::1 " in way(box, FAR6, box.ipv6)
    assert "fe80::bad" not in box.ip("-6", "route", "show", "cache") + box.ip("-6", "neigh")


# ---- several ENIs, and answers


async def test_two_enis_of_one_vswitch_do_not_fight_over_its_gateway(world: World, memory: Memory) -> None:
    world._cable("eth2", OTHER_MAC, "eni1")
    async with running(memory) as dataplane:
        one, two = world.sandbox(ipv6=True), world.sandbox(ipv6=True)
        two.lease = replace(two.lease, eni_mac=OTHER_MAC)
        await dataplane.ensure_eni(OTHER_MAC, SUBNET, SUBNET6)
        await plug(dataplane, one)
        await plug(dataplane, two)
        dataplane.repair()
        assert await problems_of(dataplane, one) == []
        assert await problems_of(dataplane, two) == []
        for box, link in ((one, "eth1"), (two, "eth2")):
            found = world.node.ip("-6", "route", "get", FAR6, "from", box.ipv6, "iif", box.lease.host_link)
            assert f" dev {link} " in found, found
        await plug(dataplane, one)
        assert await problems_of(dataplane, two) == []


def rules6(world: World) -> set[str]:
    lines = world.node.ip("-6", "rule").splitlines()
    return {" ".join(line.split()) for line in lines if line.startswith("600:")}


async def test_answers_leave_by_the_primary_interface_in_ipv6_too(world: World, memory: Memory) -> None:
    world.vpc.ip("-6", "addr", "add", "2001:db8::1/64", "dev", "pri0", "nodad")
    world.node.ip("-6", "route", "add", "default", "via", "2001:db8::1")
    before = world.node.nft("list", "ruleset")
    ours = {f"600: from all fwmark {mark}/{mark} lookup 100 proto 84" for mark in ("0x10", "0x4000")}
    async with running(memory, symmetric=True) as dataplane:
        await until(lambda: "terway_symmetric_ipv6" in world.node.nft("list", "tables"))
        assert rules6(world) == ours
        route = world.node.ip("-6", "route", "show", "table", "100")
        assert route.startswith("default via 2001:db8::1 dev eth0 proto 84")
        world.node.ip(*"-6 rule del priority 600 fwmark 0x10/0x10".split())
        world.node.ip(*"-6 route flush table 100".split())
        world.node.nft("delete", "table", "ip6", "terway_symmetric_ipv6")
        dataplane.repair()
        await until(lambda: "terway_symmetric_ipv6" in world.node.nft("list", "tables"))
        assert rules6(world) == ours
        assert world.node.ip("-6", "route", "show", "table", "100") == route

        box = world.sandbox(ipv6=True)
        await plug(dataplane, box)
        world.node.nft("add", "table", "ip6", "hostport")
        world.node.nft("add chain ip6 hostport pre { type nat hook prerouting priority dstnat ; }")
        world.node.nft(f"add rule ip6 hostport pre ip6 daddr {NODE_IP6} udp dport 8053 dnat to [{box.ipv6}]:53")
        # The VPC would drop an answer that comes by another interface than the question went to.
        world.vpc.nft("add table ip6 strict")
        world.vpc.nft("add chain ip6 strict pre { type filter hook prerouting priority 0 ; }")
        world.vpc.nft(f'add rule ip6 strict pre iifname "eni0" ip6 daddr {FAR6} counter drop')
        world.vpc.ip("-6", "route", "replace", f"{NODE_IP6}/128", "dev", "pri0")
        with box.socket(box.ipv6, 53) as pod, world.vpc.socket(FAR6) as far:
            far.sendto(b"question", (NODE_IP6, 8053))
            _, sender = pod.recvfrom(64)
            pod.sendto(b"answer", sender)
            assert far.recvfrom(64)[0] == b"answer"
        world.node.nft("delete", "table", "ip6", "hostport")
    async with running(memory):
        await until(lambda: world.node.nft("list", "ruleset") == before)
        assert rules6(world) == set()
