"""Security groups, judged by packets: both ways, stateful, by priority; and what nft is told of them."""

import os
import socket
from dataclasses import dataclass

import pytest

from compose.lab.cloud.core.model import Direction, Rule, SecurityGroup
from compose.lab.fabric import groups, kernel
from shared.errors import NotFound
from shared.model import Ip
from tests.lab.fabric.nodes import (
    ETH1,
    NODE1,
    NODE1_6,
    NODE2,
    NODE2_6,
    NODE3,
    NODE3_6,
    OUTSIDE,
    OUTSIDE6,
    SERVICE,
    SILENCE_S,
    A,
    Nodes,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

IN, OUT = Direction.INGRESS, Direction.EGRESS
ANYBODY = Rule("", IN, "ALL", peer_cidr="0.0.0.0/0", priority=100)
ANYBODY6 = Rule("", IN, "ALL", peer_cidr6="::/0", priority=100)
OPEN = SecurityGroup("sg-open", rules=(ANYBODY, ANYBODY6))


@dataclass(frozen=True)
class Guarded:
    """The nodes, with node1 behind a group that the test chooses and everybody else in one that lets anybody in."""

    nodes: Nodes

    async def by(self, *rules: Rule, kind: str = "normal") -> None:
        await self.nodes.fabric.define_group(SecurityGroup("sg-test", rules=rules, kind=kind))
        await self.nodes.fabric.guard("eni-node1", ("sg-test",))


@pytest.fixture
async def guarded(nodes: Nodes) -> Guarded:
    await nodes.fabric.define_group(OPEN)
    for eni in ("eni-node1", "eni-node2", "eni-node3", ETH1):
        await nodes.fabric.guard(eni, ("sg-open",))
    for target in (NODE1, NODE1_6):
        assert await nodes.ping("node2", target)
    return Guarded(nodes)


# ---- where no rule fits


async def test_a_normal_group_lets_everything_out_and_only_members_in(nodes: Nodes) -> None:
    await nodes.fabric.define_group(SecurityGroup("sg-a"))
    await nodes.fabric.define_group(OPEN)
    for eni in ("eni-node1", "eni-node3"):
        await nodes.fabric.guard(eni, ("sg-a",))
    await nodes.fabric.guard("eni-node2", ("sg-open",))
    for target in (NODE3, NODE3_6, NODE2, NODE2_6, OUTSIDE, OUTSIDE6, SERVICE):
        assert await nodes.ping("node1", target), f"{target}: echo out, reply in"
    for stranger in ("node2", "out"):
        assert await nodes.silent(stranger, NODE1)
        assert await nodes.silent(stranger, NODE1_6)
    dropped = (await nodes.fabric.counters("eni-node1")).dropped
    assert {pair: traffic.packets for pair, traffic in dropped.items()} == {
        "eni-node2 > eni-node1": 2,
        "out0 > eni-node1": 2,
    }


async def test_an_enterprise_group_lets_nothing_in_and_nothing_out(guarded: Guarded) -> None:
    await guarded.by(kind="enterprise")
    nodes = guarded.nodes
    await nodes.fabric.guard("eni-node3", ("sg-test",))
    for target in (NODE2, NODE2_6, OUTSIDE, NODE3):
        assert await nodes.silent("node1", target)
    assert await nodes.silent("node2", NODE1)
    assert await nodes.ping("node1", SERVICE), "the cloud's own services are nobody's peer"
    assert await nodes.ping("node1", A.gateway)


# ---- rules


async def test_ports_protocols_and_families(guarded: Guarded) -> None:
    await guarded.by(
        Rule("", IN, "TCP", "8000/8010", peer_cidr="192.168.16.0/20"),
        Rule("", IN, "TCP", "9000/9000", peer_cidr6="::/0"),
        Rule("", IN, "ICMPv6", peer_cidr6="::/0"),
    )
    nodes = guarded.nodes
    ports = [
        (NODE1, 7999),
        (NODE1, 8000),
        (NODE1, 8010),
        (NODE1, 8011),
        (NODE1, 9000),
        (NODE1_6, 8000),
        (NODE1_6, 9000),
    ]
    listeners = [await nodes.serve("node1", address, port) for address, port in ports]
    try:
        for address, port in [(NODE1, 8000), (NODE1, 8010), (NODE1_6, 9000)]:
            assert await nodes.reaches("node2", address, port), (address, port)
        for address, port in [(NODE1, 7999), (NODE1, 8011), (NODE1, 9000), (NODE1_6, 8000)]:
            assert await nodes.cut_off("node2", address, port), (address, port)
        assert await nodes.cut_off("node3", NODE1, 8000), "not from that CIDR"
        with await nodes.bind("node1", NODE1, 8000) as datagrams:
            assert not await nodes.datagram("node2", datagrams, wait_s=SILENCE_S)
            await guarded.by(Rule("", IN, "UDP", "8000/8000", peer_cidr="192.168.16.0/20"))
            assert await nodes.datagram("node2", datagrams)
        assert await nodes.cut_off("node2", NODE1, 8000), "the rule for TCP is gone"
        assert await nodes.silent("node2", NODE1) and await nodes.silent("node2", NODE1_6)
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize(
    ("rules", "passes"),
    [
        ([(5, True), (6, False)], True),
        ([(6, True), (5, False)], False),
        ([(5, True), (5, False)], False),
        ([(5, False), (5, True)], False),
        ([(100, False), (1, True)], True),
    ],
)
async def test_the_least_number_decides_and_of_equals_the_drop(
    guarded: Guarded, rules: list[tuple[int, bool]], passes: bool
) -> None:
    await guarded.by(
        *(Rule("", IN, "ALL", peer_cidr="0.0.0.0/0", priority=priority, accept=accept) for priority, accept in rules)
    )
    assert await (guarded.nodes.ping if passes else guarded.nodes.silent)("node2", NODE1)


async def test_rules_of_all_groups_of_an_interface_are_one_list(guarded: Guarded) -> None:
    fabric, nodes = guarded.nodes.fabric, guarded.nodes
    drop2 = Rule("", IN, "ALL", peer_cidr=f"{NODE2}/32", priority=1, accept=False)
    await fabric.define_group(SecurityGroup("sg-strict", rules=(drop2,)))
    await fabric.guard("eni-node1", ("sg-strict", "sg-open"))
    assert await nodes.silent("node2", NODE1) and await nodes.ping("node3", NODE1)
    await fabric.define_group(SecurityGroup("sg-strict"))
    assert await nodes.ping("node2", NODE1), "a group that changed is changed in every combination"
    await fabric.define_group(SecurityGroup("sg-strict", rules=(drop2,)))
    await fabric.guard("eni-node1", ("sg-open",))
    assert await nodes.ping("node2", NODE1), "it has left the group"


async def test_a_rule_for_a_group_follows_its_members(guarded: Guarded) -> None:
    fabric, nodes = guarded.nodes.fabric, guarded.nodes
    await fabric.define_group(SecurityGroup("sg-web", rules=(ANYBODY, ANYBODY6)))
    await guarded.by(Rule("", IN, "ALL", peer_group="sg-web"))
    for member in (False, True, False):
        await fabric.guard("eni-node2", ("sg-web",) if member else ("sg-open",))
        passes = nodes.ping if member else nodes.silent
        assert await passes("node2", NODE1) and await passes("node2", NODE1_6)
        assert await nodes.silent("node3", NODE1)
    await fabric.guard("eni-node3", ("sg-web",))
    assert await nodes.ping("node3", NODE1)
    await fabric.unplug("eni-node3")
    assert "eni-node3" not in await listing(nodes, "set", "sg-web"), "an interface that has gone is in no group"


async def test_egress_rules(guarded: Guarded) -> None:
    await guarded.by(
        ANYBODY,
        Rule("", OUT, "ALL", peer_cidr="203.0.113.0/24", accept=False),
        Rule("", OUT, "ALL", peer_group="sg-open", accept=False, priority=50),
        Rule("", OUT, "TCP", "80/80", peer_group="sg-open", priority=49),
    )
    nodes = guarded.nodes
    assert await nodes.silent("node1", OUTSIDE)
    assert await nodes.silent("node1", NODE2) and await nodes.silent("node1", NODE2_6)
    assert await nodes.ping("node1", OUTSIDE6), "no rule fits"
    assert await nodes.ping("out", NODE1), "a reply is no egress"
    with await nodes.serve("node2", NODE2, 80), await nodes.serve("node2", NODE2_6, 81):
        assert await nodes.reaches("node1", NODE2, 80)
        assert await nodes.cut_off("node1", NODE2_6, 81)


async def test_source_ports_and_a_part_of_ones_own_addresses(guarded: Guarded) -> None:
    nodes = guarded.nodes
    second = Ip("192.168.0.20")
    await nodes.ip("node1", f"address add {second}/32 dev eth0")
    await nodes.fabric.assign("eni-node1", (second,))
    await guarded.by(
        Rule("", IN, "ICMP", peer_cidr="0.0.0.0/0", own_cidr=f"{second}/32"),
        Rule("", IN, "TCP", peer_cidr="0.0.0.0/0", source_ports="7000/7000"),
    )
    assert await nodes.ping("node2", second) and await nodes.silent("node2", NODE1)
    with await nodes.serve("node1", NODE1, 80):
        assert await nodes.cut_off("node2", NODE1, 80)
        connection = await nodes.connect("node2", NODE1, 80, source_address=(NODE2, 7000))
        assert connection is not None
        connection.close()


# ---- state


async def test_a_connection_outlives_the_rule_that_let_it_in_and_no_new_one_follows(guarded: Guarded) -> None:
    await guarded.by(Rule("", IN, "TCP", "80/80", peer_cidr="0.0.0.0/0"))
    nodes = guarded.nodes
    with await nodes.serve("node1", NODE1, 80) as listener:
        client = await nodes.connect("node2", NODE1, 80)
        assert client is not None
        listener.settimeout(5)
        server, _ = listener.accept()
        with client, server:
            await guarded.by()
            server.settimeout(5)
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(b"still here")
                assert receiver.recv(64) == b"still here"
        assert await nodes.cut_off("node2", NODE1, 80)


async def test_what_was_denied_opens_no_way_back(guarded: Guarded) -> None:
    """A datagram that the receiver's group drops must not make the answer to it a reply."""
    await guarded.by()
    nodes = guarded.nodes
    await nodes.fabric.define_group(SecurityGroup("sg-mute", kind="enterprise"))
    with await nodes.bind("node1", NODE1, 53) as inside, await nodes.bind("node2", NODE2, 53) as stranger:
        await nodes.fabric.guard("eni-node2", ("sg-open",))
        stranger.sendto(b"knock", (NODE1, 53))
        inside.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            inside.recv(8)
        await nodes.fabric.guard("eni-node2", ("sg-mute",))
        inside.sendto(b"come in", (NODE2, 53))
        stranger.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            stranger.recv(8)


@pytest.mark.parametrize(("moving", "far"), [(Ip("192.168.0.30"), NODE2), (Ip("2408:4005:3cd:1000::30"), NODE2_6)])
async def test_an_address_that_moves_takes_no_connection_with_it(guarded: Guarded, moving: Ip, far: Ip) -> None:
    """The new owner is behind its own groups, though the old one's connection has the same ports."""
    nodes = guarded.nodes
    await nodes.fabric.define_group(SecurityGroup("sg-closed"))
    await nodes.fabric.guard("eni-node3", ("sg-closed",))
    for node in ("node1", "node3"):
        await nodes.add_pods(node, moving, table="main")
    await nodes.fabric.assign("eni-node1", (moving,))
    with await nodes.bind("node2", far, 5000) as peer, await nodes.bind("node1", moving, 5000) as old:
        await exchange(peer, old)
        await nodes.fabric.unassign("eni-node1", (moving,))
        await nodes.fabric.assign("eni-node3", (moving,))
        with await nodes.bind("node3", moving, 5000) as new:
            peer.sendto(b"for the old one", new.getsockname())
            new.settimeout(SILENCE_S)
            with pytest.raises(TimeoutError):
                new.recv(64)


async def exchange(one: socket.socket, other: socket.socket) -> None:
    """A datagram each way."""
    for sender, receiver in ((one, other), (other, one), (one, other)):
        receiver.settimeout(5)
        sender.sendto(b"hello", receiver.getsockname())
        assert receiver.recv(8) == b"hello"


# ---- coming and going


async def test_groups_come_and_go_and_leave_nothing(guarded: Guarded) -> None:
    nodes, fabric = guarded.nodes, guarded.nodes.fabric
    with pytest.raises(NotFound):
        await fabric.guard("eni-node1", ("sg-none",))
    before = await listing(nodes)
    mutual = Rule("", IN, "ALL", peer_group="sg-later")
    for _ in range(2):
        await fabric.define_group(SecurityGroup("sg-new", rules=(mutual,)))
        await fabric.define_group(SecurityGroup("sg-later"))
        await fabric.guard("eni-node1", ("sg-new", "sg-later"))
        await fabric.guard("eni-node1", ("sg-new", "sg-later"))
        await fabric.guard("eni-node1", ("sg-open",))
        await fabric.forget_group("sg-new")
        await fabric.forget_group("sg-later")
        await fabric.forget_group("sg-later")
    assert await listing(nodes) == before


async def listing(nodes: Nodes, kind: str = "table", name: str = "") -> str:
    """What nft shows, without counters."""
    return await nodes.fabric.inside_vpc(kernel.feed, ["nft", "-s", "-f", "-"], [f"list {kind} inet fabric {name}"])


def test_chains_say_what_the_rules_say() -> None:
    group = SecurityGroup(
        "sg-1",
        rules=(
            Rule("", IN, "ICMP", peer_group="sg-2", priority=3),
            Rule("", IN, "UDP", "53/53", peer_cidr6="fd00::/8", priority=2, accept=False),
            Rule("", OUT, "GRE", peer_cidr="10.0.0.0/8", own_cidr="10.1.0.0/16"),
        ),
    )
    assert groups.chains("inet t", [group]) == [
        "add chain inet t ingress.sg-1",
        "flush chain inet t ingress.sg-1",
        "add rule inet t ingress.sg-1 ip6 saddr fd00::/8 meta l4proto udp th dport 53 goto refuse",
        "add rule inet t ingress.sg-1 iifname @sg-2 ip saddr != @routed4 meta l4proto icmp return",
        "add rule inet t ingress.sg-1 iifname @sg-1 ip saddr != @routed4 return",
        "add rule inet t ingress.sg-1 iifname @sg-1 ip6 saddr != @routed6 return",
        "add rule inet t ingress.sg-1 goto refuse",
        "add chain inet t egress.sg-1",
        "flush chain inet t egress.sg-1",
        "add rule inet t egress.sg-1 ip daddr 10.0.0.0/8 ip saddr 10.1.0.0/16 meta l4proto gre return",
        "add rule inet t egress.sg-1 return",
    ]
