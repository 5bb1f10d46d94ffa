"""`terwayctl lab …`: the lab's commands, for people, tests and CI.

Every command takes `--name` (which lab) and `--json` (one JSON document on stdout). Progress and errors go to stderr.
Exit codes: 0 done, 1 failed, 2 wrong usage; `probe` has its own.
"""

import asyncio
import functools
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import msgspec

from compose.lab import lab as labs
from compose.lab import record, services
from compose.lab.layout import Layout
from compose.lab.pods import PodInfo, Pods, parse_pod
from compose.lab.record import Options, Record
from compose.lab.serve import parse_ports
from shared.errors import Conflict, DeadlineExceeded, SuiteError
from shared.model import Mode

P = ParamSpec("P")
T = TypeVar("T")

_began = time.monotonic()


class Context(msgspec.Struct, frozen=True):
    """What every command is given."""

    layout: Layout
    json: bool

    def say(self, line: str) -> None:
        """Progress, for whoever watches."""
        click.echo(f"[{time.monotonic() - _began:6.1f}s] {line}", err=True)

    def answer(self, value: object, text: str) -> None:
        """The command's result, as JSON or for people."""
        click.echo(msgspec.json.encode(value).decode() if self.json else text)

    def pods(self, there: Record | None = None) -> Pods:
        """The lab's pods. NotFound when the lab is not up."""
        there = there or record.read(self.layout)
        return Pods(self.layout, {facts.name: there.options.runtime for facts in there.nodes})


def command(function: Callable[..., Awaitable[int | None]]) -> Callable[..., None]:
    """Options that all commands share; runs the coroutine; errors become a line on stderr and an exit code."""
    failed = 2 if function.__name__ == "probe" else 1

    @click.option("--name", default="lab", show_default=True, envvar="TERWAY_LAB", help="Which lab.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @functools.wraps(function)
    def run(name: str, as_json: bool, **given: Any) -> None:
        try:
            sys.exit(asyncio.run(_run(function(Context(Layout.of(name), as_json), **given))) or 0)
        except SuiteError as error:
            for line in (error.message, *getattr(error, "__notes__", ())):
                click.echo(f"error: {line}", err=True)
            if as_json:
                click.echo(msgspec.json.encode({"error": error.to_failure()}).decode())
            sys.exit(failed)

    return run


async def _run(coroutine: Awaitable[T]) -> T:
    return await coroutine


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"expected key=value, got {value!r}")
        pairs[key] = text
    return pairs


def _pool(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    fewest, _, most = value.partition(":")
    if not (fewest.isdigit() and most.isdigit() and int(fewest) <= int(most)):
        raise click.BadParameter(f"expected MIN:MAX, got {value!r}")
    return int(fewest), int(most)


def _mode(context: click.Context, parameter: click.Parameter, value: str) -> Mode:
    return Mode(value)


@click.group()
def lab() -> None:
    """A VPC of real packets on this machine: nodes, pods, probes."""


@lab.command()
@click.option("--nodes", type=click.IntRange(1, 8), default=2, show_default=True)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.SHARED_VETH.value,
    show_default=True,
    callback=_mode,
    help="How pods get their address.",
)
@click.option("--ipvlan-fallback", is_flag=True, help="shared-ipvlan: run shared-veth where the kernel has no IPvlan.")
@click.option("--policy", is_flag=True, help="Enforce NetworkPolicy.")
@click.option(
    "--stack",
    type=click.Choice(["ipv4", "dual"]),
    default="ipv4",
    show_default=True,
    help="dual: nodes and pods have IPv6 addresses, too.",
)
@click.option("--instance-type", default="ecs.g6.2xlarge", show_default=True, help="What each node is.")
@click.option("--pool", metavar="MIN:MAX", default="2:5", show_default=True, callback=_pool, help="Idle addresses.")
@click.option("--runtime", type=click.Choice(["containerd", "cni"]), default="containerd", show_default=True)
@click.option("--netns-in-state-dir", is_flag=True, help="CNI_NETNS exists in containerd's mount namespace only.")
@click.option("--processes", is_flag=True, help="Each service on its own; nobody restarts what dies.")
@click.option("--delays", type=click.Choice(["none", "fast", "real", "rough"]), default="fast", show_default=True)
@click.option("--cooldown", "cooldown_s", type=float, default=30.0, show_default=True, help="Of released addresses.")
@click.option("--pool-sync", "pool_sync_s", type=float, default=120.0, show_default=True, help="Between pool balances.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="Use this cluster's API server instead of the lab's own.",
)
@click.option("--keep", is_flag=True, help="After a failure, leave everything for a look at it.")
@command
async def up(context: Context, *, keep: bool, **given: Any) -> None:
    """Bring a lab up; returns when its services are ready and a pod would run."""
    made = await labs.up(context.layout, Options(**given), say=context.say, keep=keep)
    context.say("ready")
    context.answer(made, f"lab {made.name} is up: {', '.join(facts.name for facts in made.nodes)}")


@lab.command()
@command
async def down(context: Context) -> None:
    """Remove a lab, also what a killed one left."""
    removed = await labs.down(context.layout, say=context.say)
    context.answer({"removed": removed}, "removed" if removed else f"there is no lab {context.layout.lab}")


@lab.command()
@command
async def status(context: Context) -> None:
    """Namespaces, sockets, addresses, endpoints, credentials, processes."""
    from compose.lab.status import as_text
    from compose.lab.status import status as look

    there = look(context.layout)
    context.answer(there, as_text(there))


@lab.command()
@click.argument("service", required=False)
@click.option("--node", help="Only this node's.")
@click.option("--lines", type=click.IntRange(1), default=100, show_default=True, help="The last so many of each log.")
@command
async def logs(context: Context, service: str | None, node: str | None, lines: int) -> None:
    """Logs of SERVICE (services, eni_manager, ipam, policy, cni_shim, containerd, cloud), or all there are."""
    shown = {}
    for path in sorted(context.layout.folder.glob("log/*.log")) + sorted(context.layout.folder.glob("*/log/*.log")):
        where = path.parent.parent.name if path.parent.parent != context.layout.folder else ""
        if node in (None, where):
            text = _of_service(path, service, lines)
            if text:
                shown[f"{where}/{path.stem}".lstrip("/")] = text
    context.answer(shown, "\n".join(f"{name}: {line}" for name, text in shown.items() for line in text))


def _of_service(path: Path, service: str | None, lines: int) -> list[str]:
    """The end of a log; of the supervisor's, which all four write to, the lines of one service."""
    text = path.read_text(errors="replace").splitlines()
    if service not in (None, path.stem):
        mark = f'"service":"{service}"'
        text = [line for line in text if mark in line.replace(" ", "")]
    return text[-lines:]


@lab.command()
@click.option("--within", "within_s", type=float, help="Wait so many seconds for what is still under way.")
@command
async def audit(context: Context, within_s: float | None) -> int:
    """Compare sandboxes, leases, ENIs, kernel and cloud; lists leaks and doubles. Exit 0: clean."""
    from compose.lab import audit as audits

    there = record.read(context.layout)
    if within_s is not None:
        with suppress(DeadlineExceeded):
            await audits.until_clean(context.layout, there, within_s=within_s)
    found = await audits.audit(context.layout, there)
    context.answer(found, "\n".join(found.problems) or "clean")
    return 1 if found.problems else 0


# ---- pods


@lab.group()
def pod() -> None:
    """Pods of a lab."""


@pod.command("add")
@click.argument("pod", metavar="NS/NAME")
@click.option("--node", required=True)
@click.option("--label", "labels", multiple=True, metavar="K=V", callback=_pairs)
@click.option("--annotation", "annotations", multiple=True, metavar="K=V", callback=_pairs)
@click.option("--serve", default="", metavar="80/tcp,81/udp", help="Answer on these ports.")
@command
async def add(
    context: Context, pod: str, node: str, labels: Mapping[str, str], annotations: Mapping[str, str], serve: str
) -> None:
    """Run a pod on a node; its namespace is made when it does not exist."""
    async with context.pods() as pods:
        await pods.ensure_namespace(parse_pod(pod).namespace)
        made = await pods.add(
            parse_pod(pod), node=node, labels=labels, annotations=annotations, ports=parse_ports(serve)
        )
    context.answer(made, _line(made))


@pod.command("del")
@click.argument("pod", metavar="NS/NAME")
@command
async def delete(context: Context, pod: str) -> None:
    """End a pod; success when there is none."""
    async with context.pods() as pods:
        removed = await pods.delete(parse_pod(pod))
    context.answer({"removed": removed}, "removed" if removed else f"there is no pod {pod}")


@pod.command("list")
@command
async def list_(context: Context) -> None:
    """All pods."""
    async with context.pods() as pods:
        found = await pods.list()
    context.answer(found, "\n".join(map(_line, found)) or "no pods")


def _line(info: PodInfo) -> str:
    return f"{info.pod:30} {info.node:8} {info.phase:12} {','.join(info.addresses) or '-':16} {','.join(info.serves)}"


@lab.command("exec")
@click.argument("pod", metavar="NS/NAME")
@click.argument("argv", nargs=-1, required=True, metavar="-- CMD…")
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True)
@command
async def exec_(context: Context, pod: str, argv: tuple[str, ...], timeout_s: float) -> int:
    """Run a command in a pod; exits as the command does."""
    async with context.pods() as pods:
        done = await pods.exec(parse_pod(pod), argv, timeout_s=timeout_s)
    if context.json:
        text = {"stdout": done.stdout.decode(errors="replace"), "stderr": done.stderr.decode(errors="replace")}
        context.answer({"code": done.code, **text}, "")
    else:
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.buffer.flush()
        sys.stderr.buffer.write(done.stderr)
        sys.stderr.buffer.flush()
    return done.code


@lab.command()
@click.argument("source", metavar="NS/NAME")
@click.argument("target", metavar="TARGET:PORT/PROTO")
@click.option("--timeout", "timeout_s", type=float, default=2.0, show_default=True)
@click.option("-6", "--ipv6", is_flag=True, help="Ask at TARGET's IPv6 address.")
@command
async def probe(context: Context, source: str, target: str, timeout_s: float, ipv6: bool) -> int:
    """Does a pod (or a node, or `outside`) reach TARGET: a pod NS/NAME, an address, a node or `outside`?

    Exit 0: reached, 1: not reached, 2: could not ask. Nodes and outside serve 80/tcp and 80/udp.
    """
    from compose.lab.reach import reach

    there = record.read(context.layout)
    async with context.pods(there) as pods:
        answer = await reach(context.layout, there, pods, source=source, target=target, timeout_s=timeout_s, ipv6=ipv6)
    verdict = f"reached {answer.by or answer.address}" if answer.reached else f"not reached: {answer.reason}"
    context.answer(answer, f"{verdict} ({answer.address} {answer.port}, {answer.took_ms} ms)")
    return 0 if answer.reached else 1


# ---- services


@lab.command("service")
@click.argument("action", type=click.Choice(["stop", "start", "restart", "kill"]))
@click.argument("node")
@click.argument("service")
@click.option("--crash-at", default="", metavar="NAME", help="Start it so that it dies at this crash point.")
@command
async def service_(context: Context, action: str, node: str, service: str, crash_at: str) -> None:
    """Stop (SIGTERM), start, restart or kill (SIGKILL) one service of a node.

    `start` and `restart` wait until it is ready, or has died at its crash point already.
    """
    there = record.read(context.layout)
    corner, kind = context.layout.node(there.facts(node).name), services.named(service)
    if action == "restart":
        await services.restart(corner, kind, crash_at=crash_at)
    elif action == "start":
        services.start(corner, kind, crash_at=crash_at)
    else:
        await services.stop(corner, kind, kill=action == "kill")
    if action in ("start", "restart"):
        with suppress(*([Conflict] if crash_at else [])):
            await services.wait_ready(corner, [kind])
    running = services.running_process(corner, kind)
    context.answer(
        {"service": kind.name, "node": node, "pid": running.pid if running else None},
        f"{kind.name} on {node}: {f'process {running.pid}' if running else 'does not run'}",
    )


from compose.lab import cli_cloud, cli_kube  # noqa: E402, F401 (their commands hang on `lab`)
