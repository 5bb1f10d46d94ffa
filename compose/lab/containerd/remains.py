"""Clear away what a containerd leaves: containers, shims, mounts, cgroups, namespaces, CNI's result cache.

containerd's containers outlive it on purpose. So a lab that goes, or was killed, ends them by what the kernel and
the files know: everything in the node's cgroup, every shim that serves this containerd's socket, every mount
below its folder. Nothing is looked up by a name that somebody else could use too.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from compose.lab import process
from compose.lab.containerd.daemon import Daemon
from compose.lab.mounts import unmount_below

_CGROUPS = Path("/sys/fs/cgroup")
_RESULTS = Path("/var/lib/cni/results")


async def clear(daemon: Daemon) -> None:
    """Remove everything of this containerd, which must have ended; success when there is nothing."""
    bundles = list(_bundles(daemon))
    sockets = [socket for bundle in bundles for socket in _shim_sockets(bundle)]
    for victim in [*_in_cgroup(daemon.cgroup), *_shims(daemon.socket)]:
        await process.stop(victim, grace_s=0)
    namespaces = {path for bundle in bundles for path in _network_namespaces(bundle)}
    unmount_below(daemon.folder)
    for namespace in namespaces:
        unmount_below(namespace)
        namespace.unlink(missing_ok=True)
    remove_cgroups(daemon.cgroup)
    for bundle in bundles:
        _remove_results(bundle.name)
    for socket in sockets:
        socket.unlink(missing_ok=True)
    shutil.rmtree(daemon.folder, ignore_errors=True)


def _bundles(daemon: Daemon) -> Iterator[Path]:
    """One folder per container, named by its id, as containerd's runtime lays them out."""
    yield from (daemon.folder / "state/io.containerd.runtime.v2.task/k8s.io").glob("*")


def _network_namespaces(bundle: Path) -> Iterator[Path]:
    with suppress(OSError, ValueError, KeyError):
        for namespace in json.loads((bundle / "config.json").read_text())["linux"]["namespaces"]:
            path = Path(namespace.get("path") or "/").resolve()  # /var/run is a link
            # `cni-…` is what containerd names those that it makes; a container's others are under /proc.
            if namespace["type"] == "network" and path.name.startswith("cni-"):
                yield path


def _shim_sockets(bundle: Path) -> Iterator[Path]:
    """Where the container's shim listens: in one folder for the whole machine, whatever containerd is told."""
    with suppress(OSError):
        yield Path((bundle / "address").read_text().removeprefix("unix://"))


def _shims(socket: Path) -> Iterator[process.Process]:
    """containerd's shims for this socket; each serves one pod and outlives its containerd."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if Path(argv[0]).name == "containerd-shim-runc-v2" and str(socket) in argv:
                yield process.observe(int(entry.name))


def _cgroup_folders(cgroup: str) -> Iterator[Path]:
    """The cgroup in every hierarchy (cgroups v1), or in the one (v2)."""
    for hierarchy in (_CGROUPS, *sorted(_CGROUPS.glob("*/"))):
        folder = hierarchy / cgroup.strip("/")
        if folder.is_dir():
            yield folder


def _in_cgroup(cgroup: str) -> Iterator[process.Process]:
    pids: set[int] = set()
    for folder in _cgroup_folders(cgroup):
        for members in folder.rglob("cgroup.procs"):
            with suppress(OSError):
                pids.update(map(int, members.read_text().split()))
    for pid in pids:
        with suppress(OSError):
            yield process.observe(pid)


def _remove_results(container_id: str) -> None:
    """libcni in containerd keeps every ADD's result in one folder for the whole machine."""
    for result in _RESULTS.glob(f"*-{container_id}-*"):
        result.unlink(missing_ok=True)


def remove_cgroups(cgroup: str) -> None:
    """Remove a cgroup and all below it in every hierarchy; what still has processes stays."""
    for folder in _cgroup_folders(cgroup):
        for path, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                os.rmdir(path)


def remove_empty_cgroup(cgroup: str) -> None:
    """Remove a cgroup that has nothing below it."""
    for folder in _cgroup_folders(cgroup):
        with suppress(OSError):
            folder.rmdir()
