"""What the shim says by itself: when the gateway does not answer, and what needs no gateway.

VERSION always works, an ADD is to be tried again (code 11), STATUS says not available (50), and a DEL leaves a
durable note that the gateway honours later, and succeeds. A note is a file `<random>.del` in the spool that holds the
shim's request. `install` puts this text into the shim, so it obeys the shim's rules: any Python from 3.6 on, no import
but `posix`.
"""

import posix

SUPPORTED = (b"0.3.0", b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")
NEWEST = SUPPORTED[-1]
COMMANDS = (b"ADD", b"DEL", b"CHECK", b"GC", b"STATUS")

BAD_ENVIRONMENT, IO_FAILURE, BAD_CONFIG, TRY_LATER, NOT_AVAILABLE = 4, 5, 7, 11, 50


def speak(
    cni: "dict[bytes, bytes]", config: bytes, limit: int, frame: bytes, why: str, socket: bytes, spool: bytes
) -> "tuple[int, bytes, bytes]":
    """Exit code, stdout and stderr.

    `config` is what stdin gave, `limit` the most that it may be, `frame` the request that the gateway did not answer
    (empty: there was none to make), `why` what went wrong.
    """
    command = cni.get(b"CNI_COMMAND", b"")
    if not command:
        about = b"CNI terway plugin: VPC addresses for pods\nCNI protocol versions supported: %s\n"
        return 0, b"", about % b", ".join(SUPPORTED)
    if command == b"VERSION":
        return 0, version(config), b""
    if command not in COMMANDS:
        return 1, error(BAD_ENVIRONMENT, "unknown CNI_COMMAND: " + text(command), config), b""
    if len(config) > limit:
        message = f"the network configuration on stdin is larger than {limit} bytes"
        return 1, error(BAD_CONFIG, message, config), b""
    if not frame:
        return 1, error(IO_FAILURE, "error reading from stdin: " + why, config), b""
    silent = f"the terway gateway at {text(socket)} does not answer: {why}"
    if command == b"STATUS":
        return 1, error(NOT_AVAILABLE, silent, config), b""
    if command != b"DEL":
        return 1, error(TRY_LATER, silent, config), b""
    missing = [name for name in (b"CNI_CONTAINERID", b"CNI_IFNAME", b"CNI_PATH") if not cni.get(name)]
    if missing:
        names = text(b",".join(missing))
        return 1, error(BAD_ENVIRONMENT, f"required env variables [{names}] missing", config), b""
    try:
        write_note(spool, frame)
    except OSError as e:
        return 1, error(TRY_LATER, f"{silent}; and no note can be left in {text(spool)}: {e}", config), b""
    return 0, b"", b""


def text(data: bytes) -> str:
    """Bytes for people."""
    return data.decode("utf-8", "replace")


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
    spoken = text(version if version in SUPPORTED else NEWEST)
    return f'{{"cniVersion": "{spoken}", "code": {code}, "msg": "{plain}"}}\n'.encode()


def version(config: bytes) -> bytes:
    """The answer to VERSION: the caller's cniVersion as given, and the versions that we speak."""
    versions = b'", "'.join(SUPPORTED)
    return b'{"cniVersion": "%s", "supportedVersions": ["%s"]}\n' % (version_in(config) or NEWEST, versions)


def write_note(spool: bytes, frame: bytes) -> None:
    """Keep a DEL for later: when this returns, the note survives a power cut."""
    try:
        posix.mkdir(spool, 0o700)
    except FileExistsError:
        pass
    note = spool + b"/" + posix.urandom(8).hex().encode()
    fd = posix.open(note + b".tmp", posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        while frame:
            frame = frame[posix.write(fd, frame) :]
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
