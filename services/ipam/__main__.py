"""`python -m services.ipam --config FILE`."""

import sys
from collections.abc import Sequence

from services.ipam.config import read
from services.ipam.service import serve
from shared.launch import launch


def main(arguments: Sequence[str]) -> int:
    """Read the configuration and serve until SIGTERM; returns the exit code."""
    return launch("ipam", arguments, read=read, serve=serve, patched=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
