"""A service's process: it starts, is told to stop, finishes, and there is only one of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Refused
from shared.lifecycle import InstanceLock

PROGRAM = """
import asyncio, sys
from shared import lifecycle, log
from shared.errors import Refused

async def finish(stop):
    print("ready", type(asyncio.get_running_loop()).__module__, flush=True)
    await stop.wait()
    print("finished", flush=True)

async def stuck(stop):
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    await asyncio.Event().wait()

async def ends(stop):
    pass

async def refused(stop):
    raise Refused("process 7 runs already")

async def bug(stop):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(broken(), name="gc")
        await stop.wait()

async def broken():
    raise RuntimeError("a task died")

async def forgotten(stop):
    asyncio.get_running_loop().create_future().set_exception(RuntimeError("nobody looked"))
    await asyncio.sleep(0)

log.configure(service="test", level="info")
sys.exit(lifecycle.run(globals()[sys.argv[1]], name="test"))
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as started:

        def start(main: str) -> "subprocess.Popen[str]":
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, main], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def logged(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in stderr.splitlines()]


@pytest.mark.parametrize("received", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish(start: Start, received: signal.Signals) -> None:
    process = start("finish")
    assert line(process) == "ready uvloop"
    process.send_signal(received)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "finished\n")
    assert [entry["event"] for entry in logged(err)] == ["started", "stopping", "stopped"]


def test_a_second_signal_ends_it_now(start: Start) -> None:
    process = start("stuck")
    assert line(process) == "ready"
    process.terminate()
    assert line(process) == "stopping"
    process.terminate()
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert [entry["event"] for entry in logged(err)] == ["started", "stopping", "stopping_now", "stopped"]


def test_it_may_end_by_itself(start: Start) -> None:
    process = start("ends")
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_refusal_is_one_sentence(start: Start) -> None:
    process = start("refused")
    _, err = process.communicate(timeout=10)
    failed = logged(err)[-1]
    assert process.returncode == 1
    assert (failed["event"], failed["message"]) == ("failed", "process 7 runs already")
    assert "traceback" not in failed


def test_a_dead_task_ends_the_process_with_its_story(start: Start) -> None:
    process = start("bug")
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "a task died" in logged(err)[-1]["traceback"]


def test_an_exception_that_nobody_awaited_is_logged(start: Start) -> None:
    process = start("forgotten")
    _, err = process.communicate(timeout=10)
    [entry] = [entry for entry in logged(err) if entry["event"] == "loop_error"]
    assert entry["error"] == "RuntimeError: nobody looked"


def test_the_second_instance_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ipam.lock"
    with InstanceLock(path):
        with pytest.raises(Refused, match=f"process {os.getpid()} runs already: it holds {path}"), InstanceLock(path):
            raise AssertionError("unreachable")
        with pytest.raises(Refused), InstanceLock(path):
            raise AssertionError("the refused attempt must not have lifted the lock")
    with InstanceLock(path):
        assert path.read_text() == f"{os.getpid()}\n"


HOLDER = """
import sys, time
from shared.lifecycle import InstanceLock
with InstanceLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ipam.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert line(holder) == "held"
        with pytest.raises(Refused, match=f"process {holder.pid} runs already"), InstanceLock(path):
            raise AssertionError("unreachable")
        holder.kill()
        holder.wait()
        with InstanceLock(path):
            pass
