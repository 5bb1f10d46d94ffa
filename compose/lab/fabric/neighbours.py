"""Answers neighbour solicitations for the mates of a vSwitch, as the router's kernel does ARP requests.

IPv6 has no proxying of whole subnets in the kernel, so this is a process's work: whoever believes its vSwitch's CIDR
to be on the link learns that everybody in it has the router's MAC. Not answered: who asks for what is its own, or
without an address (it looks for duplicates). Gateways are the kernel's: no pod that leaves by its gateway needs us.
"""

import ctypes
import socket
import struct
from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network

from compose.lab.fabric.listening import Listening
from compose.lab.fabric.port import Port

_ETH_P_IPV6 = 0x86DD
_OUTGOING = 4
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_SO_ATTACH_FILTER = 26
_FLAGS = 0x60000000
"""Solicited, override."""
_LINK_LAYER_ADDRESS = bytes((2, 1))
"""Target link-layer address, one unit of eight bytes."""


class Neighbours(Listening):
    """Runs from `open` to `close`, on the running event loop. `ports` is read at each question."""

    def __init__(self, ports: Mapping[str, Port], mac: str) -> None:
        self._ports = ports
        self._mac = bytes.fromhex(mac.replace(":", ""))

    def read(self, listening: socket.socket) -> None:
        """IPv6 packets, by an AF_PACKET socket."""
        try:
            packet, (device, _, direction, _, sender) = listening.recvfrom(2048)
            if direction != _OUTGOING and (reply := self.answer(device, packet)):
                listening.sendto(reply, (device, _ETH_P_IPV6, 0, 0, sender))
        except OSError:
            pass  # the device has gone meanwhile, and who asked with it

    def answer(self, device: str, packet: bytes) -> bytes | None:
        """The advertisement for a solicitation that came in by this device, both from the IPv6 header on."""
        if len(packet) < 64 or packet[6] != _ICMPV6 or packet[40] != _SOLICITATION:
            return None
        asker, target = packet[8:24], packet[48:64]
        if (port := self._ports.get(device)) is None or not port.subnet.cidr6 or not any(asker):
            return None
        wanted = IPv6Address(target)
        mine = [IPv6Network(own) for own in (port.subnet.gateway6, *port.ranges) if ":" in own]
        if wanted not in IPv6Network(port.subnet.cidr6) or any(wanted in own for own in mine):
            return None
        source = IPv6Address(port.subnet.gateway6).packed
        body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _FLAGS) + target + _LINK_LAYER_ADDRESS + self._mac
        pseudo = source + asker + struct.pack("!II", len(body), _ICMPV6)
        body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
        return struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + source + asker + body


def listen() -> socket.socket:
    """Hears every solicitation that reaches the calling thread's namespace, and (but for a moment) nothing else."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IPV6))
    program = (  # from the IPv6 header on: next header, ICMPv6 type
        *((0x30, 0, 0, 6), (0x15, 0, 3, _ICMPV6)),
        *((0x30, 0, 0, 40), (0x15, 0, 1, _SOLICITATION)),
        *((0x06, 0, 0, 2048), (0x06, 0, 0, 0)),
    )
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = bytearray(code)
    address = (ctypes.c_char * len(held)).from_buffer(held)
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(address)))
    opened.setblocking(False)
    return opened


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
