"""An ENI is hardware: what the kernel does with it when its namespace ends, and that a pod's own ENI survives that.

The guest has two network cards with a cable between them: one is the ENI, the other the VPC's end of it. The first
namespace is the node, as on a real machine, for it is there that the kernel sends hardware.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from compose.guest.machine import NICS
from services.eni_manager.adapters import netns
from services.eni_manager.core.wiring.values import Node
from services.eni_manager.dataplane import Dataplane
from shared.contracts.eni import Check, Plug, Unplug
from shared.contracts.ipam import Bandwidth, Lease
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, PodKey, Subnet
from tests.kernel.needs import LACKS
from tests.system.dataplane.world import Memory, Sandbox, Space, serving, talks

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        "TERWAY_GUEST" not in os.environ, reason=f"{LACKS}the guest's network cards; see make test-kernel"
    ),
]

ENI, FAR_END = NICS
OWN, FAR = Ip("192.168.32.17"), "192.168.63.253"


class Here(Space):
    """The namespace that this runs in."""

    def __init__(self) -> None:
        self.fd = netns.own_netns()


class Site(NamedTuple):
    node: Here
    far: Space


@pytest.fixture
def site() -> Iterator[Site]:
    """The first namespace, where the cards are, and an eth0 that is the node's; one card is elsewhere."""
    home = Here()
    for number, mac in enumerate(NICS):
        home.ip("link", "set", name_of(home, mac), "down")
        home.ip("link", "set", name_of(home, mac), "name", f"card{number}")
    home.ip("link", "add", "eth0", "type", "dummy")
    far = Space(home.fd)
    home.ip("link", "set", name_of(home, FAR_END), "netns", far.path, "name", "far")
    far.ip("link", "set", "far", "up")
    far.ip("addr", "add", f"{FAR}/19", "dev", "far")
    yield Site(home, far)
    far.close()
    ends = time.monotonic() + 30
    while not names_of(home, FAR_END):  # it comes home, too
        assert time.monotonic() < ends
        time.sleep(0.05)
    home.ip("link", "del", "eth0")
    home.close()


def names_of(space: Space, mac: str) -> list[str]:
    return [link["ifname"] for link in space.seen("link") if link.get("address") == mac]


def name_of(space: Space, mac: str) -> str:
    [name] = names_of(space, mac)
    return name


async def until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 the kernel's worker tells nobody
            await asyncio.sleep(0.05)


async def test_the_kernel_sends_hardware_home(site: Site) -> None:
    """What compose/lab/fabric/homecoming.py does for the lab's ENIs."""
    here = site.node
    pod = Space(here.fd)
    here.ip("link", "set", name_of(here, ENI), "down")
    here.ip("link", "set", name_of(here, ENI), "netns", pod.path, "name", "eth0")
    pod.ip("link", "set", "eth0", "up")
    pod.ip("addr", "add", f"{OWN}/32", "dev", "eth0")
    assert names_of(here, ENI) == []
    pod.close()
    await until(lambda: bool(names_of(here, ENI)))
    [seen] = [link for link in here.seen("addr", "show") if link["address"] == ENI]
    assert seen["ifname"].startswith("dev"), "the node has an eth0"
    assert "UP" not in seen["flags"] and seen["addr_info"] == []


async def test_a_pods_own_eni_goes_in_works_and_comes_home(site: Site) -> None:
    here, node = site.node, Node(Ip("10.0.0.5"), mode=Mode.EXCLUSIVE_ENI)
    async with serving(Dataplane(node, Memory(), linger_s=0.01, repair_s=3600.0)) as dataplane:
        for number, ends in enumerate(("del", "gone", "del")):
            pod = Sandbox(here.fd)
            pod.ip("link", "set", "lo", "up")
            lease = lease_of(number)
            await dataplane.plug(Plug(lease, pod.path))
            assert (await dataplane.check(Check(lease, pod.path))).problems == []
            assert name_of(pod, ENI) == "eth0" and names_of(here, ENI) == []
            assert talks(pod, OWN, site.far, FAR, within_s=20)
            if ends == "gone":
                pod.close()
                await until(lambda: bool(names_of(here, ENI)))
            await dataplane.unplug(Unplug(lease.key, lease, None if ends == "gone" else pod.path))
            assert len(names_of(here, ENI)) == 1
            pod.close()


def lease_of(number: int) -> Lease:
    return Lease(
        key=AttachmentKey("terway", f"hard{number}", "eth0"),
        pod=PodKey("default", "hard"),
        pod_uid="",
        mode=Mode.EXCLUSIVE_ENI,
        host_link="calihard0000000",
        eni_id=EniId("eni-hard"),
        eni_mac=Mac(ENI),
        ipv4=OWN,
        subnet4=Subnet(Cidr("192.168.32.0/19"), Ip(FAR)),
        bandwidth=Bandwidth(ingress=10_000_000),
    )
