"""Where a service listens: the path of a Unix socket, made safely and found again."""

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from shared.errors import Invalid, Refused

MAX_PATH: Final = 107
"""sockaddr_un has 108 bytes for the path, the last of them NUL (unix(7))."""


def check_address(path: str | Path) -> str:
    """The path as text; Invalid when the kernel could not hold it, which it would report as a nameless error."""
    text = os.fspath(path)
    length = len(os.fsencode(text))
    if length > MAX_PATH:
        raise Invalid(f"socket path {text} has {length} bytes; a Unix socket's path has at most {MAX_PATH}")
    if not text or "\0" in text:
        raise Invalid(f"socket path {text!r} names no file")
    return text


def listen(path: str | Path, *, backlog: int = 128) -> socket.socket:
    """A listening socket at `path`, mode 0600; its directory is made with mode 0700 when there is none.

    A socket that a dead process left behind is removed. Refused: somebody listens there, or it is no socket.
    """
    text = check_address(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        Path(text).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(text)
        os.fchmod(server.fileno(), 0o600)  # before bind: the file never exists with a wider mode (Linux)
        server.bind(text)
        server.listen(backlog)
    except Refused:
        server.close()
        raise
    except OSError as error:
        server.close()
        raise Refused(f"cannot listen at {text}: {error.strerror}") from error
    return server


def _remove_stale(text: str) -> None:
    try:
        mode = os.lstat(text).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Refused(f"{text} exists and is not a socket; remove it or choose another run_dir")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(text)
    if result == errno.ECONNREFUSED:
        os.unlink(text)
    elif result != errno.ENOENT:
        raise Refused(f"another process listens at {text}")


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end, as it was when it connected (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return int(uid)
