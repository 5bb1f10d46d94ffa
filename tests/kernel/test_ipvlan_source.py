"""Mode shared-ipvlan: a Service's backend sees the pod's own address, by the programs on the ENIs."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from threading import Thread

import pytest
from msgspec.structs import replace

from services.eni_manager.adapters.diversion import can_keep_source
from services.eni_manager.dataplane import Dataplane
from tests.kernel.needs import needs
from tests.kernel.site import (
    ENIS,
    NODE2_IP,
    NODE2_IP6,
    VIP,
    VIP6,
    Site,
    asked,
    echo,
    node_of,
    running_on_node2,
    service,
    site,
)
from tests.system.dataplane import world as dataplane_world
from tests.system.dataplane.world import (
    FAR,
    FAR6,
    NODE_IP,
    NODE_IP6,
    SUBNET,
    SUBNET6,
    Memory,
    Sandbox,
    Space,
    plug,
    problems_of,
    until,
)

pytestmark = [pytest.mark.system, needs(links=("ipvlan",))]

MUCH = 1 << 20


@pytest.fixture
def world() -> Iterator[Site]:
    with site() as made:
        yield made


@asynccontextmanager
async def running(world: Site, memory: Memory, *, own_address: bool = True) -> AsyncIterator[Dataplane]:
    node = replace(node_of(), own_address=own_address)
    async with dataplane_world.serving(Dataplane(node, memory, linger_s=0.01, repair_s=3600.0)) as dataplane:
        for mac in (ENIS["eth1"], ENIS["eth2"]):
            await dataplane.ensure_eni(mac, SUBNET, SUBNET6)
        marks = "snat to :1024-32767"
        await until(lambda: (marks in world.node.nft("list", "ruleset")) is own_address, within_s=30)
        yield dataplane


async def test_who_is_seen(world: Site) -> None:
    assert can_keep_source(), "the guest's kernel has cls_bpf"
    one, two = world.sandbox(ipv6=True), world.sandbox(ipv6=True)
    other, far = world.sandbox(ipv6=True, eni="eth2"), world.sandbox(ipv6=True, eni="far")
    async with running(world, Memory()) as dataplane, running_on_node2(world, Memory()) as second:
        for box in (one, two, other):
            await plug(dataplane, box)
        await plug(second, far)
        assert await problems_of(dataplane, one) == []
        with ExitStack() as opened:
            for space in (one, two, other, far, world.node2, world.vpc):
                opened.enter_context(echo(space))
            pods = (one.ipv4, one.ipv6)
            nodes = (NODE_IP, NODE_IP6)
            for backend, seen in (
                ((far.ipv4, far.ipv6), pods),
                ((other.ipv4, other.ipv6), pods),
                ((NODE2_IP, NODE2_IP6), pods),
                ((FAR, FAR6), pods),
                ((two.ipv4, two.ipv6), nodes),  # of one ENI: answers never reach it
                ((one.ipv4, one.ipv6), nodes),
            ):
                for six, vip in enumerate((VIP, VIP6)):
                    service(world.node, str(backend[six]), vip)
                    assert asked(one, vip, 80) == seen[six], f"{backend[six]} by {vip}"
            service(world.node, str(far.ipv4))
            assert asked(world.node, VIP, 80) == NODE_IP, "the node itself"
            assert asked(far, one.ipv4) == far.ipv4 and asked(one, far.ipv6) == one.ipv6, "what is no Service's"


async def test_much_is_carried_and_errors_are_told(world: Site) -> None:
    one, far = world.sandbox(ipv6=True), world.sandbox(ipv6=True, eni="far")
    async with running(world, Memory()) as dataplane, running_on_node2(world, Memory()) as second:
        await plug(dataplane, one)
        await plug(second, far)
        for backend, vip, own in ((far.ipv4, VIP, one.ipv4), (far.ipv6, VIP6, one.ipv6)):
            service(world.node, str(backend), vip)
            assert await asyncio.to_thread(_refused, one, vip), "no server yet, and an error of ICMP says so"
            seen, size = await asyncio.to_thread(_large_datagrams, one, far, vip)
            assert (seen, size) == (own, 6000)
        service(world.node, str(far.ipv4), VIP)
        seen = await asyncio.to_thread(_carried, world, one, far)
        assert seen == one.ipv4


async def test_damage_is_found_and_mended(world: Site) -> None:
    one, far = world.sandbox(ipv6=True), world.sandbox(ipv6=True, eni="far")
    async with running(world, Memory()) as dataplane, running_on_node2(world, Memory()) as second:
        await plug(dataplane, one)
        await plug(second, far)
        with echo(far):
            service(world.node, str(far.ipv4))
            table = 1000 + int(world.node.seen("link", "show", "eth1")[0]["ifindex"])
            for command in (
                "tc filter del dev eth1 ingress pref 20000",
                "tc filter del dev eth1 egress pref 40000",
                "ip rule del priority 500",
                "ip -6 rule del priority 500",
                f"ip route flush table {table}",
                "ip neigh del 169.254.1.1 dev eth1",
            ):
                program, *arguments = command.split()
                world.node.ip(*arguments) if program == "ip" else world.node.tc(*arguments)
                assert await problems_of(dataplane, one), command
                dataplane.repair()
                await _whole(dataplane, one)
                assert asked(one, VIP, 80) == one.ipv4, command


async def test_it_can_be_switched_off(world: Site) -> None:
    memory = Memory()
    one, far = world.sandbox(), world.sandbox(eni="far")
    async with running_on_node2(world, Memory()) as second:
        await plug(second, far)
        with echo(far):
            service(world.node, str(far.ipv4))
            for own_address, seen in ((True, one.ipv4), (False, NODE_IP), (True, one.ipv4)):
                async with running(world, memory, own_address=own_address) as dataplane:
                    await plug(dataplane, one)
                    assert asked(one, VIP, 80) == seen
                    assert await problems_of(dataplane, one) == []
                    assert ("lookup 10" in world.node.ip("rule", "show", "priority", "500")) is own_address


async def _whole(dataplane: Dataplane, box: Sandbox) -> None:
    ends = asyncio.get_running_loop().time() + 20
    while problems := await problems_of(dataplane, box):  # the kernel offers no event for it
        assert asyncio.get_running_loop().time() < ends, problems
        await asyncio.sleep(0.05)


def _open(space: Space, kind: int, family: int) -> socket.socket:
    with space.inside():
        made = socket.socket(family, kind)
    made.settimeout(10)
    return made


def _refused(client: Space, vip: str) -> bool:
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with _open(client, socket.SOCK_DGRAM, family) as udp:
        udp.settimeout(0.5)
        udp.connect((vip, 80))
        for _ in range(20):
            try:
                udp.send(b"?")
                udp.recv(16)
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                return True
    return False


def _large_datagrams(client: Space, server: Space, vip: str) -> tuple[str, int]:
    """Both in pieces."""
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with _open(server, socket.SOCK_DGRAM, family) as serving, _open(client, socket.SOCK_DGRAM, family) as asking:
        serving.bind(("", 7000))
        asking.connect((vip, 80))
        asking.send(bytes(6000))
        data, peer = serving.recvfrom(1 << 16)
        assert len(data) == 6000
        serving.sendto(bytes(6000), peer)
        return str(peer[0]), len(asking.recv(1 << 16))


def _carried(world: Site, client: Sandbox, server: Sandbox) -> str:
    """A megabyte each way by TCP; whom the server sees."""
    world.node.nft(*f"add rule ip kube services ip daddr {VIP} tcp dport 80 dnat to {server.ipv4}:7001".split())
    kind, family = socket.SOCK_STREAM, socket.AF_INET
    with _open(server, kind, family) as listener, _open(client, kind, family) as asking:
        listener.bind(("", 7001))
        listener.listen()
        asking.connect((VIP, 80))
        serving, peer = listener.accept()
        with serving:
            serving.settimeout(10)
            for sender, receiver in ((asking, serving), (serving, asking)):
                thread = Thread(target=sender.sendall, args=(bytes(MUCH),))
                thread.start()
                left = MUCH
                while left:
                    came = len(receiver.recv(1 << 16))
                    assert came
                    left -= came
                thread.join()
        return str(peer[0])
