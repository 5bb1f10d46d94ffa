"""Classifiers on a link's clsact egress, as rtnetlink messages: our BPF program, or Terway's u32 with three actions.

bpf   one filter, priority 40000, direct action; the ranges are in the program's map
u32   one filter per range, priority 40000 (IPv4) and 40001 (IPv6): one priority takes one protocol
      tunnel_key unset ─► skbedit ptype host ─► mirred ingress redirect       (terway.md §5.3, 5)
"""

from ipaddress import IPv6Address, ip_network
from socket import AF_UNSPEC, htons
from struct import Struct, pack, unpack
from typing import Final

import msgspec

from services.eni_manager.adapters.netlink_wire import EXCL, REPLACE, Request, attributes, number, u32
from shared.model import Cidr
from shared.netlink import CREATE, attribute, string, text
from shared.netlink import Message as Frame

PRIORITY: Final = 40000
"""terway.md §5.9"""

_TC: Final = Struct("=BxxxiIII")
"""tcmsg: family, index, handle, parent, info"""
_SELECTOR: Final = Struct("=BBBxHHhhI")
"""tc_u32_sel: flags, offshift, keys, offmask, off, offoff, hoff, hmask; keys follow"""
_KEY: Final = Struct("=4s4sii")
"""tc_u32_key: mask and value as the wire has them, offset in the packet, mask of the offset"""
_ACTION: Final = Struct("=IIiii")
"""tc_gen: index, capabilities, action, references, bindings"""
_NEWQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 44, 45, 46
_HANDLE, _CLSACT, _EGRESS = 0xFFFF0000, 0xFFFFFFF1, 0xFFFFFFF3
_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID, _BPF_DIRECT = 6, 7, 8, 11, 1
_U32_SEL, _U32_ACT = 5, 7
_ACT_KIND, _ACT_OPTIONS, _PARMS, _SKBEDIT_PTYPE = 1, 2, 2, 7
_PIPE, _STOLEN, _TUNNEL_RELEASE, _INGRESS_REDIRECT, _TERMINAL = 3, 4, 2, 3, 1
_ETH_ALL, _ETH_IPV4, _ETH_IPV6 = 0x0003, 0x0800, 0x86DD
_DESTINATION: Final = {4: 16, 6: 24}
"""Where it is in a header of that IP version."""


class SeenFilter(msgspec.Struct, frozen=True):
    """A filter of our priorities. `program`: the id of a BPF one's. `range`, `to`: of a u32 one's, where it is ours."""

    kind: str
    handle: int
    priority: int
    protocol: int
    name: str = ""
    program: int = 0
    range: Cidr | None = None
    to: int = 0


def put_clsact(index: int) -> Request:
    """The qdisc that the filters hang on; one that is there stays."""
    body = _TC.pack(AF_UNSPEC, index, _HANDLE, _CLSACT, 0) + text(_TCA_KIND, "clsact")
    return Request(_NEWQDISC, CREATE | EXCL, body, f"clsact on link {index}")


def put_program(index: int, program_fd: int, name: str) -> Request:
    """Our program, in the place of the one before it."""
    options = number(_BPF_FD, program_fd) + text(_BPF_NAME, name) + number(_BPF_FLAGS, _BPF_DIRECT)
    head = _TC.pack(AF_UNSPEC, index, 1, _EGRESS, PRIORITY << 16 | htons(_ETH_ALL))
    body = head + text(_TCA_KIND, "bpf") + attribute(_TCA_OPTIONS, options)
    return Request(_NEWTFILTER, CREATE | REPLACE, body, f"program {name} on link {index}")


def put_range(index: int, cidr: Cidr, to: int) -> Request:
    """One range by u32 and its three actions."""
    version, keys = _match(cidr)
    selector = _SELECTOR.pack(_TERMINAL, 0, len(keys), 0, 0, 0, 0, 0) + b"".join(keys)
    unset = _ACTION.pack(0, 0, _PIPE, 0, 0) + pack("=i", _TUNNEL_RELEASE)
    actions = (
        ("tunnel_key", attribute(_PARMS, unset)),
        ("skbedit", attribute(_PARMS, _ACTION.pack(0, 0, _PIPE, 0, 0)) + attribute(_SKBEDIT_PTYPE, pack("=H", 0))),
        ("mirred", attribute(_PARMS, _ACTION.pack(0, 0, _STOLEN, 0, 0) + pack("=iI", _INGRESS_REDIRECT, to))),
    )
    acts = b"".join(
        attribute(place, text(_ACT_KIND, kind) + attribute(_ACT_OPTIONS, options))
        for place, (kind, options) in enumerate(actions, 1)
    )
    info = (PRIORITY << 16 | htons(_ETH_IPV4)) if version == 4 else (PRIORITY + 1 << 16 | htons(_ETH_IPV6))
    options = attribute(_U32_SEL, selector) + attribute(_U32_ACT, acts)
    body = _TC.pack(AF_UNSPEC, index, 0, _EGRESS, info) + text(_TCA_KIND, "u32") + attribute(_TCA_OPTIONS, options)
    return Request(_NEWTFILTER, CREATE | EXCL, body, f"u32 filter for {cidr} on link {index}")


def drop_filter(index: int, seen: SeenFilter, *, all_of_priority: bool = False) -> Request:
    """One filter goes, or all that there are of its priority."""
    info = seen.priority << 16 | htons(seen.protocol)
    body = _TC.pack(AF_UNSPEC, index, 0 if all_of_priority else seen.handle, _EGRESS, info)
    return Request(_DELTFILTER, 0, body + text(_TCA_KIND, seen.kind), f"deletion of a filter on link {index}")


def get_filters(index: int) -> Request:
    """Ask for the filters on a link's egress."""
    return Request(_GETTFILTER, 0, _TC.pack(AF_UNSPEC, index, 0, _EGRESS, 0), "the filters of a link")


def seen_filter(frame: Frame) -> SeenFilter | None:
    """A filter of our priorities; None: of another, or what the kernel says besides of u32's tables."""
    _, _, handle, _, info = _TC.unpack_from(frame.body)
    priority, protocol = info >> 16, htons(info & 0xFFFF)
    if priority not in (PRIORITY, PRIORITY + 1):
        return None
    found = attributes(frame.body, _TC.size)
    kind = string(found.get(_TCA_KIND, b""))
    options = attributes(found.get(_TCA_OPTIONS, b""), 0)
    seen = SeenFilter(kind, handle, priority, protocol)
    if kind == "bpf":
        name, program = string(options.get(_BPF_NAME, b"")), u32(options.get(_BPF_ID))
        return msgspec.structs.replace(seen, name=name, program=program) if handle else None
    if kind != "u32":
        return seen
    if _U32_SEL not in options:
        return None
    return msgspec.structs.replace(seen, range=_range(options[_U32_SEL]), to=_target(options.get(_U32_ACT, b"")))


def _match(cidr: Cidr) -> tuple[int, list[bytes]]:
    """The IP version, and what to compare: the words of the address that the prefix covers, one at least."""
    network = ip_network(cidr)
    mask, value = network.netmask.packed, network.network_address.packed
    words = range(0, max(4, (network.prefixlen + 31) // 32 * 4), 4)
    start = _DESTINATION[network.version]
    return network.version, [_KEY.pack(mask[at : at + 4], value[at : at + 4], start + at, 0) for at in words]


def _range(selector: bytes) -> Cidr | None:
    """The range that a selector matches; None: it is not made as ours are."""
    flags, _, count, *_ = _SELECTOR.unpack_from(selector)
    keys = [_KEY.unpack_from(selector, _SELECTOR.size + _KEY.size * place) for place in range(count)]
    version = next((version for version, start in _DESTINATION.items() if keys and keys[0][2] == start), None)
    if not flags & _TERMINAL or version is None:
        return None
    size = 4 if version == 4 else 16
    mask = b"".join(key[0] for key in keys).ljust(size, b"\0")
    value = b"".join(key[1] for key in keys).ljust(size, b"\0")
    prefix = sum(byte.bit_count() for byte in mask)
    if version == 4:
        address = ".".join(str(byte) for byte in value)
    else:
        address = str(IPv6Address(value))
    found = Cidr(f"{address}/{prefix}")
    try:
        return found if _match(found)[1] == [_KEY.pack(*key) for key in keys] else None
    except ValueError:  # bits beyond the prefix
        return None


def _target(acts: bytes) -> int:
    """The ifindex that the three actions lead to; 0: they are others than ours."""
    actions = [attributes(raw, 0) for _, raw in sorted(attributes(acts, 0).items())]
    if [string(action.get(_ACT_KIND, b"")) for action in actions] != ["tunnel_key", "skbedit", "mirred"]:
        return 0
    parms = attributes(actions[-1][_ACT_OPTIONS], 0)[_PARMS]
    what, to = unpack("=iI", parms[_ACTION.size : _ACTION.size + 8])
    return int(to) if what == _INGRESS_REDIRECT else 0
