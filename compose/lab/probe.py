"""One question asked with real packets: does this source reach that port?"""

import asyncio
import os
import re
import socket
import time
from ipaddress import ip_address
from pathlib import Path

import msgspec

from compose.lab.netns import socket_in
from compose.lab.serve import Port
from compose.lab.waiting import patient
from shared.errors import Invalid, Refused

_TARGET = re.compile(r"(?P<host>\[[^\]]+\]|.+?):(?P<port>\d{1,5})(?:/(?P<protocol>tcp|udp|sctp))?", re.IGNORECASE)
_UDP_TRIES = 3
"""A datagram may be lost without anybody meaning it, first of all while neighbours are being resolved."""


class Target(msgspec.Struct, frozen=True):
    """What TARGET:PORT/PROTO says. `host` is a pod (NS/NAME), a node, `outside` or an address."""

    host: str
    port: Port


class Answer(msgspec.Struct, frozen=True):
    """`by`: the first line that a lab's listener answered with, empty when something else answered."""

    reached: bool
    address: str
    port: Port
    source: str = ""
    by: str = ""
    reason: str = ""
    took_ms: float = 0.0


def parse_target(text: str) -> Target:
    """`default/b:80/tcp`, `10.0.0.1:53/udp`, `[fd00::1]:80`; TCP when nothing is said. Invalid otherwise."""
    match = _TARGET.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise Invalid(f"{text!r}: expected TARGET:PORT/PROTO, PROTO one of tcp, udp, sctp")
    return Target(match["host"].strip("[]"), Port(int(match["port"]), (match["protocol"] or "tcp").lower()))


async def ask(netns: Path, address: str, port: Port, *, timeout_s: float = 2.0) -> Answer:
    """Connect (TCP) or send and await an answer (UDP) from a namespace.

    Refused: the kernel lacks the protocol; NotFound: the namespace is gone.
    """
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    try:
        client = socket_in(netns, family, kind, socket.IPPROTO_SCTP if port.protocol == "sctp" else 0)
    except OSError as error:
        raise Refused(f"{port}: this machine's kernel has no such sockets ({error.strerror})") from error
    began = time.monotonic()
    with client:
        client.setblocking(False)
        try:
            async with asyncio.timeout(patient(timeout_s)):
                await asyncio.get_running_loop().sock_connect(client, (address, port.number))
                source = client.getsockname()[0]
                by = await (_datagram(client, timeout_s) if port.protocol == "udp" else _greeting(client))
        except TimeoutError:
            return Answer(False, address, port, reason=f"no answer within {patient(timeout_s):g} s")
        except OSError as error:
            return Answer(False, address, port, reason=os.strerror(error.errno) if error.errno else str(error))
    took_ms = round((time.monotonic() - began) * 1000, 2)
    return Answer(True, address, port, source=source, by=by, took_ms=took_ms)


async def _greeting(client: socket.socket) -> str:
    """Connected is reached; who answers says its name soon, or is somebody else's server and says nothing."""
    try:
        async with asyncio.timeout(patient(0.2)):
            return _first_line(await asyncio.get_running_loop().sock_recv(client, 256))
    except (TimeoutError, OSError):
        return ""


async def _datagram(client: socket.socket, timeout_s: float) -> str:
    loop = asyncio.get_running_loop()
    for _ in range(_UDP_TRIES):
        await loop.sock_sendall(client, b"probe")
        try:
            async with asyncio.timeout(patient(timeout_s) / _UDP_TRIES):
                return _first_line(await loop.sock_recv(client, 2048))
        except TimeoutError:
            continue
    raise TimeoutError


def _first_line(data: bytes) -> str:
    return data.split(b"\n", 1)[0].decode(errors="replace")
