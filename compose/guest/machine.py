"""One guest: started, waited for, its command's status handed on; nothing of it is left.

QEMU translates (`tcg`): /dev/kvm may be there and still hang with a stock kernel. One processor unless more are asked
for, since translating for several costs more than it brings a single program; a lab is many.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from compose.guest import inside
from compose.guest.initramfs import MACHINE, archive
from compose.guest.kernel import EARLY, KERNEL, MODULES, Modules, fetch, fetch_kernel
from shared.errors import Unavailable

TIMED_OUT: Final = 124
"""As timeout(1) says it."""
_VIRTIOFSD: Final = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
"""Debian 12's, in C, and the later one."""
SLOWER: Final = {"TERWAY_GUEST": "1", "TERWAY_LAB_PATIENCE": "20"}
"""For labs in a guest: they need not go into another one, and wait so many times as long, at most."""
_PROCESSOR: Final = "Nehalem"
"""What a later one has beside (SMAP, 57-bit addresses, XSAVE) costs a translator a tenth of its speed."""
_SOCKET_S: Final = 20.0
_LINUX: Final = (
    "console=ttyS0 quiet panic=-1 mitigations=off rcupdate.rcu_expedited=1 audit=0 apparmor=0 no_timer_check"
)
_FIRST: Final = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec {python} -I -S {program} {job}
"""


class Guest(msgspec.Struct, frozen=True):
    """What kind of guest. `kept`: folders whose contents the guest changes for good; all else is forgotten.

    `output`: a file for what the command prints; None: where this process prints.
    """

    cache: Path
    kept: tuple[Path, ...] = ()
    output: Path | None = None
    timeout_s: float = 600.0
    memory_mib: int = 1536
    processors: int = 1
    kernel: str = KERNEL


class Ended(msgspec.Struct, frozen=True):
    """How a command ended."""

    status: int
    kernel: str = ""
    memory_mib: int = 0
    seconds: float = 0.0


def run(guest: Guest, command: Sequence[str], *, environment: dict[str, str]) -> Ended:
    """Run a command in a new guest, in this process's folder. Unavailable: there was no running it."""
    guest.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=guest.cache.resolve()) as place, ExitStack() as opened:
        folder = Path(place)
        socket = opened.enter_context(_files(folder))
        arguments = _prepare(guest, folder, socket, command, environment)
        began = time.monotonic()
        with (folder / "qemu.log").open("wb") as log:
            output = None if guest.output is None else opened.enter_context(guest.output.open("wb"))
            qemu = opened.enter_context(_process(arguments, log, output))
            try:
                qemu.wait(guest.timeout_s)
            except subprocess.TimeoutExpired:
                _show(folder, f"timed out after {guest.timeout_s:g} s")
                return Ended(TIMED_OUT, seconds=time.monotonic() - began)
        try:
            ended = msgspec.json.decode((folder / "status").read_bytes(), type=Ended)
        except FileNotFoundError:
            _show(folder, "did not run the command")
            raise Unavailable("the guest ended without running the command") from None
        return msgspec.structs.replace(ended, seconds=round(time.monotonic() - began, 1))


NICS = ("02:16:3e:00:ca:01", "02:16:3e:00:ca:02")
"""MACs of the guest's network cards: hardware, as far as its kernel knows."""


def _prepare(
    guest: Guest, folder: Path, socket: Path, command: Sequence[str], environment: dict[str, str]
) -> list[str]:
    kernel = fetch_kernel(guest.cache, guest.kernel)
    busybox = fetch("busybox-static", guest.cache) / "bin/busybox"
    modules = Modules(kernel)
    job = {
        "machine": MACHINE,
        "kept": [str(path.resolve()) for path in (*guest.kept, folder)],
        "modules": [str(path.resolve()) for path in modules.in_order(MODULES)],
        "command": list(command),
        "folder": str(Path.cwd()),
        "environment": environment,
        "line": "/dev/ttyS1",
        "status": str(folder / "status"),
    }
    (folder / "job").write_text(json.dumps(job))
    first = folder / "first"
    python = os.path.realpath(sys.executable)
    first.write_text(_FIRST.format(python=python, program=inside.__file__, job=folder / "job"))
    first.chmod(0o755)
    (folder / "initramfs").write_bytes(archive(busybox, modules.in_order(EARLY), first))
    [image] = kernel.glob("boot/vmlinuz-*")
    return _qemu(guest, folder, socket, image)


def _qemu(guest: Guest, folder: Path, socket: Path, image: Path) -> list[str]:
    size = str(guest.memory_mib)
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", _PROCESSOR, "-smp", str(guest.processors), "-m", size),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(image), "-initrd", str(folder / "initramfs"), "-append", _LINUX),
        *("-serial", f"file:{folder / 'console'}", "-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"),
        *("-M", "q35,memory-backend=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={size}M,share=on"),
        *("-chardev", f"socket,id=files,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=root,queue-size=1024"),
        *_nics(),
    ]


def _nics() -> Iterator[str]:
    """Two network cards, with a cable between them that leads nowhere else."""
    for number, mac in enumerate(NICS):
        yield from ("-netdev", f"hubport,id=nic{number},hubid=0")
        yield from ("-device", f"virtio-net-pci,netdev=nic{number},mac={mac},romfile=")


@contextmanager
def _files(folder: Path) -> Iterator[Path]:
    """This machine's files, served at a socket."""
    program = next((path for path in _VIRTIOFSD if Path(path).exists()), None)
    if program is None or shutil.which("qemu-system-x86_64") is None:
        raise Unavailable("qemu-system-x86 is not installed: deploy/guest-setup.sh")
    socket = folder / "files.sock"
    sharing = ["-o", "source=/,cache=always,sandbox=chroot"]
    if program != _VIRTIOFSD[0]:
        sharing = ["--shared-dir=/", "--cache=always", "--sandbox=chroot"]
    command = [program, f"--socket-path={socket}", *sharing]
    with (folder / "virtiofsd.log").open("wb") as log, _process(command, log, log):
        ends = time.monotonic() + _SOCKET_S
        while not socket.exists():
            if time.monotonic() > ends:
                _show(folder, "has no files")
                raise Unavailable("virtiofsd does not serve")
            time.sleep(0.02)
        yield socket


@contextmanager
def _process(arguments: Sequence[str], log: IO[bytes], output: IO[bytes] | None) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a group of its own; the group ends with the block."""
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _show(folder: Path, what: str) -> None:
    """Say on stderr what a failed guest left to read."""
    sys.stderr.write(f"guest: {what}\n")
    for name in ("console", "qemu.log", "virtiofsd.log"):
        path = folder / name
        text = path.read_text(errors="replace")[-4000:].strip() if path.exists() else ""
        if text:
            sys.stderr.write(f"--- {name}\n{text}\n")
