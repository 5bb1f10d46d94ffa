#!/usr/bin/python3 -ISE
"""The exec'd half of the CNI plugin: it carries one call to the resident gateway and the answer back.

A container runtime pays this process's start for every pod, so it imports nothing but two modules that every
interpreter has built in, parses no JSON, and runs under any Python from 3.6 on: the node's own. The interpreter
compiles this file anew at each start, so what is said only without the gateway is in alone.py and waits here as text.

    request  b"terway-cni/1 <netns> <deadline s> <length of env> <length of stdin>\\n" env stdin
             netns: number of a descriptor held open here, -errno when CNI_NETNS cannot be opened, or "none"
             env: every CNI_* variable as NAME=value, separated by NUL
    reply    b"<exit code> <length>\\n" and that many bytes for stdout
"""

import _socket
import posix

# `python -m services.cni_shim install` writes the node's values and the text of alone.py here.
SOCKET = b"/run/terway/gateway.sock"
SPOOL = b"/var/lib/terway/spool"
DEADLINES = {b"ADD": 120, b"DEL": 60, b"CHECK": 60, b"GC": 120, b"STATUS": 10}
ALONE = ""

STDIN_LIMIT = 4 << 20
"""Bytes. A network configuration with a full node's valid-attachments and every annotation stays far below."""
PATIENCE_S = 0.25
"""VERSION repeats the cniVersion of its stdin, but answers also where nobody ever closes that (a terminal)."""
CONNECT_PATIENCE_S = 0.8
"""While the gateway's queue of connections is full; below the second in which an ADD must say that we are down."""


def now() -> float:
    """Seconds on a clock that nobody sets; the only one that `posix` has, in steps of 10 ms."""
    return posix.times()[4]


def pause(seconds: float) -> None:
    """Sleep, by waiting for a byte that never comes."""
    mine, other = _socket.socketpair()
    mine.settimeout(seconds)
    try:
        mine.recv(1)
    except OSError:
        mine.close()
        other.close()


def read_stdin(deadline: float) -> bytes:
    """Everything up to the end of stdin, one byte over the limit, or the deadline, whichever comes first.

    The pipe is opened a second time, non-blocking: the flag would else be set for the runtime's end as well.
    """
    try:
        pipe = posix.open("/proc/self/fd/0", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError:  # a socket cannot be opened, but read without waiting
        stream = _socket.socket(fileno=posix.dup(0))
        read = lambda size: stream.recv(size, _socket.MSG_DONTWAIT)  # noqa: E731
    else:
        read = lambda size: posix.read(pipe, size)  # noqa: E731
    data = b""
    while len(data) <= STDIN_LIMIT:
        try:
            more = read(1 << 16)
        except BlockingIOError:
            if now() >= deadline:
                break
            pause(0.001)
            continue
        if not more:
            break
        data += more
    return data


def hold(path: bytes) -> object:
    """Open a network namespace and keep it open to the end of this process, so that the gateway can reach it."""
    if not path:
        return "none"
    try:  # non-blocking: what CNI_NETNS names may be anything, a FIFO too
        return posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError as e:
        return -(e.errno or 0)


def request(netns: object, deadline_s: int, cni: "dict[bytes, bytes]", config: bytes) -> bytes:
    """One call as it travels to the gateway and lies in the spool."""
    env = b"\0".join(name + b"=" + value for name, value in cni.items())
    return f"terway-cni/1 {netns} {deadline_s} {len(env)} {len(config)}\n".encode() + env + config


def ask(frame: bytes, deadline: float) -> "tuple[int, bytes]":
    """The gateway's exit code and bytes for stdout. OSError: nobody there, gone in the middle, or too late."""
    gateway = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    patient_until = now() + CONNECT_PATIENCE_S
    gateway.settimeout(1)  # a queue that is full refuses at once instead of waiting for ever
    while True:
        try:
            gateway.connect(SOCKET)
            break
        except BlockingIOError:
            if now() >= patient_until:
                raise
            pause(0.005)
    gateway.settimeout(max(deadline - now(), 0.01))
    gateway.sendall(frame)
    reply = b""
    while True:
        head, newline, body = reply.partition(b"\n")
        if newline:
            code, length = head.split()
            if len(body) >= int(length):
                return int(code), body
        gateway.settimeout(max(deadline - now(), 0.01))
        more = gateway.recv(1 << 16)
        if not more:
            raise ConnectionError("it died in the middle of the call")
        reply += more


def write(fd: int, data: bytes) -> None:
    """Write all of it."""
    while data:
        data = data[posix.write(fd, data) :]


def main() -> int:
    """Serve the one call that CNI_COMMAND and stdin make; the exit code."""
    cni = {name: value for name, value in posix.environ.items() if name.startswith(b"CNI_")}
    command = cni.get(b"CNI_COMMAND", b"")
    deadline = now() + DEADLINES.get(command, PATIENCE_S)
    config, frame, why = b"", b"", ""
    try:
        config = read_stdin(deadline) if command else b""
        if command in DEADLINES and len(config) <= STDIN_LIMIT:
            if now() >= deadline:
                raise TimeoutError("it was not closed in time")
            netns = hold(cni.get(b"CNI_NETNS", b""))
            frame = request(netns, DEADLINES[command], cni, config)
            code, answer = ask(frame, deadline)
            write(1, answer)
            return code
    except (OSError, ValueError) as e:
        why = str(e)
    names = {}  # type: dict
    exec(ALONE, names)  # noqa: S102
    code, answer, remark = names["speak"](cni, config, STDIN_LIMIT, frame, why, SOCKET, SPOOL)
    write(1, answer)
    write(2, remark)
    return code


if __name__ == "__main__":
    # Nothing is left to clean up, and the interpreter's own farewell costs more than the call.
    try:
        posix._exit(main())
    except OSError as broken:
        write(2, f"terway: {broken}\n".encode())
        posix._exit(1)
