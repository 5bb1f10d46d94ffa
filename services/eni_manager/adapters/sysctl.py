"""Kernel settings below /proc/sys. /proc/sys/net shows the namespace of the thread that reads or writes it."""

import os
from collections.abc import Iterable
from typing import Final

from services.eni_manager.core.wiring.values import Sysctl

_ROOT: Final = os.environ.get("TERWAY_PROC_SYS", "/proc/sys").rstrip("/") + "/"
"""A container's own is read-only; it sees the machine's, which the machine's root may write, at another place."""
_LONGEST: Final = 256


def write(wanted: Iterable[Sysctl]) -> None:
    """Set each; one whose link has vanished, or whose protocol the kernel lacks, is passed over."""
    for item in wanted:
        try:
            fd = os.open(_ROOT + item.path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, item.value.encode())
        finally:
            os.close(fd)


def read(wanted: Iterable[Sysctl]) -> tuple[Sysctl, ...]:
    """How the same settings stand now; those that do not exist are left out."""
    found = []
    for item in wanted:
        try:
            fd = os.open(_ROOT + item.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            found.append(Sysctl(item.path, os.read(fd, _LONGEST).decode().strip()))
        finally:
            os.close(fd)
    return tuple(found)
