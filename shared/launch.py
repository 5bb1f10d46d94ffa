"""What `python -m services.<name> --config FILE` does in each service: read the configuration, then serve."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from shared import lifecycle, log
from shared.config import ConfigError, NodeConfig, load_node

Config = TypeVar("Config")

BAD_CONFIGURATION = 2
"""Exit code. The supervisor and the container's restart policy see that trying again at once cannot help."""


def launch(
    name: str,
    arguments: Sequence[str],
    *,
    read: Callable[[Path | None, Mapping[str, str]], Config],
    serve: Callable[[NodeConfig, Config, asyncio.Event], Awaitable[None]],
) -> int:
    """Run one service until SIGTERM. Returns the exit code.

    `read` makes the service's own part of the configuration and raises ConfigError; its problems and those
    of section `node` are reported together, one line each on stderr.
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}")
    parser.add_argument("--config", type=Path, help="the node's JSON file; without it: defaults and the environment")
    path: Path | None = parser.parse_args(arguments).config
    problems: list[str] = []
    node, config = _read(load_node, path, problems), _read(read, path, problems)
    if node is None or config is None:
        # Both readers see the whole file, so what is wrong with its outline is found twice.
        sys.stderr.writelines(f"{name}: configuration: {problem}\n" for problem in dict.fromkeys(problems))
        return BAD_CONFIGURATION
    log.configure(service=name, level=node.log_level)
    return lifecycle.run(lambda stop: serve(node, config, stop), name=name)


def _read(
    reader: Callable[[Path | None, Mapping[str, str]], Config], path: Path | None, problems: list[str]
) -> Config | None:
    try:
        return reader(path, os.environ)
    except ConfigError as error:
        problems.extend(error.problems)
        return None
