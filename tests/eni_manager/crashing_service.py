"""eni_manager's cloud half as a process that a crash point can end: `crashing_service.py URL DIRECTORY`."""

import asyncio
import importlib.util
import sys
from pathlib import Path

from shared.config import NodeConfig
from shared.lifecycle import run


def main(url: str, directory: str) -> int:
    spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("conftest.py"))
    assert spec is not None and spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    node = NodeConfig(run_dir=Path(directory) / "run", state_dir=Path(directory) / "state")

    async def serve(stop: asyncio.Event) -> None:
        await harness.serve(node, harness.settings_for(url, ip_stack="dual"), stop, wiring=harness.NoKernel())

    return run(serve, name="eni_manager")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
