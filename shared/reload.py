"""A service under a configuration that may change while it runs.

    a file changes, SIGHUP ─► everything is read again ─► bad: it is said everywhere, and nothing else changes
                                                    └───► good: `serve` ends and begins anew with it

A service loses nothing by a restart, whenever it comes: what it has promised is on disk, and packets flow without
it. So a change is a restart within the process: every setting can change, and none is ever half in force. A
configuration that `serve` refuses is put back, too.
"""

import asyncio
import hashlib
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from shared import log as logs
from shared.config import ConfigError, NodeConfig, load_node, read_json
from shared.eni_conf import NEW_ENIS_ONLY, EniConf
from shared.errors import SuiteError

Config = TypeVar("Config")

LOOK_EVERY_S: Final = 5.0
"""How often the files are looked at: a ConfigMap's mount takes a minute to change anyway."""
CLUSTER_WAIT_S: Final = 3.0
"""How long the API server is waited for: a start then goes by what was heard last, and an event is not posted."""
CLUSTER_RETRY_S: Final = 30.0
"""How often it is asked again after that."""
PROVEN_AFTER_S: Final = 60.0
"""A new configuration under which the service has served this long is not put back any more."""

log = logs.get(__name__)


class Status(msgspec.Struct):
    """What /state says about the configuration."""

    since: float = 0.0
    """Unix time at which the configuration in force was read."""
    changed: list[str] = []
    """What the latest change changed."""
    new_enis_only: list[str] = []
    """Of that, what only ENIs that are made from then on will show."""
    problems: list[str] = []
    """Why what the files say now is not in force."""


STATUS: Final[ContextVar[Status | None]] = ContextVar("configuration", default=None)
"""Of the service that this process runs."""


class Settled(NamedTuple, Generic[Config]):
    """One configuration that passed every check."""

    node: NodeConfig
    own: Config


class Source(Generic[Config]):
    """Where a service's configuration is read from.

    `read` makes the service's own part of file and environment, and of the node's patch where `patched`.
    """

    def __init__(
        self, path: Path | None, env: Mapping[str, str], read: Callable[..., Config], *, patched: bool
    ) -> None:
        self.path, self.env, self.patched = path, env, patched
        self.patch: Mapping[str, Any] = {}
        self._read = read

    def settle(self) -> Settled[Config]:
        """Everything there is to read. Raises ConfigError with the problems of all sections."""
        problems: list[str] = []
        node, own = self._part(load_node, problems), self._part(self._own, problems)
        if node is None or own is None:
            # Both readers see the whole file, so what is wrong with its outline is found twice.
            raise ConfigError(list(dict.fromkeys(problems)))
        return Settled(node, own)

    def stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Differs when a file has been written or replaced, as a mounted ConfigMap is."""
        return tuple(_stamp(path) for path in self._files())

    def _files(self) -> Iterable[Path]:
        if self.path is not None:
            yield self.path
            document = read_json(self.path, [])
            if isinstance(document, dict) and isinstance(document.get("eni_conf"), str):
                yield Path(document["eni_conf"])

    def _own(self, path: Path | None, env: Mapping[str, str]) -> Config:
        return self._read(path, env, self.patch) if self.patched else self._read(path, env)

    def _part(self, read: Callable[[Path | None, Mapping[str, str]], Any], problems: list[str]) -> Any:
        try:
            return read(self.path, self.env)
        except ConfigError as error:
            problems.extend(error.problems)
            return None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    with suppress(OSError):
        seen = path.stat()
        return seen.st_ino, seen.st_mtime_ns, seen.st_size
    return None


class Reloading(Generic[Config]):
    """Runs one service until it is stopped, whatever its configuration does meanwhile."""

    def __init__(
        self,
        name: str,
        source: Source[Config],
        settled: Settled[Config],
        serve: Callable[[NodeConfig, Config, asyncio.Event], Awaitable[None]],
        *,
        look_every_s: float = LOOK_EVERY_S,
        cluster_wait_s: float = CLUSTER_WAIT_S,
    ) -> None:
        self._name, self._source, self._settled, self._serve = name, source, settled, serve
        self._stamp = source.stamp()  # at once: what changes from here on is a change
        self._look_every_s, self._cluster_wait_s = look_every_s, cluster_wait_s
        self._former: Settled[Config] | None = None
        self._next: Settled[Config] | None = None
        self._changed = asyncio.Event()
        self._heard = not source.patched
        """Whether the API server has said what it knows of this node."""
        self._read_at = time.time()
        self.status = Status(since=self._read_at)

    @property
    def expected(self) -> Settled[Config]:
        """What is in force, or will be as soon as the service has ended under the former."""
        return self._next or self._settled

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises what `serve` raises, unless there is a former configuration."""
        STATUS.set(self.status)
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        await self._start_patched()
        watching = asyncio.create_task(self._watch(asked), name="configuration")
        try:
            while not stop.is_set():
                await self._serve_once(stop)
        finally:
            watching.cancel()
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    async def _serve_once(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until there is a new configuration, which is then the one to serve under."""
        ended = asyncio.Event()
        serving = asyncio.ensure_future(self._serve(self._settled.node, self._settled.own, ended))
        waiting = [asyncio.ensure_future(event.wait()) for event in (stop, self._changed)]
        proven = asyncio.get_running_loop().call_later(PROVEN_AFTER_S, self._prove)
        try:
            await asyncio.wait({serving, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            finished = serving.done()
            ended.set()
            await serving
        except SuiteError as error:
            if self._former is None:
                raise
            self._settled, self._former = self._former, None
            await self._reject([f"{error.message}; the former configuration serves again"])
            return
        finally:
            proven.cancel()
            for task in (serving, *waiting):
                task.cancel()
        if self._next is not None:
            self._take(self._next)
        elif finished:
            stop.set()  # it has nothing left to do

    def _prove(self) -> None:
        self._former = None

    # ---- looking for a change

    async def _watch(self, asked: asyncio.Event) -> None:
        stamp = self._stamp
        clock = asyncio.get_running_loop().time
        retry_at = clock() + CLUSTER_RETRY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_every_s):
                    await asked.wait()
            now = await asyncio.to_thread(self._source.stamp)
            if asked.is_set() or now != stamp or (not self._heard and clock() >= retry_at):
                asked.clear()
                stamp, retry_at = now, clock() + CLUSTER_RETRY_S
                await self._read_again()

    async def _read_again(self) -> None:
        try:
            await self._ask_cluster()
            settled = await asyncio.to_thread(self._source.settle)
        except ConfigError as error:
            await self._reject(error.problems)
            return
        self.status.problems = []
        # One that is about to be in force is what this one would change: also back to what still is.
        if differences(self._name, self.expected, settled):
            self._next, self._read_at = settled, time.time()
            self._changed.set()

    def _take(self, settled: Settled[Config]) -> None:
        """From now on this is in force: nobody serves under another one any more."""
        changed = differences(self._name, self._settled, settled)
        self._former, self._settled, self._next = self._settled, settled, None
        self._changed.clear()
        self.status.since, self.status.changed = self._read_at, changed
        self.status.new_enis_only = [path for path in changed if path.removeprefix("eni_conf.") in NEW_ENIS_ONLY]
        log.info("configuration_changed", settings=changed, only_for_new_enis=self.status.new_enis_only)
        logs.configure(service=self._name, level=self._settled.node.log_level)

    async def _reject(self, problems: list[str]) -> None:
        """Say it where an operator looks: log, /state, a metric, and an event of the node."""
        if problems == self.status.problems:
            return
        self.status.problems = problems
        log.error("configuration_rejected", problems=problems)
        node = self._settled.node
        if not node.kube.server or not node.node_name:
            return
        from shared.kube.client import KubeClient  # not every service talks to the API server
        from shared.kube.recorder import Recorder, about_node

        text = f"the configuration on this node stays as it was: {'; '.join(problems)}"
        # Somebody may be waiting to serve again: an API server that hangs must not keep them.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._cluster_wait_s), KubeClient(node.kube) as client:
                recorder = Recorder(client, component="terway-daemon", host=node.node_name)
                once = hashlib.sha256(text.encode()).hexdigest()[:16]
                recorder.warn(about_node(node.node_name), "ConfigError", text, once=once)
                await recorder.flush()

    # ---- what the cluster says of this node (terway.md §2.4)

    async def _start_patched(self) -> None:
        """Serve from the start under what the cluster says, or under what it said last when it is out of reach."""
        if not self._source.patched:
            return
        self._source.patch = _remembered(self._settled.node)
        try:
            await self._ask_cluster()
        except ConfigError as error:
            if not self._source.patch:
                raise
            await self._reject(error.problems)
        self._settled = await asyncio.to_thread(self._source.settle)

    async def _ask_cluster(self) -> None:
        """Take over the node's patch. Raises ConfigError when it cannot be used; an API server away changes nothing."""
        node = self._settled.node
        if not self._source.patched or not node.kube.server or not node.node_name:
            self._heard = True
            return
        from shared.kube.client import KubeClient
        from shared.kube.node_conf import fetch_patch

        try:
            async with asyncio.timeout(self._cluster_wait_s), KubeClient(node.kube) as client:
                patch = await fetch_patch(client, node.node_name, self._source.env.get("POD_NAMESPACE", "kube-system"))
        except ConfigError:
            raise
        except (SuiteError, TimeoutError) as error:
            self._heard = False
            log.warning("node_configuration_unknown", because=str(error) or "no answer from the API server")
            return
        self._heard = True
        former, self._source.patch = self._source.patch, patch
        try:
            await asyncio.to_thread(self._source.settle)
        except ConfigError:
            self._source.patch = former
            raise
        if patch != former:
            await asyncio.to_thread(_remember, node, patch)


_PATCH = "node_patch.json"


def _remembered(node: NodeConfig) -> Mapping[str, Any]:
    kept = read_json(node.state_dir / _PATCH, [])
    return kept if isinstance(kept, dict) else {}


def _remember(node: NodeConfig, patch: Mapping[str, Any]) -> None:
    """Replaced in one step: two services of a node write the same."""
    node.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=node.state_dir, prefix=_PATCH, delete=False) as file:
        file.write(msgspec.json.encode(patch))
    os.replace(file.name, node.state_dir / _PATCH)


def differences(name: str, old: Settled[Any], new: Settled[Any]) -> list[str]:
    """The settings that differ, as `section.field`: names only, as a value may be a secret."""
    return [
        f"{section}.{field}"
        for (section, before), (_, after) in zip(_sections(name, old), _sections(name, new), strict=True)
        for field in before.__struct_fields__
        if getattr(before, field) != getattr(after, field)
    ]


def _sections(name: str, settled: Settled[Any]) -> list[tuple[str, Any]]:
    """A service's own part is its section, or a tuple of several."""
    parts = settled.own if isinstance(settled.own, tuple) else (settled.own,)
    return [("node", settled.node), *(("eni_conf" if isinstance(part, EniConf) else name, part) for part in parts)]
