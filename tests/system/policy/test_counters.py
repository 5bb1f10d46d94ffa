"""Counters and samples of real packets, through changes of what counts them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from services.policy.adapters.nflog import Group
from services.policy.adapters.nfnetlink import NfSocket
from services.policy.adapters.nft_counters import counted, denied, forgetting
from services.policy.core import messages as m
from services.policy.core.counts import Denial, Totals
from services.policy.core.local_pods import Wired
from services.policy.core.nft.settings import Settings
from services.policy.core.profiles import FELIX_3_24_5
from services.policy.core.tally import Read, tally
from services.policy.flows import FlowLog
from services.policy.live import Live
from shared.errors import Unavailable
from shared.model import AttachmentKey, Ip, PodKey
from tests.policy.apply.node import NoEvents
from tests.system.policy.render_world import Place, Site, site
from tests.system.policy.test_render_hosts import ALLOW, FAR, OTHER, POD, Case, tcp, tier

pytestmark = pytest.mark.system

PREFIX = "denied-"
PODS = {"cali0": "n/0", "cali1": "n/1"}


@pytest.fixture(scope="module")
def two() -> Iterator[Site]:
    with site(2) as made:
        made.address(0, POD)
        made.address(1, OTHER)
        yield made


class Reader(NamedTuple):
    """What reads the node's table."""

    socket: NfSocket
    case: Case
    totals: Totals

    def look(self) -> None:
        self.totals.read(counted(self.socket, "terway"))
        sets = [name for name in self.case.renderer.table.sets if name.startswith(PREFIX)]
        self.totals.read_denials(denied(self.socket, "terway", sets, PREFIX))

    def rules(self) -> dict[tuple[str, int, str], int]:
        found = tally([Read(self.totals, PODS)], self.case.renderer.owners(), 0.0)
        return {
            (one.direction, one.rule, one.action): one.packets
            for policy in found.policies
            if policy.name == "p"
            for one in policy.rules
        }

    def drops(self) -> dict[tuple[str, str, str, str], int]:
        found = tally([Read(self.totals, PODS)], self.case.renderer.owners(), 0.0)
        return {
            (one.endpoint, drop.direction, drop.by, drop.why): drop.packets
            for one in found.endpoints
            for drop in one.drops
        }


def reader(case: Case, place: Place) -> Reader:
    with place.space.inside():
        return Reader(NfSocket(), case, Totals())


def test_counts_grow_with_the_packets_and_survive_what_fills_chains_anew(two: Site) -> None:
    case = Case(two).policy("p", [tcp("deny", 81), tcp("allow", 80)], [tcp("deny", 82), ALLOW])
    case.pods(0, 1, tiers=tier("p")).load()
    read = reader(case, two.node)
    with read.socket:
        for _ in range(2):
            case.expect({(FAR, POD, "tcp", 80): True, (FAR, POD, "tcp", 81): False, (FAR, OTHER, "tcp", 81): False})
            case.expect({(FAR, POD, "tcp", 99): False, (OTHER, FAR, "tcp", 82): False})
        read.look()
        assert read.rules() == {
            ("ingress", 0, "deny"): 4,
            ("ingress", 1, "allow"): 2,
            ("egress", 0, "deny"): 2,
            ("egress", 1, "allow"): 0,
        }
        ended = "default: no rule of the tier matches"
        drops = {
            ("n/0", "ingress", "default/p", "a rule denies it"): 2,
            ("n/1", "ingress", "default/p", "a rule denies it"): 2,
            ("n/1", "egress", "default/p", "a rule denies it"): 2,
            ("n/0", "ingress", "", ended): 2,
        }
        assert read.drops() == drops

        # Both chains are filled anew, one looked at just before: counters in the kernel begin at nothing.
        case.expect({(FAR, POD, "tcp", 80): True})
        read.totals.read(counted(read.socket, "terway", {"pi-default/p"}), {"pi-default/p"})
        case.policy("p", [tcp("deny", 81), tcp("allow", 80), tcp("allow", 8080)], [tcp("deny", 82), ALLOW, ALLOW])
        case.load()
        assert "counter packets 0 " in two.node.space.nft("list", "chain", "inet", "terway", "pi-default/p")
        case.expect({(FAR, POD, "tcp", 80): True, (FAR, POD, "tcp", 81): False})
        read.look()
        assert read.rules()["ingress", 1, "allow"] == 4
        assert read.rules()["ingress", 0, "deny"] == 5
        assert read.drops()["n/0", "ingress", "default/p", "a rule denies it"] == 3

        # A link that is gone leaves its sets, and the other one goes on.
        gone = [Denial("pi-default/p", "cali1"), Denial("po-default/p", "cali1")]
        read.socket.transact(list(forgetting("terway", gone, PREFIX)))
        read.look()
        read.totals.keep(case.renderer.owners().keys(), {"cali0"})
        assert "cali1" not in two.node.space.nft("list", "set", "inet", "terway", "denied-pi-default/p")
        assert {endpoint for endpoint, *_ in read.drops()} == {"n/0"}
        case.expect({(FAR, POD, "tcp", 81): False, (FAR, OTHER, "tcp", 81): False})
        read.look()
        assert read.drops()["n/0", "ingress", "default/p", "a rule denies it"] == 4
        assert read.drops()["n/1", "ingress", "default/p", "a rule denies it"] == 1


def test_what_is_not_there_counts_nothing(two: Site) -> None:
    case = Case(two).load()
    read = reader(case, two.node)
    with read.socket:
        assert counted(read.socket, "nobody") == []
        assert counted(read.socket, "terway", {"pi-nobody"}) == []
        assert denied(read.socket, "terway", ["denied-pi-nobody"], PREFIX) == {}


# ---- the flow log


def wired(number: int, address: str) -> Wired:
    return Wired(
        AttachmentKey("t", f"s{number}", "eth0"), PodKey("n", str(number)), "", f"cali{number}", (Ip(address),)
    )


class Logging(NamedTuple):
    flows: FlowLog
    file: Path
    lost: dict[str, int]

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    async def until(self, wanted: int) -> list[dict[str, object]]:
        async with asyncio.timeout(60):
            while len(found := self.lines()) < wanted:  # noqa: ASYNC110  a file has no event
                await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def logging(case: Case, place: Place, file: Path, group: int) -> AsyncIterator[Logging]:
    lost: dict[str, int] = {}

    def count(where: str, number: int) -> None:
        lost[where] = lost.get(where, 0) + number

    live = Live(
        "node1",
        FELIX_3_24_5,
        recorder=NoEvents(),  # type: ignore[arg-type]
        updated=lambda seconds: None,
        flushed=lambda seconds: None,
        sink=lambda said: None,
    )
    for one in (wired(0, POD), wired(1, OTHER)):
        live.wire(one)
    flows = FlowLog(live, case.renderer, group=group, file=str(file), lost=count)
    with place.space.inside():
        await flows.__aenter__()
    writing = asyncio.create_task(flows.run())
    try:
        yield Logging(flows, file, lost)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await flows.__aexit__(None, None, None)


def of(lines: Iterable[dict[str, object]]) -> set[tuple[object, ...]]:
    names = ("verdict", "direction", "source", "destination", "dport", "tier", "policy", "rule", "why")
    return {tuple(line.get(name) for name in names) for line in lines}


async def test_lines_say_who_talked_to_whom_and_who_decided(two: Site, tmp_path: Path) -> None:
    case = Case(two, Settings(flow_log_group=9, flow_log_rate=1000))
    case.policy("p", [tcp("deny", 81), tcp("allow", 80)], [])
    case.pods(0, tiers=tier("p", out=())).pods(1, profile_ids=()).load()
    async with logging(case, two.node, tmp_path / "flows", 9) as log:
        with two.node.space.inside(), pytest.raises(Unavailable, match="somebody else reads the group 9"):
            Group(9)
        await asyncio.to_thread(
            case.expect,
            {
                (FAR, POD, "tcp", 80): True,
                (FAR, POD, "tcp", 81): False,
                (FAR, POD, "tcp", 99): False,
                (FAR, OTHER, "tcp", 80): False,
            },
        )
        lines = await log.until(4)
        assert log.file.stat().st_mode & 0o777 == 0o600
    assert of(lines) == {
        ("allow", "ingress", None, "n/0", 80, "default", "p", 1, None),
        ("deny", "ingress", None, "n/0", 81, "default", "p", 0, None),
        ("deny", "ingress", None, "n/0", 99, "default", None, None, "no rule of the tier matches"),
        ("deny", "ingress", None, "n/1", 80, None, None, None, "no profile accepts it"),
    }
    assert all(line["src"] == FAR and line["protocol"] == "tcp" for line in lines)
    assert log.lost == {}


async def test_a_flood_is_counted_and_changes_no_verdict(two: Site, tmp_path: Path) -> None:
    """Nobody reads while thousands of samples come: what the socket does not hold is lost and counted."""
    case = Case(two, Settings(flow_log_group=11, flow_log_rate=1_000_000))
    deny = m.Rule("deny", protocol=m.Protocol(name="udp"))
    case.policy("p", [tcp("deny", 81), deny, ALLOW], []).pods(0, tiers=tier("p", out=())).load()
    async with logging(case, two.node, tmp_path / "flows", 11) as log:
        # The loop stands still meanwhile, as it may on a node that has other things to do.
        flood(two, 30_000)
        case.expect({(FAR, POD, "tcp", 81): False, (FAR, POD, "tcp", 80): True})
        async with asyncio.timeout(60):
            while log.lost.get("kernel", 0) <= 1000 or not log.lines():
                flood(two, 1)  # a number that comes later tells of those before
                await asyncio.sleep(0.1)
        assert log.lost["kernel"] > 1000


def flood(two: Site, number: int) -> None:
    """Datagrams that are denied."""
    with two.far[0].space.inside():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with made:
        for _ in range(number):
            made.sendto(b"x", (POD, 4000))
