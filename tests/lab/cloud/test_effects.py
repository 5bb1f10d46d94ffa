"""What the account decides is what packets meet: every effect, from a change of the account to the fabric."""

import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from compose.lab.cloud import Account, Cloud
from compose.lab.cloud.audit import audit
from compose.lab.cloud.core import routes, security
from compose.lab.cloud.core.model import DELAYS, Direction, Eni, Instance, Rule
from compose.lab.cloud.server import plan
from compose.lab.fabric.vpc import VpcFabric
from shared.model import Cidr, Ip
from tests.lab.fabric.nodes import Nodes

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]


@dataclass(frozen=True)
class Lab:
    """A cloud over a fabric, with node1 in the first vSwitch and node2 in the second."""

    cloud: Cloud
    fabric: VpcFabric
    nodes: Nodes
    node1: Instance
    node2: Instance

    @property
    def now(self) -> float:
        return self.cloud.clock()

    @property
    def primary(self) -> Eni:
        return self.cloud.account.eni(self.node1.primary_eni)

    @property
    def peer(self) -> str:
        return self.cloud.account.eni(self.node2.primary_eni).primary_ip

    async def agree(self) -> None:
        found = await audit(self.cloud, self.fabric)
        assert found.problems == []


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    account = Account(delays=DELAYS["none"])
    async with VpcFabric(plan(f"t{secrets.token_hex(4)}", account.layout)) as fabric, Cloud(account, fabric) as cloud:
        node1, node2 = (
            account.run_instance(name, vswitch=vswitch, instance_type="ecs.g7.2xlarge", now=cloud.clock())
            for name, vswitch in (("node1", "vsw-lab-a"), ("node2", "vsw-lab-b"))
        )
        await cloud.world.settle()
        yield (lab := Lab(cloud, fabric, Nodes(fabric), node1, node2))
        await lab.agree()


async def test_addresses_and_prefixes_of_both_families(lab: Lab) -> None:
    account, eni = lab.cloud.account, lab.primary.id
    [address6] = account.assign_ipv6(eni, lab.now, count=1)
    [prefix] = account.assign_ipv4_prefixes(eni, lab.now, count=1)
    [prefix6] = account.assign_ipv6_prefixes(eni, lab.now, count=1)
    await lab.agree()
    delivered = await lab.fabric.delivered()
    assert {delivered[a] for a in (address6, prefix, prefix6)} == {eni}
    pod = f"{prefix.partition('/')[0]}"
    await lab.nodes.add_pods("node1", pod, table="main")
    assert await lab.nodes.ping("node1", lab.peer, pod)
    account.unassign_ipv4(eni, lab.now, [], [prefix])
    account.unassign_ipv6(eni, lab.now, [address6], [prefix6])
    await lab.agree()
    assert await lab.nodes.silent("node1", lab.peer, pod)
    assert {address6, prefix, prefix6}.isdisjoint(await lab.fabric.delivered())


async def test_security_groups(lab: Lab) -> None:
    account, mine = lab.cloud.account, lab.primary.primary_ip
    assert await lab.nodes.ping("node2", mine), "the group that nodes are born in lets anybody in"
    group = security.create(account, lab.now, name="strict")
    account.set_groups(lab.primary, [group.id])
    await lab.cloud.world.settle()
    assert await lab.nodes.silent("node2", mine) and await lab.nodes.ping("node1", lab.peer)
    echo = Rule("", Direction.INGRESS, "ICMP", peer_group="sg-lab")
    security.authorize(account, group.id, [echo], lab.now)
    await lab.cloud.world.settle()
    assert await lab.nodes.ping("node2", mine)
    security.revoke(account, group.id, [echo])
    await lab.cloud.world.settle()
    assert await lab.nodes.silent("node2", mine)
    account.set_groups(lab.primary, ["sg-lab"])
    security.delete(account, group.id)
    await lab.cloud.world.settle()
    assert await lab.nodes.ping("node2", mine)


async def test_a_second_interface_is_behind_its_groups_from_the_first_packet(lab: Lab) -> None:
    account = lab.cloud.account
    group = security.create(account, lab.now, name="strict")
    eni = account.create_eni(vswitch="vsw-lab-a", security_groups=[group.id], now=lab.now)
    account.advance(lab.now)
    account.attach_eni(eni.id, lab.node1.id, lab.now)
    await lab.agree()
    await lab.nodes.ip("node1", "link set eth1 up", f"address add {eni.primary_ip}/32 dev eth1")
    await lab.nodes.ip("node1", "route add default via 192.168.15.253 dev eth1 onlink table 1001")
    await lab.nodes.add_pods("node1", eni.primary_ip)
    assert await lab.nodes.ping("node1", lab.peer, eni.primary_ip)
    assert await lab.nodes.silent("node2", eni.primary_ip)


async def test_route_entries(lab: Lab) -> None:
    account, pod = lab.cloud.account, "10.244.1.5"
    await lab.nodes.add_pods("node1", pod, table="main")
    routes.create(
        account,
        lab.now,
        table=account.layout.route_table,
        destination="10.244.1.0/24",
        hop_type="Instance",
        hop=lab.node1.id,
    )
    await lab.agree()
    assert (await lab.fabric.delivered())[Cidr("10.244.1.0/24")] == lab.primary.id
    assert await lab.nodes.ping("node2", pod) and await lab.nodes.ping("node1", lab.peer, pod)
    routes.delete(account, lab.now, table=account.layout.route_table, destination="10.244.1.0/24")
    await lab.agree()
    assert await lab.nodes.silent("node2", pod) and await lab.nodes.silent("node1", lab.peer, pod)


async def test_the_audit_sees_what_the_fabric_does_on_its_own(lab: Lab) -> None:
    eni, address6 = lab.primary.id, Ip("2408:4005:3cd:1000::99")
    await lab.fabric.guard(eni, ())
    await lab.fabric.route(Cidr("10.9.0.0/16"), eni)
    await lab.fabric.assign(eni, (address6,))
    found = await audit(lab.cloud, lab.fabric)
    assert sorted(found.problems) == [
        f"10.9.0.0/16 is delivered to {eni} and not assigned",
        f"{address6} is delivered to {eni} and not assigned",
        f"{eni} is in sg-lab and guarded by nobody",
    ]
    await lab.fabric.guard(eni, ("sg-lab",))
    await lab.fabric.route(Cidr("10.9.0.0/16"), None)
    await lab.fabric.unassign(eni, (address6,))
