"""A site whose gateway and shim are real and whose neighbours are small RPC servers with the real contracts.

The fakes object to what the real services would object to: a namespace that cannot be opened, an interface name that
is taken, an address released while it is wired.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from services.cni_shim.config import Deadlines
from services.cni_shim.install import install
from shared.contracts import eni, ipam, policy
from shared.errors import Conflict, Exhausted, Internal, Invalid, NotFound
from shared.log import request_id
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, Subnet, host_link_name
from shared.rpc.server import Server
from tests.cni.site import Json, Outcome, Plugin, Sandbox, config, namespace

T = TypeVar("T")

SUBNET = Subnet(Cidr("192.168.0.0/20"), Ip("192.168.15.253"))
SUBNET6 = Subnet(Cidr("fd00:0:0:1::/64"), Ip("fd00:0:0:1:ffff:ffff:ffff:fffd"))
DEADLINES = Deadlines(add=5, delete=3, check=3, gc=5, status=2)


class Neighbours:
    """ipam, eni_manager and policy in a thread of their own. Every attribute may be set by a test."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        # As services do; asyncio's own of Python 3.11 forgets a connection that comes while its server closes.
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="neighbours", daemon=True)
        self._open: dict[str, AsyncExitStack] = {}
        self.reset()

    def reset(self) -> None:
        """As on a node without pods where all is well."""
        self.leases: dict[AttachmentKey, ipam.Lease] = {}
        self.wired: dict[AttachmentKey, tuple[int, str]] = {}
        self.attached: set[AttachmentKey] = set()
        self.calls: list[str] = []
        self.request_ids: list[str] = []
        self.acquired: list[ipam.Acquire] = []
        self.plugs: list[eni.Plug] = []
        self.problems: list[str] = []
        self.rule_problems: list[str] = []
        self.status = ipam.Status(able=True)
        self.families: tuple[int, ...] = (4,)
        self.faults: dict[str, Exception] = {}
        self.held_up: dict[str, asyncio.Event] = {}
        self._next = 10

    def start(self) -> None:
        """All three."""
        self._thread.start()
        for name in ("ipam", "eni_manager", "policy"):
            self.open(name)

    def stop(self) -> None:
        """All three, and the thread."""
        for name in tuple(self._open):
            self.close(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self, name: str) -> None:
        """Start one."""
        self._do(self._serve(name))

    def close(self, name: str) -> None:
        """Stop one; what it was doing for its callers is cut."""
        self._do(self._open.pop(name).aclose())

    def hold_up(self, method: str) -> Callable[[], None]:
        """Let calls of `method` wait; returns what lets them go on."""
        event = self.held_up[method] = asyncio.Event()

        def go_on() -> None:
            self.held_up.pop(method, None)
            self._loop.call_soon_threadsafe(event.set)

        return go_on

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, name: str) -> None:
        server = Server(self._run_dir / f"{name}.sock", name=name, drain_s=0)
        handlers: dict[str, list[tuple[Any, Any]]] = {
            "ipam": [
                (ipam.ACQUIRE, self._acquire),
                (ipam.RELEASE, self._release),
                (ipam.INSPECT, self._inspect),
                (ipam.LEASES, self._leases),
                (ipam.STATUS, self._status),
            ],
            "eni_manager": [
                (eni.PLUG, self._plug),
                (eni.UNPLUG, self._unplug),
                (eni.CHECK, self._check),
                (eni.ATTACHMENTS, self._attachments),
            ],
            "policy": [(policy.ATTACH, self._attach), (policy.DETACH, self._detach), (policy.CHECK, self._check_rules)],
        }
        for method, handler in handlers[name]:
            server.register(method, self._wrapped(method.name, handler))
        stack = AsyncExitStack()
        await stack.enter_async_context(server)
        self._open[name] = stack

    def _wrapped(self, name: str, handler: Callable[[Any], Any]) -> Callable[[Any], Coroutine[Any, Any, Any]]:
        async def handle(params: Any) -> Any:
            self.calls.append(name)
            self.request_ids.append(request_id.get())
            if (event := self.held_up.get(name)) is not None:
                await event.wait()
            if (fault := self.faults.get(name)) is not None:
                raise fault
            return handler(params)

        return handle

    # ---- ipam

    def _acquire(self, ask: ipam.Acquire) -> ipam.Lease:
        self.acquired.append(ask)
        if ask.annotations and "bad" in ask.annotations:
            raise Invalid("annotation bad: not a number")
        if not self.status.able:
            raise Exhausted(self.status.reason)
        if ask.key not in self.leases:
            self._next += 1
            four, six = 4 in self.families, 6 in self.families
            self.leases[ask.key] = ipam.Lease(
                key=ask.key,
                pod=ask.pod,
                pod_uid=ask.pod_uid,
                mode=Mode.SHARED_VETH,
                host_link=host_link_name(ask.pod, ask.key.ifname, salt=ask.key.container_id),
                eni_id=EniId("eni-1"),
                eni_mac=Mac("00:16:3e:00:00:01"),
                ipv4=Ip(f"192.168.0.{self._next}") if four else None,
                subnet4=SUBNET if four else None,
                ipv6=Ip(f"fd00:0:0:1::{self._next:x}") if six else None,
                subnet6=SUBNET6 if six else None,
            )
        return self.leases[ask.key]

    def _release(self, ask: ipam.Release) -> ipam.Released:
        if ask.key in self.wired:
            raise Internal(f"{ask.key} is released while it is wired")
        return ipam.Released(self.leases.pop(ask.key, None))

    def _inspect(self, ask: ipam.Inspect) -> ipam.Inspected:
        return ipam.Inspected(self.leases.get(ask.key))

    def _leases(self, ask: ipam.ListLeases) -> ipam.Leases:
        return ipam.Leases([lease for key, lease in self.leases.items() if ask.network in (None, key.network)])

    def _status(self, ask: ipam.AskStatus) -> ipam.Status:
        return self.status

    # ---- eni_manager

    def _plug(self, ask: eni.Plug) -> eni.Plugged:
        self.plugs.append(ask)
        place = (_inode(ask.netns), ask.lease.key.ifname)
        if place in self.wired.values() and self.wired.get(ask.lease.key) != place:
            raise Conflict(f"{place[1]} exists in the sandbox")
        self.wired[ask.lease.key] = place
        return eni.Plugged(Mac("02:00:00:00:00:0a"), Mac("ee:ee:ee:ee:ee:ee"), ask.mtu or 1500)

    def _unplug(self, ask: eni.Unplug) -> eni.Unplugged:
        return eni.Unplugged(found=self.wired.pop(ask.key, None) is not None)

    def _check(self, ask: eni.Check) -> eni.Checked:
        gone = self.wired.get(ask.lease.key) != (_inode(ask.netns), ask.lease.key.ifname)
        return eni.Checked([*self.problems, *(["the sandbox has no interface eth0"] if gone else [])])

    def _attachments(self, ask: eni.ListAttachments) -> eni.Attachments:
        return eni.Attachments([eni.Attachment(key, "cali0", True) for key in self.wired])

    # ---- policy

    def _attach(self, ask: policy.Attach) -> policy.Attached:
        _inode(ask.netns)
        self.attached.add(ask.key)
        return policy.Attached(enforced=True)

    def _detach(self, ask: policy.Detach) -> policy.Detached:
        self.attached.discard(ask.key)
        return policy.Detached()

    def _check_rules(self, ask: policy.CheckAttached) -> policy.PolicyChecked:
        gone = [] if ask.key in self.attached else [f"no rules for {ask.key}"]
        return policy.PolicyChecked([*self.rule_problems, *gone])


def _inode(netns: str) -> int:
    """What a neighbour that opens the path gets."""
    try:
        with open(netns) as held:
            return os.fstat(held.fileno()).st_ino
    except OSError as error:
        raise NotFound(f"{netns}: {error}") from error


class FakeSite:
    """See the module. `open` and `close` it."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="tw-c-"))
        self.spool = self.dir / "state" / "spool"
        self.neighbours = Neighbours(self.dir / "run")
        self.plugin = Plugin(
            install(self.dir / "bin", socket=self.dir / "run/gateway.sock", spool=self.spool, deadlines=DEADLINES)
        )
        self.config_file = self.dir / "config.json"
        self.config_file.write_text(
            json.dumps(
                {
                    "node": {"run_dir": str(self.dir / "run"), "state_dir": str(self.dir / "state")},
                    "cni_shim": {"http_port": 0, "spool_period_s": 0.1, "probe_period_s": 0.1},
                }
            )
        )
        self.log = self.dir / "gateway.log"
        self._gateway: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the neighbours and the gateway."""
        self.neighbours.start()
        self.start_gateway()

    def close(self) -> None:
        """Stop everything and remove what was made."""
        if self._gateway is not None:
            self.stop_gateway()
        self.neighbours.stop()
        shutil.rmtree(self.dir)

    @property
    def gateway_pid(self) -> int:
        """The gateway's process."""
        assert self._gateway is not None
        return self._gateway.pid

    def start_gateway(self, **env: str) -> None:
        """Start it and wait until it listens."""
        with self.log.open("ab") as log:
            self._gateway = subprocess.Popen(
                [sys.executable, "-m", "services.cni_shim", "--config", str(self.config_file)],
                env={**os.environ, **env},
                stderr=log,
            )
        until((self.dir / "run/gateway.sock").exists, "the gateway listens")

    def stop_gateway(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self._gateway is not None
        gateway, self._gateway = self._gateway, None
        gateway.send_signal(how)
        code = gateway.wait(20)
        if how == signal.SIGKILL:  # which leaves its socket; `start_gateway` waits for a new one
            (self.dir / "run/gateway.sock").unlink()
        return code

    def gateway_died(self) -> int:
        """Wait for its end by itself; its exit code."""
        assert self._gateway is not None
        code = self._gateway.wait(20)
        self._gateway = None
        (self.dir / "run/gateway.sock").unlink()
        return code

    def notes(self) -> list[Path]:
        """DELs that wait."""
        return sorted(self.spool.glob("*.del"))

    # ---- tests.cni.site.Site

    @contextmanager
    def sandbox(self, **fields: str) -> Iterator[Sandbox]:
        with namespace() as netns:
            sandbox = Sandbox(**{"netns": netns, **fields})
            yield sandbox
            self.delete(sandbox)

    def held(self) -> set[tuple[str, str]]:
        return {(key.container_id, key.ifname) for key in self.neighbours.leases}

    def wired(self) -> set[tuple[str, str]]:
        return {(key.container_id, key.ifname) for key in self.neighbours.wired}

    def lose_interface(self, sandbox: Sandbox) -> None:
        self.neighbours.wired.pop(key_of(sandbox))

    def lose_reservation(self, sandbox: Sandbox) -> None:
        self.neighbours.leases.pop(key_of(sandbox))

    def lose_rules(self, sandbox: Sandbox) -> None:
        self.neighbours.attached.discard(key_of(sandbox))

    @contextmanager
    def exhausted(self) -> Iterator[None]:
        self.neighbours.status = ipam.Status(able=False, reason="the addresses are exhausted: all 3 ENIs are full")
        try:
            yield
        finally:
            self.neighbours.status = ipam.Status(able=True)

    @contextmanager
    def impaired(self) -> Iterator[None]:
        self.neighbours.status = ipam.Status(able=False, reason="eni-1 was detached", existing_limited=True)
        try:
            yield
        finally:
            self.neighbours.status = ipam.Status(able=True)

    @contextmanager
    def away(self, service: str) -> Iterator[None]:
        if service == "gateway":
            self.stop_gateway()
            try:
                yield
            finally:
                self.start_gateway()
        else:
            self.neighbours.close(service)
            try:
                yield
            finally:
                self.neighbours.open(service)

    def add(self, sandbox: Sandbox, conf: Json | None = None, **env: str | None) -> Outcome:
        return self.plugin.run("ADD", conf or config(), {**sandbox.env, **env})

    def delete(self, sandbox: Sandbox, conf: Json | None = None, **env: str | None) -> Outcome:
        return self.plugin.run("DEL", conf or config(), {**sandbox.env, **env})


def key_of(sandbox: Sandbox, network: str = "terway") -> AttachmentKey:
    """What the sandbox is called among the services."""
    return AttachmentKey(network, sandbox.id, sandbox.ifname)


def until(condition: Callable[[], object], what: str, patience_s: float = 30.0) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < ends, f"waited {patience_s} s in vain until {what}"
        time.sleep(0.005)
