"""`terwayctl lab fault …` and `terwayctl lab capture`: what a customer of a cloud cannot do.

A part of `cli.py`, which imports it last; its commands hang on that module's group.
"""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

import click
import msgspec

from compose.lab import control
from compose.lab.cli import Context, command, lab
from compose.lab.cloud.core.faults import KINDS, Fault
from compose.lab.pods import parse_pod
from shared.errors import Invalid, NotFound


@lab.group()
def fault() -> None:
    """What goes wrong on purpose."""


_ABOUT = "; ".join(f"{action or 'an action'}: {', '.join(sorted(kinds))}" for action, kinds in KINDS.items())


@fault.command("add", epilog=_ABOUT)
@click.argument("action", required=False)
@click.argument("kind", required=False)
@click.option("--file", type=click.File("rb"), help="A JSON list of faults, with these options as fields.")
@click.option("--node", help="Only calls that come from this node or are about its instance.")
@click.option("--times", type=int, help="So many calls. Default: until it is cleared.")
@click.option("--probability", type=float, help="Of each call that fits.")
@click.option("--after", type=int, help="So many calls go well before.")
@click.option("--code", help="Of `error`.")
@click.option("--message", help="Of `error`.")
@click.option("--status", type=int, help="Of `error`.")
@click.option("--delay", "delay_s", type=float, help="Seconds, of `delay`, `late` and `slow`.")
@click.option("--path", help="Of the metadata service: a pattern.")
@click.option("--target", help="Of `outside`: the interface to detach, the address to unassign.")
@command
async def fault_add(
    context: Context, action: str | None, kind: str | None, file: IO[bytes] | None, **given: Any
) -> None:
    """Let something go wrong: a pattern of cloud ACTIONs (AssignPrivateIpAddresses, 'Describe*'), `metadata`, `device`,
    `kubernetes`, or `outside`; KIND is `error` unless given.
    """
    if (action is None) == (file is None):
        raise Invalid("name an ACTION, or a --file")
    fields = {name: value for name, value in {"action": action, "kind": kind, **given}.items() if value is not None}
    text = file.read() if file else msgspec.json.encode([fields])
    try:
        faults = msgspec.json.decode(text, type=list[Fault])
    except msgspec.MsgspecError as error:
        raise Invalid(str(error)) from error
    async with control.connect(context.layout.cloud_socket) as cloud:
        added = [await cloud.send("POST", "/faults", msgspec.to_builtins(fault)) for fault in faults]
    context.answer(added, "\n".join(map(_line, added)))


@fault.command("list")
@command
async def fault_list(context: Context) -> None:
    """What is in force, with the calls that each may still spoil."""
    async with control.connect(context.layout.cloud_socket) as cloud:
        found = await cloud.send("GET", "/faults")
    context.answer(found, "\n".join(map(_line, found)) or "none")


@fault.command("clear")
@click.argument("ids", nargs=-1, metavar="[ID]…")
@command
async def fault_clear(context: Context, ids: tuple[str, ...]) -> None:
    """End these faults, or all. What they have done stays done."""
    query = "&".join(f"id={each}" for each in ids)
    async with control.connect(context.layout.cloud_socket) as cloud:
        gone = await cloud.send("DELETE", f"/faults?{query}")
    context.answer(gone, "\n".join(map(_line, gone)) or "none")


_USUAL = msgspec.to_builtins(Fault("", kind="error"))


def _line(fault: Mapping[str, Any]) -> str:
    unusual = {k: v for k, v in fault.items() if k not in ("id", "action", "kind") and v != _USUAL[k]}
    return " ".join(
        (f"{fault['id'] or '-':6} {fault['action']} {fault['kind']}", *(f"{k}={v}" for k, v in unusual.items()))
    )


@lab.command()
@click.argument("target", metavar="ENI|NODE|NS/NAME")
@click.argument("expression", nargs=-1, metavar="[TCPDUMP EXPRESSION]")
@click.option("--for", "seconds", type=float, help="Stop after so many seconds. Default: at Ctrl-C.")
@command
async def capture(context: Context, target: str, expression: tuple[str, ...], seconds: float | None) -> None:
    """The packets of an interface, as the VPC sees them; of a node its primary one, of a pod the one it is behind."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    with suppress(RuntimeError):  # outside the main thread only --for ends it
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
    async with control.connect(context.layout.cloud_socket) as cloud:
        eni = await _interface(context, await cloud.state(), target)
        started = await cloud.send("POST", "/captures", {"eni": eni, "filter": " ".join(expression)})
        context.say(f"capturing on {eni} into {started['file']}")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ended.wait()
        finally:
            packets = (await cloud.send("DELETE", f"/captures/{started['id']}"))["packets"]
    context.answer({"eni": eni, "file": started["file"], "packets": packets}, "\n".join(packets) or "no packets")


async def _interface(context: Context, state: Mapping[str, Any], target: str) -> str:
    """The id of the interface meant. NotFound: there is none."""
    for node in state["nodes"]:
        if target == node["name"]:
            return str(node["primary_eni"])
    wanted = {target}
    if "/" in target:
        async with context.pods() as pods:
            name = str(parse_pod(target))
            wanted = {address for info in await pods.list() if info.pod == name for address in info.addresses}
    for eni in state["enis"]:
        if eni["id"] == target or not wanted.isdisjoint([*eni["ipv4"], *eni["ipv6"]]):
            return str(eni["id"])
    raise NotFound(f"{target} is no interface, node or pod of this lab, or has no address yet")
