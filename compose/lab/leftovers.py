"""What of a lab there still is on this machine, whoever should have removed it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from compose.lab.layout import NETNS, Layout
from compose.lab.mounts import mounted_below

_CGROUPS = Path("/sys/fs/cgroup")


def namespaces(layout: Layout) -> list[str]:
    """Named namespaces of the lab, nodes' and pods'."""
    return sorted(path.name for path in NETNS.glob(f"{layout.netns_prefix}*"))


def processes(layout: Layout) -> list[str]:
    """Processes that were started for the lab: its folder is in their command line, as its configuration or socket."""
    return sorted(_processes(layout))


def files(layout: Layout) -> list[str]:
    """Mounts, files and cgroups."""
    found = [*mounted_below(layout.folder), *_CGROUPS.glob(f"*{layout.cgroup}"), *_CGROUPS.glob(layout.cgroup[1:])]
    found += [path for path in (layout.folder, layout.lock) if path.exists()]
    return sorted({str(path) for path in found})


def _processes(layout: Layout) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(part == str(layout.folder) or part.startswith(f"{layout.folder}/") for part in argv):
                    yield f"{entry.name} {' '.join(argv).strip()}"
