"""CNI operations on a network as a runtime carries them out: chains, stored results, locks.

State is on disk, so that every command of `terwayctl lab` is the same runtime: `<cache>/<network>/<id>-<ifname>.json`
holds the final result of an ADD until its DEL succeeds. Locks are file locks for the same reason.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from compose.lab.runtime_cni.conflist import Json, Network, stdin_for
from compose.lab.runtime_cni.invoke import Container, PluginFailed, run
from shared.errors import Conflict, Refused


class Runtime:
    """One network on one node. Errors are those of `invoke.run`."""

    def __init__(self, network: Network, *, bin_dirs: Sequence[Path], cache: Path, prefix: Sequence[str] = ()) -> None:
        self.network = network
        self._bin_dirs = bin_dirs
        self._prefix = prefix
        self._cache = cache / network.name
        self._cache.mkdir(parents=True, exist_ok=True)

    async def add(self, container: Container, *, capabilities: Mapping[str, object] | None = None) -> Json:
        """Run the chain's ADDs and store the final result. After a failure the caller must `delete` (R10)."""
        async with self._lock(container):
            if self._stored(container) is not None:
                raise Conflict(f"{container.id} has {container.ifname} in {self.network.name} already: DEL first")
            result: Json | None = None  # the first ADD gets none (R4)
            for plugin in self.network.plugins:
                result = await self._run("ADD", plugin, container, capabilities or {}, result)
                if result is None:
                    raise PluginFailed(plugin["type"], "ADD", cni_code=6, msg="succeeded without a result")
            assert result is not None  # a network has at least one plugin
            self._store(container, result)
            return result

    async def delete(self, container: Container, *, capabilities: Mapping[str, object] | None = None) -> None:
        """Run the chain's DELs backwards with the stored result; stops at the first that fails (R5)."""
        async with self._lock(container):
            result = self._stored(container) if self.network.at_least("0.4.0") else None
            for plugin in reversed(self.network.plugins):
                await self._run("DEL", plugin, container, capabilities or {}, result)
            self._file(container).unlink(missing_ok=True)

    async def check(self, container: Container, *, capabilities: Mapping[str, object] | None = None) -> None:
        """Run the chain's CHECKs; Refused where the specification forbids to (R7, R8)."""
        async with self._lock(container):
            result = self._stored(container)
            if result is None:
                raise Refused(f"{container.id} was not added to {self.network.name}: nothing to check")
            if self.network.disable_check or not self.network.at_least("0.4.0"):
                raise Refused(f"{self.network.name} has CHECK disabled, or a version before 0.4.0")
            for plugin in self.network.plugins:
                await self._run("CHECK", plugin, container, capabilities or {}, result)

    async def gc(self, valid: Sequence[Container]) -> list[PluginFailed]:
        """Tell every plugin which attachments there are; goes on after a failure, returns all of them (R5)."""
        if self.network.disable_gc or not self.network.at_least("1.1.0"):
            raise Refused(f"{self.network.name} has GC disabled, or a version before 1.1.0")
        attachments = [{"containerID": container.id, "ifname": container.ifname} for container in valid]
        failures = []
        async with self._whole():
            for plugin in self.network.plugins:
                stdin = stdin_for(self.network, plugin, capabilities={}, valid_attachments=attachments)
                try:
                    await run(plugin["type"], "GC", stdin, bin_dirs=self._bin_dirs, prefix=self._prefix)
                except PluginFailed as failure:
                    failures.append(failure)
        return failures

    async def status(self) -> None:
        """Ask every plugin whether it could serve an ADD; PluginFailed (50, 51) when one could not."""
        for plugin in self.network.plugins:
            stdin = stdin_for(self.network, plugin, capabilities={})
            await run(plugin["type"], "STATUS", stdin, bin_dirs=self._bin_dirs, prefix=self._prefix)

    async def version(self) -> list[Json | None]:
        """What every plugin says to VERSION."""
        ask: Json = {"cniVersion": self.network.version}
        return [
            await run(plugin["type"], "VERSION", ask, bin_dirs=self._bin_dirs, prefix=self._prefix)
            for plugin in self.network.plugins
        ]

    async def _run(
        self,
        command: str,
        plugin: Json,
        container: Container,
        capabilities: Mapping[str, object],
        prev_result: Json | None,
    ) -> Json | None:
        stdin = stdin_for(self.network, plugin, capabilities=capabilities, prev_result=prev_result)
        return await run(
            plugin["type"], command, stdin, bin_dirs=self._bin_dirs, container=container, prefix=self._prefix
        )

    # ---- stored results

    def _file(self, container: Container) -> Path:
        return self._cache / f"{container.id}-{container.ifname}.json"

    def _stored(self, container: Container) -> Json | None:
        try:
            stored: Json = json.loads(self._file(container).read_bytes())
        except FileNotFoundError:
            return None
        return stored

    def _store(self, container: Container, result: Json) -> None:
        fresh = self._file(container).with_suffix(".new")
        fresh.write_text(json.dumps(result))
        fresh.rename(self._file(container))

    # ---- locks (R9): one operation per container, GC alone

    @asynccontextmanager
    async def _lock(self, container: Container) -> AsyncIterator[None]:
        async with (
            _flock(self._cache / ".gc", fcntl.LOCK_SH),
            _flock(self._cache / f".{container.id}", fcntl.LOCK_EX, remove=True),
        ):
            yield

    @asynccontextmanager
    async def _whole(self) -> AsyncIterator[None]:
        async with _flock(self._cache / ".gc", fcntl.LOCK_EX):
            yield


@asynccontextmanager
async def _flock(path: Path, kind: int, *, remove: bool = False) -> AsyncIterator[None]:
    """Hold a file lock; waiting for it happens in a thread. `remove`: the file goes when the lock does."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.to_thread(fcntl.flock, handle, kind)
            if not _is(handle, path):
                continue  # who held it before has removed it: the lock on this file excludes nobody
            try:
                yield
            finally:
                if remove:
                    _remove(path)
            return
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
