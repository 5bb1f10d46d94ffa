"""The account's decisions reach the fabric in order, and a fabric that fails is seen."""

import asyncio

import pytest

from compose.lab.cloud import Account, Cloud, NullFabric
from compose.lab.cloud.core.model import Delays, EniStatus
from shared.model import Ip, Mac


class Recorder(NullFabric):
    """Writes down what it is asked; `gate` holds it up, `broken` makes it fail."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def note(self, what: str) -> None:
        await self.gate.wait()
        self.asked.append(what)
        self.heard.put_nowait(what)
        if self.broken:
            raise RuntimeError("the kernel says no")

    async def add_node(self, node: str) -> None:
        await self.note(f"add {node}")

    async def remove_node(self, node: str) -> None:
        await self.note(f"remove {node}")

    async def plug(
        self, eni: str, *, mac: Mac, vswitch: str, node: str, addresses: tuple[Ip, ...], primary: bool
    ) -> None:
        await self.note(f"plug {eni} {len(addresses)}")

    async def unplug(self, eni: str) -> None:
        await self.note(f"unplug {eni}")

    async def assign(self, eni: str, addresses: tuple[Ip, ...]) -> None:
        await self.note(f"assign {eni} {len(addresses)}")

    async def unassign(self, eni: str, addresses: tuple[Ip, ...]) -> None:
        await self.note(f"unassign {eni} {len(addresses)}")


def account(attach: float = 0.0) -> Account:
    return Account(delays=Delays(*[(attach, attach)] * 3, (0, 0), (0, 0)))


async def test_effects_come_in_the_order_of_the_decisions() -> None:
    fabric = Recorder()
    async with Cloud(account(), fabric) as cloud:
        now = cloud.clock()
        node = cloud.account.run_instance("n", vswitch="vsw-lab-a", instance_type="ecs.g6.2xlarge", now=now)
        await cloud.world.settle()
        eni = cloud.account.create_eni(vswitch="vsw-lab-a", security_groups=["sg-lab"], now=now)
        cloud.account.attach_eni(eni.id, node.id, now)
        await cloud.world.settle()
        fresh = cloud.account.assign_ipv4(eni.id, now, count=3)
        cloud.account.unassign_ipv4(eni.id, now, fresh[:2])
        cloud.account.release_instance(node.id)
        await cloud.world.settle()
    p, e = node.primary_eni, eni.id
    assert fabric.asked == [
        *("add n", f"plug {p} 1", f"plug {e} 1", f"assign {e} 3", f"unassign {e} 2"),
        *(f"unplug {p}", f"unplug {e}", "remove n"),
    ]


async def test_an_interface_is_in_use_only_when_the_fabric_has_plugged_it() -> None:
    fabric = Recorder()
    async with Cloud(account(), fabric) as cloud:
        fabric.gate.clear()
        node = cloud.account.run_instance("n", vswitch="vsw-lab-a", instance_type="ecs.g7.large", now=cloud.clock())
        settling = asyncio.create_task(cloud.world.settle())
        await asyncio.sleep(0)
        primary = cloud.account.eni(node.primary_eni)
        assert primary.status is EniStatus.ATTACHING and not settling.done()
        fabric.gate.set()
        await settling
        assert primary.status.value == "InUse"


async def test_what_takes_time_happens_without_being_asked() -> None:
    fabric = Recorder()
    async with Cloud(account(attach=0.05), fabric) as cloud:
        now = cloud.clock()
        node = cloud.account.run_instance("n", vswitch="vsw-lab-a", instance_type="ecs.g7.large", now=now)
        eni = cloud.account.create_eni(vswitch="vsw-lab-a", security_groups=["sg-lab"], now=now)
        cloud.account.advance(now + 0.05)
        cloud.account.attach_eni(eni.id, node.id, now)
        await cloud.world.settle()
        async with asyncio.timeout(5):
            while await fabric.heard.get() != f"plug {eni.id} 1":
                pass
        await cloud.world.settle()
        assert eni.status.value == "InUse"


async def test_a_fabric_that_fails_is_seen_and_does_not_stop_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    fabric = Recorder()
    async with Cloud(account(), fabric) as cloud:
        fabric.broken = True
        node = cloud.account.run_instance("n", vswitch="vsw-lab-a", instance_type="ecs.g7.large", now=cloud.clock())
        await cloud.world.settle()
        assert cloud.account.eni(node.primary_eni).status is EniStatus.ATTACHING, "it never said that it was done"
        assert len(cloud.world.failures) == 2 and "the kernel says no" in cloud.world.failures[0]
        fabric.broken = False
        cloud.account.run_instance("m", vswitch="vsw-lab-a", instance_type="ecs.g7.large", now=cloud.clock())
        await cloud.world.settle()
        assert fabric.asked[-2:][0] == "add m"
    assert "fabric_failed" in caplog.text
