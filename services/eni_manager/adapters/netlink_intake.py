"""What comes in on a link, queued on another one: the ingress qdisc and the one filter on it, as rtnetlink messages.

`u32` that matches everything with a `mirred` action, since every kernel with ifb has these two.
"""

from collections.abc import Mapping
from socket import AF_UNSPEC, htons
from struct import Struct
from typing import Final

from services.eni_manager.adapters.netlink_wire import EXCL, Request, attributes
from services.eni_manager.core.wiring.values import Ingress, Redirect
from shared.netlink import CREATE, attribute, string, text
from shared.netlink import Message as Frame

_TC: Final = Struct("=BxxxiIII")
"""tcmsg: family, index, handle, parent, info"""
_SELECTOR: Final = Struct("=BBBxHHhhI")
"""tc_u32_sel: flags, offshift, keys, offmask, off, offoff, hoff, hmask; keys follow"""
_KEY: Final = Struct("=IIii")
"""tc_u32_key: mask, value, offset, mask of the offset"""
_MIRRED: Final = Struct("=IIiiiiI")
"""tc_mirred: index, capabilities, action, references, bindings, what to do, ifindex"""
_NEWQDISC, _DELQDISC = 36, 37
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_HANDLE, _INGRESS = 0xFFFF0000, 0xFFFFFFF1
_TCA_KIND, _TCA_OPTIONS, _U32_SEL, _U32_ACT = 1, 2, 5, 7
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_TERMINAL, _STOLEN, _EGRESS_REDIRECT = 1, 4, 1
_PRIORITY: Final = 30000
"""Ours in a pod; none of those that terway.md §5.9 reserves on the node."""
_INFO: Final = _PRIORITY << 16 | htons(0x0003)
_ONLY: Final = 0x80000800
"""Handle of the first filter in the first table."""


def put_ingress(item: Ingress, index: int) -> Request:
    """The qdisc; one that is there stays."""
    body = _TC.pack(AF_UNSPEC, index, _HANDLE, _INGRESS, 0) + text(_TCA_KIND, "ingress")
    return Request(_NEWQDISC, CREATE | EXCL, body, item)


def drop_ingress(item: Ingress, index: int) -> Request:
    """The qdisc goes, and every filter on it."""
    return Request(_DELQDISC, 0, _TC.pack(AF_UNSPEC, index, _HANDLE, _INGRESS, 0), item)


def drop_redirect(item: Redirect, index: int) -> Request:
    """Our filter goes; refused where there is none."""
    return Request(_DELTFILTER, 0, _TC.pack(AF_UNSPEC, index, 0, _HANDLE, _INFO), item)


def put_redirect(item: Redirect, index: int, to: int) -> tuple[Request, Request]:
    """Our filter goes, if there is one, and comes; the first of the two is refused where there is none."""
    everything = _SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _KEY.pack(0, 0, 0, 0)
    mirred = attribute(_MIRRED_PARMS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, to))
    action = attribute(1, text(_ACT_KIND, "mirred") + attribute(_ACT_OPTIONS, mirred))
    options = attribute(_U32_SEL, everything) + attribute(_U32_ACT, action)
    fresh = _TC.pack(AF_UNSPEC, index, _ONLY, _HANDLE, _INFO) + text(_TCA_KIND, "u32")
    return (
        drop_redirect(item, index),
        Request(_NEWTFILTER, CREATE | EXCL, fresh + attribute(_TCA_OPTIONS, options), item),
    )


def get_redirects(index: int) -> Request:
    """Ask for the filters on a link's Ingress; refused with EINVAL where there is none."""
    return Request(_GETTFILTER, 0, _TC.pack(AF_UNSPEC, index, 0, _HANDLE, 0), "the filters of a link")


def seen_ingress(frame: Frame, names: Mapping[int, str]) -> Ingress | None:
    """An ingress qdisc among listed qdiscs."""
    _, index, _, _, _ = _TC.unpack_from(frame.body)
    if index not in names or string(attributes(frame.body, _TC.size).get(_TCA_KIND, b"")) != "ingress":
        return None
    return Ingress(names[index])


def seen_redirect(frame: Frame, names: Mapping[int, str]) -> Redirect | None:
    """A filter that is just as ours is."""
    _, index, handle, _, info = _TC.unpack_from(frame.body)
    if index not in names or handle != _ONLY or info != _INFO:
        return None
    found = attributes(frame.body, _TC.size)
    if string(found.get(_TCA_KIND, b"")) != "u32" or _TCA_OPTIONS not in found:
        return None
    options = attributes(found[_TCA_OPTIONS], 0)
    if not options.keys() >= {_U32_SEL, _U32_ACT}:
        return None
    actions = attributes(options[_U32_ACT], 0)
    said = attributes(actions.get(1, b""), 0)
    if string(said.get(_ACT_KIND, b"")) != "mirred":
        return None
    parms = attributes(said[_ACT_OPTIONS], 0)[_MIRRED_PARMS]
    *_, what, to = _MIRRED.unpack_from(parms)
    flags, _, keys, *_ = _SELECTOR.unpack_from(options[_U32_SEL])
    mask = _KEY.unpack_from(options[_U32_SEL], _SELECTOR.size)[0] if keys else 0
    if what != _EGRESS_REDIRECT or not flags & _TERMINAL or keys != 1 or mask:
        return None
    return Redirect(names[index], names.get(to, f"link {to}"))
