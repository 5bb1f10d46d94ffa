"""Links as rtnetlink requests and answers: how they come, whose they are, how they go."""

from socket import AF_UNSPEC
from struct import Struct
from typing import Final

from services.eni_manager.adapters.netlink_wire import EXCL, Request, attributes, i32, mac_bytes, number, u32
from services.eni_manager.core.wiring.marks import RETIRED_GROUP, retired_name
from services.eni_manager.core.wiring.standing import SeenLink
from services.eni_manager.core.wiring.values import Link, Veth
from shared.model import Mac
from shared.netlink import CREATE, attribute, string, text
from shared.netlink import Message as Frame

_LINK: Final = Struct("=BxHiII")
"""ifinfomsg: family, type, index, flags, change"""
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_IFF_UP: Final = 1
_IFF_NOARP: Final = 0x80
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 16, 18, 20, 27, 28, 29
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES, _IFLA_LINK_NETNSID = 31, 32, 37
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER, _IPVLAN_MODE = 1, 2, 1, 1
_IPVLAN_L2: Final = b"\0\0"
_OPERSTATE_UP: Final = b"\6"
_TELLING: Final = frozenset(
    {
        _IFLA_ADDRESS,
        _IFLA_IFNAME,
        _IFLA_MTU,
        _IFLA_LINK,
        _IFLA_OPERSTATE,
        _IFLA_LINKINFO,
        _IFLA_IFALIAS,
        _IFLA_GROUP,
        _IFLA_LINK_NETNSID,
    }
)
"""The few of some forty attributes of a link that we read."""
_KIND: Final = frozenset({_INFO_KIND})
_SKIP_STATS: Final = number(_IFLA_EXT_MASK, 8)
# One queue per end, as every kernel before 5.17 makes: a queue per CPU costs a sysfs object each.
_ONE_QUEUE: Final = number(_IFLA_NUM_TX_QUEUES, 1) + number(_IFLA_NUM_RX_QUEUES, 1)


def create_veth(veth: Veth, netns_fd: int) -> Request:
    """The pair, its host end up, its other end made directly in the pod's namespace: moving it there takes 15 ms."""
    mtu = number(_IFLA_MTU, veth.mtu) + _ONE_QUEUE
    peer = (
        _LINK.pack(AF_UNSPEC, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, veth.pod)
        + attribute(_IFLA_ADDRESS, mac_bytes(veth.pod_mac))
        + mtu
        + number(_IFLA_NET_NS_FD, netns_fd)
    )
    body = (
        _LINK.pack(AF_UNSPEC, 0, 0, _IFF_UP, _IFF_UP)
        + text(_IFLA_IFNAME, veth.host)
        + attribute(_IFLA_ADDRESS, mac_bytes(veth.host_mac))
        + mtu
        + attribute(
            _IFLA_LINKINFO,
            text(_INFO_KIND, "veth") + attribute(_INFO_DATA, attribute(_VETH_INFO_PEER, peer)),
        )
    )
    return Request(_NEWLINK, CREATE | EXCL, body, f"veth {veth.host} with {veth.pod} in the sandbox")


def alias_link(index: int, alias: str) -> Request:
    """Write on a link whose it is."""
    return Request(_SETLINK, 0, _LINK.pack(AF_UNSPEC, 0, index, 0, 0) + text(_IFLA_IFALIAS, alias), f"alias {alias}")


def create_ipvlan(name: str, parent: int, mtu: int, *, netns_fd: int | None = None, noarp: bool = False) -> Request:
    """An IPvlan slave, mode L2, of the link with that ifindex; `netns_fd`: made directly in that namespace. Down."""
    flags = _IFF_NOARP if noarp else 0
    body = _LINK.pack(AF_UNSPEC, 0, 0, flags, flags) + text(_IFLA_IFNAME, name) + number(_IFLA_LINK, parent)
    body += number(_IFLA_MTU, mtu) + (b"" if netns_fd is None else number(_IFLA_NET_NS_FD, netns_fd))
    info = text(_INFO_KIND, "ipvlan") + attribute(_INFO_DATA, attribute(_IPVLAN_MODE, _IPVLAN_L2))
    return Request(_NEWLINK, CREATE | EXCL, body + attribute(_IFLA_LINKINFO, info), f"ipvlan {name}")


def rename_link(index: int, name: str) -> Request:
    """Another name for a link that is down."""
    return Request(_SETLINK, 0, _LINK.pack(AF_UNSPEC, 0, index, 0, 0) + text(_IFLA_IFNAME, name), f"name {name}")


def create_ifb(name: str, mtu: int) -> Request:
    """A link that hands on what it is sent, after its queue."""
    body = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + number(_IFLA_MTU, mtu) + _ONE_QUEUE
    return Request(_NEWLINK, CREATE | EXCL, body + attribute(_IFLA_LINKINFO, text(_INFO_KIND, "ifb")), f"ifb {name}")


def move_link(index: int, name: str, netns_fd: int) -> tuple[Request, Request]:
    """Take a link down, then into another namespace, where it is called `name` at once: two of a name do not meet."""
    down = Request(_SETLINK, 0, _LINK.pack(AF_UNSPEC, 0, index, 0, _IFF_UP), f"link {index} down")
    body = _LINK.pack(AF_UNSPEC, 0, index, 0, 0) + text(_IFLA_IFNAME, name) + number(_IFLA_NET_NS_FD, netns_fd)
    return down, Request(_SETLINK, 0, body, f"the way of link {index} into another namespace, as {name}")


def retire_link(index: int) -> tuple[Request, Request]:
    """Take a link down, then its name from it and mark it for deletion; older kernels rename only what is down."""
    down = Request(_SETLINK, 0, _LINK.pack(AF_UNSPEC, 0, index, 0, _IFF_UP), f"link {index} down")
    body = _LINK.pack(AF_UNSPEC, 0, index, 0, 0)
    body += text(_IFLA_IFNAME, retired_name(index)) + number(_IFLA_GROUP, RETIRED_GROUP)
    return down, Request(_SETLINK, 0, body, f"retiring link {index}")


def delete_link(index: int) -> Request:
    """Delete one link, and a veth's other end with it."""
    return Request(_DELLINK, 0, _LINK.pack(AF_UNSPEC, 0, index, 0, 0), f"deletion of link {index}")


def delete_retired() -> Request:
    """Delete all retired links at once: fifty cost what one does."""
    body = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + number(_IFLA_GROUP, RETIRED_GROUP)
    return Request(_DELLINK, 0, body, "deletion of the retired links")


def get_link(which: str | int) -> Request:
    """Ask for one link by name or ifindex."""
    index = which if isinstance(which, int) else 0
    name = text(_IFLA_IFNAME, which) if isinstance(which, str) else b""
    return Request(_GETLINK, 0, _LINK.pack(AF_UNSPEC, 0, index, 0, 0) + name + _SKIP_STATS, f"link {which}")


def get_links() -> Request:
    """Ask for all links."""
    return Request(_GETLINK, 0, _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + _SKIP_STATS, "all links")


def seen_link(frame: Frame) -> SeenLink | None:
    """The link that a frame of get_link(s), or of the link group, shows; None: it tells of something else."""
    if frame.type != _NEWLINK:
        return None
    family, _, index, flags, _ = _LINK.unpack_from(frame.body)
    if family != AF_UNSPEC:  # a bridge says more of its ports in frames of their own
        return None
    found = attributes(frame.body, _LINK.size, _TELLING)
    return SeenLink(
        index=index,
        name=string(found[_IFLA_IFNAME]),
        mac=Mac(found.get(_IFLA_ADDRESS, b"").hex(":")),
        mtu=u32(found.get(_IFLA_MTU)),
        up=bool(flags & _IFF_UP),
        noarp=bool(flags & _IFF_NOARP),
        sends=found.get(_IFLA_OPERSTATE) == _OPERSTATE_UP,
        group=u32(found.get(_IFLA_GROUP)),
        alias=string(found.get(_IFLA_IFALIAS, b"")),
        peer=u32(found.get(_IFLA_LINK)),
        peer_netns=i32(found[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in found else None,
        kind=string(attributes(found.get(_IFLA_LINKINFO, b""), 0, _KIND).get(_INFO_KIND, b"")),
    )


_NEWNSID, _GETNSID = 88, 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_NAMESPACE: Final = Struct("=Bxxx")
"""rtgenmsg: family"""


def get_netns_number(netns_fd: int) -> Request:
    """Ask by which number this namespace knows another."""
    return Request(_GETNSID, 0, _NAMESPACE.pack(AF_UNSPEC) + number(_NETNSA_FD, netns_fd), "a namespace's number")


def seen_netns_number(frame: Frame) -> int | None:
    """The number in an answer to get_netns_number; None: it has none, or the frame tells of something else."""
    if frame.type != _NEWNSID:
        return None
    found = i32(attributes(frame.body, _NAMESPACE.size)[_NETNSA_NSID])
    return found if found >= 0 else None


def set_link(link: Link, index: int) -> Request:
    """Give a link its MTU and state."""
    flags = (_IFF_UP if link.up else 0) | (_IFF_NOARP if link.noarp else 0)
    body = _LINK.pack(AF_UNSPEC, 0, index, flags, _IFF_UP | _IFF_NOARP) + number(_IFLA_MTU, link.mtu)
    return Request(_SETLINK, 0, body, link)
