"""A socket that is read on the event loop whenever something has come: what `Neighbours` and `Departures` both are."""

import asyncio
import socket
from abc import ABC, abstractmethod


class Listening(ABC):
    """Reads one socket from `open` to `close`, on the running event loop."""

    _socket: socket.socket | None = None

    def open(self, listening: socket.socket) -> None:
        """`listening` does not block; it is ours from now on."""
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self.read, listening)

    def close(self) -> None:
        """May be repeated."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    @abstractmethod
    def read(self, listening: socket.socket) -> None:
        """Something has come."""
