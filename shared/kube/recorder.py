"""Posts core/v1 Events about pods and nodes: what an operator sees in `kubectl describe`.

    recorder = Recorder(client, component="terway-daemon", host=node_name)
    recorder.warn(pod_reference, "AllocIPFailed", "vsw-1 has no address left")     # never waits, never fails
    ... recorder.run() in a task

Best effort by design: an event that cannot be posted is dropped and counted. The same thing said again within
`FORGET_S` raises the count of the event there is instead of filling etcd with copies, as Kubernetes does itself.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from shared.kube.client import KubeClient
from shared.kube.errors import ApiConflict, ApiError, ApiNotFound
from shared.kube.objects import Event, Node, ObjectReference, Pod
from shared.kube.resources import EVENTS
from shared.log import get

QUEUE = 256
"""Events waiting to be posted; more are dropped."""

REMEMBERED = 1024
FORGET_S = 600.0

MESSAGE_BYTES = 1024
"""The API server refuses longer messages."""

log = get("kube.recorder")


class Clock(Protocol):
    """The wall clock, for timestamps."""

    def __call__(self) -> datetime: ...


def about_pod(pod: Pod) -> ObjectReference:
    """What an event about a pod refers to."""
    meta = pod.metadata
    return ObjectReference(kind="Pod", api_version="v1", name=meta.name, namespace=meta.namespace, uid=meta.uid)


def about_node(node: Node | str) -> ObjectReference:
    """What an event about a node refers to. Kubelets use the node's name as its UID here, and so do we."""
    name = node if isinstance(node, str) else node.metadata.name
    return ObjectReference(kind="Node", api_version="v1", name=name, uid=name)


class _Note(msgspec.Struct, frozen=True):
    """What makes two events the same."""

    about: ObjectReference
    type: str
    reason: str
    message: str
    once: str = ""


class _Posted(msgspec.Struct):
    """An event that exists on the server."""

    name: str
    count: int
    at: float


class Recorder:
    """One component's events. `dropped` counts those that nobody will ever see."""

    def __init__(
        self, client: KubeClient, *, component: str, host: str = "", now: Clock = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._source = {"component": component, "host": host}
        self._now = now
        self._waiting: asyncio.Queue[_Note] = asyncio.Queue(QUEUE)
        self._posted: OrderedDict[_Note, _Posted] = OrderedDict()
        self.dropped = 0

    def note(self, about: ObjectReference, reason: str, message: str) -> None:
        """Something went as it should (type Normal). `reason` is one CamelCase word."""
        self._put(_Note(about, "Normal", reason, _clipped(message)))

    def warn(self, about: ObjectReference, reason: str, message: str, *, once: str = "") -> None:
        """Something went wrong (type Warning).

        What all nodes of a cluster find, they should say `once`: under that word, which becomes part of the event's
        name, only the first to say it makes an event.
        """
        self._put(_Note(about, "Warning", reason, _clipped(message), once))

    def _put(self, note: _Note) -> None:
        try:
            self._waiting.put_nowait(note)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Post what is waiting, one after the other, until cancelled."""
        while True:
            await self._try(await self._waiting.get())

    async def flush(self) -> None:
        """Post what is waiting now, for those who do not stay."""
        while not self._waiting.empty():
            await self._try(self._waiting.get_nowait())

    async def _try(self, note: _Note) -> None:
        try:
            await self._post(note, asyncio.get_running_loop().time)
        except ApiError as error:
            self.dropped += 1
            log.warning("event_dropped", reason=note.reason, about=note.about.name, error=error.message)

    async def _post(self, note: _Note, clock: Callable[[], float]) -> None:
        known = self._posted.get(note)
        if known is not None and clock() - known.at < FORGET_S:
            try:
                await self._repeat(note, known, clock)
                return
            except ApiNotFound:  # the server keeps events for an hour, or somebody cleared them away
                del self._posted[note]
        now = self._now()
        stamp = _rfc3339(now)
        namespace = note.about.namespace or "default"
        name = f"{note.about.name}.{note.once or format(int(now.timestamp() * 1e9), 'x')}"
        body = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": msgspec.to_builtins(note.about),
            "type": note.type,
            "reason": note.reason,
            "message": note.message,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source["host"],
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
        }
        try:
            await self._client.create(EVENTS, Event, body, namespace=namespace)
        except ApiConflict:
            if not note.once:
                raise
            return
        self._posted[note] = _Posted(name=name, count=1, at=clock())
        self._posted.move_to_end(note)
        if len(self._posted) > REMEMBERED:
            self._posted.popitem(last=False)

    async def _repeat(self, note: _Note, known: _Posted, clock: Callable[[], float]) -> None:
        patch = {"count": known.count + 1, "lastTimestamp": _rfc3339(self._now())}
        namespace = note.about.namespace or "default"
        await self._client.patch(EVENTS, Event, known.name, patch, namespace=namespace)
        known.count += 1
        known.at = clock()


def _clipped(message: str) -> str:
    data = message.encode()
    return message if len(data) <= MESSAGE_BYTES else data[: MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
