"""JSON lines on stderr: an event's name and its fields, and the request id that follows a pod through all services.

    log = get(__name__)
    log.info("address_granted", pod=str(pod), address=lease.ipv4)

The standard library's logging carries it, so levels, pytest's caplog and foreign libraries' messages work as
ever; what a foreign library says becomes an event of the same shape. A disabled level costs one comparison.
"""

import logging
import os
import sys
import time
import traceback
from contextvars import ContextVar
from types import TracebackType
from typing import IO

from shared.dump import dump

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that this task serves; empty outside of one. RPC clients send it on, RPC servers set it."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def new_request_id() -> str:
    """Twelve hex digits: enough to find one request in a node's logs."""
    return os.urandom(6).hex()


class Log:
    """Writes events under one logger's name."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **fields: object) -> None:
        """For those who read the code beside the log."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """A decision or a change of state."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something is not as wanted and will be repaired or tried again."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Somebody should look at this."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of the exception being handled."""
        self._write(logging.ERROR, event, fields, sys.exc_info())

    def _write(self, level: int, event: str, fields: dict[str, object], exc_info: ExcInfo | None = None) -> None:
        if not self._logger.isEnabledFor(level):
            return
        # Made by hand: Logger.log would walk the stack for the caller's line, which costs more than all the rest.
        record = logging.LogRecord(self._logger.name, level, "", 0, event, None, exc_info)
        record.fields = fields
        self._logger.handle(record)


class JsonLines(logging.Formatter):
    """Turns a record into one line. A field never replaces `ts`, `level`, …; it gets a trailing underscore."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self.service,
            "event": _message(record),
            "logger": record.name,
        }
        if request := request_id.get():
            line["request_id"] = request
        for name, value in getattr(record, "fields", {}).items():
            line[name if name not in line else f"{name}_"] = value
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = record.exc_info[1]
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return dump(line).decode()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a foreign library's format string that does not fit its arguments
        return f"{record.msg!r} % {record.args!r}"


def configure(*, service: str, level: str = "info", stream: IO[str] | None = None) -> None:
    """Send everything that is logged in this process to stderr (or `stream`). Calling it again starts afresh."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[handler], level=LEVELS[level], force=True)
    for chatty in ("asyncio", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def get(name: str) -> Log:
    """The log of one module: `log = get(__name__)`."""
    return Log(name)
