"""Moments in which the kernel has said yes and is not through with it yet."""

import time

from services.eni_manager.adapters.netlink import Stack
from shared.model import Ip

_SEND_TRIES = 20
_SEND_PAUSE_S = 0.001
_LISTEN_TRIES = 200


def wait_until_it_sends(stack: Stack, name: str) -> None:
    """Until the kernel has noticed that both ends are up, a link drops what it is to send: the ARP question first.

    That would come again only after a second. Since Linux 6.8 asking for the link settles it; before, a worker of
    the kernel does so soon.
    """
    for _ in range(_SEND_TRIES):
        link = stack.link(name)
        if link is None or link.sends:
            return
        time.sleep(_SEND_PAUSE_S)


def wait_until_it_listens(stack: Stack, ip: Ip) -> None:
    """A new IPv6 address takes packets in only when a worker of the kernel has seen to it, `nodad` or not.

    That worker needs the lock that all changes of links need, so on a busy node it may be late.
    """
    for _ in range(_LISTEN_TRIES):
        if stack.is_own(ip):
            return
        time.sleep(_SEND_PAUSE_S)
