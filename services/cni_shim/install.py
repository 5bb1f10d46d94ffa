"""Writes the shim as a single executable named `terway`, with this node's socket, spool and deadlines in it.

Replaced by rename, so a runtime that execs it meanwhile gets the old one or the new one, never half.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from services.cni_shim import alone, shim
from services.cni_shim.config import Deadlines, GatewayConfig
from shared.config import ConfigError, load, load_node

NAME: Final = "terway"


def render(*, socket: Path, spool: Path, deadlines: Deadlines) -> str:
    """The shim's source with its constants set."""
    source = Path(shim.__file__).read_text(encoding="utf-8")
    constants = {
        "SOCKET": os.fsencode(socket),
        "SPOOL": os.fsencode(spool),
        "DEADLINES": {name.upper().encode(): seconds for name, seconds in msgspec.to_builtins(deadlines).items()},
        "ALONE": Path(alone.__file__).read_text(encoding="utf-8"),
    }
    for name, value in constants.items():
        source, found = re.subn(rf"^{name} = .*$", lambda _, v=value, n=name: f"{n} = {v!r}", source, flags=re.M)  # type: ignore[misc]
        assert found == 1, f"shim.py sets {name} {found} times"
    return source


def install(bin_dir: Path, *, socket: Path, spool: Path, deadlines: Deadlines) -> Path:
    """Put the shim into `bin_dir` and make the spool. Returns the installed file."""
    bin_dir.mkdir(parents=True, exist_ok=True)
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = bin_dir / NAME
    fresh = bin_dir / f".{NAME}.{os.getpid()}"  # hidden: a runtime may list the directory
    with fresh.open("w", encoding="utf-8") as file:
        file.write(render(socket=socket, spool=spool, deadlines=deadlines))
        file.flush()
        os.fchmod(file.fileno(), 0o755)
        os.fsync(file.fileno())
    fresh.rename(target)
    return target


def main(arguments: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """`install --bin-dir DIR [--config FILE]`; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.cni_shim install", description=__doc__)
    parser.add_argument(
        "--bin-dir", type=Path, default=Path("/opt/cni/bin"), help="where the runtime looks for plugins"
    )
    parser.add_argument("--config", type=Path, help="the node's JSON file; without it: defaults and the environment")
    given = parser.parse_args(arguments)
    try:
        node = load_node(given.config, env)
        config = load(GatewayConfig, section="cni_shim", path=given.config, env=env)
    except ConfigError as error:
        sys.stderr.writelines(f"install: configuration: {problem}\n" for problem in error.problems)
        return 2
    target = install(given.bin_dir, socket=node.socket("gateway"), spool=node.spool, deadlines=config.deadlines)
    sys.stdout.write(f"{target}\n")
    return 0
