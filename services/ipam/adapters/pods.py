"""This node's pods as the API server knows them: one watch restricted to the node, a direct look where it matters, and
events for what their owners should know.

ipam works without an API server: annotations come from the container runtime then, and nothing is garbage.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping

from services.ipam.core import bandwidth, stickiness
from services.ipam.core.garbage import PodFacts
from shared.errors import Conflict, Invalid, NotFound, Refused, SuiteError
from shared.kube.client import KubeClient
from shared.kube.mirror import Applied, Change, Deleted, Synced
from shared.kube.objects import ObjectReference, Pod
from shared.kube.recorder import Recorder, about_node
from shared.kube.reflector import Reflector, ReflectorState
from shared.kube.resources import PODS
from shared.log import get
from shared.model import PodKey

log = get("ipam.pods")

EVENT_SOURCE = "terway-daemon"
"""As Terway's own events say it (terway.md §11.4)."""

STATIC_UID_ANNOTATIONS = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")
"""A static pod's sandbox carries the UID that kubelet computed, its mirror in the API server another."""

ADDRESSES_ANNOTATION = "k8s.aliyun.com/pod-ips"
"""Where policies of other nodes look before kubelet has written the status (terway.md, felix.md §0)."""
WRITE_AGAIN_S = 1.0

GONE_REMEMBERED = 1024
"""Deleted pods of this node whose owner is still known."""


class Pods:
    """A mirror of this node's pods; `run` keeps it in step."""

    def __init__(
        self,
        client: KubeClient,
        node_name: str,
        stateful_kinds: Collection[str],
        *,
        limits_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._node_name, self._kinds = node_name, stateful_kinds
        self._limits_changed = limits_changed
        self._pods: dict[PodKey, Pod] = {}
        self._gone: OrderedDict[PodKey, Pod] = OrderedDict()
        """Deleted lately: a pod deleted by force is gone before its DEL comes."""
        self._addresses: OrderedDict[PodKey, tuple[str, str]] = OrderedDict()
        """UID and addresses that are still to be written on the pod's object."""
        self._to_write = asyncio.Event()
        self._recorder = Recorder(client, component=EVENT_SOURCE, host=node_name)
        self._reflector = Reflector(
            client, PODS, Pod, field_selector=f"spec.nodeName={node_name}", on_change=self._changed
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run(), name="ipam-events")
            tasks.create_task(self._write_addresses(), name="ipam-annotations")
            await self._reflector.run()

    def facts(self) -> Mapping[PodKey, PodFacts] | None:
        """All pods of this node; None while the mirror may be old, when nobody can be said to be gone."""
        if not self._reflector.synced.is_set() or self._reflector.trouble:
            return None
        return {key: _facts(pod) for key, pod in self._pods.items()}

    async def ask(self, pod: PodKey) -> PodFacts | None:
        """The API server's own word on one pod, wherever it runs; None: there is none of that name."""
        try:
            return _facts(await self._get(pod))
        except NotFound:
            return None

    async def annotations(self, pod: PodKey, uid: str) -> Mapping[str, str]:
        """A pod's annotations. NotFound: there is no such pod; Unavailable: it is not known here, nor can one ask."""
        known = self._pods.get(pod)
        if known is None or not _is(known, uid):
            known = await self._get(pod)
            if not _is(known, uid):
                raise NotFound(f"the pod {pod} with UID {uid} was replaced by one with UID {known.metadata.uid}")
        return known.metadata.annotations

    def known_annotations(self, pod: PodKey, uid: str) -> Mapping[str, str] | None:
        """A pod's annotations as the mirror has them; None: it does not know the pod. Asks nobody."""
        known = self._pods.get(pod)
        return known.metadata.annotations if known is not None and _is(known, uid) else None

    def is_stateful(self, pod: PodKey, uid: str) -> bool:
        """Does the mirror know the pod as one of those whose name comes back? Asks nobody."""
        known = self._pods.get(pod) or self._gone.get(pod)
        if known is None or not _is(known, uid):
            return False
        asked, _ = stickiness.asks_for_it(known.metadata.annotations)
        return asked or stickiness.is_stateful(known.metadata.owner_references, self._kinds)

    def annotate(self, pod: PodKey, uid: str, addresses: Iterable[str]) -> None:
        """Write a pod's addresses on its object, soon; never waits, never fails."""
        self._addresses[pod] = (uid, ",".join(addresses))
        self._to_write.set()

    def warn(self, pod: PodKey, uid: str, reason: str, message: str) -> None:
        """A Warning event on a pod; never waits, never fails."""
        self._recorder.warn(self._about(pod, uid), reason, message)

    def note(self, pod: PodKey, uid: str, reason: str, message: str) -> None:
        """A Normal event on a pod; never waits, never fails."""
        self._recorder.note(self._about(pod, uid), reason, message)

    def warn_node(self, reason: str, message: str) -> None:
        """A Warning event on this node; never waits, never fails."""
        self._recorder.warn(about_node(self._node_name), reason, message)

    def _about(self, pod: PodKey, uid: str) -> ObjectReference:
        known = self._pods.get(pod)
        uid = known.metadata.uid if known is not None and _is(known, uid) else uid
        return ObjectReference(kind="Pod", api_version="v1", namespace=pod.namespace, name=pod.name, uid=uid)

    def state(self) -> ReflectorState:
        """For /state."""
        return self._reflector.state()

    async def _write_addresses(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            while self._addresses:
                pod, (uid, text) = self._addresses.popitem(last=False)
                try:
                    await self._write(pod, uid, text)
                except (NotFound, Conflict, Refused, Invalid) as error:  # it has gone, or we may not
                    log.warning("addresses_not_written", pod=str(pod), why=error.message)
                except SuiteError as error:
                    log.info("addresses_wait", pod=str(pod), why=error.message)
                    self._addresses.setdefault(pod, (uid, text))
                    await asyncio.sleep(WRITE_AGAIN_S)

    async def _write(self, pod: PodKey, uid: str, text: str) -> None:
        metadata: dict[str, object] = {"annotations": {ADDRESSES_ANNOTATION: text}}
        known = self._pods.get(pod)
        if known is not None and _is(known, uid):
            metadata["uid"] = known.metadata.uid  # a namesake would be refused
        await self._client.patch(PODS, dict, pod.name, {"metadata": metadata}, namespace=pod.namespace)

    async def _get(self, pod: PodKey) -> Pod:
        return await self._client.get(PODS, Pod, pod.name, namespace=pod.namespace)

    def _changed(self, change: Change[Pod]) -> None:
        match change:
            case Applied(pod):
                known = self._pods.get(_key(pod))
                self._pods[_key(pod)] = pod
                if _limits(pod) != (_limits(known) if known is not None else {}):
                    self._limits_changed()
            case Deleted(pod):
                self._gone[_key(pod)] = self._pods.pop(_key(pod), pod)
                self._gone.move_to_end(_key(pod))
                if len(self._gone) > GONE_REMEMBERED:
                    self._gone.popitem(last=False)
            case Synced():
                pass  # the reflector remembers it


def _key(pod: Pod) -> PodKey:
    return PodKey(pod.metadata.namespace, pod.metadata.name)


def _uids(pod: Pod) -> frozenset[str]:
    static = (pod.metadata.annotations.get(name, "") for name in STATIC_UID_ANNOTATIONS)
    return frozenset(uid for uid in (pod.metadata.uid, *static) if uid)


def _is(pod: Pod, uid: str) -> bool:
    return not uid or uid in _uids(pod)


def _limits(pod: Pod) -> Mapping[str, str]:
    return {name: text for name, text in pod.metadata.annotations.items() if name in bandwidth.ANNOTATIONS}


def _facts(pod: Pod) -> PodFacts:
    return PodFacts(_uids(pod), pod.finished)
