"""Mounts that the lab's programs make and leave."""

import ctypes
import os
import re
from pathlib import Path

_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def mounted_below(path: Path) -> list[Path]:
    """Every mount point at or below the path, as often as it is mounted over, the last mounted first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Field 5 is the mount point; space, tab, newline and backslash are written in octal (man proc).
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4]))
        if point == path or path in point.parents:
            found.append(point)
    return found[::-1]


def unmount_below(path: Path) -> None:
    """Unmount everything at or below the path, whoever still uses it; success when nothing is mounted."""
    for point in mounted_below(path):
        if _libc.umount2(os.fsencode(point), _MNT_DETACH) != 0:
            error = ctypes.get_errno()
            if point in mounted_below(point):
                raise OSError(error, os.strerror(error), str(point))
