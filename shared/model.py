"""Values that every service speaks of: pods, attachments, ENIs, modes.

Nothing here does I/O or decides anything; what is not needed by two services does not belong here.
"""

import hashlib
from enum import StrEnum
from typing import NewType

import msgspec

EniId = NewType("EniId", str)
"""The cloud's name of an elastic network interface, `eni-…`."""

Mac = NewType("Mac", str)
"""Lower-case, colon-separated: `00:16:3e:00:2b:9b`."""

Ip = NewType("Ip", str)
"""A bare address in canonical text form, IPv4 or IPv6, never with a prefix length."""

Cidr = NewType("Cidr", str)
"""A network in canonical text form: `192.168.32.0/19`."""


class Mode(StrEnum):
    """How a pod gets its VPC address (architecture: "Dataplanes")."""

    SHARED_VETH = "shared-veth"
    SHARED_IPVLAN = "shared-ipvlan"
    EXCLUSIVE_ENI = "exclusive-eni"
    VPC_ROUTE = "vpc-route"


class PodKey(msgspec.Struct, frozen=True, order=True):
    """A pod by name; the same name can come back as another pod (see the UID)."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class AttachmentKey(msgspec.Struct, frozen=True, order=True):
    """What the CNI specification (section 2) identifies an attachment by; every call is idempotent on it."""

    network: str
    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.network}/{self.container_id}/{self.ifname}"


class Subnet(msgspec.Struct, frozen=True):
    """A vSwitch's range of one family and the gateway in it."""

    cidr: Cidr
    gateway: Ip


HOST_LINK_PREFIX = "cali"
"""Felix recognises a workload's host interface by this prefix (terway.md §5.1.1)."""


def host_link_name(pod: PodKey, ifname: str, *, salt: str = "") -> str:
    """The host end of a pod's veth: `cali` and 11 hex digits, the name that Terway and Felix expect.

    `salt` is empty for the name that Terway gives. A second sandbox of the same pod, added while the first
    still holds that name, is given one salted with its container id, so that neither disturbs the other.
    """
    second = "" if ifname in ("", "eth0") else ifname
    digest = hashlib.sha1(f"{pod.namespace}.{pod.name}{second}{salt}".encode(), usedforsecurity=False)
    return HOST_LINK_PREFIX + digest.hexdigest()[:11]


def host_peer_name(ifname: str) -> str:
    """A pod's link to its node beside an ENI of its own (exclusive-eni): `veth1` beside eth0, as Terway names it, and
    another name beside each further interface."""
    return "veth1" if ifname == "eth0" else f"v-{ifname}"[:15]
