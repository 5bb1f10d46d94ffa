"""The node's own address."""

import socket

from shared.model import Ip


def default_source() -> Ip | None:
    """The IPv4 address that the kernel gives to packets along the default route; None: there is no such route.

    Connecting a UDP socket looks the route up and sends nothing; the destination is a documentation address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return Ip(str(probe.getsockname()[0]))
