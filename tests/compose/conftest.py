"""An engine, the images, and a stack that is up, for all tests of this folder."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.lab.layout import NETNS
from tests.compose.engine import REPOSITORY, Engine, run
from tests.compose.stack import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything built and brought up; taken down at the end."""
    _share_namespaces()
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        base = run([REPOSITORY / "compose/base-image.sh"], env=engine.env, timeout_s=400).strip()
        stack = Stack(engine, lab="composed", base=base)
        stack.compose("build", "--quiet", timeout_s=400)
        try:
            stack.up()
            yield stack
        finally:
            stack.down()
        assert not stack.namespaces()


def _share_namespaces() -> None:
    """What `ip netns add` does when it is used for the first time: /run/netns becomes a shared mount."""
    if not Path(NETNS).is_mount():
        for verb in ("add", "delete"):
            subprocess.run(["ip", "netns", verb, "tw-composed-first"], check=True)
