"""What of a lab there still is on this machine, whoever should have removed it."""

from pathlib import Path

from compose.lab import process
from compose.lab.layout import NETNS, Layout
from compose.lab.mounts import mounted_below

_CGROUPS = Path("/sys/fs/cgroup")


def namespaces(layout: Layout) -> list[str]:
    """Named namespaces of the lab, nodes' and pods'."""
    return sorted(path.name for path in NETNS.glob(f"{layout.netns_prefix}*"))


def processes(layout: Layout) -> list[str]:
    """Processes that were started for the lab, and their children."""
    return [f"{found.pid} {' '.join(found.argv)}" for found in process.marked(layout.folder)]


def files(layout: Layout) -> list[str]:
    """Mounts, files and cgroups."""
    found = [*mounted_below(layout.folder), *_CGROUPS.glob(f"*{layout.cgroup}"), *_CGROUPS.glob(layout.cgroup[1:])]
    found += [path for path in (layout.folder, layout.lock) if path.exists()]
    return sorted({str(path) for path in found})
