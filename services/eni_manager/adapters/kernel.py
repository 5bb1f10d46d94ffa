"""Which kinds of things this kernel can make: each is tried, in a namespace that ends with the trial.

Asking for a module's presence would not do: what is built in has none, and what is missing may be loaded by the trial.
"""

import ctypes
import errno
import os
from socket import AF_UNSPEC
from struct import Struct
from threading import Thread
from typing import Final

from services.eni_manager.adapters.netlink_socket import RouteSocket
from services.eni_manager.adapters.netlink_wire import EXCL, Request, number
from services.eni_manager.core.preflight import Kinds
from shared.errors import Internal
from shared.netlink import CREATE, attribute, text

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)

_LINK: Final = Struct("=BxHiII")
"""ifinfomsg: family, type, index, flags, change"""
_TC: Final = Struct("=BxxxiIII")
"""tcmsg: family, index, handle, parent, info"""
_NEWLINK, _NEWQDISC, _NEWTFILTER, _NEWACTION = 16, 36, 44, 48
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _INFO_KIND, _TCA_KIND = 3, 5, 18, 1, 1
_LOOPBACK: Final = 1
_ROOT, _CLSACT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFFFFF2
_ANY_PACKET: Final = 0x0300
"""ETH_P_ALL in network order, below a priority that the kernel chooses."""


def known(candidates: Kinds) -> Kinds:
    """Those of the candidates that this kernel has. Blocks for some milliseconds, or while modules are loaded."""
    found: list[Kinds | OSError] = []

    def trial() -> None:
        try:
            found.append(_try(candidates))
        except OSError as refused:
            found.append(refused)

    # The namespace is the thread's, and goes with it.
    thread = Thread(target=trial, name="kernel-trial")
    thread.start()
    thread.join()
    (outcome,) = found
    if isinstance(outcome, OSError):
        raise Internal(f"the kernel's abilities could not be tried: {outcome}") from outcome
    return outcome


def _try(candidates: Kinds) -> Kinds:
    if _libc.unshare(_CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    with RouteSocket() as kernel:
        links = tuple(kind for kind in candidates.links if _refusal(kernel, _link(kind)) != errno.EOPNOTSUPP)
        qdiscs = tuple(kind for kind in candidates.qdiscs if _refusal(kernel, _qdisc(kind)) != errno.ENOENT)
        # Filters need something to hang on; without it the kernel would say of all that they are not there.
        classifiers: tuple[str, ...] = ()
        if _refusal(kernel, _qdisc("clsact")) in (0, errno.EEXIST):
            classifiers = tuple(
                kind for kind in candidates.every_classifier if _refusal(kernel, _filter(kind)) != errno.ENOENT
            )
        actions = tuple(kind for kind in candidates.every_action if _refusal(kernel, _action(kind)) != errno.ENOENT)
    return Kinds(links, qdiscs, classifiers, actions)


def _refusal(kernel: RouteSocket, request: Request) -> int:
    """The errno that the request is refused with; 0: it is not. Most are refused for what they leave out."""
    refused = kernel.batch((request,)).refused
    return int(refused[0].errno or 0) if refused else 0


def _link(kind: str) -> Request:
    body = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, f"try-{kind}"[:15]) + number(_IFLA_LINK, _LOOPBACK)
    return Request(_NEWLINK, CREATE | EXCL, body + attribute(_IFLA_LINKINFO, text(_INFO_KIND, kind)), f"a {kind}")


def _qdisc(kind: str) -> Request:
    parent, handle = (_CLSACT, 0xFFFF0000) if kind == "clsact" else (_ROOT, 0x10000)
    body = _TC.pack(AF_UNSPEC, _LOOPBACK, handle, parent, 0) + text(_TCA_KIND, kind)
    return Request(_NEWQDISC, CREATE | EXCL, body, f"a {kind}")


def _filter(kind: str) -> Request:
    body = _TC.pack(AF_UNSPEC, _LOOPBACK, 0, _INGRESS, _ANY_PACKET) + text(_TCA_KIND, kind)
    return Request(_NEWTFILTER, CREATE | EXCL, body, f"a {kind} filter")


def _action(kind: str) -> Request:
    first = attribute(1, text(_TCA_KIND, kind))
    return Request(_NEWACTION, CREATE | EXCL, bytes((AF_UNSPEC, 0, 0, 0)) + attribute(1, first), f"a {kind} action")
