"""The flow log: samples of what policies decided, as JSON lines with names. Off unless a group of nflog is set.

    rules --nflog--> adapters/nflog: read on the loop, a little at a time --> names --> bounded queue --> a thread
    rules in pods' own namespaces: a socket each, pod_flows.py

Nothing waits for it: not the packet, which the kernel copies or not; not the loop, as lines are dropped and counted
when the queue is full. Pods of other nodes are found by an index that is made anew in a thread when an address is
unknown.
"""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import msgspec

from services.policy.adapters.nflog import Group, Logged
from services.policy.core import messages as m
from services.policy.core import v1
from services.policy.core.datastore import Packed, values
from services.policy.core.nft.render import Renderer
from services.policy.core.tally import Owner, direction_of
from services.policy.live import Live
from shared.log import get

log = get("policy.flows")

QUEUE: Final = 4096
"""Lines that wait to be written."""
_READS: Final = 4
"""Goes of the kernel, some forty packets each, before others have their turn."""
_INDEX_AGAIN_S: Final = 10.0
_OWNERS_AGAIN_S: Final = 1.0

Lost = Callable[[str, int], None]
"""Is told where how many samples were lost: kernel, queue, or written (the file cannot be)."""


class Flow(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line. `policy` is empty where no rule decided; then `why` says what did."""

    ts: str
    verdict: str
    direction: str
    protocol: str
    src: str
    dst: str
    sport: int = 0
    dport: int = 0
    source: str = ""
    """NAMESPACE/POD, where an address is a pod's"""
    destination: str = ""
    tier: str = ""
    policy: str = ""
    profile: str = ""
    rule: int | None = None
    why: str = ""


class FlowLog:
    """An async context manager; `file` empty: standard output."""

    def __init__(self, live: Live, renderer: Renderer, *, group: int, file: str, lost: Lost) -> None:
        self._live = live
        self._renderer = renderer
        self._number = group
        self._file = file
        self._lost = lost
        self._groups: set[Group] = set()
        self._queue: deque[Flow] = deque()
        self._some = asyncio.Event()
        self._owners: Mapping[str, Owner] = {}
        self._owners_at = float("-inf")
        self._local: Mapping[str, str] = {}
        self._names: Mapping[str, str] = {}
        self._names_at = float("-inf")
        self._naming: asyncio.Task[Mapping[str, str]] | None = None
        self.written = 0

    async def __aenter__(self) -> Self:
        self.listen(Group(self._number))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for group in list(self._groups):
            self.unlisten(group)
            group.close()
        if self._naming is not None:
            self._naming.cancel()

    def listen(self, group: Group) -> None:
        """Its samples are read from now on."""
        self._groups.add(group)
        asyncio.get_running_loop().add_reader(group.fileno(), self._read, group)

    def unlisten(self, group: Group) -> None:
        """Not any more; it is the caller's to close. Unknown: ignored."""
        if group in self._groups:
            self._groups.discard(group)
            asyncio.get_running_loop().remove_reader(group.fileno())

    async def run(self) -> None:
        """Write. Until cancelled. No sign of life is asked of it: a disk that hangs must not restart the service."""
        while True:
            await self._some.wait()
            self._some.clear()
            lines = list(self._queue)
            self._queue.clear()
            try:
                await asyncio.to_thread(_write, self._file, lines)
                self.written += len(lines)
            except OSError as refused:
                self._lost("written", len(lines))
                log.warning("flow_log_unwritten", file=self._file, why=refused.strerror or str(refused))
                await asyncio.sleep(1.0)

    # ---- samples

    def _read(self, group: Group) -> None:
        self._local = {address: str(wired.pod) for wired in self._live.local for address in wired.addresses}
        for _ in range(_READS):
            found = group.read()
            if found is None:
                break
            for one in found:
                self._take(one)
        if lost := group.newly_lost():
            self._lost("kernel", lost)

    def _take(self, logged: Logged) -> None:
        if len(self._queue) >= QUEUE:
            self._lost("queue", 1)
            return
        flow = self.flow(logged)
        if flow is not None:
            self._queue.append(flow)
            self._some.set()

    def flow(self, logged: Logged) -> Flow | None:
        """The line of a sample; None: it is not one of ours."""
        verdict, _, rest = logged.prefix.partition("|")
        chain, _, what = rest.rpartition("|")
        if verdict not in ("A", "D") or not chain:
            return None
        owner, number = self._owner(chain), None
        tier, policy, profile, why = "", "", "", ""
        if isinstance(owner, m.PolicyID):
            tier, policy = owner.tier, owner.name
        elif isinstance(owner, m.ProfileID):
            profile = owner.name
        elif what == "-":
            why = "no profile accepts it"
        else:
            tier, why = what, "no rule of the tier matches"
        if (policy or profile) and what.isdecimal():
            number = int(what)
        now = time.time()
        return Flow(
            ts=f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            verdict="allow" if verdict == "A" else "deny",
            direction=direction_of(chain),
            protocol=logged.protocol,
            src=logged.source,
            dst=logged.destination,
            sport=logged.source_port,
            dport=logged.port,
            source=self._name(logged.source),
            destination=self._name(logged.destination),
            tier=tier,
            policy=policy,
            profile=profile,
            rule=number,
            why=why,
        )

    # ---- names

    def _owner(self, chain: str) -> Owner | None:
        found = self._owners.get(chain)
        if found is None and time.monotonic() - self._owners_at >= _OWNERS_AGAIN_S:
            self._owners, self._owners_at = self._renderer.owners(), time.monotonic()
            found = self._owners.get(chain)
        return found

    def _name(self, address: str) -> str:
        found = self._local.get(address) or self._names.get(address)
        if found is None and self._naming is None and time.monotonic() - self._names_at >= _INDEX_AGAIN_S:
            self._names_at = time.monotonic()
            copy = self._live.cluster.store.copy()
            self._naming = asyncio.create_task(asyncio.to_thread(_index, copy), name="policy-flow-names")
            self._naming.add_done_callback(self._named)
        return found or ""

    def _named(self, task: asyncio.Task[Mapping[str, str]]) -> None:
        self._naming = None
        if not task.cancelled() and task.exception() is None:
            self._names = task.result()


def _index(packed: Packed) -> Mapping[str, str]:
    return {
        net.partition("/")[0]: key.workload
        for key, value in values(packed)
        if isinstance(key, v1.WorkloadKey) and isinstance(value, v1.WorkloadEndpoint)
        for net in (*value.ipv4_nets, *value.ipv6_nets)
    }


def _write(file: str, lines: list[Flow]) -> None:
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    if not file:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    # Opened each time: whoever rotates it need not tell us.
    opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(opened, "ab") as appended:
        appended.write(data)
