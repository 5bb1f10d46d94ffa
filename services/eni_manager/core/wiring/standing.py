"""How a sandbox stands before it is wired: is the way free, is it wired already, or is something in the way?"""

from enum import Enum, auto

import msgspec

from services.eni_manager.core.wiring.marks import RETIRED_GROUP, alias_of, key_of, mac_of
from services.eni_manager.core.wiring.values import Veth
from shared.errors import Conflict
from shared.model import AttachmentKey, Mac


class SeenLink(msgspec.Struct, frozen=True):
    """A link as the kernel lists it.

    `sends`: its queue is in operation, which follows `up` and the other end's only after a moment. `peer` is the
    ifindex of a veth's other end; `peer_netns` the number that
    this namespace knows the other end's by, None when both are in one.
    """

    index: int
    name: str
    mac: Mac
    mtu: int
    up: bool
    sends: bool = False
    group: int = 0
    alias: str = ""
    peer: int = 0
    peer_netns: int | None = None
    kind: str = ""
    """What made it, such as `veth`; empty: hardware."""
    noarp: bool = False


class Standing(Enum):
    """What to do first."""

    FREE = auto()
    """nothing is there: create"""
    WIRED = auto()
    """both ends are there and ours: converge"""
    REMAINS = auto()
    """only what an earlier, dead attempt or sandbox of ours left: delete that, then create"""


def belongs(link: SeenLink, key: AttachmentKey) -> bool:
    """Is this host link the key's, and serving? By alias, or by MAC in the instant before the alias is set."""
    if is_retired(link):
        return False
    return link.alias == alias_of(key) or (not link.alias and link.mac == mac_of(key, "host"))


def is_retired(link: SeenLink) -> bool:
    """Has its pod been unplugged, so that only its deletion is still to come?"""
    return link.group == RETIRED_GROUP and key_of(link.alias) is not None


def stand(
    key: AttachmentKey, wanted: Veth, host: SeenLink | None, pod: SeenLink | None, across: SeenLink | None
) -> Standing:
    """Judge the links of the wanted names on both sides; `across` is the node's link that the pod's end leads to.

    Raises Conflict when something foreign holds a name: in the sandbox that is CNI P7.
    """
    if host is not None and not belongs(host, key) and not is_retired(host):
        holder = key_of(host.alias)
        raise Conflict(f"host link {host.name} exists and belongs to {holder or 'somebody else'}")
    if pod is None:
        return Standing.FREE if host is None else Standing.REMAINS
    if host is not None and pod.mac == wanted.pod_mac and belongs(host, key) and host.peer == pod.index:
        return Standing.WIRED
    if across is not None and across.peer == pod.index and (is_retired(across) or belongs(across, key)):
        return Standing.REMAINS
    raise Conflict(f"interface {pod.name} already exists in the sandbox (CNI specification, section 2, ADD)")
