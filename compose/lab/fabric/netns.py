"""Doing things inside network namespaces: threads that enter them, and the programs that they start."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from compose.lab.fabric import names
from shared.errors import SuiteError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class FabricError(SuiteError):
    """The kernel refused what the fabric wanted."""


def enter(namespace: Path) -> None:
    """Move the calling thread, and what it starts later, into a namespace for the rest of its life.

    setns is per thread; Python 3.11 has no os.setns.
    """
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"setns {namespace}: {os.strerror(errno)}")
    finally:
        os.close(fd)


def inside(namespace: str, act: Callable[[], T]) -> T:
    """Run `act` in the namespace, in a thread of its own that ends with it."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter(names.path(namespace))
            results.append(act())
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=body, name=f"in-{namespace}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def feed(program: list[str], lines: Iterable[str]) -> str:
    """Give lines to a program on its standard input; returns what it printed. Raises FabricError."""
    text = "".join(f"{line}\n" for line in lines)
    if not text:
        return ""
    done = subprocess.run(program, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FabricError(f"{' '.join(program)}: {done.stderr.strip()}\n{text}")
    return done.stdout


def ip(lines: Iterable[str]) -> None:
    """Links, addresses, routes and neighbours of the calling thread's namespace."""
    feed(["ip", "-batch", "-"], lines)


def bridge(lines: Iterable[str]) -> None:
    """Forwarding entries of bridges."""
    feed(["bridge", "-batch", "-"], lines)


def nft(lines: Iterable[str]) -> None:
    """One transaction."""
    feed(["nft", "-f", "-"], lines)


def write_sysctls(values: Mapping[str, str]) -> None:
    """Of the calling thread's namespace: /proc/sys/net follows the thread."""
    for name, value in values.items():
        Path("/proc/sys", name).write_text(value)


def add(namespace: str) -> None:
    """A new namespace with a name."""
    _netns("add", namespace)


def delete(namespace: str) -> None:
    """Forget the name; the namespace goes when nothing uses it any more. Absent is success."""
    if names.path(namespace).exists():
        _netns("delete", namespace)


def _netns(verb: str, namespace: str) -> None:
    done = subprocess.run(["ip", "netns", verb, namespace], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FabricError(f"ip netns {verb} {namespace}: {done.stderr.strip()}")
