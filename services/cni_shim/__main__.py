"""`python -m services.cni_shim --config FILE` serves; `… install --bin-dir DIR --config FILE` installs the shim."""

import sys
from collections.abc import Sequence

from services.cni_shim import install
from services.cni_shim.config import GatewayConfig
from services.cni_shim.service import serve
from shared.config import load
from shared.launch import launch


def main(arguments: Sequence[str]) -> int:
    """Read the configuration and serve until SIGTERM, or install the shim. Returns the exit code."""
    if arguments and arguments[0] == "install":
        return install.main(arguments[1:])
    return launch(
        "cni_shim",
        arguments,
        read=lambda path, env: load(GatewayConfig, section="cni_shim", path=path, env=env),
        serve=lambda node, config, stop: serve(config, node, stop),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
