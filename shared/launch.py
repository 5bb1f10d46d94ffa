"""What `python -m services.<name> --config FILE` does in each service: read the configuration, then serve."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from shared import lifecycle, log
from shared.config import ConfigError, NodeConfig
from shared.reload import Reloading, Source

Config = TypeVar("Config")

BAD_CONFIGURATION = 2
"""Exit code. The supervisor and the container's restart policy see that trying again at once cannot help."""


def launch(
    name: str,
    arguments: Sequence[str],
    *,
    read: Callable[..., Config],
    serve: Callable[[NodeConfig, Config, asyncio.Event], Awaitable[None]],
    patched: bool = False,
) -> int:
    """Run one service until SIGTERM, under a configuration that may change (shared.reload). Returns the exit code.

    `read(path, env)` makes the service's own part of the configuration and raises ConfigError; its problems and those
    of section `node` are reported together, one line each on stderr. `patched`: the node's patch of `eni_conf` is a
    third argument.
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}")
    parser.add_argument("--config", type=Path, help="the node's JSON file; without it: defaults and the environment")
    source = Source(parser.parse_args(arguments).config, os.environ, read, patched=patched)
    try:
        settled = source.settle()
    except ConfigError as error:
        sys.stderr.writelines(f"{name}: configuration: {problem}\n" for problem in error.problems)
        return BAD_CONFIGURATION
    log.configure(service=name, level=settled.node.log_level)
    return lifecycle.run(lambda stop: Reloading(name, source, settled, serve).run(stop), name=name)
