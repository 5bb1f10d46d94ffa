"""CHECK finds whatever is broken, repair mends the node's side, and a pod's end leaves nothing, whatever the mode."""

import pytest

from compose.lab import audit
from compose.lab.sandbox import Sandbox
from tests.system.modes.site import Site, eventually, inside

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

LIMITS = {"k8s.aliyun.com/ingress-bandwidth": "10M", "k8s.aliyun.com/egress-bandwidth": "10M"}

ON_NODE = {
    "the route to the pod": "ip route del {ip}",
    "the rule to the pod": "ip rule del priority 512 to {ip}",
    "the rule from the pod": "ip rule del priority 2048 from {ip}",
    "the ENI's routes": "ip route flush table {table}",
    "the ENI's address": "ip addr flush dev {eni}",
    "the ENI's MTU": "ip link set {eni} mtu 1400",
    "the ENI is down": "ip link set {eni} down",
    "the host link is down": "ip link set {link} down",
    "forwarding is off": "sysctl -qw net.ipv4.conf.{link}.forwarding=0",
    "rp_filter is on": "sysctl -qw net.ipv4.conf.{eni}.rp_filter=1",
    "the limit": "tc qdisc del dev {link} root",
    "another limit": "tc qdisc replace dev {link} root handle 1: tbf rate 1gbit burst 512k latency 25ms",
}
IN_POD = {
    "the address": "ip addr flush dev eth0",
    "another address": "ip addr add 192.168.200.1/32 dev eth0",
    "the default route": "ip route del default",
    "the gateway's MAC": "ip neigh del 169.254.1.1 dev eth0",
    "the MTU": "ip link set eth0 mtu 1400",
    "the interface is down": "ip link set eth0 down",
    "the limit": "tc qdisc del dev eth0 root",
}


def names(site: Site, node: str, sandbox: Sandbox) -> dict[str, str]:
    """What the damages name: the pod's address, its host link, its ENI and that ENI's table."""
    [address] = sandbox.addresses
    entry = site.node(node).netns
    link = inside(entry, "ip", "route", "show", address).split(" dev ")[1].split()[0]
    [rule] = [line for line in inside(entry, "ip", "rule").splitlines() if f"from {address} lookup" in line]
    table = rule.split("lookup ")[1].split()[0]
    eni = inside(entry, "ip", "route", "show", "table", table).split(" dev ")[1].split()[0]
    return {"ip": address, "link": link, "eni": eni, "table": table}


@pytest.mark.parametrize("damage", ON_NODE)
async def test_damage_on_the_node_is_found_and_mended(damage: str, site: Site) -> None:
    async with site.pod("damaged", "node1", **LIMITS) as sandbox:
        assert await site.check("node1", sandbox) == ""
        inside(site.node("node1").netns, *ON_NODE[damage].format(**names(site, "node1", sandbox)).split())
        assert "node: " in await site.check("node1", sandbox)
        await site.repair("node1")
        await eventually(lambda: site.check("node1", sandbox), "")
        assert await site.by("outside", "default/damaged:80/tcp") == "default/damaged"
        assert await site.by("default/damaged", "node2:80/tcp") == "node2"


async def test_damage_in_the_pod_is_found(site: Site) -> None:
    for damage, command in IN_POD.items():
        async with site.pod("damaged", "node1", **LIMITS) as sandbox:
            assert await site.check("node1", sandbox) == ""
            inside(sandbox.entry, *command.split())
            assert "sandbox: " in await site.check("node1", sandbox), damage


async def test_a_pod_without_its_interface_is_found_and_ends_well(site: Site) -> None:
    async with site.pod("damaged", "node1") as sandbox:
        inside(sandbox.entry, "ip", "link", "del", "eth0")
        assert "eth0" in await site.check("node1", sandbox)
    assert (await audit.until_clean(site.layout, site.record)).problems == []


async def test_the_end_of_a_pod_leaves_nothing(site: Site) -> None:
    async def state() -> list[str]:
        return site.state("node1")

    async with site.pod("first", "node1"):  # what portmap makes once, and the ENI, stay
        pass
    before = site.state("node1")
    async with site.pod("brief", "node1", **LIMITS) as sandbox:
        assert site.state("node1") != before
        assert sandbox.addresses[0] in "".join(site.state("node1"))
    await eventually(state, before)
    async with site.pod_with_host_port("ported", "node1", host_port=8080):
        assert "8080" in "".join(site.state("node1"))
    assert "8080" not in "".join(site.state("node1"))
    assert (await audit.until_clean(site.layout, site.record)).problems == []
