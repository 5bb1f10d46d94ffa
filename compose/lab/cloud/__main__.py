"""`python -m compose.lab.cloud --name LAB`: serve a lab's cloud until SIGTERM; `--cleanup`: remove a killed one's."""

import sys
from pathlib import Path
from typing import IO

import click
import msgspec

from compose.lab.cloud.core.account import Layout
from compose.lab.cloud.core.model import DELAYS
from compose.lab.cloud.server import Options, clean_up, serve
from shared import lifecycle
from shared import log as logs
from shared.errors import SuiteError


@click.command()
@click.option("--name", default="lab", show_default=True, help="Lower-case letters and digits.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Default: /run/terway-lab/NAME")
@click.option("--delays", type=click.Choice(sorted(DELAYS)), default="fast", show_default=True)
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
    options = Options(
        lab=name,
        state_dir=folder,
        delays=DELAYS[delays],
        layout=msgspec.json.decode(layout.read(), type=Layout) if layout else Layout(),
        metadata_token_required=metadata_token_required,
        kubeconfig=kubeconfig,
    )
    sys.exit(lifecycle.run(lambda stop: serve(options, stop), name="lab-cloud"))


if __name__ == "__main__":
    main()
