"""Rules in a pod's own namespace, from the objects to the packets: both IP versions, what senders hear, what is counted
and logged, and that nothing of it outlives the pod.

    node   no link of the pod's       web: eth0 10.77.0.1, fd00:77::1 ── far: 10.77.0.2 and .3, fd00:77::2 and ::3
"""

import asyncio
import errno
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from services.policy.adapters.kernel import Kernel
from services.policy.adapters.netns import inside
from services.policy.adapters.nflog import Group
from services.policy.adapters.nft_pods_monitor import PodsMonitor
from services.policy.config import PolicyConfig
from services.policy.core import objects
from services.policy.core.tally import Drop
from services.policy.counters import Counters
from services.policy.flows import FlowLog
from services.policy.pod_flows import PodFlows
from shared.contracts.policy import Attach, Detach
from shared.model import Ip, Mode
from tests.policy.apply.node import PlayedNode, attach, node, pod
from tests.system.policy.bench import namespace

pytestmark = pytest.mark.system

WEB = {4: "10.77.0.1", 6: "fd00:77::1"}
DB = {4: "10.77.0.2", 6: "fd00:77::2"}
OTHER = {4: "10.77.0.3", 6: "fd00:77::3"}
MACS = "02:00:00:00:77:01", "02:00:00:00:77:02"
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
END = b"that was all"
PATIENCE_S = 30.0
OPEN = 1
"""The port by which whoever asks learns that all before it has been through."""


class Place(NamedTuple):
    """Where a pod is, and who is around it."""

    node: str
    web: str
    far: str


@pytest.fixture
def place() -> Iterator[Place]:
    with namespace() as node, namespace() as web, namespace() as far:
        peer = f"peer name eth0 address {MACS[1]} netns {far}"
        run(f"-n {web} link add eth0 address {MACS[0]} type veth {peer}")
        for name, held in ((web, (WEB,)), (far, (DB, OTHER))):
            run(f"-n {name} link set lo up")
            run(f"-n {name} link set eth0 up")
            for one in held:
                run(f"-n {name} addr add {one[4]}/24 dev eth0")
                run(f"-n {name} addr add {one[6]}/64 dev eth0 nodad")
        for one in (DB, OTHER):
            for address in one.values():
                run(f"-n {web} neigh add {address} dev eth0 lladdr {MACS[1]} nud permanent")
        for address in WEB.values():
            run(f"-n {far} neigh add {address} dev eth0 lladdr {MACS[0]} nud permanent")
        yield Place(node, web, far)


def run(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@asynccontextmanager
async def enforced(place: Place, config: PolicyConfig = PolicyConfig()) -> AsyncIterator[PlayedNode]:  # noqa: B008
    """A node with a real kernel, web attached, and two policies of it."""
    kernel = Kernel()
    with inside(f"/run/netns/{place.node}"):
        await kernel.__aenter__()
    try:
        async with node(kernel=kernel, config=config) as made:
            made.says(pod("shop/web"))
            for name, held, app in (("shop/db", DB, "db"), ("shop/other", OTHER, "other")):
                made.says(remote(name, held, app))
            made.says(noise())
            made.says(policy("in", "Ingress", "from", 80))
            made.says(policy("out", "Egress", "to", 81))
            made.begin()
            yield made
    finally:
        await kernel.__aexit__(None, None, None)


def remote(name: str, held: dict[int, str], app: str) -> objects.Pod:
    made = pod(name, uid=app, address=held[4], host="node2", app=app)
    return replace(made, status=replace(made.status, pod_ips=tuple(map(objects.PodAddress, held.values()))))


def policy(name: str, direction: str, side: str, port: int) -> objects.KubePolicy:
    """Only db, and only on that port; and everybody on the port OPEN."""
    peers = [{"podSelector": {"matchLabels": {"app": "db"}}}]
    rules = [
        {side: peers, "ports": [{"protocol": "UDP", "port": port}]},
        {"ports": [{"protocol": "UDP", "port": OPEN}]},
    ]
    written = {
        "metadata": {"name": name, "namespace": "shop", "uid": name},
        "spec": {"podSelector": {}, "policyTypes": [direction], direction.lower(): rules},
    }
    read = objects.read(written, objects.KubePolicy)
    assert isinstance(read, objects.KubePolicy)
    return read


def attached(place: Place) -> Attach:
    asked = attach("shop/web", WEB[4], mode=Mode.EXCLUSIVE_ENI)
    return replace(asked, netns=f"/run/netns/{place.web}", addresses=tuple(map(Ip, WEB.values())))


# ---- packets


class Sent(NamedTuple):
    arrived: bool
    heard: int
    """an errno, 0: nothing was said to the sender"""


def send(source: str, held: str, target: str, to: str, port: int, family: int) -> Sent:
    """A datagram, and behind it one that everybody may send: when that is there, the other one is, too, or never."""
    with inside(f"/run/netns/{target}"):
        ears = [socket.socket(FAMILIES[family], socket.SOCK_DGRAM) for _ in range(2)]
    with inside(f"/run/netns/{source}"):
        sender = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
    with sender, ears[0], ears[1]:
        for ear, number in zip(ears, (port, OPEN), strict=True):
            ear.settimeout(PATIENCE_S)
            ear.bind((to, number))
        sender.bind((held, 0))
        heard = 0
        try:
            sender.sendto(b"probe", (to, port))
        except OSError as error:
            heard = error.errno or 0
        sender.sendto(END, (to, OPEN))
        assert ears[1].recv(64) == END
        ears[0].setblocking(False)
        try:
            return Sent(ears[0].recv(64) == b"probe", heard)
        except BlockingIOError:
            return Sent(False, heard)


@pytest.mark.parametrize("family", [4, 6])
async def test_both_ip_versions_are_judged_in_the_pod_and_nobody_is_told(place: Place, family: int) -> None:
    async with enforced(place) as made:
        assert (await made.gate.attach(attached(place))).enforced
        inward = {
            (who, port): await asyncio.to_thread(send, place.far, held[family], place.web, WEB[family], port, family)
            for who, held in (("db", DB), ("other", OTHER))
            for port in (80, 81)
        }
        outward = {
            (who, port): await asyncio.to_thread(send, place.web, WEB[family], place.far, held[family], port, family)
            for who, held in (("db", DB), ("other", OTHER))
            for port in (80, 81)
        }
    assert {asked for asked, sent in inward.items() if sent.arrived} == {("db", 80)}
    assert {asked for asked, sent in outward.items() if sent.arrived} == {("db", 81)}
    assert {sent.heard for sent in (*inward.values(), *outward.values())} == {0}, "what is denied times out"


@pytest.mark.parametrize("family", [4, 6])
async def test_nothing_denied_leaves_by_a_socket_of_an_interface(place: Place, family: int) -> None:
    """There is no detour for it, so the sender hears of it; that is all."""
    async with enforced(place) as made:
        await made.gate.attach(attached(place))
        with inside(f"/run/netns/{place.far}"):
            ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        with inside(f"/run/netns/{place.web}"):
            sender = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
        with ear, sender:
            ear.bind(("eth0", 0x0003))
            ear.settimeout(PATIENCE_S)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
            with pytest.raises(OSError) as told:
                sender.sendto(b"denied", (OTHER[family], 81))
            assert told.value.errno in (errno.EPERM, errno.ENETUNREACH)
            sender.sendto(END, (OTHER[family], OPEN))
            seen = b""
            while END not in seen:
                seen = ear.recv(2048)
                assert b"denied" not in seen


async def test_a_denied_connection_times_out(place: Place) -> None:
    async with enforced(place) as made:
        await made.gate.attach(attached(place))
        for family in FAMILIES:
            with inside(f"/run/netns/{place.web}"):
                made_socket = socket.socket(FAMILIES[family], socket.SOCK_STREAM)
            with made_socket:
                made_socket.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    made_socket.connect((DB[family], 81))


# ---- what is counted


@asynccontextmanager
async def counting(made: PlayedNode, place: Place) -> AsyncIterator[Counters]:
    counters = Counters(made.enforcer, made.live.local, prefixes=("cali",))
    made.pods.watching.append(counters.inside)
    with inside(f"/run/netns/{place.node}"):
        await counters.__aenter__()
    try:
        yield counters
    finally:
        await counters.__aexit__(None, None, None)


def matched(counters: Counters) -> dict[tuple[str, int, str], int]:
    return {
        (one.text.rpartition(".")[2], rule.rule, rule.action): rule.packets
        for one in counters.tally().policies
        for rule in one.rules
        if rule.packets and one.name != "noise"
    }


def dropped(counters: Counters) -> dict[tuple[str, str], int]:
    [found] = [one.drops for one in counters.tally().endpoints if one.endpoint == "shop/web"] or [list[Drop]()]
    return {(drop.direction, drop.by or drop.why): drop.packets for drop in found}


async def look(counters: Counters) -> None:
    counters._read_at = float("-inf")
    await counters.refresh()
    assert counters.trouble == ""


ENDED = "default: no rule of the tier matches"


async def test_what_a_pods_table_counts_is_the_policies_and_the_pods(place: Place) -> None:
    async with enforced(place) as made, counting(made, place) as counters:
        await made.gate.attach(attached(place))
        for _ in range(2):
            await asyncio.to_thread(send, place.far, OTHER[4], place.web, WEB[4], 80, 4)
            await asyncio.to_thread(send, place.web, WEB[6], place.far, DB[6], 81, 6)
        await look(counters)
        counted = {("in", 1, "allow"): 2, ("out", 0, "allow"): 2, ("out", 1, "allow"): 2}
        assert matched(counters) == counted
        assert dropped(counters) == {("ingress", ENDED): 2}

        # A chain that is filled anew is looked at just before, and counts on.
        await asyncio.to_thread(send, place.web, WEB[4], place.far, DB[4], 81, 4)
        made.says(policy("out", "Egress", "to", 82))
        made.live.flush()
        await made.enforcer.in_force()
        await asyncio.to_thread(send, place.web, WEB[4], place.far, DB[4], 81, 4)
        await look(counters)
        counted |= {("out", 0, "allow"): 3, ("out", 1, "allow"): 4}
        assert matched(counters) == counted
        assert dropped(counters) == {("ingress", ENDED): 2, ("egress", ENDED): 1}

        # Of a policy's own Deny the pod is whose table it is.
        made.says(denying("never", 83))
        made.live.flush()
        await made.enforcer.in_force()
        await asyncio.to_thread(send, place.web, WEB[4], place.far, DB[4], 83, 4)
        await look(counters)
        assert dropped(counters)["egress", "default/never"] == 1
        counted |= {("default/never", 0, "deny"): 1, ("out", 1, "allow"): 5}
        assert matched(counters) == counted

        # The pod goes: while the policies are in force for another, what they have counted does not go back.
        made.says(pod("shop/second", uid="u2"))
        await made.gate.attach(attach("shop/second", "10.77.0.9", sandbox="s2", uid="u2"))
        await made.gate.detach(Detach(attached(place).key))
        await look(counters)
        assert matched(counters) == counted
        assert dropped(counters) == {}


def denying(name: str, port: int) -> objects.GlobalNetworkPolicy:
    denied = {"action": "Deny", "protocol": "UDP", "destination": {"ports": [port]}}
    return everybodys(name, {"order": 1, "types": ["Egress"], "egress": [denied]})


def noise() -> objects.GlobalNetworkPolicy:
    """What kernels say to each other of themselves would be counted, too."""
    said = [{"action": "Allow", "protocol": "ICMPv6"}]
    return everybodys("noise", {"order": 0, "types": ["Ingress", "Egress"], "ingress": said, "egress": said})


def everybodys(name: str, spec: dict[str, object]) -> objects.GlobalNetworkPolicy:
    written = {"metadata": {"name": name, "uid": name}, "spec": {"selector": "all()"} | spec}
    read = objects.read(written, objects.GlobalNetworkPolicy)
    assert isinstance(read, objects.GlobalNetworkPolicy)
    return read


async def test_a_table_that_was_removed_counts_on_when_it_is_back(place: Place) -> None:
    async with enforced(place) as made, counting(made, place) as counters:
        with inside(f"/run/netns/{place.node}"):
            monitor = PodsMonitor("terway", made.pods.heard)
            monitor.__enter__()
        try:
            await made.gate.attach(attached(place))
            await asyncio.to_thread(send, place.web, WEB[4], place.far, DB[4], 81, 4)
            await look(counters)
            nft(place.web, "flush ruleset")
            await until(lambda: made.restored == ["shop/web"])
            await made.enforcer.in_force()
            await asyncio.to_thread(send, place.web, WEB[4], place.far, DB[4], 81, 4)
            await look(counters)
            assert matched(counters) == {("out", 0, "allow"): 2, ("out", 1, "allow"): 2}
            # Together with a change, which must not hide it.
            nft(place.web, "delete table inet terway")
            made.says(policy("out", "Egress", "to", 82))
            made.live.flush()
            await made.enforcer.in_force()
            await until(lambda: made.restored == ["shop/web"] * 2)
            assert not (await asyncio.to_thread(send, place.web, WEB[4], place.far, DB[4], 81, 4)).arrived
        finally:
            monitor.__exit__(None, None, None)


def nft(place: str, command: str) -> None:
    subprocess.run(["ip", "netns", "exec", place, "nft", command], check=True)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)


# ---- the flow log


@asynccontextmanager
async def logging(made: PlayedNode, place: Place, file: Path, group: int) -> AsyncIterator[PodFlows]:
    flows = FlowLog(made.live, made.enforcer.renderer, group=group, file=str(file), lost=lambda where, number: None)
    with inside(f"/run/netns/{place.node}"):
        await flows.__aenter__()
    listening = PodFlows(flows, made.pods._kernel, group=group)  # type: ignore[arg-type]
    made.pods.watching.append(listening)
    writing = asyncio.create_task(flows.run())
    try:
        yield listening
    finally:
        listening.close()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await flows.__aexit__(None, None, None)


def lines(file: Path) -> list[dict[str, object]]:
    """Of what the tests send."""
    written = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in written if line["protocol"] == "udp"]


CONFIG = PolicyConfig(flow_log_group=9, flow_log_rate=1000)


async def test_samples_come_out_of_the_pods_namespace_with_names(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "flows"
    async with enforced(place, CONFIG) as made, logging(made, place, file, 9) as listening:
        await made.gate.attach(attached(place))
        assert len(listening) == 1
        await asyncio.to_thread(send, place.far, OTHER[6], place.web, WEB[6], 80, 6)
        await asyncio.to_thread(send, place.web, WEB[4], place.far, OTHER[4], 81, 4)
        await until(lambda: len(lines(file)) >= 4)
        names = ("verdict", "direction", "src", "dst", "dport", "rule", "why")
        denied = "no rule of the tier matches"
        assert {tuple(line.get(name) for name in names) for line in lines(file)} == {
            ("deny", "ingress", OTHER[6], WEB[6], 80, None, denied),
            ("allow", "ingress", OTHER[6], WEB[6], OPEN, 1, None),
            ("deny", "egress", WEB[4], OTHER[4], 81, None, denied),
            ("allow", "egress", WEB[4], OTHER[4], OPEN, 1, None),
        }
        [mine] = {line["source"] for line in lines(file) if line["direction"] == "egress"}
        assert mine == "shop/web"
        await made.gate.detach(Detach(attached(place).key))
        assert len(listening) == 0


async def test_no_socket_is_in_a_pod_while_the_flow_log_is_off(place: Place) -> None:
    async with enforced(place) as made:
        await made.gate.attach(attached(place))
        assert listening_in(place.web) == 0
    async with enforced(place, CONFIG) as made, logging(made, place, Path("/dev/null"), 9):
        await made.gate.attach(attached(place))
        assert listening_in(place.web) == 1


def listening_in(place: str) -> int:
    """Sockets of netfilter in a namespace."""
    listed = subprocess.run(
        ["ip", "netns", "exec", place, "cat", "/proc/net/netlink"], capture_output=True, text=True, check=True
    )
    return sum(line.split()[1] == "12" and line.split()[2] != "0" for line in listed.stdout.splitlines()[1:])


async def test_a_pod_that_ended_without_a_word_is_let_go(place: Place, tmp_path: Path) -> None:
    """Its runtime died: only our socket has the namespace, and with it the pod's ENI."""
    async with enforced(place, CONFIG) as made, logging(made, place, tmp_path / "flows", 9) as listening:
        with namespace() as gone:
            run(f"-n {place.far} link add pod0 type veth peer name eth1 netns {gone}")
            asked = attach("shop/web", WEB[4], mode=Mode.EXCLUSIVE_ENI)
            await made.gate.attach(replace(asked, netns=f"/run/netns/{gone}"))
            await listening.look()
            assert len(listening) == 1, "it is alive"
        assert "pod0" in links(place.far), "the socket holds it"
        await listening.look()
        assert len(listening) == 0
        await until(lambda: "pod0" not in links(place.far))


def links(place: str) -> str:
    return subprocess.run(["ip", "-n", place, "-o", "link"], capture_output=True, text=True, check=True).stdout


async def test_a_group_that_the_pod_reads_itself_costs_its_samples_and_no_policy(place: Place, tmp_path: Path) -> None:
    async with enforced(place, CONFIG) as made, logging(made, place, tmp_path / "flows", 9) as listening:
        with inside(f"/run/netns/{place.web}"):
            taken = Group(9)
        with taken:
            assert (await made.gate.attach(attached(place))).enforced
            assert len(listening) == 0
        await listening.look()
        assert len(listening) == 1, "tried again"
