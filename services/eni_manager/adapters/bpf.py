"""The bpf() system call: programs and maps, by descriptors. No library, no compiler, nothing pinned.

What is attached keeps its program alive, and a program its maps; a restarted process finds both again by their ids.
Errors are OSError with the kernel's number; a program that the verifier refuses comes with what it says.
"""

import ctypes
import os
import platform
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from struct import pack, pack_into, unpack_from
from typing import Final

import msgspec

_libc: Final = ctypes.CDLL(None, use_errno=True)
_NUMBERS: Final = {"x86_64": 321, "aarch64": 280}
"""Of the system call, which no C library wraps."""

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT, _PROGRAM_LOAD, _TEST_RUN = 0, 1, 2, 3, 4, 5, 10
_PROGRAM_BY_ID, _MAP_BY_ID, _INFO = 13, 14, 15
_LONGEST_PREFIX, _LEAST_RECENT = 11, 9
_NOT_PREALLOCATED: Final = 1
_CLASSIFIER: Final = 3
_LOG: Final = 1 << 16
_INFO_SIZE: Final = 80
"""struct bpf_prog_info up to its name."""
_CONTEXT: Final = 40
"""struct __sk_buff up to where it came in."""
_ENOENT: Final = 2


class Tested(msgspec.Struct, frozen=True):
    """What a program made of a packet: its result, and the packet afterwards."""

    result: int
    packet: bytes


def call(command: int, attributes: bytearray) -> int:
    """bpf(); the kernel may write its answer into `attributes`."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(38, f"no bpf() known on {platform.machine()}")
    union = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = int(_libc.syscall(number, command, union, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return result


def lift_memory_limit() -> None:
    """Before Linux 5.11 maps count as locked memory. Where we may not, and it matters, a map will be refused."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Let go of a descriptor afterwards."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# ---- maps


def create_prefix_map(*, key_size: int, value_size: int, most: int) -> int:
    """A map that finds the longest prefix; its descriptor."""
    return call(_MAP_CREATE, bytearray(pack("=IIIII", _LONGEST_PREFIX, key_size, value_size, most, _NOT_PREALLOCATED)))


def create_recent_map(*, key_size: int, value_size: int, most: int) -> int:
    """A hash that forgets what was used least recently when it is full; its descriptor. Its memory is taken at once."""
    return call(_MAP_CREATE, bytearray(pack("=IIIII", _LEAST_RECENT, key_size, value_size, most, 0)))


def put(map_fd: int, key: bytes, value: bytes) -> None:
    """Make an entry, or change it; each by itself, at once."""
    with _held(key) as (key_at, _), _held(value) as (value_at, _):
        call(_MAP_UPDATE, bytearray(pack("=IxxxxQQQ", map_fd, key_at, value_at, 0)))


def drop(map_fd: int, key: bytes) -> None:
    """Take an entry away; one that is not there is well."""
    with _held(key) as (key_at, _):
        try:
            call(_MAP_DELETE, bytearray(pack("=IxxxxQQQ", map_fd, key_at, 0, 0)))
        except OSError as refused:
            if refused.errno != _ENOENT:
                raise


def items(map_fd: int, *, key_size: int, value_size: int) -> dict[bytes, bytes]:
    """All entries."""
    found: dict[bytes, bytes] = {}
    previous: bytes | None = None
    while (key := _next(map_fd, previous, key_size)) is not None and key not in found:
        with _held(key) as (key_at, _), _held(bytes(value_size)) as (value_at, value):
            try:
                call(_MAP_LOOKUP, bytearray(pack("=IxxxxQQQ", map_fd, key_at, value_at, 0)))
                found[key] = bytes(value)
            except OSError as gone:
                if gone.errno != _ENOENT:
                    raise
        previous = key
    return found


def _next(map_fd: int, previous: bytes | None, key_size: int) -> bytes | None:
    with _held(previous or bytes(key_size)) as (key_at, _), _held(bytes(key_size)) as (next_at, found):
        start = key_at if previous is not None else 0
        try:
            call(_MAP_NEXT, bytearray(pack("=IxxxxQQQ", map_fd, start, next_at, 0)))
        except OSError as end:
            if end.errno != _ENOENT:
                raise
            return None
        return bytes(found)


# ---- programs


def load_classifier(code: bytes, name: str) -> int:
    """Load a tc classifier; its descriptor. OSError: refused, with the verifier's words."""
    with _held(code) as (code_at, _), _held(b"Apache-2.0\0") as (licence_at, _):
        try:
            return call(_PROGRAM_LOAD, _to_load(code, code_at, licence_at, name))
        except OSError as refused:
            with _held(bytes(_LOG)) as (log_at, log):
                try:
                    return call(_PROGRAM_LOAD, _to_load(code, code_at, licence_at, name, log_at))
                except OSError:
                    said = bytes(log).rstrip(b"\0").decode(errors="replace").strip().splitlines()
                    raise OSError(refused.errno, f"{refused.strerror}: {' / '.join(said[-3:])}") from refused


def _to_load(code: bytes, code_at: int, licence_at: int, name: str, log_at: int = 0) -> bytearray:
    log = (1, _LOG, log_at) if log_at else (0, 0, 0)
    slots = len(code) // 8
    return bytearray(pack("=IIQQIIQII16s", _CLASSIFIER, slots, code_at, licence_at, *log, 0, 0, name.encode()[:15]))


def test(program_fd: int, packet: bytes, *, mark: int = 0, came_in_by: int = 0) -> Tested:
    """Run a program on a frame, as if it passed a classifier; with a mark, after it came in by that ifindex."""
    room = len(packet) + 256
    about = bytearray(_CONTEXT)
    pack_into("=I", about, 8, mark)
    pack_into("=I", about, 36, came_in_by)
    with _held(packet) as (packet_at, _), _held(bytes(room)) as (out_at, out), _held(bytes(about)) as (about_at, _):
        head = pack("=IIIIQQII", program_fd, 0, len(packet), room, packet_at, out_at, 1, 0)
        if mark or came_in_by:  # Linux 5.2
            head += pack("=IIQQ", len(about), 0, about_at, 0)
        attributes = bytearray(head)
        call(_TEST_RUN, attributes)
        _, result, _, size = unpack_from("=IiII", attributes)
        return Tested(result, bytes(out)[:size])


def program_by_id(number: int) -> int:
    """The descriptor of a loaded program."""
    return call(_PROGRAM_BY_ID, bytearray(pack("=III", number, 0, 0)))


def map_by_id(number: int) -> int:
    """The descriptor of a map."""
    return call(_MAP_BY_ID, bytearray(pack("=III", number, 0, 0)))


def maps_of(program_fd: int) -> list[int]:
    """The ids of the maps that a program uses, at most four."""
    with _held(bytes(16)) as (ids_at, ids):
        info = bytearray(_INFO_SIZE)
        pack_into("=I", info, 52, 4)
        pack_into("=Q", info, 56, ids_at)
        with _held(bytes(info)) as (info_at, answer):
            call(_INFO, bytearray(pack("=IIQ", program_fd, _INFO_SIZE, info_at)))
            (count,) = unpack_from("=I", bytes(answer), 52)
            return list(unpack_from(f"={min(count, 4)}I", bytes(ids)))


def key_size(map_fd: int) -> int:
    """How long a map's keys are."""
    with _held(bytes(_INFO_SIZE)) as (info_at, answer):
        call(_INFO, bytearray(pack("=IIQ", map_fd, _INFO_SIZE, info_at)))
        return int(unpack_from("=I", bytes(answer), 8)[0])


def fill(map_fd: int, wanted: Mapping[bytes, bytes], present: Mapping[bytes, bytes]) -> None:
    """Make a map hold what is wanted and nothing else. What stays is there all the time."""
    for key, value in wanted.items():
        if present.get(key) != value:
            put(map_fd, key, value)
    for key in present.keys() - wanted.keys():
        drop(map_fd, key)


@contextmanager
def _held(content: bytes) -> Iterator[tuple[int, "ctypes.Array[ctypes.c_char]"]]:
    """A copy of these bytes in memory that stays where it is: its address, and itself."""
    buffer = ctypes.create_string_buffer(content, len(content))
    yield ctypes.addressof(buffer), buffer
