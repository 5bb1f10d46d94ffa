"""Do something inside a pod's network namespace with the calling thread.

Only threads of kernel.py come here: a thread keeps the namespace that it was born in, so what is done inside
must not start threads, and nothing that is opened inside may stay open, or a dead pod's namespace would live on.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shared.errors import Invalid, NotFound, Unavailable

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(path: str) -> Iterator[None]:
    """Run the body in the namespace at `path`. Raises NotFound: there is none; Invalid: it is no network namespace."""
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as gone:
        raise NotFound(f"network namespace {path} cannot be opened: {gone.strerror}") from gone
    try:
        with entered(target, path):
            yield
    finally:
        os.close(target)


@contextmanager
def entered(target: int, path: str) -> Iterator[None]:
    """Run the body in the namespace that a descriptor is of; `path` names it in errors. Raises as `inside`."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(target, path)
        try:
            yield
        finally:
            _enter(home, "/proc/thread-self/ns/net")
    finally:
        os.close(home)


@contextmanager
def fresh() -> Iterator[None]:
    """Run the body in a namespace of its own, which lasts for as long as something that it opened stays open."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            code = ctypes.get_errno()
            if code == errno.EPERM:
                raise Unavailable("a network namespace cannot be made: enforcing needs CAP_SYS_ADMIN")
            raise OSError(code, os.strerror(code))
        try:
            yield
        finally:
            _enter(home, "/proc/thread-self/ns/net")
    finally:
        os.close(home)


def _enter(fd: int, path: str) -> None:
    # Python has os.setns from 3.12 on only.
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        if code == errno.EINVAL:
            raise Invalid(f"{path} is no network namespace")
        if code == errno.EPERM:
            raise Unavailable("a pod's namespace cannot be entered: enforcing there needs CAP_SYS_ADMIN")
        raise OSError(code, os.strerror(code))
