"""Processes that outlive their command, and that are never mistaken for another."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from compose.lab import process
from compose.lab.waiting import until
from shared.errors import DeadlineExceeded

STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("ready", flush=True)
while True: signal.pause()
"""


def sleeper(folder: Path, name: str = "sleeper") -> process.Process:
    return process.spawn(name, ["sleep", "1000"], log=folder / "log" / "x.log", records=folder / "records")


async def test_a_process_is_recorded_found_and_stopped(tmp_path: Path) -> None:
    started = sleeper(tmp_path)
    try:
        assert started.alive
        assert process.recorded(tmp_path / "records") == [started]
        assert process.find(tmp_path / "records", "sleeper") == started
        assert os.getsid(started.pid) == started.pid, "it must not die with our terminal"
        assert not await process.wait(started, within_s=0.01)
    finally:
        await process.stop(started)
    assert await process.wait(started, within_s=0), "it is gone"
    process.forget(tmp_path / "records", "sleeper")
    assert process.recorded(tmp_path / "records") == []


async def test_another_process_with_the_same_pid_is_not_touched(tmp_path: Path) -> None:
    started = sleeper(tmp_path)
    try:
        before_it = msgspec.structs.replace(started, started=started.started - 1)
        assert not before_it.alive
        await process.stop(before_it, grace_s=0)
        assert started.alive
    finally:
        await process.stop(started, grace_s=0)


async def test_who_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = process.spawn("stubborn", [sys.executable, "-c", STUBBORN], log=log, records=tmp_path)

    async def missing() -> str:
        return "" if "ready" in said(log) else said(log) or "nothing said"

    await until(missing, what="ready", within_s=10)
    await process.stop(started, grace_s=0.2)
    assert not started.alive
    assert said(log).split() == ["ready", "told"]


async def test_it_gets_a_small_environment_and_the_descriptors_it_was_given(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    high = 300
    os.dup2(read_end, high, inheritable=False)
    os.close(read_end)
    os.write(write_end, b"handed over")
    os.close(write_end)
    program = "import os; print(os.read(3, 99).decode(), os.environ.get('SECRET'), os.environ['GIVEN'])"
    os.environ["SECRET"] = "not for daemons"
    try:
        started = process.spawn(
            "reader",
            [sys.executable, "-c", program],
            log=tmp_path / "log",
            records=tmp_path,
            env={"GIVEN": "yes"},
            descriptors=[high],
        )
    finally:
        os.close(high)
        del os.environ["SECRET"]
    assert await process.wait(started, within_s=10)
    assert said(tmp_path / "log") == "handed over None yes\n"


def said(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def is_not_yet(pid: int, wanted: bytes) -> Callable[[], Awaitable[str]]:
    """For `until`: a child is a copy of its parent before it becomes another program."""

    async def missing() -> str:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes()
        return "" if argv == wanted else f"it is {argv!r}"

    return missing


async def test_children_are_found_by_their_mark_though_nobody_recorded_them(tmp_path: Path) -> None:
    shell = ["sh", "-c", "sleep 1000 & echo ready; wait"]
    parent = process.spawn("parent", shell, log=tmp_path / "log", records=tmp_path / "node1" / "records")

    async def missing() -> str:
        return "" if "ready" in said(tmp_path / "log") else "nothing said"

    await until(missing, what="ready", within_s=10)
    await process.stop(parent, grace_s=0)
    (orphan,) = process.marked(tmp_path)
    await until(is_not_yet(orphan.pid, b"sleep\x001000\x00"), what="the orphan is sleep", within_s=10)
    assert process.marked(tmp_path / "node") == [], "a folder, not the beginning of its name"
    await process.stop(orphan, grace_s=0)
    assert process.marked(tmp_path) == []


def test_a_torn_record_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('{"name": "x", "pi')
    assert process.recorded(tmp_path) == []


def test_who_is_not_there_cannot_be_observed() -> None:
    assert process.observe(os.getpid()).alive
    with pytest.raises(ProcessLookupError):
        process.observe(2**22 + 1)  # above the kernel's largest pid


async def test_a_zombie_is_not_alive(tmp_path: Path) -> None:
    observed = sleeper(tmp_path)
    child = observed.pid
    os.kill(child, signal.SIGKILL)
    handle = os.pidfd_open(child)
    try:
        assert await process.wait(observed, within_s=5)
        assert not observed.alive
    finally:
        process.reap(handle)
        os.close(handle)


async def test_waiting_ends_with_the_last_reason() -> None:
    asked = 0

    async def missing() -> str:
        nonlocal asked
        asked += 1
        return f"reason {asked}" if asked < 3 else ""

    await until(missing, what="it", within_s=10, every_s=0)
    assert asked == 3
    with pytest.raises(DeadlineExceeded, match=r"it: not so after 0 s: reason"):
        asked = 0
        await until(missing, what="it", within_s=0)
    await asyncio.sleep(0)
