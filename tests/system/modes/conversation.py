"""Two ends of a Service, each a socket in its own namespace: what the backend sees of the client, and what passes.

Blocking, with a deadline on every step; a client's first datagram may be lost, so it is sent again.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from compose.lab.netns import socket_in
from compose.lab.waiting import patient
from tests.system.modes.site import inside

VIP4, VIP6 = "172.21.0.77", "fd00:172:21::77"
PORT = 80
"""The Service's."""
BACKEND_PORT = 8000
_DEADLINE_S = 10.0
_AGAIN_S = 0.5


@dataclass(frozen=True)
class Ends:
    """A client and a server, by IPv4 or IPv6."""

    client: Path
    server: Path
    six: bool = False

    @property
    def family(self) -> int:
        return socket.AF_INET6 if self.six else socket.AF_INET

    @property
    def vip(self) -> str:
        return VIP6 if self.six else VIP4

    @contextmanager
    def tcp(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of a connection to the Service, the client's first."""
        with self.from_one_port(0, (self.vip, PORT)) as [ends]:
            yield ends

    @contextmanager
    def from_one_port(self, port: int, *to: tuple[str, int]) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
        """The same for connections to these, all from this port of the client; 0: from any."""
        with ExitStack() as opened:
            listener = opened.enter_context(self._socket(self.server, socket.SOCK_STREAM))
            listener.bind(("", BACKEND_PORT))
            listener.listen()
            made: list[tuple[socket.socket, socket.socket]] = []
            for target in to:
                client = opened.enter_context(self._socket(self.client, socket.SOCK_STREAM))
                client.bind(("", port))
                client.connect(target)
                server = opened.enter_context(listener.accept()[0])
                server.settimeout(patient(_DEADLINE_S))
                made.append((client, server))
            yield made

    def datagrams(self, size: int) -> tuple[str, int]:
        """A datagram each way; the address that the server sees, and how much came back."""
        with (
            self._socket(self.server, socket.SOCK_DGRAM) as server,
            self._socket(self.client, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("", BACKEND_PORT))
            client.connect((self.vip, PORT))
            peer = self._until_heard(client, server, size)
            server.sendto(bytes(size), peer)
            return str(peer[0]), len(client.recv(1 << 16))

    def refused(self) -> bool:
        """Is the client told that nobody serves the port? Datagrams, so by an error of ICMP that quotes them."""
        ends = time.monotonic() + patient(_DEADLINE_S)
        with self._socket(self.client, socket.SOCK_DGRAM) as client:
            client.connect((self.vip, PORT))
            client.settimeout(_AGAIN_S)
            while time.monotonic() < ends:
                try:
                    client.send(b"?")
                    client.recv(16)
                except TimeoutError:
                    continue
                except ConnectionRefusedError:
                    return True
        return False

    def reached(self, *, within_s: float) -> bool:
        """Does a connection to the Service come about, to whoever serves there?"""
        with self._socket(self.client, socket.SOCK_STREAM) as client:
            client.settimeout(patient(within_s))
            try:
                client.connect((self.vip, PORT))
            except OSError:
                return False
            return True

    def _until_heard(self, client: socket.socket, server: socket.socket, size: int) -> tuple[str, int]:
        ends = time.monotonic() + patient(_DEADLINE_S)
        server.settimeout(_AGAIN_S)
        while True:
            client.send(bytes(size))
            try:
                data, peer = server.recvfrom(1 << 16)
            except TimeoutError:
                if time.monotonic() >= ends:
                    raise
                continue
            assert len(data) == size
            return peer[:2]

    @contextmanager
    def _socket(self, netns: Path, kind: int) -> Iterator[socket.socket]:
        with socket_in(netns, self.family, kind) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.settimeout(patient(_DEADLINE_S))
            yield made


def carry(sender: socket.socket, receiver: socket.socket, size: int) -> float:
    """So many bytes from one end to the other; how long until the last has come."""
    began = time.monotonic()

    def send() -> None:
        left = size
        while left:
            left -= sender.send(bytes(min(left, 1 << 18)))

    thread = Thread(target=send)
    thread.start()
    left = size
    while left:
        came = len(receiver.recv(1 << 18))
        assert came, f"closed with {left} of {size} bytes to come"
        left -= came
    thread.join()
    return time.monotonic() - began


@contextmanager
def service(node: Path, backend: str, *, masquerade: bool = False) -> Iterator[None]:
    """As kube-proxy has it on a node: the Service's address leads to this backend; `masquerade`: of everybody."""
    family, vip, to = ("ip6", VIP6, f"[{backend}]") if ":" in backend else ("ip", VIP4, backend)
    marked = f"{family} daddr {vip} meta mark set meta mark or 0x4000" if masquerade else ""
    rules = f"""
        table {family} kube {{
            chain services {{
                {marked}
                {family} daddr {vip} tcp dport {PORT} dnat to {to}:{BACKEND_PORT}
                {family} daddr {vip} udp dport {PORT} dnat to {to}:{BACKEND_PORT}
            }}
            chain prerouting {{ type nat hook prerouting priority dstnat; jump services
            }}
            chain output {{ type nat hook output priority -100; jump services
            }}
            chain postrouting {{ type nat hook postrouting priority srcnat
                ct status dnat {family} saddr {backend} {family} daddr {backend} masquerade
                meta mark & 0x4000 == 0x4000 masquerade
            }}
        }}
    """
    inside(node, "nft", "-f", "-", stdin=rules)
    try:
        yield
    finally:
        inside(node, "nft", "delete", "table", family, "kube")
