"""The archive that the guest's kernel starts from: busybox, the modules for a file system, and a script."""

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from compose.guest.kernel import content

_SCRIPT: Final = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in {modules}; do $b insmod /modules/$module || echo "guest: insmod $module failed"; done
$b mount -t virtiofs root /lower || $b poweroff -f
$b mount -t tmpfs written /written; $b mkdir /written/upper /written/work /written/upper/machine
$b mount -t overlay -o lowerdir=/lower,upperdir=/written/upper,workdir=/written/work overlay /new || $b poweroff -f
$b mount --move /lower /new/machine; $b mount --move /dev /new/dev; $b umount /proc /sys
exec $b switch_root /new {first}
"""
_FOLDERS: Final = ("bin", "dev", "proc", "sys", "modules", "new", "written", "lower")

MACHINE: Final = "/machine"
"""Where the guest sees this machine's own files, not covered by the overlay."""


def archive(busybox: Path, modules: Iterable[Path], first: Path) -> bytes:
    """An uncompressed cpio archive (`newc`). `first`: the guest's PID 1, by its path in this machine."""
    modules = list(modules)
    entries: list[tuple[str, int, bytes, tuple[int, int]]] = [
        (folder, stat.S_IFDIR | 0o755, b"", (0, 0)) for folder in _FOLDERS
    ]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    entries.append(("dev/null", stat.S_IFCHR | 0o666, b"", (1, 3)))
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes(), (0, 0)))
    names = [path.name.removesuffix(".xz") for path in modules]
    entries += [
        (f"modules/{name}", stat.S_IFREG | 0o644, content(path), (0, 0))
        for name, path in zip(names, modules, strict=True)
    ]
    script = _SCRIPT.format(modules=" ".join(names), first=first).encode()
    entries.append(("init", stat.S_IFREG | 0o755, script, (0, 0)))
    entries.append(("TRAILER!!!", 0, b"", (0, 0)))
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))


def _entry(number: int, name: str, mode: int, body: bytes, device: tuple[int, int]) -> bytes:
    path = name.encode() + b"\0"
    head = (number, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(path), 0)
    return _padded(b"070701" + b"".join(b"%08X" % field for field in head) + path) + _padded(body)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
