"""What the lab's two runtimes have in common: a pod's sandbox, and what can be asked of whoever keeps it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from shared.model import PodKey


class Sandbox(msgspec.Struct, frozen=True):
    """A pod's sandbox. `pid` is its process on the machine, 0 when it has none."""

    id: str
    pod: PodKey
    uid: str
    ready: bool
    addresses: list[str] = []
    pid: int = 0
    netns: str = ""
    """the path that CNI plugins were given as CNI_NETNS; it may lead nowhere from here"""

    @property
    def entry(self) -> Path:
        """A path by which its network namespace can be entered from here."""
        return Path(f"/proc/{self.pid}/ns/net") if self.pid else Path(self.netns)


class Executed(msgspec.Struct, frozen=True):
    """What a command in a pod left."""

    code: int
    stdout: bytes
    stderr: bytes


class PodRuntime(Protocol):
    """What a kubelet wants of a container runtime. Ids that it does not know are success where something ends."""

    async def run(self, pod: PodKey, *, uid: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Sandbox:
        """Make a sandbox with its network, and what runs in it. After a failure the caller removes what there is."""

    async def find(self, pod: PodKey | None = None) -> list[str]:
        """The ids of a pod's sandboxes, or of all there are, newest first, whatever state they are in."""

    async def inspect(self, sandbox_id: str) -> Sandbox:
        """A sandbox in full; NotFound."""

    async def exec(self, sandbox_id: str, argv: Sequence[str], *, timeout_s: float) -> Executed:
        """Run a command where the pod's processes run."""

    async def stop(self, sandbox_id: str) -> None:
        """End its processes and its network."""

    async def remove(self, sandbox_id: str) -> None:
        """Forget it."""
