"""Cuts a watch's bytes into lines, however they arrive. No I/O.

aiohttp's own readline gives up at 512 KiB; an object may be larger (etcd takes 1.5 MiB, an aggregated server more).
"""

from collections.abc import Iterator

from shared.kube.errors import ApiInternal

MAX_LINE = 16 << 20
"""Bytes; beyond it something other than an API server is talking."""


class Lines:
    """Feed chunks, take whole lines; holds at most one unfinished line."""

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes, without their ends; blank lines are skipped."""
        first, *rest = chunk.split(b"\n")
        self._hold(first)
        for piece in rest:
            line = b"".join(self._parts)
            self._parts, self._held = [], 0
            if line.strip():
                yield line
            self._hold(piece)

    def _hold(self, piece: bytes) -> None:
        if not piece:
            return
        self._held += len(piece)
        if self._held > self._max_line:
            raise ApiInternal(f"watch: a line longer than {self._max_line} bytes")
        self._parts.append(piece)
