"""The metrics of terway.md §11.1 that are eni_manager's, under their names there."""

from prometheus_client import CollectorRegistry, Histogram

from services.eni_manager.core.fleet import Fleet
from services.eni_manager.core.machine import State
from shared.metrics import computed_gauge

_MILLISECONDS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 20000)


class Metrics:
    """Counters and histograms are told what happens; gauges are computed from the fleet at scrape."""

    def __init__(self, registry: CollectorRegistry, fleet: Fleet) -> None:
        self._openapi = Histogram(
            "aliyun_openapi_latency",
            "Milliseconds per OpenAPI attempt",
            ("api", "error"),
            registry=registry,
            buckets=_MILLISECONDS,
        )
        self._limiter = Histogram(
            "rate_limiter_latency",
            "Milliseconds waited for an API's token bucket",
            ("api",),
            registry=registry,
            buckets=_MILLISECONDS,
        )
        self._metadata = Histogram(
            "aliyun_metadata_latency",
            "Milliseconds per metadata request",
            ("url", "error"),
            registry=registry,
            buckets=_MILLISECONDS,
        )
        self._allocated: dict[tuple[str, str], float] = {}
        # A Counter of the client library would add `_total` to the name that dashboards know.
        computed_gauge(
            registry,
            "terway_eniip_factory_ip_alloc_count",
            "Addresses that the cloud gave, and calls for some that it refused, since the start",
            lambda: self._allocated.items(),
            labels=("eni", "status"),
        )
        computed_gauge(
            registry,
            "terway_eniip_factory_eni_count",
            "ENIs that take a place on the instance",
            lambda: [(("eniip", str(fleet.limits.enis)), len(fleet.enis))],
            labels=("name", "max_eni"),
        )
        computed_gauge(
            registry,
            "terway_eniip_factory_ip_count",
            "Addresses per ENI",
            lambda: [(("eniip", name, str(eni.max_slots)), len(eni.slots)) for name, eni in fleet.enis.items()],
            labels=("name", "eni", "max_ip"),
        )
        computed_gauge(
            registry,
            "terway_eni_states",
            "ENIs by state of life",
            lambda: [((str(state),), _enis(fleet, state)) for state in State],
            labels=("state",),
        )

    def openapi(self, action: str, failed: bool, took_s: float, waited_s: float) -> None:
        """One attempt of an OpenAPI call."""
        self._openapi.labels(action, str(failed).lower()).observe(took_s * 1000)
        self._limiter.labels(action).observe(waited_s * 1000)

    def metadata(self, path: str, failed: bool, took_s: float) -> None:
        """One metadata request."""
        self._metadata.labels(path, str(failed).lower()).observe(took_s * 1000)

    def allocated(self, eni: str, count: int) -> None:
        """Addresses that came; 0: they were refused."""
        key = (eni, "succeed" if count else "fail")
        self._allocated[key] = self._allocated.get(key, 0) + (count or 1)


def _enis(fleet: Fleet, state: State) -> int:
    return sum(eni.state is state for eni in fleet.enis.values())
