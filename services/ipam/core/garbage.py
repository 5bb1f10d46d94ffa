"""Which leases nobody uses any more.

Theory of operation
-------------------
Normally DEL ends a lease. A DEL can be lost (node reset, a runtime killed), so leases are compared with the world, and
a lease is let go only on evidence from both sides:

* Kubernetes says that the pod is gone, is another one under the same name, or has run to its end; or a younger sandbox
  of the same pod is connected, so this one was replaced;
* and eni_manager says that nothing of the attachment is alive, so no namespace uses the address.

One look can be wrong (a pod list that lags, an ADD in the middle), hence: a lease younger than `min_age_s` is not
looked at; the first look only suspects; a second look, at least `confirm_s` later and with nothing to the contrary in
between, confirms; and before the release the caller asks for both sides' newest word once more and calls `finding`.
"""

from collections.abc import Iterable, Mapping

import msgspec

from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, PodKey


class PodFacts(msgspec.Struct, frozen=True):
    """What garbage needs to know of a pod. A static pod has two UIDs: its own and its mirror's."""

    uids: frozenset[str]
    finished: bool = False
    """phase Succeeded or Failed"""


class Suspect(msgspec.Struct, frozen=True):
    """A lease that a look has found unused."""

    since: float
    finding: str


class Look(msgspec.Struct, frozen=True):
    """The result of one look: who is suspected now, and which of them were confirmed by it."""

    suspects: dict[AttachmentKey, Suspect]
    confirmed: list[AttachmentKey]


def finding(lease: Lease, pod: PodFacts | None, alive: frozenset[AttachmentKey], beside: Iterable[Lease]) -> str:
    """Why nobody uses this lease; empty: somebody does, or may.

    `pod` is the pod of that name, None when Kubernetes has none; `alive` are the connected attachments; `beside`
    are the leases of the same pod and interface, this one included or not.
    """
    if lease.key in alive:
        return ""
    if pod is None:
        return "the pod is gone"
    if lease.pod_uid and lease.pod_uid not in pod.uids:
        return "the pod was replaced by another of the same name"
    if pod.finished:
        return "the pod has run to its end"
    if any(other.granted_at > lease.granted_at and other.key in alive for other in beside):
        return "a younger sandbox of the pod is connected"
    return ""


def siblings(lease: Lease, leases: Iterable[Lease]) -> list[Lease]:
    """The leases of the same pod and interface, this one included when it is among `leases`."""
    return [other for other in leases if _sandboxes(other) == _sandboxes(lease)]


def look(
    leases: Iterable[Lease],
    pods: Mapping[PodKey, PodFacts],
    alive: frozenset[AttachmentKey],
    before: Mapping[AttachmentKey, Suspect],
    now: float,
    *,
    min_age_s: float,
    confirm_s: float,
) -> Look:
    """Compare all leases with both sides. `before` are the suspects of the last look."""
    leases = list(leases)
    beside: dict[tuple[PodKey, str, str], list[Lease]] = {}
    for lease in leases:
        beside.setdefault(_sandboxes(lease), []).append(lease)
    suspects: dict[AttachmentKey, Suspect] = {}
    confirmed: list[AttachmentKey] = []
    for lease in leases:
        if now - lease.granted_at < min_age_s:
            continue
        found = finding(lease, pods.get(lease.pod), alive, beside[_sandboxes(lease)])
        if not found:
            continue
        suspect = before.get(lease.key)
        since = suspect.since if suspect is not None else now
        suspects[lease.key] = Suspect(since, found)
        if suspect is not None and now - since >= confirm_s:
            confirmed.append(lease.key)
    return Look(suspects, confirmed)


def _sandboxes(lease: Lease) -> tuple[PodKey, str, str]:
    return lease.pod, lease.key.network, lease.key.ifname
