"""What the fabric asks of the kernel: text for ip, bridge and nft, sysctls, namespaces.

All of it acts on the namespace of the calling thread; `inside` does something short in another one.
"""

import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from compose.lab.fabric import names
from compose.lab.netns import call_in
from shared.errors import SuiteError

T = TypeVar("T")


class FabricError(SuiteError):
    """The kernel refused what the fabric wanted."""


def inside(namespace: str, act: Callable[[], T]) -> T:
    """Run `act` in a namespace, by name, and return what it returns. Raises NotFound when it is gone."""
    return call_in(names.path(namespace), act)


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
