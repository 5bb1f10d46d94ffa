"""Pods of this node as the calculation is to see them: the API server's object, with the addresses of its sandbox.

A pod has its address from the moment of its lease, and its object says so seconds later, when kubelet writes the
status; and the object still says so when the sandbox has gone and the address is another pod's. What is wired counts.
"""

from collections.abc import Iterator

import msgspec

from services.policy.core import objects
from services.policy.core.convert.kubernetes import AWS_POD_IPS, POD_IP, POD_IPS, TERWAY_POD_IPS
from shared.model import AttachmentKey, Ip, PodKey

STATIC_UIDS = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")
"""Annotations: a static pod's sandbox has the UID that kubelet computed, its object another."""

_ADDRESSES = frozenset((POD_IP, POD_IPS, AWS_POD_IPS, TERWAY_POD_IPS))


class Wired(msgspec.Struct, frozen=True):
    """A sandbox that is wired, or is being."""

    key: AttachmentKey
    pod: PodKey
    uid: str
    """empty: the runtime did not say"""
    link: str
    addresses: tuple[Ip, ...]


class LocalPods:
    """Objects and sandboxes of one node."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._objects: dict[PodKey, objects.Pod] = {}
        self._wired: dict[AttachmentKey, Wired] = {}
        self._by_pod: dict[PodKey, set[AttachmentKey]] = {}
        self._ended: dict[PodKey, set[str]] = {}
        """UIDs of objects whose last sandbox has gone: what they say of addresses is old."""

    # ---- objects

    def apply(self, pod: objects.Pod) -> objects.Pod:
        """The object is there; as the calculation is to see it."""
        if pod.spec.node_name != self._host:
            return pod
        key = PodKey(pod.metadata.namespace, pod.metadata.name)
        self._objects[key] = pod
        return self._shown(key, pod)

    def delete(self, key: PodKey) -> None:
        """The object is gone."""
        self._objects.pop(key, None)
        self._ended.pop(key, None)

    def knows(self, key: PodKey, uid: str) -> bool:
        """Whether the object of this very pod is there."""
        pod = self._objects.get(key)
        return pod is not None and is_of(pod, uid)

    def shown(self, key: PodKey) -> objects.Pod | None:
        """The object as the calculation is to see it now; None: there is none."""
        pod = self._objects.get(key)
        return None if pod is None else self._shown(key, pod)

    # ---- sandboxes

    def wire(self, wired: Wired) -> None:
        """A sandbox is there. Told again, the later holds."""
        self.unwire(wired.key)
        self._wired[wired.key] = wired
        self._by_pod.setdefault(wired.pod, set()).add(wired.key)

    def unwire(self, key: AttachmentKey) -> Wired | None:
        """The sandbox goes; what it was, None when it is not known."""
        wired = self._wired.pop(key, None)
        if wired is None:
            return None
        left = self._by_pod[wired.pod]
        left.discard(key)
        if not left:
            del self._by_pod[wired.pod]
        pod = self._objects.get(wired.pod)
        if pod is not None and is_of(pod, wired.uid):
            self._ended.setdefault(wired.pod, set()).add(pod.metadata.uid)
        return wired

    def find(self, key: AttachmentKey) -> Wired | None:
        """The sandbox of a key."""
        return self._wired.get(key)

    def of(self, pod: PodKey) -> list[Wired]:
        """The sandboxes of a pod's name."""
        return [self._wired[key] for key in sorted(self._by_pod.get(pod, ()))]

    def __iter__(self) -> Iterator[Wired]:
        return iter(list(self._wired.values()))

    def __len__(self) -> int:
        return len(self._wired)

    def _shown(self, key: PodKey, pod: objects.Pod) -> objects.Pod:
        own = [wired for wired in self.of(key) if is_of(pod, wired.uid)]
        if own:
            return _with(pod, [address for wired in own for address in wired.addresses])
        if pod.metadata.uid in self._ended.get(key, ()):
            return _with(pod, [])
        return pod


def is_of(pod: objects.Pod, uid: str) -> bool:
    """Whether a sandbox of this UID is the pod's; one without may be."""
    meta = pod.metadata
    return not uid or uid == meta.uid or uid in {meta.annotations.get(name) for name in STATIC_UIDS}


def _with(pod: objects.Pod, addresses: list[Ip]) -> objects.Pod:
    replace = msgspec.structs.replace
    status = replace(
        pod.status,
        pod_ip=addresses[0] if addresses else "",
        pod_ips=tuple(objects.PodAddress(address) for address in addresses),
    )
    if addresses:
        return replace(pod, status=status)
    kept = {name: text for name, text in pod.metadata.annotations.items() if name not in _ADDRESSES}
    return replace(pod, status=status, metadata=replace(pod.metadata, annotations=kept))
