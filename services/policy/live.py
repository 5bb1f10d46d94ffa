"""The calculation on a cluster that lives: told by the API server's mirrors, flushed by the loop, asked by people."""

import time
from collections.abc import Callable

from services.policy.adapters.reading import Who
from services.policy.core import objects
from services.policy.core.cluster import Cluster
from services.policy.core.messages import Message
from services.policy.core.problems import Invalid, Problem
from services.policy.core.profiles import Compat
from services.policy.loops import Flushing
from shared.kube.objects import ObjectReference
from shared.kube.recorder import Recorder
from shared.kube.resources import Resource
from shared.log import get

log = get("policy.live")

Observe = Callable[[float], None]
"""Is told how many seconds something took."""


class Live:
    """One host's calculation. Implements the mirrors' Consumer."""

    def __init__(
        self,
        host: str,
        compat: Compat,
        *,
        recorder: Recorder,
        updated: Observe,
        flushed: Observe,
        sink: Callable[[list[Message]], None],
    ) -> None:
        self.host = host
        self.cluster = Cluster(host, compat)
        self.flushing = Flushing(self._flush)
        self.reported = 0
        """Problems said so far."""
        self._recorder = recorder
        self._updated = updated
        self._flushed = flushed
        self._sink = sink

    # ---- what the mirrors say

    def apply(self, resource: Resource, who: Who, written: objects.Object) -> None:
        """The object is there, with this content."""
        started = time.perf_counter()
        problems = self.cluster.apply(written)
        self._updated(time.perf_counter() - started)
        self.flushing.changed()
        if problems and (not isinstance(written, objects.Pod) or written.spec.node_name == self.host):
            self._report(resource, who, problems)

    def refuse(self, resource: Resource, kind: type[objects.Object], who: Who, error: Invalid) -> None:
        """The object is there and cannot be read."""
        self._report(resource, who, self.cluster.refuse(kind, who.namespace, who.name, error))
        self.flushing.changed()

    def delete(self, kind: type[objects.Object], namespace: str, name: str) -> None:
        """The object is gone."""
        self.cluster.delete(kind, namespace, name)
        self.flushing.changed()

    def in_sync(self) -> None:
        """Everything that existed has been said."""
        log.info("in_sync", things=len(self.cluster.store))
        self.cluster.in_sync()
        self.flushing.force()

    # ---- what comes of it

    def _flush(self) -> None:
        started = time.perf_counter()
        said = self.cluster.flush()
        self._flushed(time.perf_counter() - started)
        if said:
            self._sink(said)

    def _report(self, resource: Resource, who: Who, problems: tuple[Problem, ...]) -> None:
        """Once per version of the object, as a mirror tells each version once; once per cluster as an event."""
        self.reported += len(problems)
        for problem in problems:
            log.warning("invalid_object", object=str(problem), version=who.resource_version)
        about = ObjectReference(
            kind=resource.kind,
            api_version=resource.api_version,
            name=who.name,
            namespace=who.namespace,
            uid=who.uid,
            resource_version=who.resource_version,
        )
        text = "; ".join(
            f"{p.field}: {p.reason} ({p.effect})" if p.field else f"{p.reason} ({p.effect})" for p in problems
        )
        self._recorder.warn(about, "InvalidObject", text, once=f"{who.uid[:8]}{who.resource_version}")
