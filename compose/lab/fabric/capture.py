"""Packet captures on ENIs: tcpdump in the VPC's namespace, read back as text."""

import asyncio
import contextlib
import functools
import itertools
import re
import signal
from pathlib import Path

import msgspec

from compose.lab.fabric import names
from compose.lab.fabric.vpc import VpcFabric
from compose.lab.waiting import until
from shared.errors import Conflict, DeadlineExceeded, Invalid, NotFound


class Capture(msgspec.Struct, frozen=True):
    """One that runs; `file` is in pcap format."""

    id: str
    eni: str
    filter: str
    file: str


class Captures:
    """All captures of a lab. `close` ends them."""

    def __init__(self, fabric: VpcFabric, folder: Path) -> None:
        self._fabric = fabric
        self._folder = folder
        self._ids = itertools.count(1)
        self._running: dict[str, tuple[Capture, asyncio.subprocess.Process]] = {}

    def running(self) -> list[Capture]:
        """What has been started and not stopped."""
        return [capture for capture, _ in self._running.values()]

    async def start(self, eni: str, expression: str) -> Capture:
        """Returns when packets are being captured. Raises NotFound, or Invalid when tcpdump refuses."""
        if eni not in self._fabric.ports:
            raise NotFound(f"{eni} is not plugged into any node")
        self._folder.mkdir(parents=True, exist_ok=True)
        number = str(next(self._ids))
        capture = Capture(number, eni, expression, str(self._folder / f"{eni}-{number}.pcap"))
        tcpdump = await asyncio.create_subprocess_exec(
            *("nsenter", f"--net={names.path(self._fabric.vpc)}"),
            *("tcpdump", "-n", "-U", "--immediate-mode", "-Z", "root", "-i", eni, "-w", capture.file),
            *expression.split(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        said = b""
        assert tcpdump.stderr is not None
        while line := await tcpdump.stderr.readline():
            said += line
            if b"listening on" in line:
                self._running[number] = (capture, tcpdump)
                return capture
        await tcpdump.wait()
        raise Invalid(f"tcpdump: {said.decode(errors='replace').strip()}")

    async def stop(self, number: str) -> list[str]:
        """End it; one line of text per packet, link header included. Raises NotFound."""
        if (found := self._running.pop(number, None)) is None:
            raise NotFound(f"there is no capture {number}")
        capture, tcpdump = found
        await _end(tcpdump)
        reader = await asyncio.create_subprocess_exec(
            *("tcpdump", "-n", "-e", "-r", capture.file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        text, _ = await reader.communicate()
        if reader.returncode != 0:
            raise Conflict(f"{capture.file} cannot be read")
        return text.decode(errors="replace").splitlines()

    async def close(self) -> None:
        """End all; their files stay."""
        for _, tcpdump in self._running.values():
            await _end(tcpdump)
        self._running.clear()


_COUNTED = re.compile(rb"(\d+) packets? captured, (\d+) packets? received by filter")


async def _end(tcpdump: asyncio.subprocess.Process) -> None:
    """Not before it has written all that the kernel holds for it: SIGTERM would drop that.

    A link that vanished has ended it already.
    """
    with contextlib.suppress(DeadlineExceeded, ProcessLookupError):
        await until(functools.partial(_unwritten, tcpdump), what="the capture's end", within_s=1, every_s=0.01)
    with contextlib.suppress(ProcessLookupError):
        tcpdump.terminate()
    await tcpdump.communicate()


async def _unwritten(tcpdump: asyncio.subprocess.Process) -> str:
    """What it still has to write, by its own counters (SIGUSR1)."""
    assert tcpdump.stderr is not None
    tcpdump.send_signal(signal.SIGUSR1)
    while line := await tcpdump.stderr.readline():
        if found := _COUNTED.search(line):
            written, held = int(found[1]), int(found[2])
            return f"{held - written} packets" if written < held else ""
    return ""
