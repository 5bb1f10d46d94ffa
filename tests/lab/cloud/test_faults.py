"""What goes wrong on purpose, seen by whom it is meant for and by nobody else."""

import json
import random
import socket
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from compose.lab.cloud import CLOUD, Account, Cloud, Fault, build_app
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.faults import KINDS, FaultPlan
from compose.lab.cloud.core.model import DELAYS, EniStatus, Instance
from compose.lab.cloud.faults import FaultDesk
from compose.lab.cloud.kubernetes import KubeServer
from compose.lab.kubeapi import KubeApi

MACS = "network/interfaces/macs"


class Site:
    """A cloud with one machine, whose metadata is read over HTTP."""

    def __init__(self, server: TestServer, node: Instance, session: aiohttp.ClientSession) -> None:
        self.server, self.node, self.session = server, node, session
        self.cloud: Cloud = server.app[CLOUD]
        self.account = self.cloud.account
        self.primary = self.account.eni(node.primary_eni)

    async def metadata(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.server.make_url(f"/latest/meta-data/{path}")) as answer:
            return answer.status, await answer.text()

    async def addresses(self) -> list[str]:
        status, text = await self.metadata(f"{MACS}/{self.primary.mac}/private-ipv4s")
        assert status == 200
        found: list[str] = json.loads(text)
        return found


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    account = Account(delays=DELAYS["none"])
    node = account.run_instance("n1", vswitch="vsw-lab-a", instance_type="ecs.g7.large", now=0)
    app = build_app(account, metadata_for=node.id)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        site = Site(server, node, session)
        await site.cloud.world.settle()
        yield site


# ---- the plan


def test_each_fault_waits_its_turn_and_its_node() -> None:
    plan = FaultPlan()
    plan.add(Fault("Describe*", code="A", after=2, times=1))
    plan.add(Fault("*", code="B", node="n1"))
    assert plan.take("DescribeInstances") is None
    assert plan.take("AttachNetworkInterface", ["n2", "i-2"]) is None
    taken = [plan.take("DescribeInstances", ["n1"]) for _ in range(3)]
    assert [f and f.code for f in taken] == ["B", "A", "B"], "one call well, by the first; then it is its turn"
    assert plan.take("metadata", ["n1"]) is None, "a pattern of actions is about actions"


def test_a_probability() -> None:
    plan = FaultPlan(random.Random(3).random)
    plan.add(Fault("X", probability=0.25))
    assert sum(plan.take("X") is not None for _ in range(4_000)) == pytest.approx(1_000, rel=0.1)


def test_faults_are_cleared_by_id() -> None:
    plan = FaultPlan()
    first, second = plan.add(Fault("A")), plan.add(Fault("B"))
    assert plan.clear([first.id, "f99"]) == [first]
    assert [f.id for f in plan.list()] == [second.id]
    assert plan.clear() == [second] and plan.list() == []


@pytest.mark.parametrize("action", [a or "Anything" for a in KINDS])
@pytest.mark.parametrize("kind", sorted({kind for kinds in KINDS.values() for kind in kinds}))
def test_what_can_go_wrong_with_what(action: str, kind: str) -> None:
    text = json.dumps({"action": action, "kind": kind, "target": "x"})
    if kind in KINDS.get(action, KINDS[""]):
        assert msgspec.json.decode(text, type=Fault).kind == kind
    else:
        with pytest.raises(msgspec.ValidationError, match=action):
            msgspec.json.decode(text, type=Fault)


# ---- metadata


async def test_metadata_that_is_empty_refused_or_late(site: Site) -> None:
    before = await site.addresses()
    empty = site.cloud.spoil(Fault("metadata", kind="empty", path=f"{MACS}*", times=2))
    assert await site.metadata(f"{MACS}/") == (200, "")
    assert await site.metadata("instance-id") == (200, site.node.id), "another path"
    assert await site.metadata(f"{MACS}/{site.primary.mac}/private-ipv4s") == (200, "")
    assert await site.addresses() == before and not site.cloud.faults.clear([empty.id])
    site.cloud.spoil(Fault("metadata", status=500, message="sorry", node="n1"))
    site.cloud.spoil(Fault("metadata", kind="empty"))
    assert await site.metadata("instance-id") == (500, "sorry")
    site.cloud.faults.clear()
    site.cloud.spoil(Fault("metadata", status=500, node="n2"))
    assert await site.addresses() == before


async def test_metadata_that_is_stale(site: Site) -> None:
    before = await site.addresses()
    fault = site.cloud.spoil(Fault("metadata", kind="stale"))
    (fresh,) = site.account.assign_ipv4(site.primary.id, 1, count=1)
    assert await site.addresses() == before
    site.cloud.faults.clear([fault.id])
    assert await site.addresses() == [*before, fresh]
    site.account.check()


# ---- hands from outside, and the API server


async def test_hands_from_outside(site: Site) -> None:
    desk = FaultDesk(site.cloud)
    (fresh,) = site.account.assign_ipv4(site.primary.id, 1, count=1)
    (six,) = site.account.assign_ipv6(site.primary.id, 1, count=1)
    for address in (fresh, six):
        await desk.add(Fault("outside", kind="unassign", target=address))
        assert site.account.eni_at(address) is None
        with pytest.raises(CloudError, match="nobody has"):
            await desk.add(Fault("outside", kind="unassign", target=address))
    eni = site.account.create_eni(vswitch="vsw-lab-a", security_groups=["sg-lab"], now=1)
    site.account.attach_eni(eni.id, site.node.id, 1)
    await site.cloud.world.settle()
    await desk.add(Fault("outside", kind="detach", target=eni.id))
    assert eni.status is EniStatus.AVAILABLE and desk.in_force() == []
    with pytest.raises(CloudError, match="DetachPrimaryEniNotAllowed"):
        await desk.add(Fault("outside", kind="detach", target=site.primary.id))


async def test_knobs_of_the_api_server(site: Site) -> None:
    kube, listening = KubeApi(), list[socket.socket]()

    async def listen() -> list[socket.socket]:
        listening.append(socket.create_server(("127.0.0.1", 0)))
        return listening[-1:]

    server = KubeServer(kube, listen)
    await server.start()
    desk = FaultDesk(site.cloud, server)
    slow = await desk.add(Fault("kubernetes", kind="slow", delay_s=0.5))
    slower = await desk.add(Fault("kubernetes", kind="slow", delay_s=0.9))
    assert kube.faults.delay_s == 0.9 and desk.in_force() == [slow, slower]
    await desk.clear([slower.id])
    assert kube.faults.delay_s == 0.5
    assert await desk.clear() == [slow] and kube.faults.delay_s == 0
    assert len(listening) == 1 and listening[0].fileno() >= 0
    down = await desk.add(Fault("kubernetes", kind="down"))
    assert listening[0].fileno() < 0
    also = await desk.add(Fault("kubernetes", kind="down"))
    await desk.clear([down.id])
    assert len(listening) == 1, "somebody else still wants it down"
    await desk.clear([also.id])
    assert len(listening) == 2 and listening[1].fileno() >= 0
    await server.stop()
    with pytest.raises(CloudError, match="not the lab's own"):
        await FaultDesk(site.cloud).add(Fault("kubernetes", kind="cut_off"))
