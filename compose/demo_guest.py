"""The demo of a mode that this machine's kernel cannot carry: the same demo, in a guest whose kernel can."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from compose.guest.machine import SLOWER, Guest
from compose.guest.machine import run as run_in
from compose.lab.record import Runtime, Stack
from services.eni_manager.adapters import kernel
from services.eni_manager.core import preflight
from shared.errors import SuiteError
from shared.model import Mode

GUEST: Final = Guest(cache=Path("build/guest"), timeout_s=1200.0, memory_mib=2048, processors=2)
_SETUP: Final = Path(__file__).parents[1] / "deploy" / "guest-setup.sh"


def lacking(mode: Mode) -> list[str]:
    """What this machine's kernel lacks for the mode; nothing in a guest, where the lab will say so."""
    if "TERWAY_GUEST" in os.environ:
        return []
    return preflight.kernel_lacks(mode, kernel.known(preflight.NEEDS[mode]))


def run(mode: Mode, stack: Stack, runtime: Runtime, why: list[str]) -> int:
    """The demo in a guest; its exit code."""
    click.echo(f"demo: this kernel has no {', no '.join(why)}: running in a guest that has (some minutes)", err=True)
    if subprocess.run([_SETUP], check=False).returncode != 0:
        click.echo(f"demo: {_SETUP} failed", err=True)
        return 1
    command = [sys.executable, "-m", "compose.demo", "--mode", mode, "--stack", stack, "--runtime", runtime]
    try:
        ended = run_in(GUEST, command, environment=dict(os.environ) | SLOWER)
    except SuiteError as error:
        click.echo(f"demo: {error.message}", err=True)
        return 1
    click.echo(f"demo: in a guest, Linux {ended.kernel}, {ended.seconds:g} s, {ended.memory_mib} MiB", err=True)
    return ended.status
