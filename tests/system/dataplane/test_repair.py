"""CHECK says what is damaged on either side; repair mends the node's side of live pods, and nothing else."""

import pytest

from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Check
from tests.system.dataplane.world import (
    ENI_MAC,
    FAR,
    Memory,
    World,
    announced,
    plug,
    problems_of,
    running,
    talks,
    until,
)

pytestmark = pytest.mark.system

_NEWROUTE, _NEWRULE, _DELRULE = 24, 32, 33

NODE_DAMAGE = {
    "rule del priority 512": ["node: rule 512: from all lookup 512 is missing"],
    "rule add priority 512 to {ip} lookup 77": ["node: rule 512: from all to {ip}/32 lookup 77 should not be there"],
    "rule del priority 2048": ["node: rule 2048: from {ip}/32 lookup {table} is missing"],
    "rule add priority 2048 from {ip} lookup 77": [
        "node: rule 2048: from {ip}/32 lookup 77 should not be there",
    ],
    "route del {ip} dev {link}": ["node: route {ip}/32 dev {link} scope link is missing"],
    "route del {ip} table 512": ["node: route {ip}/32 dev {link} scope link table 512 is missing"],
    "route flush table 512": ["node: route {ip}/32 dev {link} scope link table 512 is missing"],
    "route replace {ip} dev eth0": ["node: route {ip}/32 dev {link} scope link is missing"],
    "route flush table {table}": ["node: route default via 192.168.63.253 dev eth1 onlink table {table} is missing"],
    "addr flush dev eth1": [
        "node: address 10.0.0.5/32 dev eth1 is missing",
        "node: route default via 192.168.63.253 dev eth1 onlink table {table} is missing",
    ],
    "addr add 192.168.32.2/19 dev eth1": ["node: address 192.168.32.2/19 dev eth1 should not be there"],
    "link set eth1 mtu 1400": ["node: link eth1 mtu 1400 up should be link eth1 mtu 1500 up"],
    "link set eth1 down": [
        "node: link eth1 mtu 1500 down should be link eth1 mtu 1500 up",
        "node: route default via 192.168.63.253 dev eth1 onlink table {table} is missing",
    ],
    "link set {link} down": [
        "node: link {link} mtu 1500 down should be link {link} mtu 1500 up",
        "node: route {ip}/32 dev {link} scope link is missing",
        "node: route {ip}/32 dev {link} scope link table 512 is missing",
    ],
}
SETTINGS = {
    "net/ipv4/conf/all/forwarding": "1",
    "net/ipv4/conf/{link}/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/eth1/rp_filter": "0",
}
SANDBOX_DAMAGE = {
    "neigh del 169.254.1.1 dev eth0": ["neighbour 169.254.1.1 lladdr {mac} dev eth0 permanent is missing"],
    "neigh replace 169.254.1.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent": [
        "neighbour 169.254.1.1 lladdr {mac} dev eth0 permanent is missing"
    ],
    "route del default": ["route default via 169.254.1.1 dev eth0 onlink is missing"],
    "addr flush dev eth0": [
        "address {ip}/32 dev eth0 is missing",
        "route default via 169.254.1.1 dev eth0 onlink is missing",
    ],
    "link set eth0 mtu 1400": ["link eth0 mtu 1400 up should be link eth0 mtu 1500 up"],
    "link set eth0 name eth9": ["link eth0 mtu 1500 up is missing"],
}


def filled(text: str, world: World, link: str, address: str) -> str:
    mac = world.node.seen("link", "show", link)[0]["address"]
    table = 1000 + int(world.node.seen("link", "show", "eth1")[0]["ifindex"])
    return text.format(ip=address, link=link, table=table, mac=mac)


@pytest.mark.parametrize("damage", NODE_DAMAGE)
async def test_damage_on_the_node_is_found_and_mended(damage: str, world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    assert await problems_of(dataplane, box) == []
    whole = world.node.state()
    expected = [filled(text, world, box.lease.host_link, box.ipv4) for text in NODE_DAMAGE[damage]]
    world.node.ip(*filled(damage, world, box.lease.host_link, box.ipv4).split())
    assert await problems_of(dataplane, box) == expected
    dataplane.repair()
    await until(lambda: world.node.state() == whole)
    assert await problems_of(dataplane, box) == []
    assert talks(box, box.ipv4, world.vpc, FAR)


@pytest.mark.parametrize("setting", SETTINGS)
async def test_settings_that_others_flipped_are_found_and_mended(
    setting: str, world: World, dataplane: Dataplane
) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    path, good = setting.format(link=box.lease.host_link), SETTINGS[setting]
    bad = "0" if good == "1" else "1"
    world.node.sysctl(path, bad)
    # Flipping `all` flips the others too, and mending it mends them.
    assert f"node: sysctl {path} = {bad} should be sysctl {path} = {good}" in await problems_of(dataplane, box)
    dataplane.repair()
    await until(lambda: world.node.sysctl(path) == good)
    assert await problems_of(dataplane, box) == []


@pytest.mark.parametrize("damage", SANDBOX_DAMAGE)
async def test_damage_in_the_sandbox_is_found(damage: str, world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    expected = [f"sandbox: {filled(text, world, box.lease.host_link, box.ipv4)}" for text in SANDBOX_DAMAGE[damage]]
    box.ip(*damage.split())
    found = await problems_of(dataplane, box)
    assert set(expected) <= set(found)
    assert all(problem.startswith("sandbox: ") for problem in found)


async def test_what_others_add_is_no_damage(world: World, dataplane: Dataplane) -> None:
    """Plugins later in the chain may change things (CNI section 2, CHECK)."""
    box = world.sandbox()
    await plug(dataplane, box)
    box.ip("link", "add", "extra0", "type", "veth", "peer", "name", "extra1")
    box.ip("route", "add", "198.51.100.0/24", "via", "169.254.1.1", "dev", "eth0", "onlink")
    box.tc("qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "16k", "latency", "25ms")
    world.node.ip("rule", "add", "priority", "600", "from", box.ipv4, "lookup", "100")
    assert await problems_of(dataplane, box) == []


async def test_check_of_what_is_gone_says_so(world: World, dataplane: Dataplane) -> None:
    box, other = world.sandbox(), world.sandbox()
    assert any(box.lease.host_link in problem for problem in await problems_of(dataplane, box))
    await plug(dataplane, box)
    await plug(dataplane, other)
    world.node.ip("link", "del", "eth1")
    assert await problems_of(dataplane, box) == [f"no link of this node has MAC {ENI_MAC}"]
    path = other.path
    other.close()
    (problem,) = (await dataplane.check(Check(lease=other.lease, netns=path))).problems
    assert path in problem


async def test_repair_at_start_after_interference(world: World, memory: Memory) -> None:
    boxes = [world.sandbox(ipv6=True) for _ in range(3)]
    async with running(memory) as dataplane:
        for box in boxes:
            await plug(dataplane, box)
        whole = world.node.state()
    for family in ("-4", "-6"):
        for priority in ("512", "2048"):
            world.node.ip(family, "rule", "del", "priority", priority)
    world.node.ip("route", "del", boxes[0].ipv4)
    async with running(memory):
        await until(lambda: world.node.state() == whole)


async def test_repair_takes_away_what_dead_pods_left_and_nothing_foreign(
    world: World, dataplane: Dataplane, memory: Memory
) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    whole = world.node.state()
    world.node.ip("rule", "add", "priority", "512", "to", "192.168.32.99", "lookup", "main", "protocol", "84")
    world.node.ip("rule", "add", "priority", "2048", "from", "192.168.32.99", "lookup", "1003", "protocol", "84")
    dataplane.repair()
    await until(lambda: world.node.state() == whole)
    foreign = (
        ("512", "to", "192.168.32.98", "lookup", "main"),  # not marked
        ("600", "from", "192.168.32.97", "lookup", "100", "protocol", "84"),  # not our priority
        ("2048", "from", "192.168.32.96", "fwmark", "1", "lookup", "77", "protocol", "84"),  # not our shape
    )
    for rule in foreign:
        world.node.ip("rule", "add", "priority", *rule)
    world.node.ip("rule", "del", "priority", "2048", "from", box.ipv4)
    damaged = world.node.state()
    dataplane.repair()
    await until(lambda: world.node.state() != damaged)
    assert [world.node.rules_about(rule[2]) for rule in foreign] == [1, 1, 1]
    assert world.node.rules_about(box.ipv4) == 1


async def test_pods_of_an_earlier_release_are_found_all_the_while(world: World, memory: Memory) -> None:
    """It made a rule per pod; so did Terway, unmarked. They go when the one for all and its routes stand."""
    marked, plain, foreign = world.sandbox(ipv6=True), world.sandbox(), world.sandbox()
    async with running(memory) as dataplane:
        for box in (marked, plain):
            await plug(dataplane, box)
        whole = world.node.state()
    world.node.ip("route", "flush", "table", "512")
    world.node.ip("-6", "route", "flush", "table", "512")
    for family in ("-4", "-6"):
        world.node.ip(family, "rule", "del", "priority", "512")
    mark = ("protocol", "84")
    for family, address, *more in (("-4", marked.ipv4, *mark), ("-6", marked.ipv6, *mark), ("-4", plain.ipv4)):
        world.node.ip(family, "rule", "add", "priority", "512", "to", address, "lookup", "main", *more)
    world.node.ip("rule", "add", "priority", "512", "to", foreign.ipv4, "lookup", "main")
    assert talks(marked, marked.ipv4, plain, plain.ipv4)
    with announced(world.node) as told:
        async with running(memory):
            await until(lambda: world.node.rules_about(marked.ipv4) == world.node.rules_about(plain.ipv4) == 1)
            await until(lambda: f"to {marked.ipv6}" not in world.node.ip("-6", "rule"))
    order = [kind for kind in told if kind in (_NEWROUTE, _NEWRULE, _DELRULE)]
    assert (order.count(_NEWROUTE), order.count(_NEWRULE)) == (3, 2)
    assert order[5:] == [_DELRULE] * 3, "whatever is new comes first"
    assert world.node.rules_about(foreign.ipv4) == 1, "it is no pod's of ours"
    world.node.ip("rule", "del", "priority", "512", "to", foreign.ipv4)
    assert world.node.state() == whole


async def test_repair_marks_a_link_whose_plug_died_before_it_could(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box)
    whole = world.node.state()
    world.node.ip("link", "set", box.lease.host_link, "alias", "")
    dataplane.repair()
    await until(lambda: world.node.state() == whole)


async def test_repair_keeps_an_mtu_that_the_runtime_asked_for(world: World, dataplane: Dataplane) -> None:
    box = world.sandbox()
    await plug(dataplane, box, mtu=1400)
    whole = world.node.state()
    world.node.ip("rule", "del", "priority", "512")
    dataplane.repair()
    await until(lambda: world.node.state() == whole)
    assert world.node.seen("link", "show", box.lease.host_link)[0]["mtu"] == 1400


async def test_repair_passes_over_a_pod_whose_link_is_gone(world: World, dataplane: Dataplane) -> None:
    dead, live = world.sandbox(), world.sandbox()
    await plug(dataplane, dead)
    await plug(dataplane, live)
    world.node.ip("link", "del", dead.lease.host_link)
    world.node.ip("rule", "del", "priority", "2048", "from", live.ipv4)
    dataplane.repair()
    await until(lambda: world.node.rules_about(live.ipv4) == 1)
    shown = {item.key: item.alive for item in (await dataplane.attachments()).attachments}
    assert shown == {dead.lease.key: False, live.lease.key: True}
