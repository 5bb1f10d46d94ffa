"""`python -m compose.guest -- COMMAND…`: run a command on a guest kernel; its status is the command's."""

import os
import sys
from pathlib import Path

import click

from compose.guest.machine import SLOWER, Guest, run
from shared.errors import SuiteError


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--cache", type=Path, default=Path("build/guest"), show_default=True, help="For what is fetched.")
@click.option("--keep", type=Path, multiple=True, help="A folder in which the guest's changes stay.")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True)
@click.option("--memory", "memory_mib", type=int, default=1536, show_default=True, help="MiB.")
@click.option("--processors", type=click.IntRange(1, 8), default=1, show_default=True)
@click.argument("command", nargs=-1, required=True)
def main(
    cache: Path, keep: tuple[Path, ...], timeout_s: float, memory_mib: int, processors: int, command: tuple[str, ...]
) -> None:
    """Run COMMAND on a guest kernel, with this machine's files; what it writes is forgotten."""
    guest = Guest(cache=cache, kept=keep, timeout_s=timeout_s, memory_mib=memory_mib, processors=processors)
    try:
        ended = run(guest, command, environment=SLOWER | dict(os.environ))
    except SuiteError as error:
        sys.exit(f"guest: {error.message}")
    click.echo(f"guest: Linux {ended.kernel}, {ended.seconds:g} s, {ended.memory_mib} MiB", err=True)
    sys.exit(ended.status)


if __name__ == "__main__":
    main()
