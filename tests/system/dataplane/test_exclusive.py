"""A pod has an ENI to itself, as terway.md §5.4 says, and the ENI comes home whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from msgspec.structs import replace

from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Limit, Plug, Unplug
from shared.contracts.ipam import Bandwidth, Lease
from shared.errors import Conflict, NotFound
from shared.model import Cidr
from tests.system.dataplane.exclusive import SERVICES, SERVICES6, Exclusive, running
from tests.system.dataplane.world import (
    FAR,
    FAR6,
    NODE_IP,
    NODE_IP6,
    SUBNET,
    SUBNET6,
    Memory,
    Sandbox,
    inhabited,
    plug,
    problems_of,
    standing,
    talks,
    unplug,
    until,
)
from tests.system.dataplane.world import running as shared

pytestmark = pytest.mark.system

VIP = "172.21.0.10"


@pytest.fixture
def world() -> Iterator[Exclusive]:
    with standing(Exclusive) as made:
        yield made


@pytest.fixture
async def dataplane(world: Exclusive, memory: Memory) -> AsyncIterator[Dataplane]:
    async with running(memory) as made:
        yield made


def routes(box: Sandbox, family: str = "-4") -> set[str]:
    shown = box.ip(family, "route").replace(" proto 84", "").replace(" metric 1024", "").replace(" pref medium", "")
    return {" ".join(line.split()) for line in shown.splitlines() if "proto kernel" not in line}


async def test_a_pod_is_wired_exactly_as_terway_does(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox("nginx-0")
    plugged = await dataplane.plug(Plug(lease=box.lease, netns=box.path))

    own, host = box.ipv4, "calic048fd9a750"
    assert plugged.mac == box.lease.eni_mac
    assert world.at_home(box) == []
    for link in ("eth0", "veth1"):
        (seen,) = box.seen("-4", "addr", "show", link)
        assert [(a["local"], a["prefixlen"]) for a in seen["addr_info"]] == [(own, 32)]
        assert (seen["mtu"], "UP" in seen["flags"]) == (1500, True)
    assert box.seen("link", "show", "eth0")[0]["address"] == box.lease.eni_mac
    assert routes(box) == {
        f"default via {SUBNET.gateway} dev eth0 onlink",
        "169.254.1.1 dev veth1 scope link",
        f"{SERVICES} via 169.254.1.1 dev veth1 onlink",
        f"{NODE_IP} via 169.254.1.1 dev veth1 onlink",
    }
    neighbours = box.ip("neigh", "show", "nud", "permanent").split()
    assert neighbours == f"169.254.1.1 dev veth1 lladdr {plugged.host_mac} PERMANENT".split()
    assert world.node.ip("route", "show", own).split() == f"{own} dev {host} proto 84 scope link".split()
    assert world.node.rules_about(own) == 0
    assert world.node.ip("-4", "-o", "addr", "show", host) == ""
    assert await problems_of(dataplane, box) == []


async def test_packets_go_by_the_eni_but_for_what_is_the_nodes(world: Exclusive, dataplane: Dataplane) -> None:
    one, two = world.sandbox(), world.sandbox()
    await plug(dataplane, one)
    await plug(dataplane, two)
    assert talks(world.node, NODE_IP, one, one.ipv4)
    assert talks(one, one.ipv4, world.node, NODE_IP)
    world.vpc.ip("link", "set", "pri0", "down")
    assert talks(one, one.ipv4, world.vpc, FAR)
    assert talks(world.vpc, FAR, two, two.ipv4)
    two.ip("link", "set", "eth0", "down")
    assert not talks(world.vpc, FAR, two, two.ipv4, within_s=0.2)
    assert talks(world.node, NODE_IP, two, two.ipv4), "the kubelet's probes do not go by the ENI"


async def test_a_service_is_reached_by_the_node_and_sees_its_address(world: Exclusive, dataplane: Dataplane) -> None:
    client, backend = world.sandbox(), world.sandbox()
    await plug(dataplane, client)
    await plug(dataplane, backend)
    await dataplane._repair_all()  # what the loop does at its start
    for target, port, space in ((FAR, 7000, world.vpc), (backend.ipv4, 7001, backend), (client.ipv4, 7002, client)):
        rule = f"ip daddr {VIP} udp dport {port} dnat to {target}:{port}"
        world.node.nft(f"table ip kube {{ chain pre {{ type nat hook prerouting priority -100; {rule}; }}; }}")
        with client.socket(client.ipv4) as asking, space.socket(target, port) as answering:
            asking.sendto(b"question", (VIP, port))
            _, sender = answering.recvfrom(64)
            assert sender[0] == NODE_IP
            answering.sendto(b"answer", sender)
            assert asking.recvfrom(64) == (b"answer", (VIP, port))
        world.node.nft("delete table ip kube")


async def test_without_host_peer_all_goes_by_the_eni(world: Exclusive, memory: Memory) -> None:
    """`disable_host_peer` in the CNI configuration (terway.md §2.3): kept with the pod, whatever it says by then."""
    limits = Bandwidth(ingress=1_250_000, egress=1_250_000)
    alone, ordinary = world.sandbox(ipv6=True, bandwidth=limits), world.sandbox()
    async with running(memory, ipv6=True) as dataplane:
        before = world.node.state()
        await dataplane.plug(Plug(replace(alone.lease, host_peer=False), alone.path))
        await plug(dataplane, ordinary)
        assert routes(alone) == {f"default via {SUBNET.gateway} dev eth0 onlink"}
        assert not any("veth1" in route for route in routes(alone, "-6"))
        assert "UP" not in alone.seen("link", "show", "veth1")[0]["flags"]
        assert alone.ip("-o", "addr", "show", "veth1") == alone.ip("neigh", "show", "dev", "veth1") == ""
        assert world.node.ip("route", "show", alone.ipv4) == world.node.ip("-6", "route", "show", alone.ipv6) == ""
        assert await problems_of(dataplane, alone) == [], "its CHECK comes with a lease that does not say so"
        assert talks(alone, alone.ipv4, world.vpc, FAR)
        assert talks(alone, alone.ipv6, world.vpc, FAR6)
        assert "tbf" in alone.qdisc("eth0") and "tbf" in alone.qdisc("terway-in") and "tbf" not in alone.qdisc("veth1")
        assert f"{SERVICES} via 169.254.1.1 dev veth1 onlink" in routes(ordinary)
    alone.ip("route", "del", "default")
    with inhabited(alone):
        async with running(memory, ipv6=True) as dataplane:
            await until(lambda: routes(alone) == {f"default via {SUBNET.gateway} dev eth0 onlink"})
            assert await problems_of(dataplane, alone) == await problems_of(dataplane, ordinary) == []
            await dataplane.limit(Limit(alone.lease.key, Bandwidth()))
            assert "tbf" not in alone.qdisc("eth0")
            for box in (alone, ordinary):
                await unplug(dataplane, box)
            await until(lambda: len(world.node.state().links) == len(before.links))
            assert world.at_home(alone) != []


async def test_a_host_peer_comes_and_goes_with_another_add(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    whole = routes(box)
    await dataplane.plug(Plug(replace(box.lease, host_peer=False), box.path))
    assert routes(box) == {f"default via {SUBNET.gateway} dev eth0 onlink"}
    assert await problems_of(dataplane, box) == []
    assert talks(box, box.ipv4, world.vpc, FAR)
    await plug(dataplane, box)
    assert routes(box) == whole
    assert await problems_of(dataplane, box) == []
    assert talks(box, box.ipv4, world.node, NODE_IP)


async def test_ranges_that_the_cni_configuration_states(world: Exclusive, dataplane: Dataplane) -> None:
    old, new = world.sandbox(), world.sandbox()
    await plug(dataplane, old)
    stated = (Cidr("10.9.0.0/16"), SERVICES)
    await dataplane.plug(Plug(new.lease, new.path, host_stack=stated))
    assert "10.9.0.0/16 via 169.254.1.1 dev veth1 onlink" in routes(new)
    with inhabited(old):
        await until(lambda: "10.9.0.0/16 via 169.254.1.1 dev veth1 onlink" in routes(old))  # by the next repair
    assert await problems_of(dataplane, old) == await problems_of(dataplane, new) == []


async def test_another_mode_takes_the_masquerading_away(world: Exclusive, memory: Memory) -> None:
    async with running(memory):
        await until(lambda: "terway_masq" in world.node.nft("list", "tables"))
    async with shared(memory):
        await until(lambda: "terway_masq" not in world.node.nft("list", "tables"))


async def test_dual_stack(world: Exclusive, memory: Memory) -> None:
    async with running(memory, ipv6=True) as dataplane:
        box = world.sandbox(ipv6=True)
        await plug(dataplane, box)
        assert {
            f"{SUBNET6.gateway} dev eth0",
            f"default via {SUBNET6.gateway} dev eth0 onlink",
            "fe80::1 dev veth1",
            f"{SERVICES6} via fe80::1 dev veth1 onlink",
            f"{NODE_IP6} via fe80::1 dev veth1 onlink",
        } <= routes(box, "-6")
        assert talks(box, box.ipv6, world.vpc, FAR6)
        assert talks(world.node, NODE_IP6, box, box.ipv6)
        assert talks(box, box.ipv6, world.node, NODE_IP6)
        assert await problems_of(dataplane, box) == []


async def test_a_repeated_plug_changes_nothing_and_mends_what_is_broken(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox(bandwidth=Bandwidth(ingress=1_000_000, egress=2_000_000))
    await plug(dataplane, box)
    before = box.state()
    await plug(dataplane, box)
    assert box.state() == before
    box.ip("link", "set", "terway-in", "down")
    assert await problems_of(dataplane, box) == [
        "sandbox: link terway-in mtu 1500 down should be link terway-in mtu 1500 up"
    ]
    await plug(dataplane, box)
    assert box.state() == before
    for damage in (
        "link set eth0 down",
        "link set eth0 mtu 1400",
        "addr flush dev eth0",
        "route del default",
        "link set veth1 down",
        "addr flush dev veth1",
        f"route del {SERVICES}",
        f"route del {NODE_IP}",
        "neigh del 169.254.1.1 dev veth1",
        "link del terway-in",
    ):
        box.ip(*damage.split())
        assert await problems_of(dataplane, box) != [], damage
        await plug(dataplane, box)
        assert await problems_of(dataplane, box) == [], damage
    for damage in ("qdisc del dev eth0 ingress", "qdisc del dev eth0 root", "qdisc del dev terway-in root"):
        box.tc(*damage.split())
        assert await problems_of(dataplane, box) != [], damage
        await plug(dataplane, box)
        assert await problems_of(dataplane, box) == [], damage
    assert box.state().rest == before.rest


async def test_a_link_that_is_not_the_eni_is_found(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    box.ip("link", "set", "eth0", "down")
    box.ip("link", "set", "eth0", "address", "02:00:00:00:00:99")
    box.ip("link", "set", "eth0", "up")
    assert any("is not the ENI" in problem for problem in await problems_of(dataplane, box))


@pytest.mark.parametrize("told", ["lease", "path", "nothing"])
async def test_the_eni_comes_home_with_del(told: str, world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox(bandwidth=Bandwidth(ingress=1_000_000))
    before = (world.node.state().rest, box.state())
    for _ in range(2):
        await plug(dataplane, box)
        request = {
            "lease": Unplug(box.lease.key, box.lease, box.path),
            "path": Unplug(box.lease.key, netns=box.path),
            "nothing": Unplug(box.lease.key),
        }[told]
        with inhabited(box):
            assert (await dataplane.unplug(request)).found
        (name,) = world.at_home(box)
        assert name.startswith("eth")
        await until(lambda: (world.node.state().rest, box.state()) == before)
        assert not (await dataplane.unplug(request)).found


async def test_it_comes_home_though_the_journal_knows_nothing(world: Exclusive, dataplane: Dataplane) -> None:
    """An earlier eni_manager plugged it; only the mark on the host link tells."""
    box = world.sandbox()
    async with running(Memory()) as earlier:
        await plug(earlier, box)
    async with running(Memory()) as later:
        with inhabited(box):
            assert (await later.ensure_eni(box.lease.eni_mac, SUBNET)).name == "eth0", (
                "a sandbox of ours may live there"
            )
            assert world.at_home(box) == []
            await later.unplug(Unplug(box.lease.key))
        assert world.at_home(box) != []


async def test_it_comes_home_after_a_failure(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox()
    box.ip("link", "add", "veth1", "type", "veth", "peer", "name", "other")
    with pytest.raises(Conflict):
        await plug(dataplane, box)
    assert world.at_home(box) != []
    box.ip("link", "del", "veth1")
    box.ip("link", "add", "eth0", "type", "bridge")
    with pytest.raises(Conflict, match="eth0 already exists"):
        await plug(dataplane, box)
    assert world.at_home(box) != []
    box.ip("link", "del", "eth0")
    # Refused by the kernel once the ENI is in: no address fits a link that cannot come up.
    box.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
    await plug(dataplane, box)
    assert world.at_home(box) == []


async def test_a_failure_inside_brings_it_home_at_once(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox()
    with pytest.raises(Exception, match=r"mtu|MTU|invalid|Invalid"):
        await dataplane.plug(Plug(lease=box.lease, netns=box.path, mtu=65536))
    assert world.at_home(box) != []
    await unplug(dataplane, box)
    await plug(dataplane, box)
    assert talks(box, box.ipv4, world.vpc, FAR)


async def test_a_namespace_that_ends_without_del(world: Exclusive, dataplane: Dataplane) -> None:
    """The kernel sends the device home; the next pod of the address waits for that, and nothing has to be told."""
    box = world.sandbox()
    await plug(dataplane, box)
    box.close()
    await until(lambda: not any(link.startswith("eni-") for link in world.vpc.links()))
    with pytest.raises(NotFound, match="no link of this node"):
        await dataplane.ensure_eni(box.lease.eni_mac, SUBNET)
    assert (await dataplane.unplug(Unplug(box.lease.key, box.lease))).found
    world.come_home(box)
    assert world.at_home(box) == ["dev101"]
    assert (await dataplane.ensure_eni(box.lease.eni_mac, SUBNET)).name == "dev101"


async def test_a_plug_waits_for_an_eni_that_is_on_its_way(world: Exclusive, dataplane: Dataplane) -> None:
    gone, fresh = world.sandbox(), world.sandbox()
    await plug(dataplane, gone)
    gone.close()
    await until(lambda: f"eni-{gone.lease.eni_mac[-2:]}" not in world.vpc.links())
    lease = gone.lease
    waiting = asyncio.create_task(
        dataplane.plug(Plug(lease=of_another_eni(fresh, lease), netns=fresh.path)), name="plug"
    )
    await asyncio.sleep(0)
    world.come_home(gone)
    await waiting
    assert fresh.seen("link", "show", "eth0")[0]["address"] == lease.eni_mac


async def test_what_is_held_in_a_namespace_of_nobody_is_fetched(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    with inhabited(box):
        world.node.ip("link", "del", box.lease.host_link)  # with it goes what says whose the sandbox is
        assert box.links() == ["lo", "eth0"]
        await dataplane.unplug(Unplug(box.lease.key, box.lease))
        assert world.at_home(box) != []
    await plug(dataplane, box)
    with inhabited(box):
        world.node.ip("link", "del", box.lease.host_link)
        async with running(Memory()) as later:  # whose journal does not know the pod
            await later.ensure_eni(box.lease.eni_mac, SUBNET)
            assert world.at_home(box) != []


async def test_another_mode_fetches_what_this_one_left(world: Exclusive, memory: Memory) -> None:
    box = world.sandbox()
    async with running(memory) as dataplane:
        await plug(dataplane, box)
    with inhabited(box):
        async with shared(memory) as dataplane:
            with pytest.raises(NotFound, match=box.lease.eni_mac):  # its pod lives
                await dataplane.ensure_eni(box.lease.eni_mac, SUBNET)
            world.node.ip("link", "del", box.lease.host_link)
            found = await dataplane.ensure_eni(box.lease.eni_mac, SUBNET)
            assert world.at_home(box) == [found.name]


async def test_an_eni_that_another_sandbox_has_is_not_taken_from_it(world: Exclusive, dataplane: Dataplane) -> None:
    one, two = world.sandbox(), world.sandbox()
    await plug(dataplane, one)
    with inhabited(one), pytest.raises(Conflict):
        await dataplane.plug(Plug(lease=of_another_eni(two, replace(one.lease, ipv4=two.ipv4)), netns=two.path))
    assert one.seen("link", "show", "eth0")[0]["address"] == one.lease.eni_mac
    assert talks(one, one.ipv4, world.vpc, FAR)


async def test_slaves_of_the_eni_are_not_taken_for_it(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    box.ip("link", "add", "macvlan0", "link", "eth0", "type", "macvlan", "mode", "passthru")  # with the ENI's own MAC
    await unplug(dataplane, box)
    assert len(world.at_home(box)) == 1


# ---- limits


async def test_limits_come_change_and_go(world: Exclusive, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    unlimited = box.tc("qdisc"), box.state()
    with inhabited(box):
        await dataplane.limit(Limit(box.lease.key, Bandwidth(ingress=1_000_000, egress=2_000_000)))
        assert "rate 16Mbit" in box.qdisc("eth0") and "rate 16Mbit" in box.qdisc("veth1")
        assert "rate 8Mbit" in box.qdisc("terway-in")
        for link in ("eth0", "veth1"):
            assert "mirred (Egress Redirect to device terway-in)" in box.tc("filter", "show", "dev", link, "ingress")
        assert talks(box, box.ipv4, world.vpc, FAR)
        assert talks(world.node, NODE_IP, box, box.ipv4)
        await dataplane.limit(Limit(box.lease.key, Bandwidth(ingress=3_000_000)))
        assert "tbf" not in box.qdisc("eth0") + box.qdisc("veth1")
        assert "rate 24Mbit" in box.qdisc("terway-in")
        await dataplane.limit(Limit(box.lease.key, Bandwidth()))
        assert (box.tc("qdisc"), box.state()) == unlimited


def of_another_eni(box: Sandbox, lease: Lease) -> Lease:
    """The sandbox's lease, but of the address and the ENI of another."""
    return replace(box.lease, eni_mac=lease.eni_mac, ipv4=lease.ipv4)
