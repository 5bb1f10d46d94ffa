"""A container image made on the spot: Debian's static busybox as an OCI archive.

No registry is asked. The archive is the same, byte for byte, whenever it is made from the same busybox.
"""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

PAUSE = "localhost/pause:1"
"""The sandbox image of the private containerd's configuration."""

TOOLS = "localhost/tools:1"
"""What pods run: busybox, with every applet (`ping`, `nc`, `ip`, `wget`, …) by its name."""

# As process 1 it ignores SIGTERM, so containers are stopped with a grace of nothing.
_FOREVER = ["/bin/sleep", "2147483647"]
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def build(archive: Path, *, busybox: Path = Path("/bin/busybox")) -> None:
    """Write an OCI archive that holds both images, which share one layer."""
    layer = _layer(busybox)
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer_ref = blob(layer, "application/vnd.oci.image.layer.v1.tar")
    config_ref = blob(
        _json(
            {
                "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": {"Cmd": _FOREVER, "Env": ["PATH=/bin"], "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": [layer_ref["digest"]]},
            }
        ),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = _json({"schemaVersion": 2, "config": config_ref, "layers": [layer_ref]})
    manifests = []
    for name in (PAUSE, TOOLS):
        ref = blob(manifest, "application/vnd.oci.image.manifest.v1+json")
        manifests.append({**ref, "annotations": {"io.containerd.image.name": name}})
    with tarfile.open(archive, "w") as out:
        _add_file(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add_file(out, "index.json", _json({"schemaVersion": 2, "manifests": manifests}))
        for digest, data in blobs.items():
            _add_file(out, f"blobs/sha256/{digest}", data)


def _layer(busybox: Path) -> bytes:
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as out:
        for folder in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            out.addfile(info)
        _add_file(out, "bin/busybox", busybox.read_bytes(), mode=0o755)
        _add_file(out, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add_file(out, "etc/group", b"root:x:0:\n")
        for applet in applets:
            if applet != "busybox":
                info = tarfile.TarInfo(f"bin/{applet}")
                info.type, info.linkname = tarfile.SYMTYPE, "busybox"
                out.addfile(info)
    return stream.getvalue()


def _add_file(out: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    out.addfile(info, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
