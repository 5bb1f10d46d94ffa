"""What the API server holds of the calculation's inputs: finds out which kinds there are, and mirrors those.

    discovery, now and then --> a reflector per kind --> Consumer: apply, refuse, delete, in_sync

A kind is watched while the API server has it: Calico's own kinds are custom, and a cluster may get or lose them at any
time. In sync is said once, when all of discovery has been answered and every kind found has been listed.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

import msgspec

from services.policy.adapters.reading import Seen, Who, reader
from services.policy.core import objects
from services.policy.core.problems import Invalid
from services.policy.core.profiles import Compat
from shared.backoff import Backoff
from shared.kube.client import KubeClient
from shared.kube.errors import ApiError
from shared.kube.mirror import Applied, Change, Deleted, Synced
from shared.kube.reflector import Reflector, ReflectorState
from shared.kube.resources import Resource
from shared.log import get

log = get("policy.kube")

VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("v1",),
    "discovery.k8s.io": ("v1",),
    "networking.k8s.io": ("v1",),
    "crd.projectcalico.org": ("v1",),
    "policy.networking.k8s.io": ("v1alpha2", "v1alpha1"),
}
"""API group -> the versions of it that are understood, the best first."""

ABSENCES = 2
"""Looks in a row that must miss a kind before its objects count as gone: a starting API server does not know its custom
kinds yet, and to drop every policy at that moment would open what they close."""

RETRIES = Backoff(initial_s=0.5, factor=2.0, jitter=1.0, cap_s=20.0)
"""Between attempts at a discovery that has never been answered completely."""

Name = tuple[str, str]
"""API group and kind."""


def wanted(compat: Compat) -> dict[Name, type[objects.Object]]:
    """The kinds that a compat profile reads. What is written to decide about traffic is watched in every profile: there
    is little of it, and whoever wrote some that does nothing must hear so.
    """
    ignored: set[type[objects.Object]] = {objects.Service}  # a rule's Service is known by its EndpointSlices
    if not compat.services:
        ignored.add(objects.EndpointSlice)
    return {(_group(group), kind): struct for (group, kind), struct in objects.KINDS.items() if struct not in ignored}


def _group(read_as: str) -> str:
    """The API group of a kind as objects.KINDS names it; Calico's kinds are read from its custom resources."""
    return {"v1": "", "projectcalico.org": "crd.projectcalico.org"}.get(read_as, read_as)


class Consumer(Protocol):
    """Who is told. Plain functions, called on the event loop in order."""

    def apply(self, resource: Resource, who: Who, written: objects.Object) -> None: ...
    def refuse(self, resource: Resource, kind: type[objects.Object], who: Who, error: Invalid) -> None: ...
    def delete(self, kind: type[objects.Object], namespace: str, name: str) -> None: ...
    def in_sync(self) -> None: ...


class _Watch:
    """One kind that is mirrored."""

    def __init__(self, resource: Resource, reflector: Reflector[Seen], task: asyncio.Task[None]) -> None:
        self.resource = resource
        self.reflector = reflector
        self.task = task
        self.absences = 0


class InputsState(msgspec.Struct, frozen=True):
    """For /state: `trouble` is why discovery is not complete, empty while it is."""

    in_sync: bool
    trouble: str
    watches: list[ReflectorState]


class Inputs:
    """Mirrors every input there is; `run` keeps them in step."""

    def __init__(
        self,
        client: KubeClient,
        compat: Compat,
        consumer: Consumer,
        *,
        period_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._kinds = wanted(compat)
        self._consumer = consumer
        self._period_s = period_s
        self._chance = chance
        self._served: dict[tuple[str, str], dict[str, Resource]] = {}
        """Group and version -> kind -> resource, as last heard."""
        self._watches: dict[Name, _Watch] = {}
        self._trouble = "the API server has not been asked yet"
        self.synced = False

    async def run(self) -> None:
        """Until cancelled."""
        delays = RETRIES.delays(self._chance)
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._adjust(tasks, await self._discover())
                self._check()
                if self._is_complete():
                    await asyncio.sleep(self._period_s * (0.75 + self._chance() / 2))
                else:
                    await asyncio.sleep(min(next(delays), self._period_s))

    def missing(self) -> str:
        """Why in sync has not been said yet, as a clause; empty when it has."""
        if self.synced:
            return ""
        if not self._is_complete():
            return f"discovery: {self._trouble}"
        waiting = [watch.reflector for watch in self._watches.values() if not watch.reflector.synced.is_set()]
        return "; ".join(f"{reflector.state().resource}: {reflector.trouble}" for reflector in waiting)

    def state(self) -> InputsState:
        """For /state."""
        return InputsState(
            in_sync=self.synced,
            trouble=self._trouble,
            watches=[watch.reflector.state() for _, watch in sorted(self._watches.items())],
        )

    # ---- discovery

    async def _discover(self) -> set[str]:
        """Ask for every group's versions; the groups that were answered. What is not answered stays as it was."""
        groups = {group for group, _ in self._kinds}
        answered, trouble = set(groups), ""
        for group, versions in VERSIONS.items():
            for version in versions if group in groups else ():
                try:
                    found = await self._client.served(group, version)
                except ApiError as error:
                    trouble = error.message
                    answered.discard(group)
                    continue
                self._served[group, version] = {resource.kind: resource for resource in found}
        if trouble and trouble != self._trouble:
            log.warning("discovery_failed", error=trouble)
        self._trouble = trouble
        return answered

    def _is_complete(self) -> bool:
        """Whether every version has been asked for successfully once."""
        groups = {group for group, _ in self._kinds}
        return all((group, version) in self._served for group in groups for version in VERSIONS[group])

    def _found(self, group: str, kind: str) -> Iterator[Resource]:
        """The versions in which a kind is served, the best first."""
        for version in VERSIONS[group]:
            resource = self._served.get((group, version), {}).get(kind)
            if resource is not None:
                yield resource

    def _adjust(self, tasks: asyncio.TaskGroup, answered: set[str]) -> None:
        """Watch what is there, leave what has not been there for a while."""
        for name, kind in self._kinds.items():
            served = list(self._found(*name))
            watch = self._watches.get(name)
            if watch is None:
                if served:
                    self._watches[name] = self._start(tasks, served[0], kind)
            elif watch.resource in served:
                watch.absences = 0
            elif name[0] in answered:
                watch.absences += 1
                if watch.absences >= ABSENCES:
                    self._stop(name, kind)

    def _start(self, tasks: asyncio.TaskGroup, resource: Resource, kind: type[objects.Object]) -> _Watch:
        def on_change(change: Change[Seen]) -> None:
            self.on_change(resource, kind, change)

        log.info("input_found", resource=str(resource), version=resource.version)
        reflector = Reflector(
            self._client, resource, Seen, on_change=on_change, decode=reader(kind), chance=self._chance
        )
        return _Watch(resource, reflector, tasks.create_task(reflector.run(), name=f"policy-watch-{resource}"))

    def _stop(self, name: Name, kind: type[objects.Object]) -> None:
        watch = self._watches.pop(name)
        watch.task.cancel()
        log.warning("input_gone", resource=str(watch.resource), objects=len(watch.reflector.objects))
        for namespace, called in watch.reflector.objects:
            self._consumer.delete(kind, namespace, called)

    # ---- changes

    def on_change(self, resource: Resource, kind: type[objects.Object], change: Change[Seen]) -> None:
        """What a mirror says of a kind."""
        match change:
            case Applied(seen):
                match seen.take():
                    case Invalid() as error:
                        self._consumer.refuse(resource, kind, seen.metadata, error)
                    case objects.Object() as written:
                        self._consumer.apply(resource, seen.metadata, written)
            case Deleted(seen):
                self._consumer.delete(kind, seen.metadata.namespace, seen.metadata.name)
            case Synced():
                # The reflector's own `synced` is set right after this call returns.
                asyncio.get_running_loop().call_soon(self._check)

    def _check(self) -> None:
        """Say in sync when it is so for the first time."""
        if self.synced or not self._is_complete():
            return
        if all(watch.reflector.synced.is_set() for watch in self._watches.values()):
            self.synced = True
            self._consumer.in_sync()
