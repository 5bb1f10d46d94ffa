"""The four services of a lab node: their configuration, their processes, whether they are ready."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from compose.lab import process
from compose.lab.layout import NodeLayout
from compose.lab.netns import http_get
from compose.lab.waiting import until
from shared.errors import Conflict, Invalid, NotFound, Refused

SUPERVISOR = "services"
"""The process that forks all four, in labs without `--processes`."""


class Service(msgspec.Struct, frozen=True):
    """One service: its module and section, the name of its socket and lock, its port for HTTP."""

    name: str
    socket: str
    http_port: int


SERVICES = (
    Service("eni_manager", "eni_manager", 9096),
    Service("ipam", "ipam", 9441),
    Service("policy", "policy", 9099),
    Service("cni_shim", "gateway", 9097),
)
"""In the order in which they start."""


def named(name: str) -> Service:
    """A service by its module's or its socket's name; NotFound lists them."""
    for service in SERVICES:
        if name in (service.name, service.socket):
            return service
    raise NotFound(f"no service {name!r}; there are {', '.join(service.name for service in SERVICES)}")


def write_config(node: NodeLayout, config: Mapping[str, Any]) -> None:
    """The node's configuration file."""
    node.config.write_text(json.dumps(config, indent=2))


def start_all(node: NodeLayout, *, processes: bool) -> None:
    """Start the services in the node's namespace, each on its own or all by their supervisor."""
    if processes:
        for service in SERVICES:
            start(node, service)
    else:
        _spawn(node, SUPERVISOR, ["-m", "services"], env={})


def start(node: NodeLayout, service: Service, *, crash_at: str = "") -> process.Process:
    """Start one service as a process of its own; with `crash_at` it dies when it comes to that crash point."""
    running = process.find(node.processes, service.name)
    if running is not None and running.alive:
        raise Conflict(f"{service.name} runs on {node.name} already, as process {running.pid}")
    return _spawn(
        node, service.name, ["-m", f"services.{service.name}"], env={"CRASH_AT": crash_at} if crash_at else {}
    )


async def stop(node: NodeLayout, service: Service, *, kill: bool = False) -> None:
    """End one service and wait for its end. Success when it does not run; a supervisor would start it again."""
    if process.find(node.processes, SUPERVISOR) is not None and not kill:
        raise Refused(f"the supervisor on {node.name} starts {service.name} again: use `lab up --processes`")
    running = running_process(node, service)
    if running is not None:
        await process.stop(running, grace_s=0 if kill else 20)


async def restart(node: NodeLayout, service: Service, *, crash_at: str = "") -> None:
    """SIGTERM and a new start, by us or, where there is one and no crash point is asked for, by the supervisor."""
    if process.find(node.processes, SUPERVISOR) is None:
        await stop(node, service)
        start(node, service, crash_at=crash_at)
        return
    if crash_at:
        raise Refused("a supervised service has the environment of its supervisor: use `lab up --processes`")
    running = running_process(node, service)
    if running is not None:
        os.kill(running.pid, signal.SIGTERM)
        await process.wait(running, within_s=25)


def running_process(node: NodeLayout, service: Service) -> process.Process | None:
    """The service's process, if it runs: the one that we started, or the one that holds the service's lock."""
    own = process.find(node.processes, service.name)
    if own is not None:
        return own if own.alive else None
    try:
        pid = int((node.run / f"{service.socket}.lock").read_text())
        found = process.observe(pid, name=service.name)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return found if _holds(pid, node.run / f"{service.socket}.lock") else None


async def wait_ready(node: NodeLayout, services: Sequence[Service] = SERVICES, *, within_s: float = 60.0) -> None:
    """Wait until each service answers /readyz with 200.

    DeadlineExceeded says what is missing; Conflict, with the end of its log, that a process has ended.
    """
    for service in services:

        async def missing(service: Service = service) -> str:
            _check_alive(node, service)
            status, answer = ask(node, service, "/readyz")
            return "" if status == 200 else "; ".join(answer.get("missing", [])) or f"status {status}"

        await until(missing, what=f"{service.name} on {node.name} ready", within_s=within_s)


def _check_alive(node: NodeLayout, service: Service) -> None:
    for name in (SUPERVISOR, service.name):
        started = process.find(node.processes, name)
        if started is not None:
            if not started.alive:
                raise Conflict(f"{name} on {node.name} has ended:\n{tail(node.log(name))}")
            return


def tail(log: Path, lines: int = 8) -> str:
    """The end of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"


def ask(node: NodeLayout, service: Service, path: str) -> tuple[int, dict[str, Any]]:
    """GET one of a service's pages, such as /readyz or /state; status 0 when nobody answers."""
    try:
        status, body = http_get(node.netns, service.http_port, path)
    except OSError as error:
        return 0, {"missing": [f"{service.name} does not answer: {error.strerror or error}"]}
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise Invalid(f"{service.name} {path}: not JSON: {error}") from error
    return status, answer if isinstance(answer, dict) else {"value": answer}


def _spawn(node: NodeLayout, name: str, argv: Sequence[str], *, env: Mapping[str, str]) -> process.Process:
    return process.spawn(
        name,
        [sys.executable, *argv, "--config", str(node.config)],
        netns=node.netns,
        log=node.log(name),
        records=node.processes,
        env=env,
    )


def _holds(pid: int, lock: Path) -> bool:
    """Whether the process has the file open: its pid may have been given to another since it was written there."""
    try:
        return any(os.readlink(entry) == str(lock) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
