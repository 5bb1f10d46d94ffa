"""Pods' namespaces: found again without a path, entered for a moment, never held.

The path that an ADD comes with ends with the runtime's call, and whatever is held open (a descriptor, a socket) would
keep a dead pod's namespace alive, its links, and with them its lease. So a namespace is known by what the kernel calls
it, and looked for among those that a file or a process holds. Only the kernel's threads come here.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from struct import Struct, pack
from typing import Final, NamedTuple, TypeVar

import msgspec

from services.policy.adapters.interfaces import interfaces
from services.policy.adapters.netns import entered
from services.policy.adapters.nfnetlink import NfSocket
from shared.errors import NotFound, Unavailable
from shared.netlink import ACK, DUMP, HEADER, NLMSG_DONE, NLMSG_ERROR, REQUEST, attribute, attributes

_ROUTE: Final = 0
_GETLINK, _NEWLINK, _NEWNSID, _GETNSID = 18, 16, 88, 90
_FAMILY: Final = pack("=Bxxx", 0)
_LINK: Final = Struct("=BxHiII")
"""ifinfomsg: family, type, index, flags, change"""
_LINK_NETNSID: Final = 37
_NSID, _FD = 1, 3
_RECEIVE: Final = 1 << 16
_SO_NETNS_COOKIE: Final = 71

T = TypeVar("T")


class Where(msgspec.Struct, frozen=True):
    """One namespace. Its inode is another's when it has ended; its cookie (Linux 5.14, else 0) never is."""

    path: str
    """what led to it last"""
    inode: tuple[int, int]
    cookie: int
    number: int
    """what the node's namespace calls it; what is heard of it bears this"""


class Sought(NamedTuple):
    """What tells a pod's namespace: an address on the interface that the runtime named."""

    ifname: str
    addresses: tuple[str, ...]


def at(path: str) -> Where:
    """The namespace at a path, given a number if it has none. Raises NotFound: there is none; Invalid: it is none."""
    with _opened(path) as fd:
        return Where(path, _inode(fd), _cookie(fd, path), _number(fd))


@contextmanager
def inside(where: Where, close: Callable[[NfSocket], object] = NfSocket.close) -> Iterator[tuple[NfSocket, Where]]:
    """A socket in the namespace, and what leads there now. Raises NotFound: it has ended. `close` is to close it soon:
    whatever is open there keeps the namespace."""
    with _found(where) as (fd, path):
        with entered(fd, path):
            own = NfSocket()
    try:
        yield own, where if path == where.path else msgspec.structs.replace(where, path=path)
    finally:
        close(own)


def made_in(where: Where, make: Callable[[], T]) -> T:
    """What `make` opens in the namespace, for the caller to close. Raises NotFound: it has ended."""
    with _found(where) as (fd, path), entered(fd, path):
        return make()


def unheld(held: Iterable[Where]) -> list[Where]:
    """Those to which no file and no process leads any more: only what was opened there keeps them."""
    lost = [where for where in held if not _leads(where.path, where.inode)]
    if not lost:
        return []
    alive = set()
    for path in _places():
        with suppress(OSError):
            found = os.stat(path)
            alive.add((found.st_dev, found.st_ino))
    return [where for where in lost if where.inode not in alive]


def _leads(path: str, inode: tuple[int, int]) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == inode


def search(sought: Mapping[str, Sought]) -> dict[str, Where]:
    """Whose namespace is where. Only those count that a link of the node leads into: others may have such addresses,
    too. What is not found is left out."""
    found: dict[str, Where] = {}
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for path, fd in _every(but=_inode(home)):
            with suppress(OSError):
                held = _within(fd, path, home)
                for name, one in sought.items():
                    if name not in found and set(one.addresses) & set(held.get(one.ifname, ())):
                        found[name] = Where(path, _inode(fd), _cookie(fd, path), _number(fd))
            if len(found) == len(sought):
                break
    finally:
        os.close(home)
    return found


def _within(fd: int, path: str, home: int) -> dict[str, list[str]]:
    """The interfaces of a namespace with their addresses; empty: none of its links leads to `home`."""
    with entered(fd, path):
        with _route() as route:
            leads_to = set(_leads_to(route))
            if not leads_to or _ask_number(route, home) not in leads_to:
                return {}
        return interfaces()


def _leads_to(route: socket.socket) -> Iterator[int]:
    """The numbers of the namespaces in which the other ends of this one's links are."""
    for kind, body in _dump(route, _GETLINK, _LINK.pack(0, 0, 0, 0, 0)):
        if kind == _NEWLINK:
            said = dict(attributes(body[16:]))
            if _LINK_NETNSID in said:
                yield int.from_bytes(said[_LINK_NETNSID], sys.byteorder, signed=True)


def _dump(route: socket.socket, kind: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    route.send(HEADER.pack(16 + len(body), kind, REQUEST | DUMP, 1, 0) + body)
    while True:
        for answered, said in _messages(route):
            if answered in (NLMSG_DONE, NLMSG_ERROR):
                return
            yield answered, said


def _messages(route: socket.socket) -> list[tuple[int, bytes]]:
    data, offset, found = route.recv(_RECEIVE), 0, []
    while offset + 16 <= len(data):
        size, kind, *_ = HEADER.unpack_from(data, offset)
        found.append((kind, data[offset + 16 : offset + size]))
        offset += (size + 3) & ~3
    return found


def _number(fd: int) -> int:
    """What the calling thread's namespace calls that one; it is named if it has no number yet."""
    with _route() as route:
        number = _ask_number(route, fd)
        if number is None:
            body = _FAMILY + attribute(_NSID, pack("=i", -1)) + attribute(_FD, pack("=I", fd))
            route.send(HEADER.pack(16 + len(body), _NEWNSID, REQUEST | ACK, 1, 0) + body)
            _messages(route)  # an error means that somebody else has just named it
            number = _ask_number(route, fd)
        if number is None:
            raise Unavailable("the kernel gives a pod's namespace no number: it needs CAP_NET_ADMIN")
        return number


def _ask_number(route: socket.socket, fd: int) -> int | None:
    body = _FAMILY + attribute(_FD, pack("=I", fd))
    route.send(HEADER.pack(16 + len(body), _GETNSID, REQUEST, 1, 0) + body)
    for kind, said in _messages(route):
        if kind not in (NLMSG_DONE, NLMSG_ERROR):
            number = int.from_bytes(dict(attributes(said[4:])).get(_NSID, b"\xff" * 4), sys.byteorder, signed=True)
            return None if number < 0 else number
    return None


def _route() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE)
    made.settimeout(10.0)
    return made


@contextmanager
def _found(where: Where) -> Iterator[tuple[int, str]]:
    """A descriptor of this very namespace, by the path known or by another."""
    for path in chain((where.path,), _paths(where.inode)):
        try:
            with _opened(path) as fd:
                if _inode(fd) == where.inode and _cookie(fd, path) == where.cookie:
                    yield fd, path
                    return
        except NotFound:
            continue
    raise NotFound("its network namespace has ended")


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as gone:
        raise NotFound(f"network namespace {path} cannot be opened: {gone.strerror}") from gone
    try:
        yield fd
    finally:
        os.close(fd)


def _every(*, but: tuple[int, int]) -> Iterator[tuple[str, int]]:
    """Path and descriptor, for as long as the caller looks at it, of each namespace that a file or process holds."""
    seen = {but}
    for path in _places():
        with suppress(NotFound), _opened(path) as fd:
            if (inode := _inode(fd)) not in seen:
                seen.add(inode)
                yield path, fd


def _paths(inode: tuple[int, int]) -> Iterator[str]:
    for path in _places():
        with suppress(OSError):
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == inode:
                yield path


def _places() -> Iterable[str]:
    return map(str, chain(Path("/run/netns").glob("*"), Path("/proc").glob("[0-9]*/ns/net")))


def _inode(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _cookie(fd: int, path: str) -> int:
    with entered(fd, path), socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        try:
            return int.from_bytes(asking.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError as unknown:
            if unknown.errno != errno.ENOPROTOOPT:
                raise
            return 0
