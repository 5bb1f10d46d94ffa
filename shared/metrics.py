"""Prometheus metrics: a registry per service, gauges that are computed when somebody looks, RPC latency.

Counters and histograms are made by whoever counts. A gauge is never moved by hand, since a missed decrement stays for
ever: it is computed from the state at scrape.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

Sample = tuple[Sequence[str], float]
"""Label values and the value."""


class _Computed(Collector):
    def __init__(self, compute: Callable[[], Iterable[GaugeMetricFamily | InfoMetricFamily]]) -> None:
        self._compute = compute

    def collect(self) -> Iterable[GaugeMetricFamily | InfoMetricFamily]:
        return self._compute()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # so that registering computes nothing


def registry(service: str) -> CollectorRegistry:
    """A registry of its own (services may share a process in tests) with the process's figures and its name."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    info = InfoMetricFamily("terway_service", "Which service this is", value={"service": service})
    made.register(_Computed(lambda: (info,)))
    return made


def computed_gauge(
    registry: CollectorRegistry,
    name: str,
    help: str,
    compute: Callable[[], Iterable[Sample]],
    labels: Sequence[str] = (),
) -> None:
    """Register a gauge whose samples `compute` gives at each scrape: `lambda: [((), pool.idle)]`."""

    def collect() -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(name, help, labels=labels)
        for values, value in compute():
            family.add_metric(values, value)
        yield family

    registry.register(_Computed(collect))


def rpc_observer(registry: CollectorRegistry) -> Callable[[str, str, float], None]:
    """`Server(observe=…)`: Terway's `terway_rpc_latency` in milliseconds (terway.md §11.1), with our methods' names."""
    latency = Histogram(
        "terway_rpc_latency",
        "Milliseconds per call",
        ("rpc_api", "error"),
        registry=registry,
        buckets=(0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 100000),
    )

    def observe(method: str, code: str, seconds: float) -> None:
        latency.labels(method, "true" if code else "false").observe(seconds * 1000)

    return observe
