"""libnftables in process: a transaction in nft's own language, carried out as a whole or not at all.

The library (Debian: libnftables1) takes the text to pieces, and the kernel takes all of it at one moment: a packet sees
what was before or what is after. A context belongs to the namespace, and to the thread, that made it.
"""

import ctypes
from functools import cache
from typing import Final, Self

from shared.errors import Internal, Unavailable

_LIBRARY: Final = "libnftables.so.1"
_STATELESS: Final = 1 << 1
_NUMERIC: Final = 1 << 7 | 1 << 6 | 1 << 5 | 1 << 10
"""protocols, priorities, user ids and services as numbers"""
_QUOTED: Final = 300
"""Characters of a refused transaction that a log entry shows."""


@cache
def _library() -> ctypes.CDLL:
    """Raises Unavailable when the machine does not have it."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as missing:
        raise Unavailable(f"the node has no {_LIBRARY} (package libnftables1): {missing}") from missing
    context, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", context, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [context]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_get_output_buffer", text, [context]),
        ("nft_ctx_get_error_buffer", text, [context]),
        ("nft_ctx_output_set_flags", None, [context, ctypes.c_uint]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, text]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Nftables:
    """A context in the calling thread's namespace. `close` it; a forgotten one would keep the namespace alive."""

    def __init__(self) -> None:
        self._library = _library()
        self._context: int | None = self._library.nft_ctx_new(0)
        if not self._context:
            raise Unavailable("libnftables gives no context: out of memory, or no right to (CAP_NET_ADMIN)")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _STATELESS | _NUMERIC)

    def close(self) -> None:
        """Give it back, with its socket."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, transaction: str) -> str:
        """Carry out a transaction, all of it or nothing; what it printed. Raises Internal: it is refused."""
        failed = self._library.nft_run_cmd_from_buffer(self._context, transaction.encode())
        # Reading a buffer also empties it for the next run.
        said: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        why: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise Internal(f"nftables refused: {_short(why.decode(errors='replace'))}")
        return said.decode(errors="replace")


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "…"
