"""Datagrams and a connection that never stop, both ways, each packet judged by itself.

Of a `fresh` stream each packet comes from a port of its own: it is a new connection, which policies are asked about. Of
an `answered` one all packets are one connection, and each is sent back. At the end what was sent and what was received
are compared, packet by packet; no time decides. Neither a veth nor a receiver's buffer loses packets at this pace.
"""

import asyncio
import errno
import selectors
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

from compose.lab.netns import call_in
from tests.conformance.site import PATIENCE_S, Site

Json = Any

PORT, TCP_PORT, OTHER_PORT = 7000, 7001, 7002
PERIOD_S = 0.01
_RECEIVES_BYTES = 8 << 20
_CONTENT = struct.Struct("!II")
_MARK: Final = 0xFFFFFFFF
_FIRST_PORT, _PORTS = 20_000, 40_000
_RCVBUFFORCE, _IPV6_CHECKSUM = 33, 7
"""Linux's socket options: a buffer beyond the system's limit; where in a packet the kernel puts its checksum."""


class Stream(NamedTuple):
    source: str
    destination: str
    port: int = PORT
    allowed: bool = True
    answered: bool = False

    def __str__(self) -> str:
        kind = "answered" if self.answered else "fresh"
        return f"{self.source} -> {self.destination} {self.port} ({kind}, {'allowed' if self.allowed else 'denied'})"


def _policy(name: str, namespace: str, pod: str, **spec: Json) -> Json:
    selected = {"podSelector": {"matchLabels": {"pod": pod}}, **spec}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": selected}


_PORTS_OF_STREAMS = [{"port": PORT, "protocol": "UDP"}, {"port": TCP_PORT}]
POLICIES: Final[Sequence[Json]] = (
    _policy(
        "streams-in", "x", "a", policyTypes=["Ingress"],
        ingress=[{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": _PORTS_OF_STREAMS}],
    ),
    _policy(
        "streams-out", "y", "c", policyTypes=["Egress"],
        egress=[{"to": [{"namespaceSelector": {"matchLabels": {"ns": "z"}}}], "ports": _PORTS_OF_STREAMS}],
    ),
)  # fmt: skip
"""Beside one that denies all that comes into x; between the nodes and on one, by who asks, by port, both ways."""
STREAMS: Final = (
    Stream("x/b", "x/a"),
    Stream("x/b", "x/a", answered=True),
    Stream("x/a", "z/b"),
    Stream("x/a", "z/b", answered=True),
    Stream("y/c", "z/a"),
    Stream("y/c", "z/a", answered=True),
    Stream("z/c", "y/c"),
    Stream("x/c", "x/a", allowed=False),
    Stream("z/b", "x/a", allowed=False),
    Stream("y/c", "x/a", allowed=False),
    Stream("z/a", "x/b", allowed=False),
    Stream("y/c", "y/b", allowed=False),
    Stream("x/b", "x/a", OTHER_PORT, allowed=False),
    Stream("y/c", "z/a", OTHER_PORT, allowed=False),
)


class Streams:
    """They run from `begin` to `ended`; `note` says what happens meanwhile, for who reads of a packet gone wrong."""

    def __init__(self, cluster: Site, streams: Sequence[Stream] = STREAMS) -> None:
        self._cluster = cluster
        self._streams = streams
        self._selector = selectors.DefaultSelector()
        self._senders: list[socket.socket] = []
        self._sent = [0] * len(streams)
        self._got: list[set[int]] = [set() for _ in streams]
        self._answers: list[set[int]] = [set() for _ in streams]
        self._marks: set[str] = set()
        self._notes: list[tuple[str, list[int]]] = []
        self._over = threading.Event()
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._connection = Connection(cluster, "x/b", "x/a")

    def begin(self) -> None:
        """Every stream's first packets are on their way."""
        for place in sorted({(stream.destination, stream.port) for stream in self._streams}):
            self._selector.register(self._inside(place[0], lambda port=place[1]: self._receiver(port)), 1, place)
        for number, stream in enumerate(self._streams):
            if stream.answered:
                sender = self._inside(stream.source, lambda stream=stream: self._connected(stream))
                self._selector.register(sender, 1, number)
            else:
                sender = self._inside(stream.source, self._raw)
            self._senders.append(sender)
        self._connection.begin()
        self.note("begun")
        self._thread.start()

    def note(self, what: str) -> None:
        """This happens now."""
        self._notes.append((what, list(self._sent)))

    async def ended(self) -> dict[str, str]:
        """Stop; what is wrong with each stream, none when each packet had its fate."""
        try:
            await asyncio.to_thread(self._end)
            wrong = {str(stream): said for number, stream in enumerate(self._streams) if (said := self._judged(number))}
            return wrong | self._connection.judged()
        finally:
            for one in [*self._senders, *(key.fileobj for key in self._selector.get_map().values())]:
                assert isinstance(one, socket.socket)
                one.close()
            self._selector.close()
            self._connection.close()

    @property
    def packets(self) -> tuple[int, int]:
        """How many were sent that are allowed, and denied."""
        allowed = sum(sent for sent, stream in zip(self._sent, self._streams, strict=True) if stream.allowed)
        return allowed, sum(self._sent) - allowed

    @property
    def sent(self) -> dict[str, int]:
        """How many of each stream were sent."""
        return {str(stream): sent for stream, sent in zip(self._streams, self._sent, strict=True)}

    # ---- sockets

    def _inside(self, pod: str, make: Any) -> socket.socket:
        made: socket.socket = call_in(self._cluster.entries[pod], make)
        made.setblocking(False)
        return made

    def _receiver(self, port: int) -> socket.socket:
        one = socket.socket(self._cluster.family, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _RECEIVES_BYTES)
        one.bind(("", port))
        return one

    def _connected(self, stream: Stream) -> socket.socket:
        one = socket.socket(self._cluster.family, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _RECEIVES_BYTES)
        one.connect((self._cluster.addresses[stream.destination], stream.port))
        return one

    def _raw(self) -> socket.socket:
        one = socket.socket(self._cluster.family, socket.SOCK_RAW, socket.IPPROTO_UDP)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # it is for sending
        if self._cluster.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, 6)
        return one

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                due = time.monotonic() + PERIOD_S
                for number in range(len(self._streams)):
                    self._send(number)
                self._connection.send()
                self._receive(0)
                while (left := due - time.monotonic()) > 0:
                    self._receive(left)
        except Exception as error:  # for who asks in the end
            self._failed.append(error)

    def _send(self, number: int) -> None:
        stream, sender = self._streams[number], self._senders[number]
        content = _CONTENT.pack(number, self._sent[number])
        # What rules in its own namespace drop, a sender is told (exclusive-eni): then it has not arrived, that is all.
        with suppress(PermissionError):
            if stream.answered:
                sender.send(content)
            else:
                source = _FIRST_PORT + (number * 2_000 + self._sent[number]) % _PORTS
                header = struct.pack("!HHHH", source, stream.port, 8 + len(content), 0)
                sender.sendto(header + content, (self._cluster.addresses[stream.destination], 0))
        self._sent[number] += 1

    def _receive(self, within_s: float) -> None:
        for key, _ in self._selector.select(within_s):
            assert isinstance(key.fileobj, socket.socket)
            while True:
                try:
                    content, peer = key.fileobj.recvfrom(64)
                except BlockingIOError:
                    break
                except OSError as error:
                    assert error.errno == errno.ECONNREFUSED, error
                    continue
                self._take(key, content, peer)
        self._connection.receive()

    def _take(self, key: selectors.SelectorKey, content: bytes, peer: Any) -> None:
        assert isinstance(key.fileobj, socket.socket)
        number, sequence = _CONTENT.unpack(content)
        if number == _MARK:
            self._marks.add(str(key.data))
        elif isinstance(key.data, int):
            self._answers[number].add(sequence)
        else:
            self._got[number].add(sequence)
            if self._streams[number].answered:
                with suppress(PermissionError):
                    key.fileobj.sendto(content, peer)

    # ---- the end

    def _end(self) -> None:
        self._over.set()
        self._thread.join()
        if self._failed:
            raise self._failed[0]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not (self._all_arrived() and self._connection.whole):
            self._receive(0.05)
        # Each receiver hears of its own node, which no policy stops: by then it has read all that came before.
        places = {str(key.data): key.data for key in self._selector.get_map().values() if not isinstance(key.data, int)}
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self._marks < places.keys():
            for pod, port in places.values():
                node = self._cluster.layout.node(self._cluster.nodes[pod]).netns
                with call_in(node, lambda: socket.socket(self._cluster.family, socket.SOCK_DGRAM)) as one:
                    one.sendto(_CONTENT.pack(_MARK, 0), (self._cluster.addresses[pod], port))
            self._receive(0.05)
        assert self._marks >= places.keys(), f"of {places} only {self._marks} were heard"

    def _all_arrived(self) -> bool:
        return not any(self._judged(number) for number, stream in enumerate(self._streams) if stream.allowed)

    def _judged(self, number: int) -> str:
        stream, sent, got = self._streams[number], self._sent[number], self._got[number]
        if not stream.allowed:
            return f"{len(got)} of {sent} came in: {self._when(number, got)}" if got else ""
        lost = set(range(sent)) - got
        if lost:
            return f"{len(lost)} of {sent} were lost: {self._when(number, lost)}"
        unanswered = set(range(sent)) - self._answers[number] if stream.answered else set[int]()
        return f"{len(unanswered)} of {sent} answers were lost: {self._when(number, unanswered)}" if unanswered else ""

    def _when(self, number: int, which: set[int]) -> dict[str, int]:
        """How many of these packets were sent after which note."""
        found: dict[str, int] = {}
        for sequence in sorted(which):
            noted = [what for what, sent in self._notes if sent[number] <= sequence]
            found[noted[-1]] = found.get(noted[-1], 0) + 1
        return found


class Connection:
    """One that is never broken: what the one end writes comes back from the other, byte by byte."""

    def __init__(self, cluster: Site, source: str, destination: str) -> None:
        self._cluster, self._source, self._destination = cluster, source, destination
        self._sent = self._back = 0
        self._broken = ""

    def begin(self) -> None:
        """It is established."""
        family, address = self._cluster.family, self._cluster.addresses[self._destination]
        listening = call_in(self._cluster.entries[self._destination], lambda: socket.socket(family, socket.SOCK_STREAM))
        self._near = call_in(self._cluster.entries[self._source], lambda: socket.socket(family, socket.SOCK_STREAM))
        with listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("", TCP_PORT))
            listening.listen(1)
            listening.settimeout(PATIENCE_S)
            self._near.settimeout(PATIENCE_S)
            self._near.connect((address, TCP_PORT))
            self._far, _ = listening.accept()
        for one in (self._near, self._far):
            one.setblocking(False)

    def send(self) -> None:
        """Eight bytes more."""
        with self._watched():
            self._sent += self._near.send(b"12345678")

    def receive(self) -> None:
        """What has come goes back, or is counted."""
        with self._watched():
            self._far.send(self._far.recv(4096))
        with self._watched():
            self._back += len(self._near.recv(4096))

    @property
    def whole(self) -> bool:
        """All that was sent has come back."""
        return self._back == self._sent or bool(self._broken)

    def judged(self) -> dict[str, str]:
        """What is wrong with it."""
        said = self._broken or ("" if self.whole else f"of {self._sent} bytes {self._back} came back")
        return {f"{self._source} -> {self._destination} {TCP_PORT} (one connection)": said} if said else {}

    def close(self) -> None:
        """It is over."""
        self._near.close()
        self._far.close()

    def _watched(self) -> Any:
        return _Watched(self)

    def broke(self, error: OSError) -> None:
        """It is broken, and stays so."""
        self._broken = self._broken or str(error)


class _Watched:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
            self._connection.broke(error)
        return isinstance(error, OSError)


@asynccontextmanager
async def streaming(cluster: Site, which: Sequence[Stream] = STREAMS) -> AsyncIterator[Streams]:
    """Streams as long as the context lasts, all of whose packets have their right fate. The cluster has `POLICIES`."""
    streams = Streams(cluster, which)
    streams.begin()
    try:
        yield streams
    except BaseException:
        with suppress(AssertionError):
            await streams.ended()
        raise
    wrong = await streams.ended()
    assert not wrong, wrong
    allowed, denied = streams.packets
    assert all(sent >= 20 for sent in streams.sent.values()), streams.sent
    print(f"{allowed} packets allowed, {denied} denied, none wrong")
