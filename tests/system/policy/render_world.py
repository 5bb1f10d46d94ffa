"""A node with pods and with neighbours outside, in namespaces without names; and single packets sent between them.

    pod0 ── cali0 ─┐ node ┌─ eth0 ── far0      pods:  any address, as a test says
    pod1 ── cali1 ─┤      └─ eth1 ── far1      far:   192.0.2.10, 198.51.100.10 and fd00:f0::10, fd00:f1::10
    …              │ 192.0.2.1, 198.51.100.1, fd00:f0::1, fd00:f1::1

Nobody has to ask for a neighbour: an answer that comes late would let a packet arrive after its batch.

A probe is one packet from a raw socket: it goes through the sender's output hook and is seen at the receiver behind its
input hook, so that one packet is one question, in either kind of namespace. TCP is a SYN that nobody listens for.
Whether all packets of a batch have been through is known by marks that the node sends after them.
"""

import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from services.eni_manager.adapters import netns
from tests.system.dataplane.world import Space

GATEWAY, GATEWAY6 = "169.254.1.1", "fe80::1"
EVERYBODY = "255.255.255.255"
DEADLINE_S = 30.0
NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_MARK_PORT = 9
_HDRINCL6 = 36
"""IPV6_HDRINCL, which Python's socket does not name."""


class Packet(NamedTuple):
    """The first packet of a connection; `icmp` is type and code."""

    source: str
    destination: str
    protocol: str
    port: int = 0
    source_port: int = 40_000
    icmp: tuple[int, int] = (8, 0)
    flags: int = 2

    def encode(self, mark: int) -> bytes:
        """With `mark` where the receiver finds it again."""
        body = self._body(mark)
        number = NUMBERS[self.protocol]
        if ":" in self.source:
            head = struct.pack("!IHBB", 6 << 28, len(body), number, 64)
            return head + _packed(self.source) + _packed(self.destination) + body
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, number, 0)
        head += _packed(self.source) + _packed(self.destination)
        return _with(head, 10, _checksum(head)) + body

    def _body(self, mark: int) -> bytes:
        match self.protocol:
            case "tcp":
                body = struct.pack("!HHIIBBHHH", self.source_port, self.port, mark, 0, 5 << 4, self.flags, 1024, 0, 0)
                return _with(body, 16, self._sum(body))
            case "udp":
                body = struct.pack("!HHHHI", self.source_port, self.port, 12, 0, mark)
                return _with(body, 6, self._sum(body) or 0xFFFF)
            case "sctp":
                # An INIT chunk, whose initiate tag is the mark.
                body = struct.pack("!HHIIBBHIIHHI", self.source_port, self.port, 0, 0, 1, 0, 20, mark, 9000, 1, 1, 1)
                return body[:8] + struct.pack("<I", _crc32c(body)) + body[12:]
            case "icmp":
                body = struct.pack("!BBHI", *self.icmp, 0, _turned(mark))
                return _with(body, 2, _checksum(body))
            case _:
                body = struct.pack("!BBHI", *self.icmp, 0, _turned(mark))
                return _with(body, 2, self._sum(body))

    def _sum(self, body: bytes) -> int:
        addresses = _packed(self.source) + _packed(self.destination)
        return _checksum(addresses + struct.pack("!II", len(body), NUMBERS[self.protocol]) + body)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _turned(mark: int) -> int:
    """The identifier of a ping is its connection's: the part that changes goes there."""
    return (mark & 0xFFFF) << 16 | mark >> 16


def _with(body: bytes, at: int, checksum: int) -> bytes:
    return body[:at] + struct.pack("!H", checksum) + body[at + 2 :]


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Place:
    """A namespace that sends and receives packets."""

    def __init__(self, opened: ExitStack, home: int) -> None:
        self.space = Space(home)
        opened.callback(self.space.close)
        with self.space.inside():
            self._senders = {4: _sender(opened, 4), 6: _sender(opened, 6)}
            self._wire = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM))
            self.ears = [_ear(opened, socket.AF_INET, name) for name in ("tcp", "udp", "sctp", "icmp")]
            self.ears += [_ear(opened, socket.AF_INET6, name) for name in ("tcp", "udp", "sctp", "icmpv6")]

    def send(self, packet: Packet, mark: int) -> bool:
        """Whether the packet left; an output hook that drops says so at once."""
        if packet.destination == EVERYBODY:
            # The kernel would put in a source, and hear itself.
            self._wire.sendto(packet.encode(mark), ("eth0", 0x0800, 0, 0, b"\xff" * 6))
            return True
        sixth = ":" in packet.destination
        to = (packet.destination, 0, 0, 0) if sixth else (packet.destination, 0)
        try:
            self._senders[6 if sixth else 4].sendto(packet.encode(mark), to)
        except PermissionError:
            return False
        return True

    def batch(self, lines: Iterable[str]) -> None:
        """iproute2, many commands at once."""
        with self.space.inside():
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)

    def load(self, text: str) -> None:
        """The transaction, by the real nft."""
        with self.space.inside():
            done = subprocess.run(["nft", "-f", "-"], input=text.encode(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[:2000] + text[:2000]

    def listing(self) -> str:
        """Our table as nft lists it in the form that the model promises."""
        return self.space.nft("--stateless", "--numeric", "list", "table", "inet", "terway")


def _sender(opened: ExitStack, family: int) -> socket.socket:
    if family == 4:
        return opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    made = opened.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW))
    made.setsockopt(socket.IPPROTO_IPV6, _HDRINCL6, 1)
    return made


def _ear(opened: ExitStack, family: int, protocol: str) -> socket.socket:
    made = opened.enter_context(socket.socket(family, socket.SOCK_RAW, NUMBERS[protocol]))
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: a batch waits here until all of it was sent
    return made


def _mark(ear: socket.socket, data: bytes) -> int | None:
    """The mark of a probe; None: something else that the namespaces say to each other."""
    body = data[(data[0] & 15) * 4 :] if ear.family == socket.AF_INET else data
    match ear.proto:
        case 6:
            return int.from_bytes(body[4:8], "big") if body[13] in (2, 0x12) else None
        case 17:
            return int.from_bytes(body[8:12], "big") if len(body) == 12 else None
        case 132:
            return int.from_bytes(body[16:20], "big") if body[12] == 1 else None
        case _:
            return (
                _turned(int.from_bytes(body[4:8], "big"))
                if body[0] not in (0, 3, 129, 1, 133, 134, 135, 136, 143)
                else None
            )


class Site:
    """The node, its pods and its neighbours."""

    def __init__(self, opened: ExitStack, home: int, pods: int = 3) -> None:
        self.node = Place(opened, home)
        self.pods = [Place(opened, home) for _ in range(pods)]
        self.far = [Place(opened, home), Place(opened, home)]
        self.addresses: dict[int, tuple[str, ...]] = {}
        self._marks = 0
        for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.node.space.sysctl(path, "1")
        self.node.batch(["link set lo up", f"addr add {GATEWAY}/32 dev lo"])
        for number, far in enumerate(self.far):
            self._outside(number, far)
        for number, pod in enumerate(self.pods):
            self._wire(number, pod)

    def _outside(self, number: int, far: Place) -> None:
        link, net, net6 = f"eth{number}", ("192.0.2", "198.51.100")[number], f"fd00:f{number}:"
        near_mac, far_mac = _mac(number, 2), _mac(number, 3)
        peer = f"peer name eth0 address {far_mac} netns {far.space.path}"
        self.node.batch(
            [
                f"link add {link} address {near_mac} type veth {peer}",
                f"addr add {net}.1/24 dev {link}",
                f"addr add {net6}:1/64 dev {link} nodad",
                f"link set {link} up",
                f"neigh add {net}.10 dev {link} lladdr {far_mac} nud permanent",
                f"neigh add {net6}:10 dev {link} lladdr {far_mac} nud permanent",
            ]
        )
        far.batch(
            [
                "link set lo up",
                "link set eth0 up",
                f"addr add {net}.10/24 dev eth0",
                f"addr add {net6}:10/64 dev eth0 nodad",
                f"route add default via {net}.1",
                f"route add default via {net6}:1",
                f"neigh add {net}.1 dev eth0 lladdr {near_mac} nud permanent",
                f"neigh add {net6}:1 dev eth0 lladdr {near_mac} nud permanent",
            ]
        )

    def _wire(self, number: int, pod: Place) -> None:
        near, far = _mac(number, 0), _mac(number, 1)
        self.node.batch(
            [
                f"link add cali{number} address {near} type veth peer name eth0 address {far} netns {pod.space.path}",
                f"addr add {GATEWAY6}/64 dev cali{number} nodad",
                f"link set cali{number} up",
            ]
        )
        pod.batch(
            [
                "link set lo up",
                "link set eth0 up",
                f"neigh add {GATEWAY} dev eth0 lladdr {near} nud permanent",
                f"neigh add {GATEWAY6} dev eth0 lladdr {near} nud permanent",
            ]
        )

    def address(self, number: int, *addresses: str) -> None:
        """The pod's addresses from now on."""
        pod, link = self.pods[number], f"cali{number}"
        for address in self.addresses.get(number, ()):
            length = 128 if ":" in address else 32
            pod.batch([f"addr del {address}/{length} dev eth0"])
            self.node.batch([f"route del {address}/{length} dev {link}"])
        self.addresses[number] = addresses
        for address in addresses:
            sixth = ":" in address
            length, gateway = (128, GATEWAY6) if sixth else (32, GATEWAY)
            nodad = " nodad" if sixth else ""
            pod.batch(
                [
                    f"addr add {address}/{length} dev eth0{nodad}",
                    f"route replace default via {gateway} dev eth0 onlink",
                ]
            )
            self.node.batch(
                [
                    f"route add {address}/{length} dev {link}",
                    f"neigh replace {address} dev {link} lladdr {_mac(number, 1)} nud permanent",
                ]
            )

    # ---- packets

    def ask(self, probes: Sequence[tuple[Place, Packet]], at: Sequence[Place] | None = None) -> list[bool]:
        """Whether each of the packets arrived. `at`: where the node can prove that all have been through."""
        first = self._marks = self._marks + 1
        for place, packet in probes:
            place.send(packet, self._marks)
            self._marks += 1
        arrived: set[int] = set()
        for _ in range(2):  # what was queued behind the first mark is before the second
            self._pass_mark(arrived, self._provable() if at is None else at)
        return [first + number in arrived for number in range(len(probes))]

    def _provable(self) -> list[Place]:
        return [self.pods[number] for number, held in self.addresses.items() if held]

    def _pass_mark(self, arrived: set[int], at: Sequence[Place]) -> None:
        """Send one packet from the node to each of these, and hear everything until all of them arrived."""
        waiting = set()
        for place in at:
            destination = self.addresses[self.pods.index(place)][0]
            source = "fd00:f0::1" if ":" in destination else GATEWAY
            self._marks += 1
            waiting.add(self._marks)
            self.node.send(Packet(source, destination, "udp", _MARK_PORT), self._marks)
        self._marks += 1
        ears = [ear for place in (*self.pods, *self.far, self.node) for ear in place.ears]
        until = time.monotonic() + DEADLINE_S
        while True:
            for ear in select.select(ears, [], [], 0 if waiting <= arrived else 0.2)[0]:
                arrived.update(_heard(ear))
            if waiting <= arrived:
                return
            assert time.monotonic() < until, "what the node sends to its own pods did not arrive"


def _heard(ear: socket.socket) -> Iterator[int]:
    while True:
        try:
            mark = _mark(ear, ear.recv(4096))
        except BlockingIOError:
            return
        if mark is not None:
            yield mark


def _mac(number: int, end: int) -> str:
    return f"02:00:00:00:{end:02x}:{number:02x}"


@contextmanager
def site(pods: int = 3) -> Iterator[Site]:
    """A site for as long as the body runs; the calling thread ends where it began."""
    home = netns.own_netns()
    with ExitStack() as opened:
        opened.callback(os.close, home)
        opened.callback(netns.enter, home)
        yield Site(opened, home, pods)
