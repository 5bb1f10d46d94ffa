"""What is made of counters: pages and series; what an operator may set about them; how status reads."""

import asyncio
import threading
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.policy.config import PolicyConfig
from services.policy.core import messages as m
from services.policy.core.counts import Count, Denial, RuleSeen
from services.policy.core.local_pods import LocalPods, Wired
from services.policy.core.nft.model import Chain, Change
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Settings
from services.policy.counters import CounterMetrics, Counters, Shown
from services.policy.ctl_live import _standing
from shared.errors import Internal
from shared.model import AttachmentKey, Ip, PodKey

NUMBER = 4
CHAINS = [f"pi-default/p{number}" for number in range(NUMBER)]


class Played:
    """An enforcer and a table; what is read is told by `packets`, and read in a thread of its own."""

    def __init__(self) -> None:
        self.renderer = Renderer()
        deny = m.Policy((m.Rule("deny"),), ())
        for number in range(NUMBER):
            self.renderer.take(m.ActivePolicyUpdate(m.PolicyID(f"p{number}", tier="default"), deny))
        self.renderer.flush()
        self.packets = dict.fromkeys(CHAINS, 0)
        self.links: dict[Denial, Count] = {}
        self.forgotten: list[Denial] = []
        self.reads: list[frozenset[str] | None] = []
        self.fails = False
        self.threads: set[str] = set()

    async def forget_denials(self, denials: Iterable[Denial]) -> None:
        self.forgotten += denials

    def rules(self, chains: Iterable[str] | None) -> list[RuleSeen]:
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise Internal("nobody answers")
        self.reads.append(None if chains is None else frozenset(chains))
        wanted = self.packets if chains is None else [chain for chain in self.packets if chain in set(chains)]
        return [
            RuleSeen(chain, CHAINS.index(chain), "rule 0 x", "deny", Count(self.packets[chain], 0)) for chain in wanted
        ]

    def handle(self) -> int:
        return 1

    def denials(self, sets: Iterable[str]) -> dict[Denial, Count]:
        assert set(sets) == {f"denied-{chain}" for chain in CHAINS}
        return dict(self.links)

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)


def counters(played: Played) -> Counters:
    pods = LocalPods("node1")
    key = AttachmentKey("t", "s1", "eth0")
    pods.wire(Wired(key, PodKey("shop", "web"), "", "cali1", (Ip("10.0.0.1"),)))
    return Counters(played, pods, prefixes=("cali",), open=lambda: played)  # type: ignore[arg-type,return-value]


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    lines = (line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#"))
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize(("shown", "label"), [("policy", ""), ("rule", ',rule="0"')])
async def test_series_are_bounded(shown: Shown, label: str) -> None:
    played, registry = Played(), CollectorRegistry()
    async with counters(played) as made:
        CounterMetrics(made, shown, 2).register(registry)
        assert scraped(registry) == {}
        played.packets = {chain: number for number, chain in enumerate(CHAINS)}
        played.links = {Denial(CHAINS[1], "cali1"): Count(1, 60), Denial(CHAINS[2], "cali9"): Count(2, 120)}
        await made.refresh()
        one = 'action="deny",direction="ingress",kind="policy",policy="{}"{},tier="default"'
        other = 'action="",direction="",kind="",policy="other"' + (',rule=""' if label else "") + ',tier=""'
        assert {name: number for name, number in scraped(registry).items() if "packets" in name} == {
            f"terway_policy_matched_packets_total{{{one.format('p1', label)}}}": 1,
            f"terway_policy_matched_packets_total{{{one.format('p2', label)}}}": 2,
            f"terway_policy_matched_packets_total{{{other}}}": 3,
            'terway_policy_dropped_packets_total{by="default/p1",direction="ingress",namespace="shop",pod="web"}': 1,
        }
        assert played.forgotten == [Denial(CHAINS[2], "cali9")], "nobody has that link any more"
    assert all(name.startswith("policy-counters") for name in played.threads), "never on the loop"


async def test_who_asks_often_is_told_the_same_and_failures_change_nothing() -> None:
    played = Played()
    async with counters(played) as made:
        await asyncio.gather(made.refresh(), made.refresh(), made.refresh())
        assert played.reads == [None]
    played.fails = True
    async with counters(played) as made:
        await made.refresh()
        assert made.trouble == "nobody answers"
        assert made.tally().policies == []
        await made.before(Change(chains_changed=(Chain(CHAINS[0]),)))


async def test_only_what_a_change_fills_anew_is_read_before_it() -> None:
    played = Played()
    async with counters(played) as made:
        await made.before(Change())
        await made.before(Change(chains_added=(Chain("new"),), chains_removed=("old",)))
        assert played.reads == []
        await made.before(Change(chains_changed=(Chain(CHAINS[0]), Chain(CHAINS[1]))))
        assert played.reads == [frozenset(CHAINS[:2])]
        await made.before(Change(chains_changed=tuple(Chain(f"c{number}") for number in range(1000))))
        assert len(played.reads) == 1, "a change of everything does not wait for counters"
    await made.before(Change(chains_changed=(Chain(CHAINS[0]),)))
    await made.refresh()
    assert len(played.reads) == 1, "closed"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"counters_most": 0}, "counters_most"),
        ({"flow_log_group": -1}, "flow_log_group"),
        ({"flow_log_group": 65536}, "flow_log_group"),
        ({"flow_log_rate": 0}, "flow_log_rate"),
        ({"flow_log_file": "here"}, "flow_log_file"),
    ],
)
def test_settings_that_cannot_be(setting: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PolicyConfig(**setting)  # type: ignore[arg-type]


def test_settings_reach_the_renderer() -> None:
    assert PolicyConfig().settings().flow_log_group is None
    made = PolicyConfig(flow_log_group=7, flow_log_rate=3).settings()
    assert (made.flow_log_group, made.flow_log_rate) == (7, 3)
    assert Settings().flow_log_group is None, "off by default"


def test_status_reads() -> None:
    rule = {"direction": "ingress", "rule": 0, "action": "allow", "packets": 3, "bytes": 180}
    said = {
        "pod": "shop/web",
        "link": "cali1",
        "addresses": ["10.0.0.1"],
        "attached_at": 1.0,
        "enforced_at": 1.5,
        "pending": False,
        "trouble": "",
        "policies": ["default/p"],
        "profiles": [],
        "counted": [{"kind": "policy", "tier": "default", "name": "p", "rules": [rule]}],
        "dropped": [
            {"direction": "ingress", "by": "", "why": "no profile accepts it", "packets": 2, "bytes": 120},
            {"direction": "egress", "by": "default/q", "why": "a rule denies it", "packets": 1, "bytes": 60},
        ],
    }
    assert _standing(said).splitlines()[-3:] == [
        "  matched:   default/p ingress rule 0 (allow): 3 packets, 180 bytes",
        "  dropped:   ingress: 2 packets, 120 bytes: no profile accepts it",
        "  dropped:   egress: 1 packets, 60 bytes: default/q",
    ]
