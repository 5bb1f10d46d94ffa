"""`python -m services.eni_manager --config FILE`."""

import sys
from collections.abc import Sequence

from services.eni_manager.config import read
from services.eni_manager.service import serve
from shared.launch import launch


def main(arguments: Sequence[str]) -> int:
    """Read the configuration and serve until SIGTERM; returns the exit code."""
    return launch("eni_manager", arguments, read=read, serve=serve, patched=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
