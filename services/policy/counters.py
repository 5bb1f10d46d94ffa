"""What the kernel's counters say, as totals that only grow: read when somebody asks, and now and then so that little is
lost, in a thread and by a socket of their own, so that no transaction waits for it.

    scrape, page --refresh--> dump --> core/counts --> core/tally --> metrics, /policy/counters, /policy/status
    Enforcer --before a chain is filled anew--> dump of that chain alone
    pods' own tables: pod_counters.py
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Literal, Protocol, Self, TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from services.policy.adapters.nfnetlink import NfSocket
from services.policy.adapters.nft_counters import counted, denied, table_handle
from services.policy.core.counts import Count, Denial, RuleSeen, Totals
from services.policy.core.local_pods import LocalPods
from services.policy.core.nft.model import TABLE, Change
from services.policy.core.nft.render import Renderer
from services.policy.core.tally import Owner, Read, Series, Tally, tally
from services.policy.enforce import DENIED
from services.policy.pod_counters import READ_BEFORE, PodCounters
from shared.errors import SuiteError
from shared.health import Reporter
from shared.log import get

log = get("policy.counters")

T = TypeVar("T")

FRESH_S: Final = 1.0
"""Who asks more often is told the same again."""
PERIOD_S: Final = 60.0
"""When nobody asks."""
Shown = Literal["off", "policy", "rule"]


class Enforced(Protocol):
    """What is asked of the enforcer."""

    @property
    def renderer(self) -> Renderer: ...

    async def forget_denials(self, denials: Iterable[Denial]) -> None: ...


class NodeTable:
    """The table of the namespace that it is opened in."""

    def __init__(self) -> None:
        self._socket = NfSocket()

    def close(self) -> None:
        """Give it back."""
        self._socket.close()

    def rules(self, chains: Iterable[str] | None) -> list[RuleSeen]:
        """See nft_counters."""
        return counted(self._socket, TABLE, chains)

    def handle(self) -> int:
        """See nft_counters.table_handle."""
        return table_handle(self._socket, TABLE)

    def denials(self, sets: Iterable[str]) -> dict[Denial, Count]:
        """See nft_counters."""
        return denied(self._socket, TABLE, sets, DENIED)


class Counters:
    """An async context manager; asks nothing before it is entered. `open` makes the source, in the thread."""

    def __init__(
        self,
        enforced: Enforced,
        pods: LocalPods,
        *,
        prefixes: tuple[str, ...],
        open: Callable[[], NodeTable] = NodeTable,
    ) -> None:
        self._enforced = enforced
        self._pods = pods
        self._prefixes = prefixes
        self._open = open
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy-counters")
        self.inside = PodCounters(self._thread)
        """What pods' own tables count."""
        self._source: NodeTable | None = None
        self._totals = Totals()
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._tally = Tally(0.0, [], [], {})
        self.trouble = ""
        """Why the last look failed; what was counted before is shown."""
        self.took_s = 0.0
        """How long the last look took."""

    async def __aenter__(self) -> Self:
        self._source = await self._do(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        source, self._source = self._source, None
        if source is not None:
            await self._do(source.close)
        self._thread.shutdown()

    async def refresh(self) -> None:
        """Look at all there is, unless that was done a moment ago. Never raises for what the kernel says."""
        async with self._reading:
            if time.monotonic() - self._read_at < FRESH_S or self._source is None:
                return
            try:
                await self._read(self._source)
                self.trouble = ""
            except SuiteError as error:
                self.trouble = error.message
                log.warning("counters_unread", why=error.message)
            self._read_at = time.monotonic()

    async def before(self, change: Change) -> None:
        """What the chains have counted that this change fills anew. Never raises for what the kernel says."""
        if self._source is None or not 0 < len(change.chains_changed) <= READ_BEFORE:
            return
        chains = frozenset(chain.name for chain in change.chains_changed)
        try:
            await self._do(self._read_chains, self._source, chains)
        except SuiteError as error:
            log.warning("counters_unread", why=error.message)

    async def run(self, reporter: Reporter) -> None:
        """Look now and then, though nobody asks. Until cancelled."""
        while True:
            reporter.alive()
            await asyncio.sleep(PERIOD_S)
            await self.refresh()

    def tally(self) -> Tally:
        """As of the last look."""
        return self._tally

    def routes(self) -> Iterable[web.RouteDef]:
        """`GET /policy/counters`; `?policy=NAME` and `?pod=NAMESPACE/NAME` show less."""
        return (web.get("/policy/counters", self._page),)

    # ---- parts

    async def _read(self, source: NodeTable) -> None:
        """All that takes long with many policies is done in the thread, to which the totals belong."""
        began = time.monotonic()
        renderer, pods = self._enforced.renderer, {wired.link: str(wired.pod) for wired in self._pods}
        sets = [name for name in renderer.table.sets if name.startswith(DENIED)]
        self._tally, found = await self._do(self._read_all, source, sets, pods, renderer.owners())
        self.took_s = time.monotonic() - began
        wired = {one.link for one in self._pods}
        gone = {one for one in found if one.link.startswith(self._prefixes) and one.link not in wired}
        if gone:
            await self._enforced.forget_denials(gone)

    def _read_all(
        self, source: NodeTable, sets: list[str], pods: Mapping[str, str], owners: Mapping[str, Owner]
    ) -> tuple[Tally, Collection[Denial]]:
        self._totals.of_table(source.handle())
        self._totals.read(source.rules(None))
        found = source.denials(sets)
        self._totals.read_denials(found)
        links = {one.link for one in found if one.link in pods or not one.link.startswith(self._prefixes)}
        self._totals.keep(owners.keys(), links)
        inside = self.inside.read(owners.keys())
        return tally([Read(self._totals, pods), *inside], owners, time.time()), found.keys()

    def _read_chains(self, source: NodeTable, chains: frozenset[str]) -> None:
        self._totals.of_table(source.handle())
        self._totals.read(source.rules(chains), chains)

    async def _page(self, request: web.Request) -> web.Response:
        await self.refresh()
        found, policy, pod = self.tally(), request.query.get("policy"), request.query.get("pod")
        if policy:
            found = msgspec.structs.replace(
                found, policies=[one for one in found.policies if policy in (one.name, one.text)], endpoints=[]
            )
        if pod:
            found = msgspec.structs.replace(
                found, endpoints=[one for one in found.endpoints if one.endpoint == pod], policies=[]
            )
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def _do(self, act: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act, *arguments)


class CounterMetrics(Collector):
    """The tally as counters of Prometheus, of at most `most` series each; the rest is one named `other`."""

    def __init__(self, counters: Counters, shown: Shown, most: int) -> None:
        self._counters = counters
        self._shown = shown
        self._policies, self._drops = Series(most), Series(most)

    def register(self, registry: CollectorRegistry) -> None:
        """From now on each scrape shows them."""
        registry.register(self)

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Registering looks at nothing."""
        return ()

    def collect(self) -> Iterable[CounterMetricFamily]:
        """As of the last look."""
        found = self._counters.tally()
        labels = ["kind", "tier", "policy", "direction", "action"] + ["rule"] * (self._shown == "rule")
        help = "of connections' first packets that the rules of a policy or profile matched"
        packets = CounterMetricFamily("terway_policy_matched_packets", f"Packets {help}", labels=labels)
        amount = CounterMetricFamily("terway_policy_matched_bytes", f"Bytes {help}", labels=labels)
        for one, count in self._policies.show(self._by_policy(found)).items():
            packets.add_metric(one, count.packets)
            amount.add_metric(one, count.bytes)
        if (rest := self._policies.rest).packets:
            other = ["", "", "other", "", ""] + [""] * (self._shown == "rule")
            packets.add_metric(other, rest.packets)
            amount.add_metric(other, rest.bytes)
        labels = ["namespace", "pod", "direction", "by"]
        drops = CounterMetricFamily(
            "terway_policy_dropped_packets", "Packets of an endpoint that were dropped, and who decided", labels=labels
        )
        for one, count in self._drops.show(_by_endpoint(found)).items():
            drops.add_metric(one, count.packets)
        if (rest := self._drops.rest).packets:
            drops.add_metric(["", "other", "", ""], rest.packets)
        others = CounterMetricFamily(
            "terway_policy_other_dropped_packets", "Packets that no endpoint's word dropped, by reason", labels=["why"]
        )
        for why, number in found.others.items():
            others.add_metric([why], number)
        yield from (packets, amount, drops, others)

    def _by_policy(self, found: Tally) -> dict[tuple[str, ...], Count]:
        series: dict[tuple[str, ...], Count] = {}
        for one in found.policies:
            for rule in one.rules:
                number = (str(rule.rule),) if self._shown == "rule" else ()
                labels = (one.kind, one.tier, one.name, rule.direction, rule.action, *number)
                series[labels] = series.get(labels, Count()) + Count(rule.packets, rule.bytes)
        return series


def _by_endpoint(found: Tally) -> dict[tuple[str, ...], Count]:
    series: dict[tuple[str, ...], Count] = {}
    for one in found.endpoints:
        namespace, slash, pod = one.endpoint.partition("/")
        for drop in one.drops:
            labels = (namespace if slash else "", pod or one.endpoint, drop.direction, drop.by or drop.why)
            series[labels] = series.get(labels, Count()) + Count(drop.packets, drop.bytes)
    return series
