"""The calculation on a cluster that lives: told by the API server's mirrors and by the gate, flushed by the loop, asked
by people."""

import asyncio
import time
from collections.abc import Callable

from services.policy.adapters.reading import Who
from services.policy.core import objects
from services.policy.core.cluster import Cluster
from services.policy.core.intake import Source
from services.policy.core.local_pods import LocalPods, Wired
from services.policy.core.messages import Message
from services.policy.core.problems import Invalid, Problem
from services.policy.core.profiles import Compat
from services.policy.loops import Flushing
from shared.kube.objects import ObjectReference
from shared.kube.recorder import Recorder
from shared.kube.resources import Resource
from shared.log import get
from shared.model import AttachmentKey, PodKey

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
        self.flushing = Flushing(self.flush)
        self.local = LocalPods(host)
        """This node's pods and what is wired of them."""
        self.synced = asyncio.Event()
        self.reported = 0
        """Problems said so far."""
        self._arrivals: dict[PodKey, list[asyncio.Future[None]]] = {}
        self._asked: set[PodKey] = set()
        """Objects that the watch has not brought: nobody would say when they go."""
        self._recorder = recorder
        self._updated = updated
        self._flushed = flushed
        self._sink = sink

    # ---- what the mirrors say

    def apply(self, resource: Resource, who: Who, written: objects.Object) -> None:
        """The object is there, with this content."""
        started = time.perf_counter()
        if isinstance(written, objects.Pod):
            self._asked.discard(_key(written))
            written = self._seen(written)
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
        if kind is objects.Pod:
            self.local.delete(PodKey(namespace, name))
        self.cluster.delete(kind, namespace, name)
        self.flushing.changed()

    def in_sync(self) -> None:
        """Everything that existed has been said."""
        log.info("in_sync", things=len(self.cluster.store))
        self.cluster.in_sync()
        self.synced.set()
        self.flushing.force()

    # ---- what the gate says

    def wire(self, wired: Wired) -> None:
        """A sandbox is wired: its pod has these addresses, whatever its object says yet."""
        self.local.wire(wired)
        self._again(wired.pod)

    def unwire(self, key: AttachmentKey) -> Wired | None:
        """A sandbox goes, and with it what its pod's object says of addresses. What it was."""
        wired = self.local.unwire(key)
        if wired is not None:
            if wired.pod in self._asked and not self.local.of(wired.pod):
                self._asked.discard(wired.pod)
                self.delete(objects.Pod, wired.pod.namespace, wired.pod.name)
            else:
                self._again(wired.pod)
        return wired

    def tell(self, pod: objects.Pod) -> None:
        """The API server was asked for a pod that the watch has not brought yet."""
        if not self.local.knows(_key(pod), pod.metadata.uid):
            self._asked.add(_key(pod))
            self.cluster.apply(self._seen(pod))
            self.flushing.changed()

    async def arrival(self, pod: PodKey, uid: str) -> None:
        """Return when the object of this very pod is known."""
        while not self.local.knows(pod, uid):
            waiting = asyncio.get_running_loop().create_future()
            self._arrivals.setdefault(pod, []).append(waiting)
            await waiting

    def problem_of(self, pod: PodKey) -> str:
        """What is wrong with a pod's object."""
        found = self.cluster.problems.get(Source(objects.Pod, pod.namespace, pod.name), ())
        return "; ".join(map(str, found)) or "it has ended, or has no network of its own"

    def waits_for(self) -> str:
        """Why nothing is calculated yet; empty: it is."""
        return "" if self.synced.is_set() else "the API server has not said everything yet"

    def _seen(self, pod: objects.Pod) -> objects.Pod:
        shown = self.local.apply(pod)
        for waiting in self._arrivals.pop(_key(pod), ()):
            if not waiting.done():
                waiting.set_result(None)
        return shown

    def _again(self, pod: PodKey) -> None:
        shown = self.local.shown(pod)
        if shown is not None:
            self.cluster.apply(shown)
            self.flushing.changed()

    # ---- what comes of it

    def flush(self) -> None:
        """Say what changed."""
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


def _key(pod: objects.Pod) -> PodKey:
    return PodKey(pod.metadata.namespace, pod.metadata.name)
