"""A Docker engine of our own: private folders, no bridge, no firewall rules, gone without a trace.

What it keeps is its images and build cache, in `build/docker`, so that a second run builds only what has changed.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from compose.lab import process
from compose.lab.containerd.remains import remove_cgroups
from compose.lab.mounts import mounted_below, unmount_below
from compose.lab.waiting import until

REPOSITORY: Final = Path(__file__).parents[2]
KEPT: Final = REPOSITORY / "build/docker"
CGROUP: Final = "/terway-engine"
QUIET: Final = "--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false"


class Engine:
    """A context manager: runs while it is open. `folder` holds its socket and whatever else lives as long as it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exec_root = folder / "exec"
        self._pid_file = KEPT.with_suffix(".pid")
        self._daemon: subprocess.Popen[bytes] | None = None
        socket = f"unix://{folder}/docker.sock"
        self.env: Final = {
            # Debian's client first: a newer one elsewhere may not speak with Debian's engine.
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "DOCKER_HOST": socket,
            "DOCKER_BUILDKIT": "1",
        }
        """With it, docker and docker-compose talk to this engine, and read nobody's configuration."""

    def __enter__(self) -> Self:
        asyncio.run(self._end_predecessor())
        KEPT.mkdir(parents=True, exist_ok=True)
        with (self._folder / "dockerd.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    "/usr/sbin/dockerd",
                    *("--data-root", KEPT, "--exec-root", self._exec_root, "--pidfile", self._pid_file),
                    *("--host", self.env["DOCKER_HOST"], "--cgroup-parent", CGROUP, "--userland-proxy=false"),
                    *QUIET.split(),
                ],
                env={**self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            asyncio.run(until(self._missing, what="the engine", within_s=60))
            self._remove_containers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._remove_containers()
            self.docker("image", "prune", "--force")  # what newer builds have replaced
        finally:
            self._stop()
        assert not mounted_below(KEPT) and not mounted_below(self._folder), "the engine has left mounts"

    def docker(self, *arguments: str | Path, timeout_s: float = 300) -> str:
        """Run a command of the client; what it printed. AssertionError with all its output when it failed."""
        return run(["docker", *arguments], env=self.env, timeout_s=timeout_s)

    async def _missing(self) -> str:
        assert self._daemon is not None
        assert self._daemon.poll() is None, (self._folder / "dockerd.log").read_text()[-4000:]
        asked = await asyncio.create_subprocess_exec(
            "docker", "version", env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, said = await asked.communicate()
        return said.decode()

    def _remove_containers(self) -> None:
        """A test that was killed may have left some, and their volumes."""
        if left := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", *left)
        self.docker("volume", "prune", "--force")

    def _stop(self) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGTERM)
        try:
            self._daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        self._clear()

    def _clear(self) -> None:
        for folder in (KEPT, self._folder):
            unmount_below(folder)
        remove_cgroups(CGROUP)
        shutil.rmtree(self._exec_root, ignore_errors=True)

    async def _end_predecessor(self) -> None:
        """End the engine of a test that was killed, and its containerd: both name our folder in their command."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    argv = (entry / "cmdline").read_bytes().split(b"\0")
                    if argv[0] == b"/usr/sbin/dockerd" and os.fsencode(KEPT) in argv:
                        await process.stop(process.observe(int(entry.name)), grace_s=20)
                except OSError:
                    continue  # it has ended meanwhile
        self._clear()


def run(argv: Sequence[str | Path], *, env: dict[str, str], timeout_s: float = 300) -> str:
    """Run a program to its end; what it printed on stdout. AssertionError with all its output when it failed."""
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
