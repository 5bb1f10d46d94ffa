"""Looks at the network namespace that a shim holds open, through /proc."""

import os

from services.cni_shim.core.spec import CniError, Code


class NoNamespace(CniError):
    """What the descriptor stands for is no namespace, or its process has gone."""


def held_namespace(pid: int, netns: int, *, override: bool) -> str:
    """A path to descriptor `netns` of process `pid`, by which a neighbour can open it.

    NoNamespace: it is none. CniError: it is the plugin's own, which is the node's (upstream's skel refuses that as
    well, unless CNI_NETNS_OVERRIDE says otherwise).
    """
    if pid == 0:
        raise CniError(
            Code.REFUSED,
            "the gateway cannot see the runtime's processes: it runs in another pid namespace",
            "run the gateway with hostPID",
        )
    path = f"/proc/{pid}/fd/{netns}"
    try:
        given = os.stat(path)
        own = os.stat(f"/proc/{pid}/ns/net")
    except FileNotFoundError as error:
        raise NoNamespace(Code.TRY_LATER, "the plugin's process went away too early") from error
    if given.st_dev != own.st_dev:  # all namespaces are files of one kernel file system
        raise NoNamespace(Code.BAD_NETNS, "CNI_NETNS is not a network namespace")
    if given.st_ino == own.st_ino and not override:
        raise CniError(Code.BAD_NETNS, "CNI_NETNS is the plugin's own network namespace, which is the node's")
    return path
