"""`python -m compose.lab.cloud --name LAB`: serve a lab's cloud until SIGTERM; `--cleanup`: remove a killed one's."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TypeVar

import click
import msgspec

from compose.lab.cloud.core.account import Layout
from compose.lab.cloud.core.faults import Fault
from compose.lab.cloud.core.model import DELAYS, Delays
from compose.lab.cloud.core.throttle import LIMITS, Limits
from compose.lab.cloud.server import Options, clean_up, serve
from shared import lifecycle
from shared import log as logs
from shared.errors import SuiteError

T = TypeVar("T")


@click.command()
@click.option("--name", default="lab", show_default=True, help="Lower-case letters and digits.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Default: /run/terway-lab/NAME")
@click.option("--delays", default="fast", show_default=True, help=f"{', '.join(DELAYS)}, or a JSON file.")
@click.option("--limits", default="none", show_default=True, help=f"Of calls: {', '.join(LIMITS)}, or a JSON file.")
@click.option("--faults", type=click.File("rb"), help="A JSON list of faults that are in force from the start.")
@click.option("--layout", type=click.File("rb"), help="A VPC of your own, as JSON (see core/account.py, Layout).")
@click.option("--metadata-token-required", is_flag=True, help="Metadata in security-hardened mode only.")
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of an API server that stands in for the lab's own.",
)
@click.option("--log-level", default="info", show_default=True)
@click.option("--cleanup", is_flag=True, help="Remove what a killed cloud of this name left, and exit.")
def main(
    name: str,
    state_dir: Path | None,
    delays: str,
    limits: str,
    faults: IO[bytes] | None,
    layout: IO[bytes] | None,
    metadata_token_required: bool,
    kubeconfig: Path | None,
    log_level: str,
    cleanup: bool,
) -> None:
    """The lab's cloud: a VPC of real packets, OpenAPI, metadata and a Kubernetes API."""
    logs.configure(service="lab-cloud", level=log_level)
    folder = state_dir or Path("/run/terway-lab", name)
    if cleanup:
        try:
            for namespace in clean_up(name, folder):
                click.echo(f"removed {namespace}")
        except SuiteError as e:
            raise click.ClickException(e.message) from e
        return
    shape = _decoded(layout.read(), Layout) if layout else Layout()
    if limits != "none":
        shape = msgspec.structs.replace(shape, limits=_named(limits, LIMITS, Limits))
    options = Options(
        lab=name,
        state_dir=folder,
        delays=_named(delays, DELAYS, Delays),
        layout=shape,
        faults=_decoded(faults.read(), tuple[Fault, ...]) if faults else (),
        metadata_token_required=metadata_token_required,
        kubeconfig=kubeconfig,
    )
    sys.exit(lifecycle.run(lambda stop: serve(options, stop), name="lab-cloud"))


def _named(text: str, known: Mapping[str, T], kind: type[T]) -> T:
    """One of those known by name, or what a file says."""
    if text in known:
        return known[text]
    try:
        return _decoded(Path(text).read_bytes(), kind)
    except OSError as e:
        raise click.BadParameter(f"{text} is neither {', '.join(known)} nor a file: {e.strerror}") from e


def _decoded(text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as e:
        raise click.BadParameter(str(e)) from e


if __name__ == "__main__":
    main()
