"""CHECK finds whatever is broken, repair mends the node's side, and a pod's end leaves nothing, whatever the mode."""

import re
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from compose.lab import audit
from compose.lab.sandbox import Sandbox
from shared.model import Mode
from tests.system.modes.modes import MODES
from tests.system.modes.site import Site, eventually, inside

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

LIMITS = {"k8s.aliyun.com/ingress-bandwidth": "10M", "k8s.aliyun.com/egress-bandwidth": "10M"}


def names(site: Site, node: str, sandbox: Sandbox) -> dict[str, str]:
    """What the damages name: the pod's address, its host link and, where it is on one, its ENI and that ENI's table.

    Where all pods of an ENI share the host link, that is on the ENI itself.
    """
    address = sandbox.addresses[0]
    entry = site.node(node).netns
    link = inside(entry, "ip", "route", "show", address).split(" dev ")[1].split()[0]
    rules = [line for line in inside(entry, "ip", "rule").splitlines() if f"from {address} lookup" in line]
    common = {"ip": address, "link": link, "python": sys.executable}
    if site.mode is Mode.SHARED_IPVLAN:
        return common | {"eni": inside(entry, "ip", "-o", "link", "show", link).split("@")[1].partition(":")[0]}
    if not rules:
        return common
    table = rules[0].split("lookup ")[1].split()[0]
    eni = inside(entry, "ip", "route", "show", "table", table).split(" dev ")[1].split()[0]
    return common | {"eni": eni, "table": table}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def victim(site: Site) -> AsyncIterator[Sandbox]:
    """Of everything on the node: whole again after each test."""
    async with site.pod("victim", "node1", **LIMITS) as sandbox:
        yield sandbox


async def test_damage_on_the_node_is_found_and_mended(damage: str, site: Site, victim: Sandbox) -> None:
    command = MODES[site.mode].on_node[damage].format(**names(site, "node1", victim))
    assert await site.check("node1", victim) == ""
    inside(site.node("node1").netns, *command.split())
    assert "node: " in await site.check("node1", victim)
    await site.repair("node1")
    await eventually(lambda: site.check("node1", victim), "")
    # On a busy machine the kernel may take a second until a link that came up sends, too.
    await eventually(lambda: site.by("outside", "default/victim:80/tcp"), "default/victim")
    await eventually(lambda: site.by("default/victim", "node2:80/tcp"), "node2")


async def test_damage_in_the_pod_is_found(site: Site) -> None:
    """One after another, each by a sentence of its own."""
    known: set[str] = set()
    async with site.pod("damaged", "node1", **LIMITS) as sandbox:
        assert await site.check("node1", sandbox) == ""
        for damage, command in reversed(MODES[site.mode].in_pod.items()):
            inside(sandbox.entry, *command.format(node=site.address("node1")).split())
            said = set(re.findall(r"sandbox: .+?(?=; | \(|\)$|$)", await site.check("node1", sandbox)))
            assert said - known, f"{damage}: CHECK says nothing about it beside {known}"
            known |= said


async def test_what_is_lost_in_the_pod_is_put_back(site: Site) -> None:
    in_pod = MODES[site.mode].in_pod
    lost = {what: command for what, command in in_pod.items() if " del " in command or "flush" in command}
    assert "the default route" in lost and "the address" in lost
    async with site.pod("damaged", "node1", **LIMITS) as sandbox:
        for command in reversed(lost.values()):
            inside(sandbox.entry, *command.format(node=site.address("node1")).split())
        assert (await site.check("node1", sandbox)).count("is missing") >= len(lost)
        await site.repair("node1")
        await eventually(lambda: site.check("node1", sandbox), "")
        await eventually(lambda: site.by("default/damaged", "outside:80/tcp"), "outside")


async def test_what_somebody_does_in_the_pod_stays(site: Site) -> None:
    """It may be a chained plugin's, or the pod's own: CHECK reports it, repair does not fight it."""
    async with site.pod("damaged", "node1") as sandbox:
        inside(sandbox.entry, "ip", "addr", "add", "192.168.200.1/32", "dev", "eth0")
        inside(sandbox.entry, "ip", "link", "set", "eth0", "mtu", "1400")
        inside(sandbox.entry, "ip", "route", "add", "192.0.2.0/24", "dev", "lo")
        before = await site.check("node1", sandbox)
        inside(sandbox.entry, "ip", "route", "del", "default")

        async def differs() -> str:
            return await site.check("node1", sandbox)

        await site.repair("node1")
        await eventually(differs, before)
        assert "192.0.2.0/24" in inside(sandbox.entry, "ip", "route")


async def test_a_pod_without_its_interface_is_found_and_ends_well(site: Site) -> None:
    async with site.pod("damaged", "node1") as sandbox:
        inside(sandbox.entry, "ip", "link", "del", "eth0")
        assert "eth0" in await site.check("node1", sandbox)
    assert (await audit.until_clean(site.layout, site.record)).problems == []


async def test_the_end_of_a_pod_leaves_nothing(site: Site) -> None:
    async def state() -> list[str]:
        return site.state("node1")

    async def retired() -> list[str]:  # links that are deleted in the background
        return [line for line in site.state("node1") if ": gone" in line]

    async with site.pod("first", "node1"):  # what portmap makes once, and the ENI, stay
        pass
    await eventually(retired, [])
    before = site.state("node1")
    async with site.pod("brief", "node1", **LIMITS) as sandbox:
        assert site.state("node1") != before
        assert sandbox.addresses[0] in "".join(site.state("node1"))
    await eventually(state, before)
    async with site.pod_with_host_port("ported", "node1", host_port=8080):
        assert "8080" in "".join(site.state("node1"))
    assert "8080" not in "".join(site.state("node1"))
    assert (await audit.until_clean(site.layout, site.record)).problems == []
