"""The life of a service's process: one event loop, two signals, one instance."""

import asyncio
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from shared import log as logs
from shared.errors import Refused, SuiteError

log = logs.get(__name__)


def run(main: Callable[[asyncio.Event], Awaitable[None]], *, name: str) -> int:
    """Run `main(stop)` on uvloop until it returns; the first SIGTERM or SIGINT sets `stop`, a second one cancels it.

    Returns the process's exit code: 0, or 1 when `main` failed, which is logged.
    """
    return uvloop.run(_main(main, name))


async def _main(main: Callable[[asyncio.Event], Awaitable[None]], name: str) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    stop = asyncio.Event()
    running = asyncio.ensure_future(main(stop))
    if isinstance(running, asyncio.Task):
        running.set_name(f"{name}-main")

    def asked_to_stop(received: signal.Signals) -> None:
        if stop.is_set():
            log.warning("stopping_now", signal=received.name)
            running.cancel()
        else:
            log.info("stopping", signal=received.name)
            stop.set()

    for received in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(received, asked_to_stop, received)
    log.info("started", pid=os.getpid())
    try:
        await running
    except asyncio.CancelledError:
        log.error("stopped", clean=False)
        return 1
    except SuiteError as error:
        log.error("failed", code=error.code, message=error.message)
        return 1
    except Exception:
        log.exception("failed")
        return 1
    finally:
        for received in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(received)
    log.info("stopped", clean=True)
    return 0


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio would print as text: an exception that nobody awaited."""
    error = context.get("exception")
    log.error("loop_error", message=context.get("message", ""), error=error, task=repr(context.get("future", "")))


class InstanceLock:
    """One process per state directory: a context manager around flock(2), which the kernel lifts when we die."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._fd: int | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise Refused(f"process {holder} runs already: it holds {self._path}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The file stays: unlinking it would let two processes lock two files of the same name.
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
