"""All four services of a node in one go: `python -m services --config FILE`.

They are processes of their own, forked from this one after it has imported everything, so that they share
the memory of the imports (three services: 55 instead of 117 MB). This process runs no event loop and no
thread: it starts the services, starts again what dies (with a growing pause), and hands SIGTERM and SIGHUP on.
"""

import ctypes
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from shared import log

SERVICES = ("eni_manager", "ipam", "policy", "cni_shim")
"""In the order in which they start; each survives the absence of the others, so the order only saves retries."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A service that lived this long has recovered: its next death is answered with the first pause again."""
IN_GOOD_ORDER = 0
"""The exit code of a service that was told to end, so to begin anew: for good, the supervisor is told."""
STOP_WITHIN_S = 20.0
PR_SET_PDEATHSIG = 1
WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Main = Callable[[Sequence[str]], int]
_log = log.get("services")


@dataclass
class Child:
    """One service and its process. `pid` 0: not running, to be started at `due` (monotonic seconds)."""

    name: str
    main: Main
    pid: int = 0
    started: float = 0.0
    due: float = 0.0
    pause_s: float = FIRST_PAUSE_S

    def died(self, now: float, exit_code: int) -> None:
        """Plan the next start: the pause doubles until the service has been steady for a while, or was told to end."""
        if exit_code == IN_GOOD_ORDER or now - self.started >= STEADY_AFTER_S:
            self.pause_s = FIRST_PAUSE_S
        self.pid, self.due = 0, now + self.pause_s
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)


@dataclass
class Supervisor:
    """Keeps its children running until it is told to stop."""

    arguments: Sequence[str]
    children: list[Child] = field(default_factory=list)

    def run(self) -> int:
        """Start everything, then sleep until a signal comes or a start is due. Returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        while True:
            now = time.monotonic()
            for child in self.children:
                if not child.pid and child.due <= now:
                    self._start(child)
            due = [child.due for child in self.children if not child.pid]
            got = _wait_signal(max(0.0, min(due) - time.monotonic()) if due else None)
            for pid, status in _reap():
                self._exited(pid, status)
            if got in (signal.SIGTERM, signal.SIGINT):
                return self._stop()
            if got == signal.SIGHUP:  # each reads its configuration again
                for child in self.children:
                    if child.pid:
                        os.kill(child.pid, signal.SIGHUP)

    def _start(self, child: Child) -> None:
        parent = os.getpid()
        child.pid, child.started = os.fork(), time.monotonic()
        if child.pid == 0:
            _die_with_parent(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            code = 1
            try:
                code = child.main(self.arguments)
            finally:
                sys.stderr.flush()
                os._exit(code)  # the parent's exit handlers and buffers are not the child's to run
        _log.info("service_started", name=child.name, pid=child.pid)

    def _exited(self, pid: int, status: int) -> None:
        for child in self.children:
            if child.pid == pid:
                code = os.waitstatus_to_exitcode(status)
                child.died(time.monotonic(), code)
                _log.error("service_died", name=child.name, pid=pid, exit_code=code, restart_in_s=child.pause_s / 2)

    def _stop(self) -> int:
        """Last started stops first: the gateway takes no more work while the others finish what it has."""
        deadline = time.monotonic() + STOP_WITHIN_S
        running = {child.pid: child for child in reversed(self.children) if child.pid}
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        clean = True
        while running:
            for pid, status in _reap():
                child = running.pop(pid, None)
                clean = clean and (child is None or os.waitstatus_to_exitcode(status) == 0)
            left = deadline - time.monotonic()
            if running and left <= 0:
                for pid, child in running.items():
                    _log.error("service_killed", name=child.name, pid=pid, after_s=STOP_WITHIN_S)
                    os.kill(pid, signal.SIGKILL)
                deadline, clean = float("inf"), False
            elif running:
                _wait_signal(min(left, STOP_WITHIN_S))
        return 0 if clean else 1


def _wait_signal(timeout_s: float | None) -> int | None:
    """The next watched signal, or None when the time is up."""
    if timeout_s is None:
        return signal.sigwait(WATCHED)
    info = signal.sigtimedwait(WATCHED, timeout_s)
    return None if info is None else info.si_signo


def _reap() -> Iterator[tuple[int, int]]:
    """Every child that has ended; one SIGCHLD may stand for several."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def _die_with_parent(parent: int) -> None:
    """A killed supervisor must not leave services behind that hold sockets and locks against its successor."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Import all services, then fork them. `arguments` go to each as they are."""
    log.configure(service="services", level="info")
    mains = {name: importlib.import_module(f"services.{name}.__main__").main for name in SERVICES}
    gc.collect()
    gc.freeze()  # what is imported stays untouched by the children's collectors, so its pages stay shared
    return Supervisor(arguments, [Child(name, main) for name, main in mains.items()]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
