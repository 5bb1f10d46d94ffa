"""Real servers in a namespace, kept by one process that `lab pod del` and `lab down` find again."""

import fcntl
import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from compose.lab import listener, process
from compose.lab.netns import call_in
from shared.errors import Conflict, Invalid, Refused

_PORT = re.compile(r"(\d{1,5})/(tcp|udp|sctp)")
_BACKLOG = 128
_HIGH = 256
"""Descriptors are first lifted above this, so that placing one at 3 never overwrites the next."""


class Port(msgspec.Struct, frozen=True, order=True):
    """A port to serve on or to reach."""

    number: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


def parse_ports(text: str) -> list[Port]:
    """`80/tcp,81/udp` as ports; Invalid names the part that is none."""
    ports = []
    for part in filter(None, text.split(",")):
        match = _PORT.fullmatch(part.strip().lower())
        if match is None or not 0 < int(match[1]) < 65536:
            raise Invalid(f"{part!r}: expected PORT/tcp, PORT/udp or PORT/sctp")
        ports.append(Port(int(match[1]), match[2]))
    return ports


def start(name: str, ports: Sequence[Port], *, greeting: str, netns: Path, records: Path, log: Path) -> process.Process:
    """Listen on all addresses of the namespace; when this returns, every port answers.

    Refused: the kernel lacks the protocol. Conflict: the port is taken.
    """
    with ExitStack() as opened:
        descriptors = []
        for port in ports:
            with call_in(netns, partial(_listening, port)) as server:
                descriptors.append(fcntl.fcntl(server, fcntl.F_DUPFD_CLOEXEC, _HIGH))
                opened.callback(os.close, descriptors[-1])
        return process.spawn(
            name,
            [sys.executable, "-ISE", listener.__file__, greeting, *(port.protocol for port in ports)],
            descriptors=descriptors,
            records=records,
            log=log,
        )


def _listening(port: Port) -> socket.socket:
    if port.protocol == "sctp":
        kind, number = socket.SOCK_STREAM, socket.IPPROTO_SCTP
    else:
        kind, number = (socket.SOCK_STREAM, 0) if port.protocol == "tcp" else (socket.SOCK_DGRAM, 0)
    # One socket for both families, where the namespace has IPv6 at all.
    family = socket.AF_INET6 if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else socket.AF_INET
    try:
        server = socket.socket(family, kind, number)
    except OSError as error:
        raise Refused(f"{port}: this machine's kernel has no such sockets ({error.strerror})") from error
    try:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if port.protocol != "udp":  # where it would let two processes share one port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port.number))
        if port.protocol != "udp":
            server.listen(_BACKLOG)
    except OSError as error:
        server.close()
        raise Conflict(f"{port}: cannot listen: {error.strerror}") from error
    return server
