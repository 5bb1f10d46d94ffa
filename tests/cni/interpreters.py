"""The Python interpreters of this machine that may have to run the shim."""

import shutil
import subprocess
from pathlib import Path

MINORS = range(6, 20)


def interpreters() -> dict[str, Path]:
    """Version -> program, of every CPython from 3.6 on: the system's, those on PATH, and pyenv's."""
    candidates = [Path("/usr/bin/python3")]
    named = [Path(path) for minor in MINORS if (path := shutil.which(f"python3.{minor}"))]
    if pyenv := shutil.which("pyenv"):
        root = Path(subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip())
        candidates += sorted(root.glob("versions/3.*/bin/python3"))
        named = [path for path in named if path.parent != root / "shims"]  # scripts that look for one of the above
    candidates += named
    found: dict[str, Path] = {}
    for candidate in candidates:
        tell = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
        told = subprocess.run([candidate, "-ISE", "-c", tell], capture_output=True, text=True, check=False)
        if told.returncode == 0 and int(told.stdout.split(".")[1]) >= MINORS[0]:
            found.setdefault(told.stdout.strip(), candidate)
    return found
