"""Processes that outlive the command that started them, found again by pid and start time.

A pid alone is not an identity: it is used again. The record on disk holds the kernel's start time beside it, so
that `lab down` after a crash or a restart of the machine never ends a stranger.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from compose.lab.waiting import PATIENCE, patient

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
MARK = "TERWAY_LAB_RECORDS"
"""In the environment of every process of a lab, inherited by their children: the folder of their records."""

_START_TIME = 19
"""Position of `starttime` in /proc/<pid>/stat, counted from the state behind the command's name."""


class Process(msgspec.Struct, frozen=True):
    """One process of the lab. `started` is in clock ticks since boot, as the kernel counts."""

    name: str
    pid: int
    started: int
    argv: list[str] = []

    @property
    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat == ("alive", self.started)


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    records: Path,
    netns: Path | None = None,
    private_mounts: bool = False,
    env: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
) -> Process:
    """Start a daemon in a session of its own and record it as `<records>/<name>.json`.

    It gets a small environment of its own, not the caller's. `netns`: enters that network namespace, but keeps
    the mounts (`ip netns exec` would hide the cgroups). `private_mounts`: what it mounts is seen by it and its
    children only. `descriptors`, all above those that they become, are the daemon's 3, 4, and so on.
    """
    command = list(argv)
    if private_mounts:
        command = ["unshare", "--mount", "--propagation", "slave", *command]
    if netns is not None:
        command = ["nsenter", f"--net={netns}", *command]
    for folder in (log.parent, records):
        folder.mkdir(parents=True, exist_ok=True)
    _bury(find(records, name))
    # Every program above replaces itself by the next, so the pid is the daemon's.
    pid = os.posix_spawnp(
        command[0],
        command,
        {**_ENVIRONMENT, **_patience(), MARK: str(records), **(env or {})},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_DUP2, descriptor, place) for place, descriptor in enumerate(descriptors, start=3)),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGPIPE),
    )
    stat = _stat(pid)
    process = Process(name=name, pid=pid, started=stat[1] if stat else 0, argv=list(argv))
    record = records / f"{name}.json"
    fresh = record.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(process))
    fresh.rename(record)
    return process


def _patience() -> dict[str, str]:
    """The one variable that goes on: how slow this machine is."""
    return {PATIENCE: os.environ[PATIENCE]} if PATIENCE in os.environ else {}


def observe(pid: int, *, name: str = "") -> Process:
    """A running process that nobody recorded, as it is now; ProcessLookupError when there is none."""
    stat = _stat(pid)
    if stat is None:
        raise ProcessLookupError(pid)
    return Process(name=name, pid=pid, started=stat[1])


def recorded(records: Path) -> list[Process]:
    """Every process recorded in the folder, alive or not, by name."""
    found = []
    for path in sorted(records.glob("*.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Process))
        except (OSError, msgspec.MsgspecError):
            continue  # withdrawn meanwhile, or torn by a power cut
    return found


def find(records: Path, name: str) -> Process | None:
    """The recorded process of that name, alive or not."""
    return next((process for process in recorded(records) if process.name == name), None)


def marked(folder: Path) -> list[Process]:
    """Every process that was started with its records in or below the folder, and every child that kept the mark."""
    found = []
    mark = f"{MARK}={folder}/".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # ended meanwhile
                if any(pair.startswith(mark) for pair in (entry / "environ").read_bytes().split(b"\0")):
                    argv = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                    found.append(msgspec.structs.replace(observe(int(entry.name)), argv=argv))
    return [process for process in found if process.alive]


def forget(records: Path, name: str) -> None:
    """Withdraw a record."""
    (records / f"{name}.json").unlink(missing_ok=True)


async def stop(process: Process, *, grace_s: float = 5.0) -> None:
    """End the process: SIGTERM, after `grace_s` (at once when 0) SIGKILL; returns when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if not process.alive:  # checked with the handle open: the pid cannot change its meaning from here on
            return
        if grace_s > 0:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if await _ended(handle, within_s=grace_s):
                return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        await _ended(handle, within_s=10.0)
    except ProcessLookupError:
        return
    finally:
        reap(handle)
        os.close(handle)


async def wait(process: Process, *, within_s: float) -> bool:
    """Wait until the process has ended; False when it still runs after `within_s`."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        return not process.alive or await _ended(handle, within_s=within_s)
    finally:
        reap(handle)
        os.close(handle)


def reap(handle: int) -> None:
    """Take the exit status of a child of ours, so that no zombie stays; other processes are left alone."""
    try:
        os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return  # started by an earlier command: init takes its status


def _bury(predecessor: Process | None) -> None:
    """Take the exit status of the process that bore the name before, if it was our own child."""
    if predecessor is not None and _stat(predecessor.pid) == ("dead", predecessor.started):
        with suppress(ChildProcessError):
            os.waitpid(predecessor.pid, os.WNOHANG)


async def _ended(handle: int, *, within_s: float) -> bool:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(patient(within_s)):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
    return True


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else "alive", int(fields[_START_TIME])
