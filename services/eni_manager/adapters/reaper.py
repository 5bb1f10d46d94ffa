"""Links on their way out are deleted, many at once."""

import os

from services.eni_manager.adapters import netns
from services.eni_manager.adapters.netlink import ABSENT, Stack
from services.eni_manager.adapters.netlink_links import delete_retired


class Reaper:
    """Deletes retired links. It has a thread of its own, since the kernel takes 15 ms or more over it."""

    def __init__(self) -> None:
        self._home_fd = netns.own_netns()
        self._host = Stack(self._home_fd)

    def close(self) -> None:
        """Let go of the node's namespace."""
        self._host.close()
        os.close(self._home_fd)

    def delete_retired(self) -> None:
        """Delete all retired links; those that went with their namespaces are gone already."""
        self._host.send(delete_retired()).expect(*ABSENT)
