"""Wiring's values as rtnetlink requests, and back from what the kernel lists.

Each kind of value has its encoder and decoder side by side, so that what is put can be found again.
"""

from collections.abc import Callable, Iterable, Mapping
from socket import AF_INET, AF_INET6, AF_UNSPEC, inet_ntop, inet_pton
from struct import Struct, pack, unpack_from
from typing import Final, assert_never

from services.eni_manager.adapters.netlink_intake import drop_ingress, put_ingress, seen_ingress
from services.eni_manager.adapters.netlink_links import set_link
from services.eni_manager.adapters.netlink_wire import EXCL, REPLACE, Request, attributes, mac_bytes, number, u32
from services.eni_manager.core.wiring.marks import PROTOCOL
from services.eni_manager.core.wiring.shaping import TICKS_PER_SECOND
from services.eni_manager.core.wiring.values import (
    GATEWAY6,
    Address,
    Classifier,
    Diversion,
    Ingress,
    Item,
    Link,
    Neighbour,
    Redirect,
    Route,
    Rule,
    Shaper,
    Sysctl,
)
from shared.model import Cidr, Ip, Mac
from shared.netlink import CREATE, attribute, string, text
from shared.netlink import Message as Frame

_ADDRESS: Final = Struct("=BBBBI")
"""ifaddrmsg: family, prefix, flags, scope, index"""
_ROUTE: Final = Struct("=BBBBBBBBI")
"""rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags"""
_RULE: Final = Struct("=BBBBBBBBI")
"""fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags"""
_NEIGHBOUR: Final = Struct("=BxxxiHBB")
"""ndmsg: family, index, state, flags, type"""
_QDISC: Final = Struct("=BxxxiIII")
"""tcmsg: family, index, handle, parent, info"""
_RATE: Final = Struct("=BBHhHI")
"""tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate"""

_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38

# ---- addresses

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SCOPE_HOST: Final = 254
_NODAD: Final = 0x02
"""The cloud vouches for the address; duplicate detection would hold an IPv6 pod up for a second."""


def _address(address: Address, index: int) -> bytes:
    family, raw = _ip_bytes(address.ip)
    flags = _NODAD if family == AF_INET6 else 0
    return (
        _ADDRESS.pack(family, address.prefix, flags, _SCOPE_HOST if address.host else 0, index)
        + attribute(_IFA_LOCAL, raw)
        + attribute(_IFA_ADDRESS, raw)
    )


def _seen_address(frame: Frame, names: Mapping[int, str]) -> Address | None:
    _, prefix, _, scope, index = _ADDRESS.unpack_from(frame.body)
    if index not in names:
        return None
    found = attributes(frame.body, _ADDRESS.size)
    ip = _ip(found[_IFA_LOCAL if _IFA_LOCAL in found else _IFA_ADDRESS])
    # Other link-local addresses are the kernel's own affair (terway.md §5.1.3).
    if scope and scope != _SCOPE_HOST and ip != GATEWAY6:
        return None
    return Address(names[index], ip, prefix, host=scope == _SCOPE_HOST)


# ---- routes

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 9, 15
_UNICAST: Final = 1
_LOCAL: Final = 2
_SCOPE_LINK: Final = 253
_SCOPE_ANY: Final = 255
_ONLINK: Final = 4
_CLONED: Final = 0x200


def _route(route: Route, index: int, *, scope: int | None = None) -> bytes:
    family, raw, prefix = _cidr_bytes(route.to)
    via = b"" if route.via is None else attribute(_RTA_GATEWAY, _ip_bytes(route.via)[1])
    if scope is None:
        scope = _SCOPE_LINK if route.via is None and family == AF_INET else 0
    flags = _ONLINK if via and route.onlink else 0
    head = _ROUTE.pack(family, prefix, 0, 0, min(route.table, 252), PROTOCOL, scope, _UNICAST, flags)
    destination = attribute(_RTA_DST, raw) if prefix else b""
    return head + destination + via + number(_RTA_OIF, index) + number(_RTA_TABLE, route.table)


def _seen_route(frame: Frame, names: Mapping[int, str]) -> Route | None:
    family, prefix, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(frame.body)
    if kind != _UNICAST or flags & _CLONED or family not in (AF_INET, AF_INET6):
        return None
    found = attributes(frame.body, _ROUTE.size)
    index = u32(found.get(_RTA_OIF))
    if index not in names or _RTA_MULTIPATH in found or (family == AF_INET and _RTA_PRIORITY in found):
        return None
    gateway = found.get(_RTA_GATEWAY)
    return Route(
        link=names[index],
        to=_cidr(family, found.get(_RTA_DST), prefix),
        via=None if gateway is None else _ip(gateway),
        table=u32(found.get(_RTA_TABLE)) or table,
        onlink=family == AF_INET or gateway is None or bool(flags & _ONLINK),
    )


def get_route(to: Ip, index: int | None = None) -> Request:
    """Ask which way a packet to this address would go, by the link of this ifindex if one is given."""
    family, raw = _ip_bytes(to)
    head = _ROUTE.pack(family, 8 * len(raw), 0, 0, 0, 0, 0, 0, 0)
    by = b"" if index is None else number(_RTA_OIF, index)
    return Request(_GETROUTE, 0, head + attribute(_RTA_DST, raw) + by, f"the way to {to}")


def seen_hop(frame: Frame) -> tuple[int, Ip] | None:
    """The ifindex and the gateway in an answer to get_route; None: no gateway, or the frame tells of something else."""
    if frame.type != _NEWROUTE:
        return None
    found = attributes(frame.body, _ROUTE.size)
    if _RTA_GATEWAY not in found:
        return None
    return u32(found.get(_RTA_OIF)), _ip(found[_RTA_GATEWAY])


def seen_local(frame: Frame) -> bool:
    """Does an answer to get_route say that the address is this namespace's own?"""
    return frame.type == _NEWROUTE and _ROUTE.unpack_from(frame.body)[7] == _LOCAL


# ---- rules

_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 6, 10
_FRA_SUPPRESS_PREFIX, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 14, 15, 16, 21
_MARKED: Final = frozenset(
    {_FRA_IIFNAME, _FRA_PRIORITY, _FRA_SUPPRESS_PREFIX, _FRA_TABLE, _FRA_PROTOCOL, _FRA_FWMARK, _FRA_FWMASK}
)
_PLAIN: Final = frozenset(
    {_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_SUPPRESS_PREFIX, _FRA_TABLE, _FRA_PROTOCOL}
)
"""A rule with any other attribute selects by something that we never use, so it is not ours."""
_TO_TABLE: Final = 1


def _rule(rule: Rule) -> bytes:
    table = number(_FRA_PRIORITY, rule.priority) + number(_FRA_TABLE, rule.table)
    if not (rule.source or rule.to):
        head = _RULE.pack(AF_INET6 if rule.v6 else AF_INET, 0, 0, 0, min(rule.table, 252), 0, 0, _TO_TABLE, 0)
        mark = number(_FRA_FWMARK, rule.mark) + number(_FRA_FWMASK, rule.mask or rule.mark) if rule.mark else b""
        return head + mark + (text(_FRA_IIFNAME, rule.iif) if rule.iif else b"") + table
    family, raw, prefix = _cidr_bytes(rule.source or rule.to or Cidr(""))
    where = (0, prefix, _FRA_SRC) if rule.source else (prefix, 0, _FRA_DST)
    iif = text(_FRA_IIFNAME, rule.iif) if rule.iif else b""
    head = _RULE.pack(family, where[0], where[1], 0, min(rule.table, 252), 0, 0, _TO_TABLE, 0)
    return head + attribute(where[2], raw) + iif + table


def forget_rule(priority: int, *, source: Cidr | None = None, to: Cidr | None = None) -> Request:
    """Delete one rule of this priority and address, whatever table it looks up."""
    family, raw, prefix = _cidr_bytes(source or to or Cidr(""))
    where = (0, prefix, _FRA_SRC) if source else (prefix, 0, _FRA_DST)
    head = _RULE.pack(family, where[0], where[1], 0, 0, 0, 0, 0, 0)
    body = head + attribute(where[2], raw) + number(_FRA_PRIORITY, priority)
    return Request(_DELRULE, 0, body, f"deletion of rule {priority} for {source or to}")


def _seen_rule(frame: Frame) -> tuple[Rule, bool] | None:
    family, dst, src, tos, table, _, _, action, flags = _RULE.unpack_from(frame.body)
    if action != _TO_TABLE or flags & 2 or tos or (dst and src):
        return None
    found = attributes(frame.body, _RULE.size)
    mark = u32(found.get(_FRA_FWMARK))
    mask = u32(found.get(_FRA_FWMASK))
    by_mark = mark != 0 and mask != 0
    by_address = bool(dst or src)
    if (by_mark and by_address) or not found.keys() <= (_MARKED if by_mark else _PLAIN):
        return None
    if u32(found.get(_FRA_SUPPRESS_PREFIX, b"\xff" * 4)) != 0xFFFFFFFF:
        return None
    rule = Rule(
        priority=u32(found.get(_FRA_PRIORITY)),
        table=u32(found.get(_FRA_TABLE)) or table,
        source=_cidr(family, found[_FRA_SRC], src) if src else None,
        to=_cidr(family, found[_FRA_DST], dst) if dst else None,
        iif=string(found.get(_FRA_IIFNAME, b"")),
        mark=mark,
        mask=0 if mask == mark else mask,
        v6=not by_address and family == AF_INET6,
    )
    return rule, found.get(_FRA_PROTOCOL) == bytes((PROTOCOL,))


def seen_rules(frames: Iterable[Frame]) -> list[tuple[Rule, bool]]:
    """The plain rules among the frames, each with whether it bears our mark."""
    return [seen for frame in frames if frame.type == _NEWRULE and (seen := _seen_rule(frame)) is not None]


# ---- neighbours

_NDA_DST, _NDA_LLADDR = 1, 2
_PERMANENT: Final = 0x80


def _neighbour(neighbour: Neighbour, index: int) -> bytes:
    family, raw = _ip_bytes(neighbour.ip)
    head = _NEIGHBOUR.pack(family, index, _PERMANENT, 0, 0)
    return head + attribute(_NDA_DST, raw) + attribute(_NDA_LLADDR, mac_bytes(neighbour.mac))


def _seen_neighbour(frame: Frame, names: Mapping[int, str]) -> Neighbour | None:
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(frame.body)
    found = attributes(frame.body, _NEIGHBOUR.size)
    if index not in names or not state & _PERMANENT or not found.keys() >= {_NDA_DST, _NDA_LLADDR}:
        return None
    return Neighbour(names[index], _ip(found[_NDA_DST]), Mac(found[_NDA_LLADDR].hex(":")))


# ---- shapers

_TCA_KIND, _TCA_OPTIONS = 1, 2
_TBF_PARMS, _TBF_RTAB, _TBF_RATE64 = 1, 2, 4
_ROOT: Final = 0xFFFFFFFF
_HANDLE: Final = 0x10000
_ETHERNET: Final = 1
_CELL_LOG: Final = 3
_MAX32: Final = 0xFFFFFFFF


def _qdisc_head(index: int) -> bytes:
    return _QDISC.pack(AF_UNSPEC, index, _HANDLE, _ROOT, 0)


def _shaper(shaper: Shaper, index: int) -> bytes:
    rate32 = min(shaper.rate, _MAX32)
    parms = _RATE.pack(_CELL_LOG, _ETHERNET, 0, -1, 0, rate32) + bytes(_RATE.size)
    parms += pack("=III", shaper.limit, shaper.buffer_ticks, 0)
    # Kernels before 3.13 compute with this table; later ones only want to see it.
    ticks = ((cell + 1 << _CELL_LOG) * TICKS_PER_SECOND // shaper.rate for cell in range(256))
    table = pack("=256I", *(min(value, _MAX32) for value in ticks))
    options = attribute(_TBF_PARMS, parms) + attribute(_TBF_RTAB, table)
    if shaper.rate > _MAX32:
        options += attribute(_TBF_RATE64, pack("=Q", shaper.rate))
    return _qdisc_head(index) + text(_TCA_KIND, "tbf") + attribute(_TCA_OPTIONS, options)


def _seen_shaper(frame: Frame, names: Mapping[int, str]) -> Shaper | None:
    _, index, _, parent, _ = _QDISC.unpack_from(frame.body)
    found = attributes(frame.body, _QDISC.size)
    if index not in names or parent != _ROOT or string(found.get(_TCA_KIND, b"")) != "tbf":
        return None
    options = attributes(found[_TCA_OPTIONS], 0)
    parms = options[_TBF_PARMS]
    rate = _RATE.unpack_from(parms)[5]
    if wide := options.get(_TBF_RATE64):
        (rate,) = unpack_from("=Q", wide)
    limit, buffer_ticks = unpack_from("=II", parms, 2 * _RATE.size)
    return Shaper(names[index], rate, limit, buffer_ticks)


def _seen_qdisc(frame: Frame, names: Mapping[int, str]) -> Shaper | Ingress | None:
    return _seen_shaper(frame, names) or seen_ingress(frame, names)


# ---- all kinds


def put(item: Item, index: int) -> Request:
    """The request that makes `item` so, on the link of this ifindex. Repeats are harmless (EEXIST says: it is so)."""
    match item:
        case Link():
            return set_link(item, index)
        case Address():
            return Request(_NEWADDR, CREATE | EXCL, _address(item, index), item)
        case Route():
            return Request(_NEWROUTE, CREATE | REPLACE, _route(item, index), item)
        case Rule():
            return Request(_NEWRULE, CREATE | EXCL, _rule(item) + attribute(_FRA_PROTOCOL, bytes((PROTOCOL,))), item)
        case Neighbour():
            return Request(_NEWNEIGH, CREATE | REPLACE, _neighbour(item, index), item)
        case Shaper():
            return Request(_NEWQDISC, CREATE | REPLACE, _shaper(item, index), item)
        case Ingress():
            return put_ingress(item, index)
        case Sysctl():
            raise ValueError(f"{item} is a file, not a message")
        case Redirect() | Classifier() | Diversion():
            raise ValueError(f"{item} is on two links, and more than one message")
        case _:
            assert_never(item)


def drop(item: Item, index: int) -> Request:
    """The request that takes `item` away from the link of this ifindex."""
    match item:
        case Address():
            return Request(_DELADDR, 0, _address(item, index), item)
        case Route():
            return Request(_DELROUTE, 0, _route(item, index, scope=_SCOPE_ANY), item)
        case Rule():
            return Request(_DELRULE, 0, _rule(item), item)
        case Neighbour():
            return Request(_DELNEIGH, 0, _neighbour(item, index), item)
        case Shaper():
            return Request(_DELQDISC, 0, _qdisc_head(index), item)
        case Ingress():
            return drop_ingress(item, index)
        case Link() | Sysctl() | Redirect() | Classifier() | Diversion():
            raise ValueError(f"{item} is not taken away by value")
        case _:
            assert_never(item)


Listing = tuple[Request, Callable[[Frame, Mapping[int, str]], Item | None]]


def listings(*, v6: bool) -> list[Listing]:
    """The dumps that show everything but rules and settings on some links, each with its decoder."""
    families = (AF_INET, AF_INET6) if v6 else (AF_INET,)
    found: list[Listing] = []
    for family in families:
        found += [
            (Request(_GETADDR, 0, _ADDRESS.pack(family, 0, 0, 0, 0), "all addresses"), _seen_address),
            (Request(_GETROUTE, 0, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "all routes"), _seen_route),
            (Request(_GETNEIGH, 0, _NEIGHBOUR.pack(family, 0, 0, 0, 0), "all neighbours"), _seen_neighbour),
        ]
    found.append((Request(_GETQDISC, 0, _QDISC.pack(AF_UNSPEC, 0, 0, 0, 0), "all qdiscs"), _seen_qdisc))
    return found


def rule_listings(*, v6: bool) -> list[Request]:
    """The dumps that show all rules."""
    families = (AF_INET, AF_INET6) if v6 else (AF_INET,)
    return [Request(_GETRULE, 0, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "all rules") for family in families]


# ---- addresses as bytes


def _ip_bytes(ip: str) -> tuple[int, bytes]:
    family = AF_INET6 if ":" in ip else AF_INET
    return family, inet_pton(family, ip)


def _ip(raw: bytes) -> Ip:
    return Ip(inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw))


def _cidr_bytes(cidr: Cidr) -> tuple[int, bytes, int]:
    ip, _, prefix = cidr.partition("/")
    return *_ip_bytes(ip), int(prefix)


def _cidr(family: int, raw: bytes | None, prefix: int) -> Cidr:
    if raw is None:
        return Cidr("0.0.0.0/0" if family == AF_INET else "::/0")
    return Cidr(f"{_ip(raw)}/{prefix}")
