"""BPF classifiers at either side of a link, as rtnetlink messages: for the ingress qdisc, or clsact, of that link."""

from socket import AF_UNSPEC, htons
from struct import Struct
from typing import Final

from services.eni_manager.adapters.netlink_diversion import SeenFilter
from services.eni_manager.adapters.netlink_wire import REPLACE, Request, attributes, number, u32
from shared.netlink import CREATE, attribute, string, text
from shared.netlink import Message as Frame

PRIORITY: Final = 20000
"""Ours in a pod and on the node's `terway-turn`, before the limit of what comes in (30000): what is sent on elsewhere
is queued there, and comes back."""

_TC: Final = Struct("=BxxxiIII")
"""tcmsg: family, index, handle, parent, info"""
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID, _BPF_DIRECT = 6, 7, 8, 11, 1
_INFO: Final = PRIORITY << 16 | htons(0x0003)


def put_program(index: int, program_fd: int, name: str, *, egress: bool) -> Request:
    """A program, in the place of the one before it."""
    options = number(_BPF_FD, program_fd) + text(_BPF_NAME, name) + number(_BPF_FLAGS, _BPF_DIRECT)
    head = _TC.pack(AF_UNSPEC, index, 1, _parent(egress=egress), _INFO)
    body = head + text(_TCA_KIND, "bpf") + attribute(_TCA_OPTIONS, options)
    return Request(_NEWTFILTER, CREATE | REPLACE, body, f"program {name} on link {index}")


def drop_programs(index: int, *, egress: bool) -> Request:
    """What is at our priority there goes."""
    body = _TC.pack(AF_UNSPEC, index, 0, _parent(egress=egress), _INFO)
    return Request(_DELTFILTER, 0, body, f"deletion of programs on link {index}")


def get_programs(index: int, *, egress: bool) -> Request:
    """Ask for the filters at a side of a link; refused with EINVAL where there is no qdisc for them."""
    return Request(_GETTFILTER, 0, _TC.pack(AF_UNSPEC, index, 0, _parent(egress=egress), 0), "the programs of a link")


def seen_program(frame: Frame) -> SeenFilter | None:
    """A BPF filter of our priority; None: something else."""
    _, _, handle, _, info = _TC.unpack_from(frame.body)
    if info != _INFO or not handle:
        return None
    found = attributes(frame.body, _TC.size)
    if string(found.get(_TCA_KIND, b"")) != "bpf":
        return None
    options = attributes(found.get(_TCA_OPTIONS, b""), 0)
    return SeenFilter(
        "bpf",
        handle,
        PRIORITY,
        0x0003,
        name=string(options.get(_BPF_NAME, b"")),
        program=u32(options.get(_BPF_ID)),
    )


def _parent(*, egress: bool) -> int:
    return _EGRESS if egress else _INGRESS
