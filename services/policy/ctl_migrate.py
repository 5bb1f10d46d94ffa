"""`terwayctl migrate calico --check`: what of a cluster's Calico behaves the same here, what differs, and why."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from services.policy.adapters import calico as cluster
from services.policy.core.migrate.findings import Judged, Report, Written
from services.policy.core.migrate.judge import report
from services.policy.core.profiles import PROFILES
from services.policy.manifests import documents
from shared.kube.client import KubeClient
from shared.kube.errors import ApiError
from shared.kube.kubeconfig import KubeconfigError, access_of

CANNOT_READ = 2

_PATH = click.Path(path_type=Path, exists=True)


@click.group()
def migrate() -> None:
    """Moving to this suite from something else."""


@migrate.command()
@click.option("--check", is_flag=True, required=True, help="Look, and change nothing: there is nothing else yet.")
@click.option(
    "-f", "--filename", "paths", multiple=True, type=_PATH,
    help="A manifest, or a folder of them; may be given again. Without any the cluster is read.",
)  # fmt: skip
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Of the cluster; by default $KUBECONFIG, ~/.kube/config, or the pod's service account.",
)  # fmt: skip
@click.option(
    "--profile", type=click.Choice(list(PROFILES)),
    help="The Felix to be like; by default the one nearest to the Calico that runs.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="List also what stays as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def calico(
    ctx: click.Context,
    check: bool,
    paths: tuple[Path, ...],
    kubeconfig: Path | None,
    profile: str | None,
    everything: bool,
    as_json: bool,
) -> None:
    """What of Calico's objects behaves the same here, what differs, and why.

    Exits 0 when all behaves the same with the configuration that is printed, 1 when something differs, 2 when something
    cannot be read.
    """
    found, troubles = _written(paths) if paths else _asked(kubeconfig)
    for trouble in troubles:
        click.echo(trouble, err=True)
    answer = report(found, profile)
    if as_json:
        click.echo(json.dumps({**msgspec.to_builtins(answer), "unreadable": troubles}, indent=2))
    else:
        click.echo("\n".join(told(answer, everything=everything)))
    ctx.exit(CANNOT_READ if troubles else int(answer.differs))


def _written(paths: tuple[Path, ...]) -> tuple[list[Written], list[str]]:
    found, troubles = [], []
    for document in documents(paths):
        place = f"{document.file} document {document.number}"
        if document.trouble:
            troubles.append(f"{place}: {document.trouble}")
        elif isinstance(document.raw, dict):
            found.append(Written(document.raw, place))
        else:
            troubles.append(f"{place}: no object of Kubernetes")
    return found, troubles


def _asked(kubeconfig: Path | None) -> tuple[list[Written], list[str]]:
    async def ask() -> list[Written]:
        with access_of(kubeconfig) as access:
            async with KubeClient(access) as client:
                return [one async for one in cluster.cluster(client)]

    try:
        return asyncio.run(ask()), []
    except (KubeconfigError, ApiError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(CANNOT_READ) from None


def told(answer: Report, *, everything: bool) -> list[str]:
    """A report in lines: what differs first, then the configuration, then how much stays."""
    calico_runs = f"Calico {answer.calico}" if answer.calico else "Calico of an unknown version"
    lines = [f"{calico_runs}, judged as Felix {answer.profile}"]
    for outcome in ("differs", "replaced", "same"):
        if everything or outcome == "differs":
            for judged in answer.objects:
                if judged.outcome == outcome:
                    lines += _told(judged, everything)
    if answer.configuration:
        lines += ["", "section policy of the configuration:", f"  {json.dumps(answer.configuration)}"]
    lines += [f"  and on {node}: {json.dumps(own)}" for node, own in sorted(answer.nodes.items())]
    counted = Counter(judged.outcome for judged in answer.objects)
    notes = sum(answer.bookkeeping.values())
    lines += [
        "",
        f"{counted['same']} behave the same, {counted['replaced']} are replaced, {counted['differs']} differ"
        + (f"; {notes} notes of Calico's own need not move" if notes else "")
        + ("" if everything or len(answer.objects) == counted["differs"] else " (--all lists everything)"),
    ]
    return lines


def _told(judged: Judged, everything: bool) -> Iterator[str]:
    yield f"{judged.outcome:<9} {judged.who}" + (f"  ({judged.place})" if judged.place else "")
    for finding in judged.findings:
        if everything or finding.outcome == "differs":
            yield f"          {finding.outcome:<9} {finding}" if everything else f"          {finding}"
