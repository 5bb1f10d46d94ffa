"""`python -m services` as a supervisor: real processes that die, hang and outlive their parent's wishes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.__main__ import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_AFTER_S, Child, Supervisor


def wait_for(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], int]], int]]:
    """Run a function in a process of its own, so that the supervisor under test is not pytest itself."""
    pids: list[int] = []

    def fork(function: Callable[[], int]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(function())
            finally:
                os._exit(99)
        pids.append(pid)
        return pid

    yield fork
    for pid in pids:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def serving(folder: Path, name: str) -> Callable[[object], int]:
    """A service that tells each of its starts and ends at SIGTERM."""

    def main(arguments: object) -> int:
        told = [False]
        signal.signal(signal.SIGTERM, lambda *_: told.__setitem__(0, True))
        (folder / f"{name}.{os.getpid()}").touch()
        while not told[0]:
            signal.sigtimedwait([signal.SIGUSR1], 0.01)
        (folder / f"{name}.stopped").touch()
        return 0

    return main


def starts(folder: Path, name: str) -> list[int]:
    return sorted(int(path.suffix[1:]) for path in folder.glob(f"{name}.[0-9]*"))


def test_a_dead_service_is_started_again_and_the_others_live_on(
    tmp_path: Path, forked: Callable[[Callable[[], int]], int]
) -> None:
    children = [Child("a", serving(tmp_path, "a")), Child("b", serving(tmp_path, "b"))]
    supervisor = forked(lambda: Supervisor([], children).run())
    wait_for(lambda: len(starts(tmp_path, "a")) == 1 and len(starts(tmp_path, "b")) == 1)
    first = starts(tmp_path, "a")[0]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: len(starts(tmp_path, "a")) == 2)
    assert len(starts(tmp_path, "b")) == 1
    os.kill(supervisor, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(supervisor, 0)[1]) == 0
    assert (tmp_path / "a.stopped").exists()
    assert (tmp_path / "b.stopped").exists()
    assert all(gone(pid) for pid in starts(tmp_path, "a") + starts(tmp_path, "b"))


def test_services_do_not_outlive_a_killed_supervisor(
    tmp_path: Path, forked: Callable[[Callable[[], int]], int]
) -> None:
    supervisor = forked(lambda: Supervisor([], [Child("a", serving(tmp_path, "a"))]).run())
    wait_for(lambda: len(starts(tmp_path, "a")) == 1)
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    wait_for(lambda: (tmp_path / "a.stopped").exists())


def test_the_pause_doubles_to_a_bound_and_a_steady_service_starts_afresh() -> None:
    child, now = Child("a", lambda arguments: 0), 0.0
    pauses = []
    for _ in range(9):
        child.started = now
        child.died(now, 1)
        pauses.append(child.due - now)
    assert pauses[:3] == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert pauses[-1] == LONGEST_PAUSE_S
    child.started = now
    child.died(now + STEADY_AFTER_S, 1)
    assert child.due - (now + STEADY_AFTER_S) == FIRST_PAUSE_S


def test_a_service_that_was_told_to_end_starts_again_soon_however_often() -> None:
    child, now = Child("a", lambda arguments: 0), 0.0
    for _ in range(4):
        child.started = now
        child.died(now, 1)
    for _ in range(2):
        child.died(now, 0)
        assert child.due - now == FIRST_PAUSE_S
