"""What the renderer can be told apart from the calculation's messages."""

import re
from itertools import combinations
from typing import Literal

import msgspec

from services.policy.core import messages as m

_PREFIX = re.compile(r"[A-Za-z0-9 ._:/+=@-]{1,100}", re.ASCII)
_LINK = re.compile(r"[A-Za-z0-9_.-]{1,14}", re.ASCII)


class FailsafePort(msgspec.Struct, frozen=True):
    """A port of a host endpoint's that no policy closes; `net` narrows the other side (felix.md §4.3)."""

    protocol: str
    port: int
    net: str = ""


def _both(*extra: FailsafePort) -> tuple[FailsafePort, ...]:
    return (*extra, *(FailsafePort("tcp", port) for port in (179, 2379, 2380, 5473, 6443, 6666, 6667)))


class Settings(msgspec.Struct, frozen=True):
    """Felix's defaults, except where Terway sets another (terway.md)."""

    workload_prefixes: tuple[str, ...] = ("cali",)
    """Interfaces by these prefixes are pods': one that no endpoint is known for drops everything."""
    families: tuple[Literal[4, 6], ...] = (4, 6)
    """IP versions that pods have. No rule is rendered for the others, so that nothing but an unconditional rule lets
    them through."""
    endpoint_to_host_action: Literal["ACCEPT", "DROP", "RETURN"] = "ACCEPT"
    """What becomes of a pod's packet to its own host that its egress policy lets through. ACCEPT and RETURN are the
    same: a table of its own cannot keep others from judging too."""
    failsafe_inbound: tuple[FailsafePort, ...] = _both(FailsafePort("tcp", 22), FailsafePort("udp", 68))
    failsafe_outbound: tuple[FailsafePort, ...] = _both(FailsafePort("udp", 53), FailsafePort("udp", 67))
    log_prefix: str = "calico-packet"
    mark_accept: int = 0x10000
    """Said between hooks of a packet that an untracked or pre-DNAT policy accepted. In use only while there is one."""
    mark_pass: int = 0x20000
    """Said from a policy with a Pass rule to the tier that asked it; never left on a packet."""
    mark_denied: int = 0x40000
    """In a pod's namespace only: said of a packet that egress denies, on its way to the loopback."""
    usual_links: bool = True
    """An interface with a pod's usual name is the pod's, though no sandbox was attached by it. Off where all sandboxes
    are told: the link of one that ended is nobody's, though its pod lives on in another."""
    drop_invalid: bool = True
    """Packets that belong to no connection are dropped (`DisableConntrackInvalidCheck` the other way around)."""
    flow_log_group: int | None = None
    """Samples of what is allowed and denied go to this group of nflog; None: none. See `flows.py`."""
    flow_log_rate: int = 100
    """Most samples per rule and second."""
    shared_links: tuple[str, ...] = ()
    """Beginnings of names of the node's links that many pods share: whose a packet is there, its address says. What a
    pod's own table leaves to its host passes by these."""
    service_nets: tuple[str, ...] = ()
    """In a pod's namespace only: destinations that its host translates and judges afterwards."""
    host_addresses: tuple[str, ...] = ()
    """In a pod's namespace only: the host's own addresses, which always reach the pod."""
    host_link: str = ""
    """In a pod's namespace only: the link by which the host's packets come; elsewhere its addresses mean nothing."""

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.log_prefix):
            raise ValueError(f"log_prefix {self.log_prefix!r}: at most 100 printable characters without quotes")
        for prefix in (*self.workload_prefixes, *self.shared_links):
            if not _LINK.fullmatch(prefix):
                raise ValueError(f"workload_prefixes: {prefix!r} is no beginning of an interface's name")
        if self.flow_log_group is not None and not 0 <= self.flow_log_group <= 65_535:
            raise ValueError(f"flow_log_group {self.flow_log_group}: a group of nflog is 0 to 65535")
        if self.flow_log_rate < 1:
            raise ValueError(f"flow_log_rate {self.flow_log_rate}: at least 1 per second, or no group at all")
        marks = {"mark_accept": self.mark_accept, "mark_pass": self.mark_pass, "mark_denied": self.mark_denied}
        for (one, bits), (other, others) in combinations(marks.items(), 2):
            if bits & others:
                raise ValueError(f"{one} {bits:#x} and {other} {others:#x} share a bit")


class Attachment(msgspec.Struct, frozen=True):
    """A wired sandbox: the host's end of its link, and the addresses of its lease (canonical, without lengths)."""

    link: str
    addresses: tuple[str, ...]
    workload: m.WorkloadEndpointID
    open: bool = False
    """Until the calculation speaks of the workload: let everything pass instead of nothing."""
    by_address: bool = False
    """The host knows the pod by its addresses, on `shared_links`; `link` is a name and no interface."""
