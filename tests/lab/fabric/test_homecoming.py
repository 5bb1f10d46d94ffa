"""An ENI whose namespace ends comes home to its node, as hardware does; one that is unplugged does not."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.fabric import kernel
from compose.lab.fabric.homecoming import departed
from compose.lab.fabric.survey import Link
from compose.lab.waiting import until
from tests.lab.fabric.nodes import ETH1, POD1, Nodes

MAC = "00:16:3e:00:00:10"


async def device(nodes: Nodes) -> list[Link]:
    return [link for link in await nodes.fabric.links("node1") if link.mac == MAC]


async def moved_into_a_pod(nodes: Nodes) -> str:
    """The ENI for pods, in a namespace of its own, as eth0."""
    pod = f"{nodes.netns('node1')}-pod"
    await asyncio.to_thread(kernel.add, pod)
    [link] = await device(nodes)
    await nodes.ip("node1", f"link set {link.name} down")
    await nodes.ip("node1", f"link set {link.name} netns {pod} name eth0")
    assert await device(nodes) == []
    return pod


@pytest.mark.system
async def test_the_namespace_ends(nodes: Nodes) -> None:
    for _ in range(2):
        pod = await moved_into_a_pod(nodes)
        await asyncio.to_thread(kernel.delete, pod)

        async def missing() -> str:
            return "" if await device(nodes) else "the ENI is not at home"

        await until(missing, what="the ENI comes home", within_s=10)
        [link] = await device(nodes)
        assert (link.name, link.up, link.addresses) == ("dev0", False, []), "as the kernel leaves hardware"
        assert (await nodes.fabric.delivered())[POD1] == ETH1


@pytest.mark.system
async def test_an_eni_that_was_unplugged_stays_away(nodes: Nodes) -> None:
    pod = await moved_into_a_pod(nodes)
    await nodes.fabric.unplug(ETH1)
    await asyncio.to_thread(kernel.delete, pod)
    assert await device(nodes) == []


@pytest.mark.system
async def test_an_eni_that_is_unplugged_while_its_departure_is_told_stays_away(nodes: Nodes) -> None:
    nodes.fabric._link_gone(ETH1)  # as from the kernel's news; nobody has acted on them yet
    await nodes.fabric.unplug(ETH1)
    for _ in range(2):  # through the fabric's one thread, behind whatever the news have led to
        assert await device(nodes) == []


def told(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    body = bytes(16) + b"".join(
        struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4) for number, value in attributes
    )
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_departures_are_read_among_other_news() -> None:
    gone = told(17, (1, b"123456"), (3, b"eni-1\0"), (13, bytes(4)))
    assert departed(told(16, (3, b"eni-0\0")) + gone + told(17, (3, b"eni-2\0"))) == ["eni-1", "eni-2"]
    assert departed(told(17)) == []


@given(st.binary(max_size=96))
def test_no_bytes_upset_it(noise: bytes) -> None:
    departed(noise)
    departed(told(17, (3, b"x\0"))[:16] + noise)
