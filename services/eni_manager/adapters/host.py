"""The node's own address."""

import socket
from ipaddress import ip_address

from shared.model import Ip


def default_source() -> Ip | None:
    """The IPv4 address that the kernel gives to packets along the default route; None: there is no such route.

    Connecting a UDP socket looks the route up and sends nothing; the destination is a documentation address.
    """
    return _source(socket.AF_INET, "192.0.2.1")


def default_source6() -> Ip | None:
    """The same of IPv6; None also where the kernel has none."""
    return _source(socket.AF_INET6, "3fff::1")


def has_ipv6() -> bool:
    """Is there IPv6 in this kernel, and not switched off at its start (`ipv6.disable=1`)?"""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _source(family: int, towards: str) -> Ip | None:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, 9))
            return Ip(str(ip_address(probe.getsockname()[0])))
    except OSError:
        return None
