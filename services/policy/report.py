"""What policy shows of itself: /state as values, /metrics computed from the same state at each scrape.

Metrics that Felix has carry Felix's names, so that dashboards made for it go on working.
"""

from collections.abc import Callable
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry, Histogram

from services.policy.adapters.kube import Inputs
from services.policy.core import v1
from services.policy.core.problems import Problem
from services.policy.enforce import EnforcedState, Enforcer
from services.policy.gate import Gate
from services.policy.live import Live
from shared.kube.reflector import ReflectorState
from shared.metrics import computed_gauge

SHOWN = 1_000
"""Problems in /state; a cluster with more has one problem."""

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Counts(msgspec.Struct, frozen=True):
    """How much there is: in the cluster, and active on this node."""

    endpoints: int
    hosts: int
    host_endpoints: int
    policies: int
    profiles: int
    network_sets: int
    active_endpoints: int
    active_policies: int
    active_ip_sets: int
    active_ip_set_members: int


class State(msgspec.Struct, frozen=True):
    """What policy knows, summarised; `/policy/dump` has the rest."""

    network_policy: str
    compat: str
    node: str
    in_sync: bool
    missing: str
    """why it is not in sync"""
    discovery: str
    """why the last look at what kinds there are was not complete"""
    counts: Counts
    invalid_objects: int
    invalid: list[Problem]
    watches: list[ReflectorState]
    enforced: EnforcedState | None = None
    settled: bool = False
    """All that was heard is calculated and, where it is enforced, in the kernel."""
    sandboxes: int = 0
    """wired on this node, as far as rules go"""


def latency(registry: CollectorRegistry, name: str, help: str) -> Callable[[float], None]:
    """A histogram of seconds; what observes it."""
    return Histogram(name, help, registry=registry, buckets=_SECONDS).observe


class Report:
    """Looks at the parts when asked."""

    def __init__(self, network_policy: str, live: Live, inputs: Inputs) -> None:
        self._network_policy = network_policy
        self._live = live
        self._inputs = inputs
        self._enforcer: Enforcer | None = None
        self._gate: Gate | None = None

    def enforcing(self, enforcer: Enforcer, gate: Gate) -> None:
        """What is in the kernel is shown too."""
        self._enforcer, self._gate = enforcer, gate

    def state(self) -> State:
        """For /state."""
        cluster, inputs = self._live.cluster, self._inputs.state()
        problems = [problem for found in cluster.problems.values() for problem in found]
        return State(
            network_policy=self._network_policy,
            compat=cluster.compat.name,
            node=self._live.host,
            in_sync=cluster.state.in_sync,
            missing=self._inputs.missing(),
            discovery=inputs.trouble,
            counts=self.counts(),
            invalid_objects=len(cluster.problems),
            invalid=problems[:SHOWN],
            watches=inputs.watches,
            enforced=self._enforcer.state() if self._enforcer is not None else None,
            settled=self.settled(),
            sandboxes=self._gate.count() if self._gate is not None else 0,
        )

    def settled(self) -> bool:
        """Whether all that the mirrors have said so far is in force."""
        if not self._live.synced.is_set() or self._live.flushing.waiting:
            return False
        return self._enforcer is None or not self._enforcer.pending

    def counts(self) -> Counts:
        """How much there is."""
        store, state = self._live.cluster.store, self._live.cluster.state
        return Counts(
            endpoints=store.count(v1.WorkloadKey),
            hosts=store.hosts(),
            host_endpoints=store.count(v1.HostEndpointKey),
            policies=store.count(v1.PolicyKey),
            profiles=store.count(v1.ProfileRulesKey),
            network_sets=store.count(v1.NetworkSetKey),
            active_endpoints=len(state.workloads) + len(state.hosts),
            active_policies=len(state.policies),
            active_ip_sets=len(state.sets),
            active_ip_set_members=sum(len(found.members) for found in state.sets.values()),
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Gauges of all of it."""

        def gauge(name: str, help: str, value: Callable[[], float]) -> None:
            computed_gauge(registry, name, help, lambda: [((), value())])

        cluster, state = self._live.cluster, self._live.cluster.state
        gauge("felix_active_local_endpoints", "Endpoints of this node", lambda: len(state.workloads) + len(state.hosts))
        gauge("felix_active_local_policies", "Policies that apply on this node", lambda: len(state.policies))
        gauge("felix_active_local_ip_sets", "IP sets that rules on this node use", lambda: len(state.sets))
        gauge(
            "terway_policy_ip_set_members",
            "Members of all IP sets that rules on this node use",
            lambda: sum(len(found.members) for found in state.sets.values()),
        )
        gauge(
            "terway_policy_ip_set_largest",
            "Members of the largest of them",
            lambda: max((len(found.members) for found in state.sets.values()), default=0),
        )
        gauge("felix_cluster_num_hosts", "Hosts with endpoints", cluster.store.hosts)
        for name, help, kind in (
            ("workload_endpoints", "Pods with a network of their own", v1.WorkloadKey),
            ("host_endpoints", "Host endpoints", v1.HostEndpointKey),
            ("policies", "Policies of all kinds", v1.PolicyKey),
            ("profiles", "Profiles, namespaces and service accounts", v1.ProfileRulesKey),
        ):
            gauge(f"felix_cluster_num_{name}", f"{help} in the cluster", partial(cluster.store.count, kind))
        gauge("terway_policy_in_sync", "Whether everything has been heard once", lambda: int(state.in_sync))
        gauge("terway_policy_invalid_objects", "Objects that are not as they should be", lambda: len(cluster.problems))
