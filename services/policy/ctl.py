"""`terwayctl policy`: the calculation on manifests, for reviews and CI, and on the node that runs it (ctl_live.py)."""

import json
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from services.policy.core.matrix import Cell, Probe, probe_of
from services.policy.core.overview import Explanation, Side
from services.policy.core.problems import Invalid
from services.policy.core.profiles import PROFILES
from services.policy.ctl_live import dump, explanation, status, url_option
from services.policy.offline import Manifests

_MARKS = {"allow": ".", "ingress": "I", "egress": "E", "both": "B"}

_PATH = click.Path(path_type=Path, exists=True)
_files = click.option(
    "-f", "--filename", "paths", multiple=True, required=True, type=_PATH,
    help="A manifest, or a folder of them; may be given again.",
)  # fmt: skip
_files_or_live = click.option(
    "-f", "--filename", "paths", multiple=True, type=_PATH,
    help="A manifest, or a folder of them; may be given again. Without any the running service is asked.",
)  # fmt: skip
_profile = click.option(
    "--profile", type=click.Choice(list(PROFILES)), default=next(iter(PROFILES)), show_default=True,
    help="The version of Felix to equal.",
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _probe(text: str) -> Probe:
    try:
        return probe_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _probes(ctx: click.Context, param: click.Parameter, text: str | None) -> list[Probe] | None:
    return None if text is None else [_probe(part) for part in text.split(",")]


@click.group()
def policy() -> None:
    """Network policies: what they come to, and why."""


policy.add_command(dump)
policy.add_command(status)


@policy.command()
@_files
@click.option("--node", help="Messages for this node only; by default as if all pods were on one.")
@_profile
@click.option("--messages", "show_messages", is_flag=True, help="Print the messages for the dataplane.")
@click.option(
    "--matrix", "probes", callback=_probes, metavar="PORT/PROTOCOL,…", help="Print who may talk to whom on these ports."
)
@_json
@click.pass_context
def compute(
    ctx: click.Context,
    paths: tuple[Path, ...],
    node: str | None,
    profile: str,
    show_messages: bool,
    probes: list[Probe] | None,
    as_json: bool,
) -> None:
    """What the manifests' policies come to. Exits 1 when something that was written does not count.

    With --json and --matrix alone the matrix itself is printed: from, to, and the side that denies. Without either of
    --messages and --matrix the messages are printed.
    """
    manifests = _read(paths, profile)
    show_messages = show_messages or probes is None
    said = [
        {type(message).__name__: msgspec.to_builtins(message)} for message in manifests.messages(node) if show_messages
    ]
    matrix = manifests.overview().matrix(probes) if probes is not None else None
    if not as_json:
        for message in said:
            ((name, content),) = message.items()
            click.echo(f"{name} {json.dumps(content)}")
        for probe, rows in (matrix or {}).items():
            _print_matrix(probe, rows)
    elif matrix is None or show_messages:
        flaws = [msgspec.to_builtins(flaw) for flaw in manifests.flaws]
        together = {"messages": said, "invalid": flaws} | ({} if matrix is None else {"matrix": matrix})
        click.echo(json.dumps(together, indent=2))
    else:
        click.echo(json.dumps(matrix, indent=2))
    ctx.exit(int(any(flaw.is_loss for flaw in manifests.flaws)))


@policy.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO:PORT/PROTO")
@_files_or_live
@url_option
@_profile
@click.option("--all", "everything", is_flag=True, help="List also the policies that do not select the pods.")
@_json
@click.pass_context
def explain(
    ctx: click.Context,
    source: str,
    destination: str,
    paths: tuple[Path, ...],
    url: str,
    profile: str,
    everything: bool,
    as_json: bool,
) -> None:
    """Which tier, policy and rule decides about a connection, and why others do not.

    Each end is judged as the node of its pod judges it. FROM and TO are pods as NAMESPACE/NAME, or addresses. Exits 0
    when the connection is allowed, 1 when it is not.
    """
    name, _, port = destination.rpartition(":")
    name = name.strip("[]")
    if not name:
        raise click.BadParameter(f"{destination!r} is not TO:PORT/PROTO", param_hint="TO:PORT/PROTO")
    probe = _probe(port)
    try:
        if paths:
            answer = _read(paths, profile).overview((source, name)).explain(source, name, probe, everything=everything)
        else:
            answer = explanation(url, source, name, probe, everything=everything)
    except Invalid as error:
        raise click.ClickException(str(error)) from None
    lines = told(answer, everything=everything)
    click.echo(json.dumps(msgspec.to_builtins(answer), indent=2) if as_json else "\n".join(lines))
    ctx.exit(int(not answer.allowed))


def _read(paths: tuple[Path, ...], profile: str) -> Manifests:
    manifests = Manifests(PROFILES[profile])
    manifests.read(paths)
    for flaw in manifests.flaws:
        click.echo(str(flaw), err=True)
    return manifests


def _print_matrix(probe: str, rows: Mapping[str, Mapping[str, Cell]]) -> None:
    """A letter a cell: who denies. Columns are numbered as the rows are."""
    width = max(map(len, rows), default=0)
    click.echo(f"{probe}   . allowed   I ingress denies   E egress denies   B both deny")
    for number, (source, row) in enumerate(rows.items(), 1):
        cells = "".join(_MARKS[row[name]] if name in row else " " for name in rows)
        click.echo(f"  {number:>4} {source:<{width}} {cells}")


def told(answer: Explanation, *, everything: bool = False) -> list[str]:
    """An explanation in lines."""
    lines = [f"{answer.source} -> {answer.destination}:{answer.probe}: {'allowed' if answer.allowed else 'denied'}"]
    for side in answer.sides:
        lines += _told_side(side, everything)
    if not answer.sides:
        lines.append("  neither end is a pod that is known here")
    return lines


def _told_side(side: Side, everything: bool) -> list[str]:
    verdict = side.verdict
    where = f"tier {verdict.tier}: " if verdict.tier else ""
    who = f"{verdict.owner} rule {verdict.rule}: " if verdict.rule is not None else ""
    word = "allows" if verdict.allowed else "denies"
    lines = [f"  {side.direction} of {side.endpoint} {word}: {where}{who}{verdict.reason}"]
    if side.rule is not None:
        lines.append(f"      {json.dumps(msgspec.to_builtins(side.rule))}")
    lines += [
        f"    asked {asked.owner} rule {asked.rule} ({asked.action}): {asked.why}"
        for asked in verdict.asked
        if asked.mismatch
    ]
    lines += [f"    policy {other.policy} {other.reason}" for other in side.bystanders]
    if side.others and not everything:
        lines.append(f"    {side.others} other policies do not select {side.endpoint}: --all lists them")
    return lines
