"""The bytes that the shim sends, and that lie in the spool, become a Call. `shim.py` describes the form."""

from typing import Final

import msgspec

from services.cni_shim.core.reply import Reply

HEADER_LIMIT: Final = 128
ENV_LIMIT: Final = 4 << 20
"""Bytes; above what the kernel lets a process have as its environment."""
CONFIG_LIMIT: Final = 4 << 20
"""Bytes; the shim refuses more by itself."""
MAGIC: Final = "terway-cni/1"


class BadFrame(ValueError):
    """Not a request of ours: another program, or a shim of another release."""


class Call(msgspec.Struct, frozen=True):
    """One exec of the shim.

    `netns`: the number of a descriptor that the shim holds open; negative: the errno with which opening CNI_NETNS
    failed; None: there was nothing to open.
    """

    netns: int | None
    deadline_s: int
    env: dict[str, str]
    stdin: bytes


def read_call(data: bytes | bytearray) -> Call | None:
    """The call in `data`, or None while it is not all there. BadFrame when it never will be."""
    end = data.find(b"\n", 0, HEADER_LIMIT)
    if end < 0:
        if len(data) >= HEADER_LIMIT:
            raise BadFrame("no header")
        return None
    try:
        magic, netns, *numbers = data[:end].decode("ascii").split(" ")
        deadline_s, env_length, config_length = map(int, numbers)
        held = None if netns == "none" else int(netns)
    except ValueError as error:
        raise BadFrame(f"header {bytes(data[:end])!r}") from error
    if magic != MAGIC or not 0 <= env_length <= ENV_LIMIT or not 0 <= config_length <= CONFIG_LIMIT:
        raise BadFrame(f"header {bytes(data[:end])!r}")
    start = end + 1
    whole = start + env_length + config_length
    if len(data) < whole:
        return None
    if len(data) > whole:
        raise BadFrame(f"{len(data) - whole} bytes too many")
    # Variables are bytes; what is not UTF-8 is shown escaped and then refused where it matters.
    env = data[start : start + env_length].decode("utf-8", "backslashreplace")
    pairs = (pair.partition("=") for pair in env.split("\0") if pair)
    return Call(held, deadline_s, {name: value for name, _, value in pairs}, bytes(data[start + env_length :]))


def note_of(call: Call) -> bytes:
    """The DEL of a call's attachment as the spool keeps it; the descriptor dies with its shim and is left out."""
    env = "\0".join(f"{name}={value}" for name, value in {**call.env, "CNI_COMMAND": "DEL"}.items()).encode()
    return f"{MAGIC} none {call.deadline_s} {len(env)} {len(call.stdin)}\n".encode() + env + call.stdin


def write_reply(reply: Reply) -> bytes:
    """The bytes that answer a shim."""
    return b"%d %d\n%b" % (reply.exit, len(reply.body), reply.body)
