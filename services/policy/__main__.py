"""`python -m services.policy --config FILE`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.policy.config import PolicyConfig
from services.policy.service import serve
from shared.config import load
from shared.launch import launch


def main(arguments: Sequence[str]) -> int:
    """Read the configuration and serve until SIGTERM; returns the exit code."""
    return launch("policy", arguments, read=_read, serve=serve)


def _read(path: Path | None, env: Mapping[str, str]) -> PolicyConfig:
    return load(PolicyConfig, section="policy", path=path, env=env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
