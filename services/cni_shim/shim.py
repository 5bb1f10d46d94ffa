#!/usr/bin/python3 -ISE
"""The exec'd half of the CNI plugin: it carries one call to the resident gateway and the answer back.

A container runtime pays this process's start for every pod, so it imports nothing but two modules that every
interpreter has built in, parses no JSON, and runs under any Python from 3.6 on: the node's own. What it must decide
alone is what to say when the gateway cannot: VERSION always works, an ADD is to be tried again (code 11), STATUS
says not available (50), and a DEL leaves a durable note that the gateway honours later, and succeeds.

    request  b"terway-cni/1 <netns> <deadline s> <length of env> <length of stdin>\\n" env stdin
             netns: number of a descriptor held open here, -errno when CNI_NETNS cannot be opened, or "none"
             env: every CNI_* variable as NAME=value, separated by NUL
    reply    b"<exit code> <length>\\n" and that many bytes for stdout
    note     a file `<random>.del` in the spool, which holds the request
"""

import _socket
import posix

# `python -m services.cni_shim install` writes the node's own values here.
SOCKET = b"/run/terway/gateway.sock"
SPOOL = b"/var/lib/terway/spool"
DEADLINES = {b"ADD": 120, b"DEL": 60, b"CHECK": 60, b"GC": 120, b"STATUS": 10}

SUPPORTED = (b"0.3.0", b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")
NEWEST = SUPPORTED[-1]
STDIN_LIMIT = 4 << 20
"""Bytes. A network configuration with a full node's valid-attachments and every annotation stays far below."""
VERSION_PATIENCE_S = 0.25
"""VERSION repeats the cniVersion of its stdin, but answers also where nobody ever closes that (a terminal)."""
CONNECT_PATIENCE_S = 0.8
"""While the gateway's queue of connections is full; below the second in which an ADD must say that we are down."""

TRY_LATER, BAD_ENVIRONMENT, IO_FAILURE, BAD_CONFIG, NOT_AVAILABLE = 11, 4, 5, 7, 50


class Refusal(Exception):
    """An answer that this process gives by itself: a CNI error code and a sentence."""


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
        pass
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
            more = read(STDIN_LIMIT + 1 - len(data))
        except BlockingIOError:
            if now() >= deadline:
                break
            pause(0.001)
            continue
        if not more:
            break
        data += more
    return data


def version_in(config: bytes) -> bytes:
    """The top-level cniVersion of a network configuration, as given; empty when there is none to be found."""
    # Escapes become NUL, so that each quote left begins or ends a string: even parts are between, odd ones inside.
    parts = config.replace(b"\\\\", b"\0").replace(b'\\"', b"\0").replace(b"\\", b"\0").split(b'"')
    depth = 0
    for i in range(0, len(parts) - 3, 2):
        depth += parts[i].count(b"{") - parts[i].count(b"}")
        if depth == 1 and parts[i + 1] == b"cniVersion" and parts[i + 2].strip() == b":":
            odd = parts[i + 3].strip(b"0123456789.-+abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
            return b"" if odd else parts[i + 3]
    return b""


def error(code: int, message: str, config: bytes) -> bytes:
    """A CNI error object (CNI spec section 5) in the version of the caller's configuration, if we speak it."""
    version = version_in(config)
    plain = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in message)
    head = '{"cniVersion": "%s", "code": %d, "msg": "%s"}\n'
    return (head % ((version if version in SUPPORTED else NEWEST).decode(), code, plain)).encode()


def version(config: bytes) -> bytes:
    """The answer to VERSION: the caller's cniVersion as given, and the versions that we speak."""
    versions = b'", "'.join(SUPPORTED)
    return b'{"cniVersion": "%s", "supportedVersions": ["%s"]}\n' % (version_in(config) or NEWEST, versions)


def request(netns: object, deadline_s: int, env: bytes, config: bytes) -> bytes:
    """One call as it travels to the gateway and lies in the spool."""
    return ("terway-cni/1 %s %d %d %d\n" % (netns, deadline_s, len(env), len(config))).encode() + env + config


def ask(frame: bytes, deadline: float) -> "tuple[int, bytes]":
    """The gateway's exit code and bytes for stdout. OSError: nobody there, gone in the middle, or too late."""
    gateway = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    started = now()
    gateway.settimeout(1)  # a queue that is full refuses at once instead of waiting for ever
    while True:
        try:
            gateway.connect(SOCKET)
            break
        except BlockingIOError:
            if now() >= started + CONNECT_PATIENCE_S:
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
            raise ConnectionError("the gateway died in the middle of the call")
        reply += more


def write_note(spool: bytes, frame: bytes) -> None:
    """Keep a DEL for later: when this returns, the note survives a power cut."""
    try:
        posix.mkdir(spool, 0o700)
    except FileExistsError:
        pass
    note = spool + b"/" + posix.urandom(8).hex().encode()
    fd = posix.open(note + b".tmp", posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        write(fd, frame)
        posix.fsync(fd)
        posix.rename(note + b".tmp", note + b".del")
    except BaseException:
        posix.unlink(note + b".tmp")
        raise
    finally:
        posix.close(fd)
    directory = posix.open(spool, posix.O_RDONLY | posix.O_CLOEXEC)
    posix.fsync(directory)
    posix.close(directory)


def write(fd: int, data: bytes) -> None:
    """Write all of it."""
    while data:
        data = data[posix.write(fd, data) :]


def hold(path: bytes) -> object:
    """Open a network namespace and keep it open to the end of this process, so that the gateway can reach it."""
    if not path:
        return "none"
    try:  # non-blocking: what CNI_NETNS names may be anything, a FIFO too
        return posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError as e:
        return -(e.errno or 0)


def call(command: bytes, cni: "dict[bytes, bytes]", config: bytes, deadline: float) -> "tuple[int, bytes]":
    """One command by way of the gateway, or what stands for it while there is no gateway."""
    env = b"\0".join(name + b"=" + value for name, value in cni.items())
    netns = hold(cni.get(b"CNI_NETNS", b"")) if command in (b"ADD", b"DEL", b"CHECK") else "none"
    frame = request(netns, DEADLINES[command], env, config)
    try:
        return ask(frame, deadline)
    except (OSError, ValueError) as e:
        why = "the terway gateway at %s does not answer: %s" % (SOCKET.decode("utf-8", "replace"), e)
    if command == b"STATUS":
        raise Refusal(NOT_AVAILABLE, why)
    if command != b"DEL":
        raise Refusal(TRY_LATER, why)
    missing = [n for n in (b"CNI_CONTAINERID", b"CNI_IFNAME", b"CNI_PATH") if not cni.get(n)]
    if missing:
        raise Refusal(BAD_ENVIRONMENT, "required env variables [%s] missing" % b",".join(missing).decode())
    try:
        write_note(SPOOL, frame)
    except OSError as e:
        spool = SPOOL.decode("utf-8", "replace")
        raise Refusal(TRY_LATER, "%s; and no note can be left in %s: %s" % (why, spool, e)) from e
    return 0, b""


def main() -> int:
    """Serve the one call that CNI_COMMAND and stdin make; the exit code."""
    cni = {name: value for name, value in posix.environ.items() if name.startswith(b"CNI_")}
    command = cni.get(b"CNI_COMMAND", b"")
    if not command:
        versions = b", ".join(SUPPORTED)
        write(2, b"CNI terway plugin: VPC addresses for pods\nCNI protocol versions supported: " + versions + b"\n")
        return 0
    config = b""
    try:
        if command == b"VERSION":
            try:
                config = read_stdin(now() + VERSION_PATIENCE_S)
            except OSError:
                pass
            write(1, version(config))
            return 0
        if command not in DEADLINES:
            raise Refusal(BAD_ENVIRONMENT, "unknown CNI_COMMAND: " + command.decode("utf-8", "replace"))
        deadline = now() + DEADLINES[command]
        try:
            config = read_stdin(deadline)
        except OSError as e:
            raise Refusal(IO_FAILURE, "error reading from stdin: %s" % e) from e
        if len(config) > STDIN_LIMIT:
            raise Refusal(BAD_CONFIG, "the network configuration on stdin is larger than %d bytes" % STDIN_LIMIT)
        if now() >= deadline:
            raise Refusal(IO_FAILURE, "stdin was not closed within %d s" % DEADLINES[command])
        code, answer = call(command, cni, config, deadline)
    except Refusal as refusal:
        code, answer = 1, error(refusal.args[0], refusal.args[1], config)
    write(1, answer)
    return code


if __name__ == "__main__":
    # Nothing is left to clean up, and the interpreter's own farewell costs more than the call.
    try:
        posix._exit(main())
    except OSError as broken:
        write(2, ("terway: %s\n" % broken).encode())
        posix._exit(1)
