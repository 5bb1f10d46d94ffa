"""Network namespaces by path: open one, and do something inside it with the calling thread.

A thread keeps the namespace that it was born in, and one born inside a pod would stay there for ever. So only the
dataplane's own thread comes here, what it does inside must not start threads, and nothing is kept open: a kept
socket would keep a dead pod's namespace alive.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

from shared.errors import Invalid, NotFound

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def open_netns(path: str) -> int:
    """A descriptor of the namespace at `path`. Raises NotFound when there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as gone:
        raise NotFound(f"network namespace {path} cannot be opened: {gone.strerror}") from gone


def every_netns() -> Iterator[int]:
    """A descriptor, for as long as the caller looks at it, of each namespace that a file or a process holds here."""
    named = Path("/run/netns").glob("*")
    processes = Path("/proc").glob("[0-9]*/ns/net")
    seen = set()
    for path in chain(named, processes):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # it ended, or is not for us to see
        try:
            if (inode := os.fstat(fd).st_ino) not in seen:
                seen.add(inode)
                yield fd
        finally:
            os.close(fd)


def own_netns() -> int:
    """A descriptor of the calling thread's namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(netns_fd: int, home_fd: int) -> Iterator[None]:
    """Run the body with this thread in `netns_fd`, then return to `home_fd`. Raises Invalid: it is no namespace."""
    try:
        enter(netns_fd)
    except OSError as refused:
        if refused.errno == errno.EINVAL:
            raise Invalid("the path given as network namespace is not one") from refused
        raise
    try:
        yield
    finally:
        enter(home_fd)


def enter(fd: int) -> None:
    """Move the calling thread into a namespace; `inside` also brings it back."""
    # Python has os.setns from 3.12 on only.
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
