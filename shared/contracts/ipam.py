"""What ipam serves: which pod holds which address."""

import msgspec

from shared.model import AttachmentKey, EniId, Ip, Mac, Mode, PodKey, Subnet
from shared.rpc.method import Method


class Bandwidth(msgspec.Struct, frozen=True):
    """Limits in bytes per second, seen from the pod; None: unlimited."""

    ingress: int | None = None
    egress: int | None = None


class Lease(msgspec.Struct, frozen=True):
    """Everything that eni_manager and policy need to know to connect one sandbox. Durable before anyone sees it."""

    key: AttachmentKey
    pod: PodKey
    pod_uid: str
    mode: Mode
    host_link: str
    """Name of the link's host end; unique among the node's leases."""
    eni_id: EniId
    eni_mac: Mac
    ipv4: Ip | None = None
    subnet4: Subnet | None = None
    ipv6: Ip | None = None
    subnet6: Subnet | None = None
    bandwidth: Bandwidth = Bandwidth()
    granted_at: float = 0.0
    """Unix time, seconds."""
    sticky: bool = False
    """After its end the address waits for a pod of the same name to come back (terway.md §3.1)."""
    bandwidth_stated: Bandwidth = Bandwidth()
    """Of `bandwidth`, what the runtime stated and no annotation of the pod explains: annotations do not change it."""
    host_peer: bool = True
    """In mode exclusive-eni, whether the pod has a way by its node beside its ENI. False: the CNI configuration has
    `disable_host_peer` (terway.md §2.3). The gateway says so to eni_manager, which keeps it."""

    @property
    def addresses(self) -> tuple[Ip, ...]:
        """The addresses that there are, IPv4 first."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


class Acquire(msgspec.Struct, frozen=True):
    """Ask for an address for one sandbox.

    `annotations` are the pod's own when the runtime handed them over, else None and ipam reads the pod.
    `bandwidth` is the CNI capability's wish and overrides annotations.
    """

    key: AttachmentKey
    pod: PodKey
    pod_uid: str = ""
    annotations: dict[str, str] | None = None
    bandwidth: Bandwidth | None = None


class Release(msgspec.Struct, frozen=True):
    """Give an attachment's address back; the caller says that nothing uses it any more."""

    key: AttachmentKey


class Released(msgspec.Struct, frozen=True):
    """`lease` is what was given back; None: nothing was held under the key, which is success."""

    lease: Lease | None = None


class Inspect(msgspec.Struct, frozen=True):
    """Ask for what is held under a key, without any effect."""

    key: AttachmentKey


class Inspected(msgspec.Struct, frozen=True):
    """`lease` None: nothing is held under the key."""

    lease: Lease | None = None


class ListLeases(msgspec.Struct, frozen=True):
    """Ask for all leases of one CNI network; None: of all networks."""

    network: str | None = None


class Leases(msgspec.Struct, frozen=True):
    """All leases asked for, in no particular order."""

    leases: list[Lease]


class AskStatus(msgspec.Struct, frozen=True):
    """Ask whether an ADD could be served now (CNI STATUS)."""


class Status(msgspec.Struct, frozen=True):
    """`able`: a new pod would get an address; otherwise `reason` says why not.

    `existing_limited` (CNI code 51 instead of 50): pods that run already may lack connectivity too.
    """

    able: bool
    reason: str = ""
    existing_limited: bool = False


ACQUIRE = Method("ipam.acquire", Acquire, Lease, deadline_s=100.0)
"""Errors: Invalid (annotation), Exhausted (no address, with the reason), Unavailable (eni_manager, API server)."""
RELEASE = Method("ipam.release", Release, Released)
INSPECT = Method("ipam.inspect", Inspect, Inspected)
LEASES = Method("ipam.leases", ListLeases, Leases)
STATUS = Method("ipam.status", AskStatus, Status)
