"""What only mode shared-ipvlan has, on a kernel that has IPvlan: slaves of several ENIs, both forms of the diversion.

What every mode does, the shared suite (tests/system/modes) asks of this one, too, in the same guest.
"""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from msgspec.structs import replace

from services.eni_manager.adapters.netlink_diversion import get_filters, seen_filter
from services.eni_manager.adapters.netlink_socket import RouteSocket
from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Unplug
from shared.contracts.ipam import Bandwidth
from shared.errors import Conflict, SuiteError
from shared.model import Cidr
from tests.kernel.needs import needs
from tests.kernel.site import (
    DNS,
    ENIS,
    NODE2_IP,
    NODE2_IP6,
    VIP,
    VIP6,
    Site,
    asked,
    echo,
    nft,
    running,
    running_on_node2,
    service,
    site,
)
from tests.system.dataplane.world import (
    FAR,
    NODE_IP,
    NODE_IP6,
    SUBNET,
    SUBNET6,
    Memory,
    Sandbox,
    Space,
    inhabited,
    plug,
    problems_of,
    until,
)

pytestmark = [pytest.mark.system, needs(links=("ipvlan",))]


@pytest.fixture
def world() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def dataplane(world: Site, memory: Memory) -> AsyncIterator[Dataplane]:
    async with running(memory) as made:
        yield made


DEAF = """table inet deaf {
    chain forward { type filter hook forward priority 0; policy drop;
    }
    chain input { type filter hook input priority 0; policy drop; iifname "lo" accept
    }
}
"""
"""A router that passes nothing on. Its cables stay up: a slave is down when its ENI has no carrier."""


def lines(text: str) -> set[str]:
    return {" ".join(line.split()) for line in text.splitlines() if line.strip()}


def run(space: Space, command: str) -> None:
    with space.inside():
        subprocess.run(command.split(), check=True, capture_output=True)


async def in_the_end(act: Callable[[], Awaitable[None]]) -> None:
    """Tried again while a namespace takes its time to end."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await act()
            except SuiteError:
                await asyncio.sleep(0.05)


def index_of(world: Site, link: str) -> int:
    return int(world.node.seen("link", "show", link)[0]["ifindex"])


async def test_a_pod_is_wired_as_terway_does(world: Site, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    own, mac = box.ipv4, ENIS["eth1"]
    companion = f"ipvl_{index_of(world, 'eth1')}"

    (pod,) = box.seen("-d", "addr", "show", "eth0")
    assert (pod["linkinfo"]["info_kind"], pod["linkinfo"]["info_data"]["mode"]) == ("ipvlan", "l2")
    assert (pod["address"], pod["mtu"]) == (mac, 1500)
    assert [(a["local"], a["prefixlen"]) for a in pod["addr_info"] if a["scope"] == "global"] == [(own, 19)]
    assert lines(box.ip("-4", "route")) == {
        "default via 192.168.63.253 dev eth0 proto 84 onlink",
        "10.0.0.5 dev eth0 proto 84 scope link",
        f"192.168.32.0/19 dev eth0 proto kernel scope link src {own}",
    }
    assert lines(box.ip("-4", "neigh", "show", "nud", "permanent")) == {f"10.0.0.5 dev eth0 lladdr {mac} PERMANENT"}

    (host,) = world.node.seen("-d", "addr", "show", companion)
    assert (host["linkinfo"]["info_kind"], host["link"], host["mtu"]) == ("ipvlan", "eth1", 1500)
    assert {"NOARP", "UP"} <= set(host["flags"])
    assert [(a["local"], a["prefixlen"], a["scope"]) for a in host["addr_info"] if a["family"] == "inet"] == [
        (NODE_IP, 32, "host")
    ]
    assert lines(world.node.ip("-4", "route", "show", own)) == {f"{own} dev {companion} proto 84 scope link"}
    (eni,) = world.node.seen("-4", "addr", "show", "eth1") or [{"addr_info": []}]
    assert eni.get("addr_info", []) == []
    shown = world.node.tc("filter", "show", "dev", "eth1", "egress")
    assert "pref 40000 bpf" in shown and "direct-action" in shown and "terway host path" in shown
    assert world.node.rules_about(own) == 0
    assert await problems_of(dataplane, box) == []


async def test_pods_of_several_enis_reach_each_other(world: Site, dataplane: Dataplane) -> None:
    one, two = world.sandbox(ipv6=True), world.sandbox(ipv6=True)
    other, far = world.sandbox(ipv6=True, eni="eth2"), world.sandbox(ipv6=True, eni="far")
    async with running_on_node2(world, Memory()) as second:
        for box in (one, two, other):
            await plug(dataplane, box)
        await plug(second, far)
        with ExitStack() as opened:
            for space in (one, two, other, far, world.node, world.vpc):
                opened.enter_context(echo(space))
            for source, target in ((one, other), (other, one), (other, far), (far, other)):
                assert asked(source, target.ipv4) == source.ipv4, f"{source.ipv4} to {target.ipv4}"
                assert asked(source, target.ipv6) == source.ipv6, f"{source.ipv6} to {target.ipv6}"
            for node, four, six in ((world.node, NODE_IP, NODE_IP6), (world.node2, NODE2_IP, NODE2_IP6)):
                assert asked(node, other.ipv4) == four
                assert asked(node, other.ipv6) == six
            # What slaves of one ENI say to each other and to their node never leaves it.
            nft(world.vpc, DEAF)
            assert asked(one, two.ipv4) == one.ipv4
            assert asked(one, NODE_IP) == one.ipv4
            assert asked(world.node, one.ipv4) == NODE_IP
            assert not asked(one, FAR, within=1)


@pytest.mark.parametrize("form", ["bpf", "u32"])
async def test_a_service_is_reached_by_the_nodes_own_stack(form: str, world: Site, memory: Memory) -> None:
    async with running(memory, by_bpf=form == "bpf") as dataplane, running_on_node2(world, Memory()) as second:
        one, two = world.sandbox(ipv6=True), world.sandbox(ipv6=True)
        other, far = world.sandbox(ipv6=True, eni="eth2"), world.sandbox(ipv6=True, eni="far")
        for box in (one, two, other):
            await plug(dataplane, box)
        await plug(second, far)
        assert f"pref 40000 {form}" in world.node.tc("filter", "show", "dev", "eth1", "egress")
        world.node.ip("addr", "add", f"{DNS}/32", "dev", "lo")
        await until(lambda: "terway_masq" in world.node.nft("list", "tables"), within_s=30)
        with ExitStack() as opened:
            for space in (one, two, other, far, world.node):
                opened.enter_context(echo(space))
            assert asked(one, DNS) == one.ipv4, "the node itself answers what is its own"
            for backend in (two, one, other, far):  # on the node, itself, on another ENI, on another node
                service(world.node, backend.ipv4)
                service(world.node, backend.ipv6, VIP6)
                assert asked(one, VIP, 80) == NODE_IP, f"{VIP} at {backend.ipv4}"
                assert asked(one, VIP6, 80) == NODE_IP6, f"{VIP6} at {backend.ipv6}"
                assert asked(world.node, VIP, 80) == NODE_IP
                assert asked(world.vpc, NODE_IP, 30080) == NODE_IP, "a NodePort"
                assert asked(one, NODE_IP, 30080) == NODE_IP, "a NodePort from a pod"
            assert asked(one, VIP, 80, size=1472) == NODE_IP, "as large as the MTU, and not in pieces"
        assert await problems_of(dataplane, one) == []


async def test_ranges_change_while_the_program_stays(world: Site, memory: Memory) -> None:
    box, backend = world.sandbox(), world.sandbox()
    other_vip = "10.96.0.10"

    def program() -> int:
        with RouteSocket() as route:
            seen = [seen_filter(frame) for frame in route.dump(get_filters(index_of(world, "eth1")))]
        return next(each.program for each in seen if each is not None)

    with echo(backend):
        async with running(memory) as dataplane:
            await plug(dataplane, box)
            await plug(dataplane, backend)
            await until(lambda: "terway_masq" in world.node.nft("list", "tables"), within_s=30)
            service(world.node, backend.ipv4)
            assert asked(box, VIP, 80) == NODE_IP
            loaded = program()
        async with running(memory, ranges=(Cidr("10.96.0.0/12"),)) as dataplane:
            assert program() == loaded
            assert await problems_of(dataplane, box) == []
            assert asked(box, VIP, 80, within=1) == ""
            service(world.node, backend.ipv4, other_vip)
            assert asked(box, other_vip, 80) == NODE_IP
        async with running(memory, ranges=()) as dataplane:
            assert await problems_of(dataplane, box) == []
            assert asked(box, other_vip, 80, within=1) == ""
            assert program() == loaded


async def test_one_form_of_diversion_gives_way_to_the_other(world: Site, memory: Memory) -> None:
    box, backend = world.sandbox(), world.sandbox()
    with echo(backend):
        for form in ("u32", "bpf", "u32"):  # as when a kernel was upgraded, or Terway ran here before
            async with running(memory, by_bpf=form == "bpf") as dataplane:
                await plug(dataplane, box)
                await plug(dataplane, backend)
                shown = world.node.tc("filter", "show", "dev", "eth1", "egress")
                assert f"pref 40000 {form}" in shown
                assert ("bpf" if form == "u32" else "u32") not in shown.replace("terway host path", "")
                await until(lambda: "terway_masq" in world.node.nft("list", "tables"), within_s=30)
                service(world.node, backend.ipv4)
                assert asked(box, VIP, 80) == NODE_IP
                assert await problems_of(dataplane, box) == []


SANDBOX_DAMAGE = {
    "ip neigh del 10.0.0.5 dev eth0": "neighbour 10.0.0.5 lladdr 02:16:3e:00:00:01 dev eth0 permanent is missing",
    "ip route del 10.0.0.5": "route 10.0.0.5/32 dev eth0 scope link is missing",
    "ip addr flush dev eth0": "address {ip}/19 dev eth0 is missing",
    "ip addr add 192.168.200.1/32 dev eth0": "address 192.168.200.1/32 dev eth0 should not be there",
    "tc qdisc del dev eth0 root": "qdisc tbf dev eth0 rate 125000 B/s limit 6125 B is missing",
    "ip link set eth0 mtu 1400 down": "link eth0 mtu 1400 down should be link eth0 mtu 1500 up",
    "ip link del terway-in": "link terway-in mtu 1500 up is missing",
}


async def test_damage_in_the_sandbox_is_named_and_mended_by_another_add(world: Site, dataplane: Dataplane) -> None:
    box = world.sandbox(bandwidth=Bandwidth(ingress=125_000, egress=125_000))
    await plug(dataplane, box)
    for damage in SANDBOX_DAMAGE:
        run(box, damage)
    problems = await problems_of(dataplane, box)
    for sentence in SANDBOX_DAMAGE.values():
        assert f"sandbox: {sentence.format(ip=box.ipv4)}" in problems
    await plug(dataplane, box)
    assert await problems_of(dataplane, box) == []
    run(box, "ip link del eth0")
    assert "sandbox: link eth0 mtu 1500 up is missing" in await problems_of(dataplane, box)
    await plug(dataplane, box)
    assert await problems_of(dataplane, box) == []


async def test_a_repeated_plug_changes_nothing(world: Site, dataplane: Dataplane) -> None:
    box = world.sandbox(ipv6=True, bandwidth=Bandwidth(ingress=125_000, egress=125_000))
    await plug(dataplane, box)
    whole = (world.node.state(), box.state(), world.node.tc("filter", "show", "dev", "eth1", "egress"))
    await plug(dataplane, box)
    assert (world.node.state(), box.state(), world.node.tc("filter", "show", "dev", "eth1", "egress")) == whole


async def test_the_end_of_a_pod_leaves_nothing(world: Site, dataplane: Dataplane, memory: Memory) -> None:
    before = world.node.state()
    box = world.sandbox(ipv6=True, bandwidth=Bandwidth(ingress=125_000, egress=125_000))
    empty = box.state()
    key, lease = box.lease.key, box.lease
    with inhabited(box):
        for request in (Unplug(key, lease, box.path), Unplug(key, lease), Unplug(key)):
            await plug(dataplane, box)
            assert world.node.state() != before
            [shown] = (await dataplane.attachments()).attachments
            assert (shown.key, shown.host_link, shown.alive) == (key, lease.host_link, True)
            assert (await dataplane.unplug(request)).found
            assert (world.node.state(), box.state(), memory.kept) == (before, empty, {})
    await plug(dataplane, box)
    box.close()
    assert (await dataplane.unplug(Unplug(key, lease))).found
    assert (world.node.state(), memory.kept) == (before, {})
    assert not (await dataplane.unplug(Unplug(key=box.lease.key, lease=box.lease))).found


async def test_a_stray_that_no_journal_knows_is_found_by_its_mark(world: Site, memory: Memory) -> None:
    box = world.sandbox()
    async with running(memory) as dataplane:
        before = world.node.state()
        await plug(dataplane, box)
    with inhabited(box):
        async with running(Memory()) as dataplane:
            [stray] = (await dataplane.attachments()).attachments
            assert (stray.key, stray.host_link, stray.alive) == (box.lease.key, box.lease.host_link, True)
            assert (await dataplane.unplug(Unplug(key=box.lease.key))).found
            assert (await dataplane.attachments()).attachments == []
            assert world.node.state() == before


async def test_repair_takes_away_routes_of_pods_that_are_no_more(world: Site, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    whole = world.node.state()
    own = f"ipvl_{index_of(world, 'eth1')}"
    world.node.ip("route", "add", "192.168.32.99", "dev", own, "proto", "84")
    dataplane.repair()
    await until(lambda: world.node.state() == whole, within_s=30)


async def test_names_and_addresses_of_others(world: Site, dataplane: Dataplane) -> None:
    box, old, new = world.sandbox(), world.sandbox(), world.sandbox()
    box.ip("link", "add", "eth0", "type", "dummy")
    before = box.state()
    with pytest.raises(Conflict, match="interface eth0 already exists in the sandbox"):
        await plug(dataplane, box)
    assert box.state() == before
    await plug(dataplane, old)
    new.lease = replace(new.lease, ipv4=old.ipv4)
    with inhabited(old), pytest.raises(Conflict, match=f"{old.ipv4} is wired for default/pod-2"):
        await plug(dataplane, new)
    old.close()
    await in_the_end(lambda: plug(dataplane, new))
    with echo(world.vpc):
        assert asked(new, FAR) == new.ipv4


async def test_an_eni_that_comes_back_is_found_under_its_new_index(world: Site, dataplane: Dataplane) -> None:
    one, two = world.sandbox(), world.sandbox()
    await plug(dataplane, one)
    world.replug("eth7")
    for box in (one, two):
        world.deliver(box)
    await dataplane.ensure_eni(ENIS["eth1"], SUBNET, SUBNET6)
    await plug(dataplane, two)
    await plug(dataplane, one)
    with echo(world.vpc):
        assert asked(one, FAR) == one.ipv4
        assert asked(two, FAR) == two.ipv4


@pytest.mark.parametrize("direction", ["egress", "ingress"])
async def test_a_limit_is_met(direction: str, world: Site, dataplane: Dataplane) -> None:
    """By datagrams: how fast TCP finds the limit depends on a processor that others use, too."""
    rate = 250_000
    limits = Bandwidth(ingress=rate) if direction == "ingress" else Bandwidth(egress=rate)
    limited, free = world.sandbox(bandwidth=limits), world.sandbox()
    await plug(dataplane, limited)
    await plug(dataplane, free)
    way = (free, limited) if direction == "ingress" else (limited, free)
    assert 0.95 < await asyncio.to_thread(flood, *way) / rate < 1.03
    assert await asyncio.to_thread(flood, *reversed(way)) / rate > 1.5, "the other direction is not limited"


def flood(source: Sandbox, target: Sandbox, seconds: float = 3.0) -> float:
    """What gets there of more than can, in bytes per second as links carry them."""
    frame, size = 14 + 20 + 8, 1400
    arrived, until_s, began = 0, 0.0, 0.0
    with source.socket(source.ipv4) as sending, target.socket(target.ipv4, 7000) as receiving:
        receiving.setblocking(False)
        settled = time.monotonic() + 0.5  # by then the bucket's first fill is spent
        while not began or until_s < began + seconds:
            sending.sendto(bytes(size), (target.ipv4, 7000))
            with suppress(BlockingIOError):
                while receiving.recv(2048):
                    until_s = time.monotonic()
                    if began:
                        arrived += frame + size
                    elif until_s > settled:
                        began = until_s
    return arrived / (until_s - began)
